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
from nbcore_blackjax.states import typed

MIN_STEPS = 1.2


@dataclass(frozen=True)
class BlackJAXAdjustedMCLMC:
    """Microcanonical trajectories with an acceptance step: no bias.

    In coordinates that are whitened by the curvature at the mode, each trajectory starts in a
    random direction and moves at constant speed; it has a random number of steps, uniform around
    `num_leapfrog_steps`, so that no period traps it. Warmup adapts the step size; the steps
    between warmup and sampling adapt it again, together with the scale of each coordinate.

    Args:
        num_leapfrog_steps: mean number of integrator steps of a trajectory, 1.2 or more; two
            gradients each.
        target_acceptance_rate: mean acceptance rate that the step size is adapted to.
        step_size: first step size, in whitened coordinates (no units); `None` is sqrt(d) / 5.
        adapt_step_size: whether the step size, and the scales, are adapted.
        adapt_mass_matrix: whether tuning estimates the scale of each coordinate anew.
        num_tune: tuning steps between warmup and sampling.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> BlackJAXAdjustedMCLMC(num_leapfrog_steps=3).expected_gradients
        6.0

    References:
        Robnik, Cohn-Gordon & Seljak (2025), "Metropolis adjusted microcanonical Hamiltonian Monte
        Carlo".
    """

    name: ClassVar[str] = "blackjax-adjusted-mclmc"
    capabilities: ClassVar[frozenset[str]] = frozenset({"exact", "adaptive"})

    num_leapfrog_steps: float = 2.0
    target_acceptance_rate: float = 0.9
    step_size: float | None = None
    adapt_step_size: bool = True
    adapt_mass_matrix: bool = True
    num_tune: int = 1000

    def __post_init__(self) -> None:
        """Check the options."""
        check_positive(num_leapfrog_steps=self.num_leapfrog_steps)
        if not MIN_STEPS <= self.num_leapfrog_steps <= 1000:
            raise OptionError(
                f"num_leapfrog_steps is a number {MIN_STEPS} to 1,000 for {self.name}, got "
                f"{self.num_leapfrog_steps}. For one step a trajectory, use 'blackjax-mala'."
            )
        check_fraction(target_acceptance_rate=self.target_acceptance_rate)
        check_positive(optional=True, step_size=self.step_size)
        check_flag(adapt_step_size=self.adapt_step_size, adapt_mass_matrix=self.adapt_mass_matrix)
        check_count(MIN_TUNE, 10_000_000, num_tune=self.num_tune)

    @property
    def expected_gradients(self) -> float:
        """Gradients of a step, on average."""
        return GRADIENTS * float(self.num_leapfrog_steps)

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
            sampler, info = _move(
                key,
                state.sampler,
                whitened_density(target, shared),
                at.step_size,
                at.inverse_mass_matrix,
                (at.L / at.step_size,),
            )
            stats = Stats(
                log_density=sampler.logdensity,
                acceptance_rate=info.acceptance_rate,
                is_divergent=info.is_divergent,
                num_gradients=GRADIENTS * info.num_integration_steps,
                step_size=at.step_size,
            )
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
            at = state.parameters._replace(
                L=self.num_leapfrog_steps * step_size, step_size=step_size
            )
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
        return Parameters(self.num_leapfrog_steps * step_size, step_size, jnp.ones_like(phi))

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
            target_num_integration_steps=self.num_leapfrog_steps,
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
