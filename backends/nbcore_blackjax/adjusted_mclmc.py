"""Microcanonical Langevin Monte Carlo of BlackJAX, Metropolis-adjusted, in whitened coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.adaptation.adjusted_mclmc_adaptation import adjusted_mclmc_find_L_and_step_size
from blackjax.adaptation.mclmc_adaptation import MCLMCAdaptationState
from blackjax.mcmc import adjusted_mclmc, hmc
from blackjax.mcmc.adjusted_mclmc_dynamic import make_random_trajectory_length_fn

from nbcore import Kernel, Stats, Target
from nbcore.errors import OptionError
from nbcore.extend import (
    DualAveraging,
    Whitening,
    check_count,
    check_flag,
    check_fraction,
    check_positive,
    whiten,
    whitened_density,
)
from nbcore_blackjax.microcanonical import GRADIENTS, MIN_TUNE, Parameters, check_size, tuned
from nbcore_blackjax.repeats import num_moves, repeated
from nbcore_blackjax.states import typed

MIN_STEPS = 1.2

LENGTH = 3.0
"""Length of a trajectory, in units of sqrt(d)."""

LONGEST = 64.0
"""Most integrator steps of a trajectory, on average, if their number is not set."""


@dataclass(frozen=True)
class BlackJAXAdjustedMCLMC:
    """Microcanonical trajectories with an acceptance step: no bias.

    In coordinates that are whitened by the curvature at the mode, each trajectory starts in a
    random direction and moves at constant speed; it has a random number of steps, uniform around
    its mean n, so that no period traps it. Warmup adapts the step size e; the steps between warmup
    and sampling adapt it again, together with the scale of each coordinate.

    A normal posterior of d parameters is as wide as a sphere of radius sqrt(d). Trajectories are
    three times as long, n = 3 sqrt(d) / e, but of 2 to 64 steps, found at the end of warmup. One
    step of the chain makes several, d / (n e^2): as many steps in all as a random walk with steps
    of e takes to cross that radius, and at most 1,024 gradients. Where the posterior bends, e is
    small and a step is long.

    Args:
        num_moves: trajectories of a step of the chain; `None`: as many as that takes.
        num_leapfrog_steps: mean number n of integrator steps of a trajectory, 1.2 or more; two
            gradients each. `None` chooses it by the step size.
        target_acceptance_rate: mean acceptance rate that the step size is adapted to.
        step_size: first step size, in whitened coordinates (no units); `None` is sqrt(d) / 5.
        adapt_step_size: whether the step size, and the scales, are adapted.
        adapt_mass_matrix: whether tuning estimates the scale of each coordinate anew.
        num_tune: tuning steps between warmup and sampling.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> BlackJAXAdjustedMCLMC(num_moves=1, num_leapfrog_steps=3).expected_gradients
        6.0

    References:
        Robnik, Cohn-Gordon & Seljak (2025), "Metropolis adjusted microcanonical Hamiltonian Monte
        Carlo".
    """

    name: ClassVar[str] = "blackjax-adjusted-mclmc"
    capabilities: ClassVar[frozenset[str]] = frozenset({"exact", "adaptive"})

    num_moves: int | None = None
    num_leapfrog_steps: float | None = None
    target_acceptance_rate: float = 0.9
    step_size: float | None = None
    adapt_step_size: bool = True
    adapt_mass_matrix: bool = True
    num_tune: int = 1000

    def __post_init__(self) -> None:
        """Check the options."""
        check_count(1, 10_000, optional=True, num_moves=self.num_moves)
        check_positive(optional=True, num_leapfrog_steps=self.num_leapfrog_steps)
        steps = self.num_leapfrog_steps
        if steps is not None and not MIN_STEPS <= steps <= 1000:
            raise OptionError(
                f"num_leapfrog_steps is a number {MIN_STEPS} to 1,000 for {self.name}, got "
                f"{steps}. For one step a trajectory, use 'blackjax-mala'."
            )
        check_fraction(target_acceptance_rate=self.target_acceptance_rate)
        check_positive(optional=True, step_size=self.step_size)
        check_flag(adapt_step_size=self.adapt_step_size, adapt_mass_matrix=self.adapt_mass_matrix)
        check_count(MIN_TUNE, 10_000_000, num_tune=self.num_tune)

    @property
    def expected_gradients(self) -> float:
        """About how many gradients a step takes."""
        return GRADIENTS * float(self.num_leapfrog_steps or 6) * (self.num_moves or 2)

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions for a warmup of this many steps."""

        def shared(key: jax.Array, target: Target, position: Any) -> Whitening:
            return whiten(key, target, position)

        def init(key: jax.Array, target: Target, shared: Whitening, position: Any) -> _State:
            del key
            phi = shared.from_position(position)
            check_size(phi, self.name)
            at = self._first(phi)
            sampler = hmc.init(phi, whitened_density(target, shared))
            state = _State(sampler, position, at, DualAveraging.start(at.step_size))
            return typed(state, state)

        def step(
            key: jax.Array, target: Target, shared: Whitening, state: _State, t: Any
        ) -> tuple[_State, Stats]:
            del t
            at = state.parameters
            density = whitened_density(target, shared)

            def one(key: jax.Array, sampler: Any) -> tuple[Any, Stats]:
                moved, info = _move(
                    key, sampler, density, at.step_size, at.inverse_mass_matrix,
                    (at.L / at.step_size,),
                )  # fmt: skip
                return typed(moved, sampler), Stats(
                    log_density=moved.logdensity,
                    acceptance_rate=info.acceptance_rate,
                    is_divergent=info.is_divergent,
                    num_gradients=GRADIENTS * info.num_integration_steps,
                    step_size=at.step_size,
                )

            sampler, stats = repeated(one, key, state.sampler, self._moves(at))
            position = shared.to_position(sampler.position, target.start)
            return state._replace(sampler=sampler, position=position), stats

        def warmup(
            key: jax.Array, target: Target, shared: Whitening, state: _State, t: Any
        ) -> tuple[_State, Stats]:
            moved, stats = step(key, target, shared, state, t)
            if not self.adapt_step_size:
                return moved, stats
            averaging = state.averaging.update(stats.acceptance_rate, self.target_acceptance_rate)
            last = t == num_warmup - 1
            step_size = jnp.where(last, averaging.average, averaging.step_size)
            at = state.parameters
            count = self._steps(at.inverse_mass_matrix.size, step_size)
            at = at._replace(L=count * step_size, step_size=step_size)
            return typed(moved._replace(parameters=at, averaging=averaging), state), stats

        def tune(
            key: jax.Array, target: Target, shared: Whitening, state: _State
        ) -> tuple[_State, Stats]:
            found = self._tune(key, whitened_density(target, shared), state)
            return tuned(state, target, shared, *found)

        return Kernel(
            init,
            warmup,
            step,
            lambda state: state.position,
            shared,
            tune if self.adapt_step_size else None,
        )

    def _first(self, phi: jax.Array) -> Parameters:
        step_size = jnp.asarray(self.step_size or 0.2 * phi.size**0.5, phi.dtype)
        count = self._steps(phi.size, step_size)
        return Parameters(count * step_size, step_size, jnp.ones_like(phi))

    def _steps(self, size: int, step_size: Any) -> Any:
        """Return the mean number of integrator steps of a trajectory."""
        if self.num_leapfrog_steps is not None:
            return self.num_leapfrog_steps
        return jnp.clip(LENGTH * size**0.5 / step_size, 2.0, LONGEST)

    def _moves(self, at: Parameters) -> Any:
        """Return the number of trajectories of a step of the chain."""
        if self.num_moves is not None:
            return self.num_moves
        size = at.inverse_mass_matrix.size
        return num_moves(size / (at.L * at.step_size), GRADIENTS * at.L / at.step_size)

    def _tune(self, key: jax.Array, density: Any, state: _State) -> tuple[Any, Parameters, Any]:
        """Run BlackJAX's tuning: a pass, the estimate of the scales, and another pass."""
        tune: Any = adjusted_mclmc_find_L_and_step_size
        sampler, found, count = tune(
            _move,
            density,
            self.num_tune,
            state.sampler,
            key,
            self.target_acceptance_rate,
            frac_tune1=0.35,
            frac_tune2=0.3,
            diagonal_preconditioning=self.adapt_mass_matrix,
            params=MCLMCAdaptationState(*state.parameters),
            target_num_integration_steps=state.parameters.L / state.parameters.step_size,
        )
        return sampler, Parameters(*found), count


def _move(
    rng_key: jax.Array,
    state: hmc.HMCState,
    logdensity_fn: Any,
    step_size: Any,
    inverse_mass_matrix: Any,
    integration_steps_params: tuple[Any],
) -> tuple[Any, Any]:
    """Make one trajectory of a random number of steps; the names are those that tuning calls."""
    key_length, key_move = jax.random.split(rng_key)
    count = make_random_trajectory_length_fn(True)(key_length, *integration_steps_params)
    return adjusted_mclmc.build_kernel()(
        key_move,
        state,
        logdensity_fn,
        step_size=step_size,
        integration_steps_params=(count,),
        inverse_mass_matrix=inverse_mass_matrix,
    )


class _State(NamedTuple):
    """The chain in whitened coordinates, the position they stand for, and the parameters."""

    sampler: hmc.HMCState
    position: Any
    parameters: Parameters
    averaging: DualAveraging
