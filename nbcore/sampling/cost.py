"""Estimates of run time from one timed gradient and the curvature at the start."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from nbcore.common.progress import duration
from nbcore.sampling.backend import Backend
from nbcore.targets.target import Target

CURVATURE_SHARE = 0.02
"""Fraction of the gradients of a run that may be spent on estimating their number."""
IDENTITY_STEPS, IDENTITY_SHARE = 100, 0.9
"""Steps of warmup before scales are adapted: 75 + 25 as in Stan, or 0.9 of a short warmup."""
STEP = 0.02
OVERSHOOT = 1.25
"""Trajectories double until they turn, after 0.6 to 1.8 half periods in 5 to 60 dimensions."""

Gradient = Callable[[Any], Any]
"""`position -> gradient of the log density`, compiled."""


@dataclass(frozen=True)
class Cost:
    """An estimate of a run.

    Args:
        gradient_seconds: wall time of one gradient of the log density.
        num_gradients: gradients of all chains, as the backend expects them.
        seconds: wall time over the chains that run side by side.

    Examples:
        >>> print(Cost(gradient_seconds=2e-4, num_gradients=6e4, seconds=6.0))
        about 6 s: 60,000 gradients of 0.2 ms
    """

    gradient_seconds: float
    num_gradients: float
    seconds: float

    def __str__(self) -> str:
        """Return the estimate in words."""
        return (
            f"about {duration(self.seconds)}: {self.num_gradients:,.0f} gradients of "
            f"{1e3 * self.gradient_seconds:.2g} ms"
        )


def estimate_cost(
    target: Target,
    backend: Backend,
    gradient_seconds: float,
    *,
    num_warmup: int,
    num_samples: int,
    num_chains: int,
    side_by_side: int,
    gradient: Gradient | None = None,
    start: Any = None,
) -> Cost:
    """Return an estimate of run time, extrapolated from the time of one gradient.

    Args:
        target: the log density.
        backend: its `expected_gradients` tells how many gradients a step takes (1 by default),
            and its `minibatch_size(num_examples)` how many examples a gradient reads (all by
            default). For no-U-turn trajectories (`max_tree_depth`), the curvature at the start
            gives a better estimate, if it takes a small fraction of the run.
        gradient_seconds: wall time of one gradient on all examples.
        num_warmup: warmup steps of each chain.
        num_samples: steps of each chain after warmup.
        num_chains: number of chains.
        side_by_side: how many chains run at the same time.
        gradient: the gradient of the log density.
        start: the position at which chains start.
    """
    minibatch_size = getattr(backend, "minibatch_size", None)
    if minibatch_size is not None and target.num_examples:
        gradient_seconds *= minibatch_size(target.num_examples) / target.num_examples
    a_step = float(getattr(backend, "expected_gradients", 1.0))
    gradients = num_chains * (num_warmup + num_samples) * a_step
    depth = getattr(backend, "max_tree_depth", None)
    if depth is not None and gradient is not None:
        size = sum(np.size(leaf) for leaf in jax.tree.leaves(start))
        if size <= CURVATURE_SHARE * gradients:
            foretold = no_u_turn_gradients(
                gradient, start, 2**depth - 1, getattr(backend, "target_acceptance_rate", 0.8)
            )
            if foretold is not None:
                first, later = foretold
                before = min(IDENTITY_STEPS, IDENTITY_SHARE * num_warmup)
                after = num_warmup - before + num_samples
                gradients = num_chains * (before * first + after * later)
    return Cost(gradient_seconds, gradients, gradients * gradient_seconds / side_by_side)


def no_u_turn_gradients(
    gradient: Gradient, start: Any, most: int, acceptance: float
) -> tuple[float, float] | None:
    """Return the expected gradients of a no-U-turn step, before and after scales are adapted.

    `None` if the density has no finite curvature, or none at all.

    A Gaussian with precision eigenvalues l_i (in the sampler's scale) is accepted at the rate a
    with the step size e where sum_i (e^2 l_i / (1 - e^2 l_i / 4))^2 = 128 q^2, q the normal
    quantile of a / 2: e^2 l_i^2 x_i^2 / 8 is by how much leapfrog steps miss the energy, and along
    a trajectory x_i^2 grows by up to 1 / (1 - e^2 l_i / 4). It turns after half a period of the
    widest direction, pi / sqrt(min l).

    Args:
        gradient: the gradient of the log density.
        start: the position at which chains start; parameters such as an unknown noise are moved to
            their best values first.
        most: gradients of the longest trajectory.
        acceptance: the acceptance rate that the step size is adapted to.

    References:
        Beskos et al. (2013), "Optimal tuning of the hybrid Monte Carlo algorithm"; Hoffman &
        Gelman (2014), "The No-U-Turn sampler".
    """
    flat, unravel = jax.flatten_util.ravel_pytree(start)
    x = np.array(flat, np.float64)

    def g(x: np.ndarray) -> np.ndarray:
        found = gradient(unravel(jnp.asarray(x, flat.dtype)))
        return np.asarray(jax.flatten_util.ravel_pytree(found)[0], np.float64)

    unknown = _unknowns(start)
    for _ in range(6 if len(unknown) <= 8 else 0):
        base = g(x)
        for i in unknown:
            x[i] += np.clip(
                base[i] / max(-_column(g, x, base, int(i))[i], 0.1 * abs(base[i]), 1e-6), -1, 1
            )
            base = g(x)
    base = g(x)
    hessian = -np.stack([_column(g, x, base, i) for i in range(len(x))])
    if not np.all(np.isfinite(hessian)) or not np.any(hessian):
        return None
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    values = np.maximum(np.abs(values), 1e-6 * np.abs(values).max())
    deviations = np.sqrt((vectors**2 / values).sum(axis=1))
    scaled = vectors * deviations[:, None]
    adapted = np.linalg.eigvalsh((scaled * values) @ scaled.T)
    return _length(values, most, acceptance), _length(adapted, most, acceptance)


def _unknowns(start: Any) -> np.ndarray:
    """Return the flat places of parameters that are no weights: the noise, scales of priors."""
    if not (isinstance(start, dict) and "weights" in start):
        return np.zeros(0, int)
    marked = {
        name: jax.tree.map(lambda a, n=name: np.full(np.shape(a), n != "weights"), part)
        for name, part in start.items()
    }
    return np.flatnonzero(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(marked)]))


def _column(g: Callable[[np.ndarray], np.ndarray], x: np.ndarray, base: np.ndarray, i: int) -> Any:
    moved = x.copy()
    moved[i] += STEP
    return (g(moved) - base) / STEP


def _length(precision: np.ndarray, most: int, acceptance: float) -> float:
    """Return the gradients of a trajectory in a Gaussian with these precisions."""
    step = _step_size(precision, acceptance)
    turn = math.pi / math.sqrt(float(np.min(precision)))
    return min(max(OVERSHOOT * turn / step, 1.0), float(most))


def _step_size(precision: np.ndarray, acceptance: float) -> float:
    """Return the step size with an acceptance rate, below the limit of stability."""
    wanted = math.sqrt(128) * abs(NormalDist().inv_cdf(acceptance / 2))
    low, high = 0.0, 4 / float(np.max(precision))  # of the squared step size
    for _ in range(50):
        middle = (low + high) / 2
        error = np.linalg.norm(middle * precision / (1 - middle * precision / 4))
        low, high = (low, middle) if error > wanted else (middle, high)
    return math.sqrt(low)
