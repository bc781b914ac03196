"""The Metropolis-adjusted Langevin algorithm of BlackJAX, in whitened coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc import mala

from nbcore import Kernel, Stats, Target
from nbcore.extend import (
    DualAveraging,
    Whitening,
    check_flag,
    check_fraction,
    check_positive,
    largest_curvature,
    whiten,
    whitened_density,
)
from nbcore_blackjax.states import typed


@dataclass(frozen=True)
class BlackJAXMALA:
    """The Metropolis-adjusted Langevin algorithm: one gradient a step, and no bias.

    In coordinates phi that are whitened by the curvature at the mode, the proposal is
    phi + e g(phi) + sqrt(2 e) xi, with g the gradient of the log density and xi standard normal.
    The first step size is the best one for a normal density of d numbers,
    e = 1.65^2 / (2 c d^(1/3)), with c the largest whitened curvature (about 1).

    Args:
        target_acceptance_rate: mean acceptance rate that the step size is adapted to.
        step_size: first step size e, in whitened coordinates (no units); `None` chooses it by
            the curvature.
        adapt_step_size: whether warmup adapts the step size.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> BlackJAXMALA().target_acceptance_rate
        0.574

    References:
        Roberts & Tweedie (1996), "Exponential convergence of Langevin distributions and their
        discrete approximations"; Roberts & Rosenthal (1998), "Optimal scaling of discrete
        approximations to Langevin diffusions", theorems 1 and 2 (step size and rate).
    """

    name: ClassVar[str] = "blackjax-mala"
    expected_gradients: ClassVar[float] = 1.0
    capabilities: ClassVar[frozenset[str]] = frozenset({"exact", "adaptive", "fixed_cost"})

    target_acceptance_rate: float = 0.574
    step_size: float | None = None
    adapt_step_size: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        check_fraction(target_acceptance_rate=self.target_acceptance_rate)
        check_positive(optional=True, step_size=self.step_size)
        check_flag(adapt_step_size=self.adapt_step_size)

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions for a warmup of this many steps."""
        langevin: Any = mala.build_kernel()
        del num_warmup

        def shared(key: jax.Array, target: Target, position: Any) -> Shared:
            key_whiten, key_curvature = jax.random.split(key)
            whitening = whiten(key_whiten, target, position)
            kind = whitening.center.dtype
            if self.step_size is not None:
                return Shared(whitening, jnp.asarray(self.step_size, kind))
            curvature = largest_curvature(key_curvature, target, whitening, target.start)
            size = whitening.center.size
            return Shared(whitening, 1.65**2 / (2 * jnp.maximum(curvature, 1.0) * size ** (1 / 3)))

        def init(key: jax.Array, target: Target, shared: Shared, position: Any) -> _State:
            del key
            density = whitened_density(target, shared.whitening)
            sampler = mala.init(shared.whitening.from_position(position), density)
            state = _State(sampler, position, DualAveraging.start(shared.step_size))
            return typed(state, state)

        def move(
            key: jax.Array, target: Target, shared: Shared, state: _State, step_size: Any
        ) -> tuple[_State, Stats]:
            density = whitened_density(target, shared.whitening)
            sampler, info = langevin(key, state.sampler, density, step_size)
            position = shared.whitening.to_position(sampler.position, target.start)
            stats = Stats(
                log_density=sampler.logdensity,
                acceptance_rate=info.acceptance_rate,
                step_size=step_size,
            )
            return state._replace(sampler=sampler, position=position), stats

        def warmup(
            key: jax.Array, target: Target, shared: Shared, state: _State, t: Any
        ) -> tuple[_State, Stats]:
            del t
            moved, stats = move(key, target, shared, state, state.averaging.step_size)
            if not self.adapt_step_size:
                return moved, stats
            averaging = state.averaging.update(stats.acceptance_rate, self.target_acceptance_rate)
            return moved._replace(averaging=averaging), stats

        def step(
            key: jax.Array, target: Target, shared: Shared, state: _State, t: Any
        ) -> tuple[_State, Stats]:
            del t
            return move(key, target, shared, state, state.averaging.average)

        return Kernel(init, warmup, step, lambda state: state.position, shared)


class Shared(NamedTuple):
    """Whitening and first step size, found once per run."""

    whitening: Whitening
    step_size: jax.Array


class _State(NamedTuple):
    """The chain in whitened coordinates, the position they stand for, and the step size."""

    sampler: mala.MALAState
    position: Any
    averaging: DualAveraging
