"""Window adaptation of step size and mass matrix, one step at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.adaptation.metric_recipes import MetricCore, lookup_recipe
from blackjax.mcmc import hmc
from blackjax.util import pytree_size

from nbcore import Kernel, Stats, Target
from nbcore.extend import (
    DualAveraging,
    check_choice,
    check_count,
    check_flag,
    check_fraction,
    check_positive,
    warmup_windows,
)
from nbcore_blackjax.states import typed

MassMatrix = Literal["diagonal", "dense", "low_rank"]
RECIPES = {"diagonal": "welford_diag", "dense": "welford_dense", "low_rank": "fisher_low_rank"}

Move = Callable[[jax.Array, Target, hmc.HMCState, Any, Any], tuple[hmc.HMCState, Stats]]
"""`(key, target, sampler state, step size, inverse mass matrix) -> (sampler state, stats)`."""


@dataclasses.dataclass(frozen=True)
class Windows:
    """What window adaptation is told; the fields are options of the samplers that use it.

    Warmup starts with steps that adapt the step size alone; windows follow, each twice as long as
    the one before, at whose ends the mass matrix is estimated anew from the draws of the window;
    the last steps adapt the step size alone. With fewer than 20 steps no window fits, and the mass
    matrix stays the identity. A low-rank matrix keeps the draws and gradients of a window in the
    state: two arrays of (longest window, about half of the warmup) x (numbers).

    Args:
        target_acceptance_rate: mean acceptance rate that the step size is adapted to.
        mass_matrix: what the matrix looks like.
        max_rank: rank of a low-rank matrix, at most.
        step_size: first step size.
        adapt_step_size: whether the step size is adapted.
        adapt_mass_matrix: whether the mass matrix is adapted.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> windows = Windows(0.8, "diagonal", 10, 0.1, True, True)
        >>> windows.schedule(1000)[:, 1].nonzero()[0]  # where the mass matrix is estimated
        array([ 99, 149, 249, 449, 949])

    References:
        Hoffman & Gelman (2014), "The No-U-Turn sampler", section 3.2 (dual averaging); Stan
        Development Team, "Stan reference manual", HMC algorithm parameters (windows); Seyboldt
        et al. (2026), on preconditioning by the Fisher divergence, algorithm 1 (low rank).
    """

    target_acceptance_rate: float
    mass_matrix: MassMatrix
    max_rank: int
    step_size: float
    adapt_step_size: bool
    adapt_mass_matrix: bool

    def __post_init__(self) -> None:
        """Check the options."""
        check_fraction(target_acceptance_rate=self.target_acceptance_rate)
        check_choice(RECIPES, mass_matrix=self.mass_matrix)
        check_count(1, 1000, max_rank=self.max_rank)
        check_positive(step_size=self.step_size)
        check_flag(adapt_step_size=self.adapt_step_size, adapt_mass_matrix=self.adapt_mass_matrix)

    @staticmethod
    def of(backend: Any) -> Windows:
        """Return what the options of a sampler say."""
        return Windows(**{f.name: getattr(backend, f.name) for f in dataclasses.fields(Windows)})

    def schedule(self, num_warmup: int) -> np.ndarray:
        """Return `(steps, 2)` booleans: is this step in a window, and does it end one?"""
        return warmup_windows(num_warmup) & self.adapt_mass_matrix

    def metric(self, schedule: np.ndarray, size: int) -> MetricCore:
        """Return the estimator of the mass matrix of so many numbers."""
        recipe = lookup_recipe(RECIPES[self.mass_matrix])
        if self.mass_matrix != "low_rank":
            return recipe.build_core()
        ends = np.flatnonzero(schedule[:, 1])
        longest = int(np.diff(ends, prepend=-1).max()) if ends.size else 1
        recipe = dataclasses.replace(recipe, max_rank=min(self.max_rank, size))
        return recipe.build_core(buffer_size=longest)


class AdaptedState(NamedTuple):
    """The chain, the parameters that move it, and what they are estimated from.

    Args:
        sampler: position, log density and gradient.
        inverse_mass_matrix: of the next step.
        averaging: the step size.
        metric: draws of the window so far.
    """

    sampler: hmc.HMCState
    inverse_mass_matrix: Any
    averaging: DualAveraging
    metric: Any


def window_kernel(move: Move, windows: Windows, num_warmup: int) -> Kernel:
    """Return the functions of a sampler whose parameters warmup adapts in windows.

    After step `num_warmup - 1` the step size is the average that dual averaging arrived at, and
    nothing changes any more. Without warmup it is the first one, with a unit mass matrix.

    Args:
        move: one step at given parameters.
        windows: how they are adapted.
        num_warmup: number of warmup steps.
    """
    schedule = windows.schedule(num_warmup)

    def init(key: jax.Array, target: Target, shared: Any, position: Any) -> AdaptedState:
        del key, shared
        size = pytree_size(position)
        metric = windows.metric(schedule, size).init(size)
        state = AdaptedState(
            hmc.init(position, target.log_density),
            metric.inverse_mass_matrix,
            DualAveraging.start(windows.step_size),
            metric,
        )
        return typed(state, state)

    def advance(
        key: jax.Array, target: Target, state: AdaptedState, step_size: Any
    ) -> tuple[AdaptedState, Stats]:
        sampler, stats = move(key, target, state.sampler, step_size, state.inverse_mass_matrix)
        # NUTS averages numbers up to 1, which BlackJAX adds up on a log scale: rounding takes the
        # mean slightly above 1.
        stats = stats._replace(acceptance_rate=jnp.minimum(stats.acceptance_rate, 1.0))
        return state._replace(sampler=typed(sampler, state.sampler)), stats

    def warmup(
        key: jax.Array, target: Target, shared: Any, state: AdaptedState, t: Any
    ) -> tuple[AdaptedState, Stats]:
        del shared
        moved, stats = advance(key, target, state, state.averaging.step_size)
        adapted = _adapt(windows, schedule, moved, stats.acceptance_rate, t)
        return typed(adapted, state), stats

    def step(
        key: jax.Array, target: Target, shared: Any, state: AdaptedState, t: Any
    ) -> tuple[AdaptedState, Stats]:
        del shared, t
        return advance(key, target, state, state.averaging.average)

    return Kernel(init, warmup, step, lambda state: state.sampler.position)


def _adapt(
    windows: Windows,
    schedule: np.ndarray,
    state: AdaptedState,
    acceptance_rate: Any,
    t: Any,
) -> AdaptedState:
    """Learn from step `t`."""
    core = windows.metric(schedule, pytree_size(state.sampler.position))
    in_window, ends = jnp.asarray(schedule)[t]
    metric = jax.lax.cond(
        in_window,
        lambda m: typed(core.update(m, state.sampler.position, state.sampler.logdensity_grad), m),
        lambda m: m,
        state.metric,
    )
    metric = jax.lax.cond(ends, lambda m: typed(core.final(m), m), lambda m: m, metric)
    averaging = state.averaging
    if windows.adapt_step_size:
        averaging = averaging.update(acceptance_rate, windows.target_acceptance_rate, restart=ends)
    return AdaptedState(state.sampler, metric.inverse_mass_matrix, averaging, metric)
