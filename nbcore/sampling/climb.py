"""A short climb from the trained weights, which tells whether the posterior is there."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from nbcore.common.quick import QuickJit
from nbcore.targets.target import NetworkTarget, Target

UNUSUAL = 4.0
"""Deviations of a log density below its usual fall from the mode that are unusual."""

STEPS = 100
"""Steps of the climb, at most."""

GRID = 16
"""Parameters of the likelihood start at multiples of one over this: the same wherever gradients
round differently."""


class Found(NamedTuple):
    """What a climb found.

    Args:
        position: the trained weights, with parameters of the likelihood that suit them.
        is_far: whether the log density rises by more than is usual in a posterior.
        num_gradients: gradients that the climb took.
    """

    position: Any
    is_far: bool
    num_gradients: int


def usual_fall(size: int) -> float:
    """Return by how much a log density in n dimensions is below that of the mode at most.

    For a normal density the fall is half a chi-squared variable: n/2 on average, with deviation
    sqrt(n/2). The bound is `UNUSUAL` deviations above the mean.
    """
    return size / 2 + UNUSUAL * (size / 2) ** 0.5


def climb_from_trained(target: NetworkTarget) -> Found:
    """Fit the likelihood to the trained weights, then climb with all of them for a few steps.

    Unknown scales of the prior stay as they are: the joint mode is at scale 0.

    Args:
        target: the log density.

    References:
        Byrd, Lu, Nocedal & Zhu (1995), "A limited memory algorithm for bound constrained
        optimization" (L-BFGS-B).
    """
    start = target.start
    fitted, _, few = _climb(target, start, ("likelihood",))
    rounded = jax.tree.map(lambda a: np.round(a * GRID) / GRID, fitted["likelihood"])
    begin = {**start, "likelihood": rounded}
    _, gain, many = _climb(target, begin, ("weights", "likelihood"))
    size = sum(np.size(leaf) for leaf in jax.tree.leaves((start["weights"], start["likelihood"])))
    return Found(begin, gain > usual_fall(size), few + many)


def _climb(target: Target, start: Any, moved: tuple[str, ...]) -> tuple[Any, float, int]:
    """Return the highest position on the way, what was gained, and the number of gradients.

    All but gradients is NumPy, which compiles nothing.
    """
    leaves, structure = jax.tree.flatten({name: start[name] for name in moved})
    if not leaves:
        return start, 0.0, 0
    ends = np.cumsum([np.size(leaf) for leaf in leaves])[:-1]
    values: list[float] = []

    def position(x: np.ndarray) -> Any:
        parts = zip(np.split(x, ends), leaves, strict=True)
        found = [part.reshape(np.shape(leaf)).astype(leaf.dtype) for part, leaf in parts]
        return {**start, **jax.tree.unflatten(structure, found)}

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, _, gradient = value_and_gradient(target, position(x))
        values.append(float(value))
        return -values[-1], -_flat({name: gradient[name] for name in moved})

    options = {"maxiter": STEPS, "maxfun": 2 * STEPS}
    found = minimize(objective, _flat(leaves), jac=True, method="L-BFGS-B", options=options)
    gain = -float(found.fun) - values[0]
    if not (np.isfinite(gain) and np.all(np.isfinite(found.x))):
        return start, 0.0, len(values)
    return position(found.x), gain, len(values)


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(a, np.float64)) for a in jax.tree.leaves(tree)])


@QuickJit
def value_and_gradient(target: Target, position: Any) -> tuple[jax.Array, jax.Array, Any]:
    """Return the log density, whether its gradient is finite, and the gradient."""
    value, gradient = jax.value_and_grad(lambda z: target.log_density(z))(position)
    finite = [jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(gradient)]
    return value, jnp.all(jnp.stack(finite)), gradient
