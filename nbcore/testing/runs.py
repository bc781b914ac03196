"""Runs that several checks share, each made once, through one set of compiled programs."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray

from nbcore.errors import PluginError, SamplingError
from nbcore.posterior import convergence
from nbcore.posterior.posterior import NetworkPosterior, Posterior
from nbcore.sampling.alarms import PosteriorWarning
from nbcore.sampling.backend import Backend
from nbcore.sampling.driver import sample
from nbcore.targets.target import NetworkTarget, Target
from nbcore.testing.failure import ConformanceError
from nbcore.testing.oracle import oracle

_Floats = NDArray[np.float64]

SHORT = 60
NUM_WARMUP = 300
NUM_CHAINS = 4
CHUNK_SIZE = 150
FIRST_SAMPLES = 1000
BIAS_SAMPLES = 1200
MIN_ESS = 1000
MAX_GRADIENTS = 2_000_000
"""A backend that needs more gradients than this for the wanted effective sample size fails."""


@overload
def draw(target: NetworkTarget, backend: Backend, **options: Any) -> NetworkPosterior: ...


@overload
def draw(target: Target, backend: Backend, **options: Any) -> Posterior: ...


def draw(target: Target, backend: Backend, **options: Any) -> Posterior:
    """Sample with the settings that all checks share, so that programs are compiled once.

    Args:
        target: the log density.
        backend: the sampler.
        options: those of `nb.sample`: `num_samples`, and others in place of the shared ones.

    Raises:
        ConformanceError: a function of the sampler breaks its contract, or a chain diverges.
    """
    shared = {"key": 0, "num_warmup": NUM_WARMUP, "chunk_size": CHUNK_SIZE}
    settings: dict[str, Any] = {**shared, "num_chains": NUM_CHAINS, "progress": False, **options}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PosteriorWarning)  # a check says it with its cause
            return sample(target, backend, **settings)
    except PluginError as error:
        raise ConformanceError(str(error)) from error
    except SamplingError as error:
        raise ConformanceError(
            "Chains do not stay where the density is.\n"
            f"  measured: {error}\n"
            "  limit:    finite draws; what is exact rejects a step that is too large\n"
            "  often:    a step without an accept-reject decision (unadjusted Langevin), or one "
            "that always accepts; a step size that warmup does not adapt."
        ) from error


@functools.lru_cache(maxsize=4)
def short_run(backend: Backend, key: int = 0) -> NetworkPosterior:
    """Return a run of `SHORT` draws on the oracle, for the checks of the contract."""
    return draw(oracle().target, backend, num_samples=SHORT, key=key)


@functools.lru_cache(maxsize=2)
def longer_run(backend: Backend) -> tuple[NetworkPosterior, int]:
    """Return `short_run` with half as many draws more, and how often that traced the density."""
    short_run(backend)
    before = oracle().traces
    posterior = draw(oracle().target, backend, num_samples=3 * SHORT // 2)
    return posterior, oracle().traces - before


@dataclass(frozen=True)
class Settled:
    """A run that was continued until its effective sample size sufficed.

    Args:
        posterior: the run.
        values: what was asked of the draws, `(chain, draw, functions)`.
        num_gradients: gradient evaluations of the draws.
    """

    posterior: Posterior
    values: _Floats
    num_gradients: int

    @property
    def ess(self) -> _Floats:
        """The smaller effective sample size of each function and of its square."""
        return smallest_ess(self.values)


def smallest_ess(values: _Floats) -> _Floats:
    """Return the smaller effective sample size of values and of squared values."""
    return np.minimum(convergence.ess_mean(values), convergence.ess_mean(values**2))


def settle(
    target: Target,
    backend: Backend,
    functions: Callable[[Posterior], _Floats],
    ess: Callable[[_Floats], _Floats] = smallest_ess,
    *,
    init: Any = "trained",
    num_warmup: int = NUM_WARMUP,
    min_ess: float = MIN_ESS,
    again: str = "nbcore.testing.oracle.oracle().target",
) -> Settled:
    """Draw until the smallest effective sample size is large enough.

    Each round starts over with more draws, as many as the last round's rate calls for (2 to 8
    times), so a run depends on its key alone; programs are compiled in the first round.

    Args:
        target: the log density.
        backend: the sampler.
        functions: what is asked of the draws, `(chain, draw, functions)`.
        ess: the effective sample size of each function.
        init: where chains start.
        num_warmup: steps of warmup.
        min_ess: the effective sample size that is enough.
        again: the expression that makes the target, for the error.

    Raises:
        ConformanceError: that would take more than `MAX_GRADIENTS` gradients.
    """
    num_samples = FIRST_SAMPLES
    while True:
        posterior = draw(target, backend, num_samples=num_samples, init=init, num_warmup=num_warmup)
        values = functions(posterior)
        gradients = int(np.sum(posterior.stats.num_gradients, dtype=np.int64))
        worst = float(np.min(ess(values)))
        if worst >= min_ess:
            return Settled(posterior, values, gradients)
        factor = min(8, 2 ** max(1, math.ceil(math.log2(1.2 * min_ess / max(worst, 1.0)))))
        steps = NUM_CHAINS * num_samples
        if factor * max(gradients, steps) > MAX_GRADIENTS:
            raise ConformanceError(
                f"{backend.name} mixes too slowly to be judged.\n"
                f"  measured: ESS {worst:.0f} after {gradients:,} gradients in {steps:,} steps; "
                f"{_how_it_went(target, posterior, init)}\n"
                f"  limit:    ESS {min_ess:,} within {MAX_GRADIENTS:,} gradients\n"
                "  often:    a step size that warmup does not adapt, or no adaptation to scales; "
                "chains that are stuck, or started far away and never arrive. Choose options for "
                "the instance that is checked, or declare 'adaptive' and adapt.\n"
                f"  again:    nb.sample({again}, {backend!r}, num_warmup={num_warmup})"
            )
        num_samples *= factor


def _how_it_went(target: Target, posterior: Posterior, init: Any) -> str:
    """Return what decides how a chain mixes: the density, the start, steps and acceptance."""
    flat, unravel = ravel_pytree(target.start)
    curvature = -jax.hessian(lambda z: target.log_density(unravel(z)))(flat)
    scales = np.abs(np.linalg.eigvalsh(np.asarray(curvature, np.float64)))
    condition = scales.max() / max(scales.min(), 1e-300)
    start = init if isinstance(init, str) else "given positions, far from the mode"
    stats = [np.asarray(a, np.float64).mean(axis=1) for a in
             (posterior.stats.step_size, posterior.stats.acceptance_rate)]  # fmt: skip
    sizes, rates = (", ".join(f"{value:.3g}" for value in each) for each in stats)
    return (
        f"dimension {flat.size}, condition number {condition:,.0f} at the start, chains started "
        f"at {start}; by chain, step size {sizes} and acceptance {rates}"
    )


@functools.lru_cache(maxsize=2)
def sampled_on_oracle(backend: Backend) -> Settled:
    """Return `BIAS_SAMPLES` draws of each chain, whatever their effective sample size.

    Enough for a bias, which is larger than its noise, if not for the absence of one.
    """
    posterior = draw(oracle().target, backend, num_samples=BIAS_SAMPLES)
    gradients = int(np.sum(posterior.stats.num_gradients, dtype=np.int64))
    return Settled(posterior, oracle().standardized(posterior), gradients)


@functools.lru_cache(maxsize=2)
def settled_on_oracle(backend: Backend) -> Settled:
    """Return draws of the oracle as its 20 standardized functions, at sufficient ESS."""
    return settle(oracle().target, backend, oracle().standardized)
