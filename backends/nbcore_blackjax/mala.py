"""The Metropolis-adjusted Langevin algorithm of BlackJAX, in whitened coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc import mala

from nbcore import Kernel, Stats, Target
from nbcore.extend import (
    DENSE_LIMIT,
    AdaptiveWhitening,
    DualAveraging,
    Whitening,
    check_count,
    check_flag,
    check_fraction,
    check_positive,
    largest_curvature,
    warmup_windows,
    whiten,
    whitened_density,
)
from nbcore_blackjax.repeats import num_moves, repeated
from nbcore_blackjax.states import typed

DIFFUSION_TIME = 4.0
"""Diffusion time of a step of the chain, in whitened coordinates."""

MIN_WARMUP = 150
"""Fewest steps of warmup in which the whitening is corrected."""


@dataclass(frozen=True)
class BlackJAXMALA:
    """The Metropolis-adjusted Langevin algorithm: one gradient a move, and no bias.

    In whitened coordinates phi the proposal is phi + e g(phi) + sqrt(2 e) xi, with g the gradient
    of the log density and xi standard normal. The whitening is that by the curvature at the mode,
    which windows of warmup correct by the positions and gradients that they see: in full for up to
    512 parameters, beyond by a scale for each. A warmup of fewer than 150 steps does not correct
    it: a scale that a short window finds around one place keeps the chain there. The first step
    size is the best one for a normal density of d parameters, e = 1.65^2 / (2 c d^(1/3)), with c
    the largest whitened curvature at the mode (about 1).

    A chain forgets where it was after a diffusion time of about 1 in whitened coordinates. One
    step of the chain takes four times as long: 4 / e moves, at most 1,024, each with a decision of
    its own. Where the posterior bends, e is small and a step is long.

    Args:
        num_moves: moves of a step of the chain, for a fixed cost; `None`: as many as a
            diffusion time of 4 takes.
        target_acceptance_rate: mean acceptance rate that the step size is adapted to. The best rate
            for normal densities of many parameters is 0.574; chains that are tuned to it stop for
            long where a posterior bends.
        step_size: first step size e, in whitened coordinates (no units); `None` chooses it by
            the curvature.
        adapt_step_size: whether warmup adapts the step size.
        adapt_mass_matrix: whether a warmup of at least 150 steps corrects the whitening.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> BlackJAXMALA().target_acceptance_rate
        0.8

    References:
        Roberts & Tweedie (1996), "Exponential convergence of Langevin distributions and their
        discrete approximations"; Roberts & Rosenthal (1998), "Optimal scaling of discrete
        approximations to Langevin diffusions", theorems 1 and 2 (step size and rate).
    """

    name: ClassVar[str] = "blackjax-mala"

    num_moves: int | None = None
    target_acceptance_rate: float = 0.8
    step_size: float | None = None
    adapt_step_size: bool = True
    adapt_mass_matrix: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        check_count(1, 10_000, optional=True, num_moves=self.num_moves)
        check_fraction(target_acceptance_rate=self.target_acceptance_rate)
        check_positive(optional=True, step_size=self.step_size)
        check_flag(adapt_step_size=self.adapt_step_size, adapt_mass_matrix=self.adapt_mass_matrix)

    @property
    def capabilities(self) -> frozenset[str]:
        """Capabilities: the cost of a step is fixed if the number of moves is."""
        fixed = frozenset({"fixed_cost"} if self.num_moves else ())
        return frozenset({"exact", "adaptive"}) | fixed

    @property
    def expected_gradients(self) -> float:
        """About how many gradients a step takes."""
        return float(self.num_moves or 4)

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions for a warmup of this many steps."""
        langevin: Any = mala.build_kernel()
        is_long = num_warmup >= MIN_WARMUP
        windows = warmup_windows(num_warmup) & (self.adapt_mass_matrix and is_long)

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
            is_small = shared.whitening.center.size <= DENSE_LIMIT
            learned = AdaptiveWhitening.start(sampler.position, dense=is_small)
            averaging = DualAveraging.start(shared.step_size)
            state = _State(sampler, position, averaging, learned.factor, learned)
            return typed(state, state)

        def move(
            key: jax.Array, target: Target, shared: Shared, state: _State, step_size: Any
        ) -> tuple[_State, Stats]:
            inner = Whitening(jnp.zeros_like(shared.whitening.center), state.factor)

            def place(phi: jax.Array) -> Any:
                return shared.whitening.to_position(inner.move(phi), target.start)

            def one(key: jax.Array, sampler: Any) -> tuple[Any, Stats]:
                moved, info = langevin(
                    key, sampler, lambda phi: target.log_density(place(phi)), step_size
                )
                return typed(moved, sampler), Stats(
                    log_density=moved.logdensity,
                    acceptance_rate=info.acceptance_rate,
                    step_size=step_size,
                )

            count = self.num_moves or num_moves(DIFFUSION_TIME / step_size, 1)
            sampler, stats = repeated(one, key, state.sampler, count)
            return state._replace(sampler=sampler, position=place(sampler.position)), stats

        def warmup(
            key: jax.Array, target: Target, shared: Shared, state: _State, t: Any
        ) -> tuple[_State, Stats]:
            moved, stats = move(key, target, shared, state, state.averaging.step_size)
            inside, ends = jnp.asarray(windows)[t]
            if self.adapt_step_size:
                moved = moved._replace(averaging=moved.averaging.update(
                    stats.acceptance_rate, self.target_acceptance_rate, restart=ends
                ))  # fmt: skip
            sampler = moved.sampler
            learned = moved.learned.update(sampler.position, sampler.logdensity_grad, inside, ends)
            moved = moved._replace(learned=learned)
            return typed(jax.lax.cond(ends, _corrected, lambda s: s, moved), state), stats

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
    """The chain in its whitened coordinates, the position they stand for, and what moves it.

    Args:
        sampler: BlackJAX's own state.
        position: what it stands for.
        averaging: the step size.
        factor: F, which takes the coordinates of the chain to those of the mode.
        learned: what the window so far says of the coordinates of the chain.
    """

    sampler: mala.MALAState
    position: Any
    averaging: DualAveraging
    factor: jax.Array
    learned: AdaptiveWhitening


def _corrected(state: _State) -> _State:
    """Return a state in coordinates that the window which has ended whitens."""
    sampler: Any = state.sampler
    found = state.learned.factor
    change = Whitening(jnp.zeros_like(sampler.position), found)
    sampler = sampler._replace(
        position=change.from_position(sampler.position),
        logdensity_grad=change.pull(sampler.logdensity_grad),
    )
    factor = state.factor @ found if found.ndim == 2 else state.factor * found
    learned = AdaptiveWhitening.start(sampler.position, dense=found.ndim == 2)
    return state._replace(sampler=sampler, factor=factor, learned=learned)
