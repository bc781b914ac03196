"""Microcanonical Langevin Monte Carlo of BlackJAX, unadjusted, in whitened coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.adaptation.mclmc_adaptation import MCLMCAdaptationState, mclmc_find_L_and_step_size
from blackjax.mcmc import mclmc
from blackjax.mcmc.integrators import IntegratorState

from nbcore import Kernel, Stats, Target
from nbcore.extend import (
    Whitening,
    check_count,
    check_flag,
    check_positive,
    whiten,
    whitened_density,
)
from nbcore_blackjax.microcanonical import GRADIENTS, MIN_TUNE, Parameters, check_size, tuned
from nbcore_blackjax.repeats import num_moves, repeated
from nbcore_blackjax.states import typed

FAILURE = 2.0
"""Error of the energy of a failed step while tuning, in units of the desired deviation."""

LENGTHS = 4.0
"""Distance of a step of the chain, in units of L."""

STAGE = 0.3
"""Fraction of the tuning steps of each of its stages: step size, scales, trajectory length."""

FIRST_STEP = 1e-3
"""First step size without whitening, as a fraction of that in whitened coordinates."""


@dataclass(frozen=True)
class BlackJAXMCLMC:
    """Microcanonical Langevin Monte Carlo: two gradients a move, and a known bias.

    In coordinates that are whitened by the curvature at the mode, the chain moves at constant
    speed along a direction that the gradient turns and that noise makes it forget over a distance
    L. No step is rejected, so that draws are biased by the error e of the energy over a step: the
    step size is tuned so that v = Var(e) / d is `desired_energy_var`, for d numbers. Measured on
    normal densities of 10 to 600 numbers, variances are too small by a relative 0.3 v^(1/3) at
    most: 2 % at the default, 1 % at a tenth of it. (If coordinates are neither whitened nor
    scaled, the narrowest direction may have the bias of all.) A step to where the density is not
    finite stays and is divergent, and so is every step if tuning finds no step size that moves
    the chain.

    One step of the chain makes 4 L / e moves of step size e, at most 512: as many as it takes to
    forget the direction several times. Where the posterior bends, e is small and a step is long.

    The posterior of all weights of a network has many modes, each with a curvature of its own.
    There, `whiten=False`, a large `initial_energy_var` (0.5) and a larger `desired_energy_var`
    (0.01) let chains that start at trained networks move on; `nb.BNN` samples in this way.

    Args:
        desired_energy_var: Var(e) / d that the step size is tuned to.
        initial_energy_var: Var(e) / d at the start of tuning, from which it changes linearly to
            `desired_energy_var` while step size and scales are tuned; `None`: no change.
        whiten: whether coordinates are whitened by the curvature at the mode near the start of the
            first chain; if not, they are those of the target.
        num_moves: moves of a step of the chain, for a fixed cost; `None`: as many as
            lead over the distance 4 L.
        trajectory_length: L, in these coordinates; `None` tunes it by the autocorrelation of the
            draws.
        step_size: first step size, in these coordinates; `None` is sqrt(d) / 4 in whitened ones
            (which have no units), and a thousandth of it in others.
        adapt_step_size: whether step size, L and scales are tuned; if not, L is
            `trajectory_length`, or sqrt(d).
        adapt_mass_matrix: whether tuning estimates the scale of each coordinate anew.
        num_tune: tuning steps between warmup and sampling.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> BlackJAXMCLMC(num_tune=500).desired_energy_var
        0.0005

    References:
        Robnik & Seljak (2024), "Fluctuation without dissipation: Microcanonical Langevin Monte
        Carlo"; Robnik, De Luca, Silverstein & Seljak (2023), "Microcanonical Hamiltonian Monte
        Carlo" (error of the energy and bias); Sommer et al. (2025), "Microcanonical Langevin
        ensembles: advancing the sampling of Bayesian neural networks" (falling energy variance).
    """

    name: ClassVar[str] = "blackjax-mclmc"

    desired_energy_var: float = 5e-4
    initial_energy_var: float | None = None
    whiten: bool = True
    num_moves: int | None = None
    trajectory_length: float | None = None
    step_size: float | None = None
    adapt_step_size: bool = True
    adapt_mass_matrix: bool = True
    num_tune: int = 1000

    def __post_init__(self) -> None:
        """Check the options."""
        check_count(1, 10_000, optional=True, num_moves=self.num_moves)
        check_positive(desired_energy_var=self.desired_energy_var)
        check_positive(
            optional=True,
            initial_energy_var=self.initial_energy_var,
            trajectory_length=self.trajectory_length,
            step_size=self.step_size,
        )
        check_flag(whiten=self.whiten)
        check_flag(adapt_step_size=self.adapt_step_size, adapt_mass_matrix=self.adapt_mass_matrix)
        check_count(MIN_TUNE, 10_000_000, num_tune=self.num_tune)

    @property
    def capabilities(self) -> frozenset[str]:
        """Capabilities: the cost of a step is fixed if the number of moves is."""
        return frozenset({"adaptive", "fixed_cost"} if self.num_moves else {"adaptive"})

    @property
    def expected_gradients(self) -> float:
        """About how many gradients a step takes."""
        return float(GRADIENTS * (self.num_moves or 4))

    @property
    def bias_tolerance(self) -> float:
        """Bias of means and deviations at the default step size, in posterior deviations."""
        return 0.3 * self.desired_energy_var ** (1 / 3)

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions; warmup runs at the first step size, `tune` finds the next."""
        del num_warmup
        microcanonical: Any = mclmc.build_kernel()

        def shared(key: jax.Array, target: Target, position: Any) -> Whitening:
            if self.whiten:
                return whiten(key, target, position)
            return Whitening.identity(position)

        def init(key: jax.Array, target: Target, shared: Whitening, position: Any) -> _State:
            phi = shared.from_position(position)
            check_size(phi, self.name)
            sampler = mclmc.init(phi, whitened_density(target, shared), key)
            state = _State(sampler, position, self._first(phi))
            return typed(state, state)

        def step(
            key: jax.Array, target: Target, shared: Whitening, state: _State, t: Any
        ) -> tuple[_State, Stats]:
            del t
            at = state.parameters
            density = whitened_density(target, shared)
            stuck = self._is_stuck(at) if self.adapt_step_size else jnp.asarray(False)

            def one(key: jax.Array, sampler: Any) -> tuple[Any, Stats]:
                moved, info = microcanonical(
                    key, sampler, density, at.inverse_mass_matrix, at.L, at.step_size
                )
                return typed(moved, sampler), Stats(
                    log_density=moved.logdensity,
                    is_divergent=jnp.logical_not(info.nonans) | stuck,
                    num_gradients=GRADIENTS,
                    step_size=at.step_size,
                )

            count = self.num_moves or num_moves(LENGTHS * at.L / at.step_size, GRADIENTS)
            sampler, stats = repeated(one, key, state.sampler, count)
            position = shared.to_position(sampler.position, target.start)
            return state._replace(sampler=sampler, position=position), stats

        def tune(
            key: jax.Array, target: Target, shared: Whitening, state: _State
        ) -> tuple[_State, Stats]:
            found = self._tune(key, microcanonical, whitened_density(target, shared), state)
            return tuned(state, target, shared, *found)

        return Kernel(
            init,
            step,
            step,
            lambda state: state.position,
            shared,
            tune if self.adapt_step_size else None,
        )

    def _first(self, phi: jax.Array) -> Parameters:
        root = phi.size**0.5
        first = 0.25 * root * (1 if self.whiten else FIRST_STEP)
        length, step_size = self.trajectory_length or root, self.step_size or first
        kind = phi.dtype
        return Parameters(
            jnp.asarray(length, kind), jnp.asarray(step_size, kind), jnp.ones_like(phi)
        )

    def _is_stuck(self, at: Parameters) -> jax.Array:
        """Return whether tuning failed: `num_tune` steps lead less than sqrt(d) far, or nowhere."""
        scales = at.inverse_mass_matrix
        has_units = not (self.whiten or self.adapt_mass_matrix)  # then sqrt(d) says nothing
        far = 0.0 if has_units else scales.size**0.5
        moves = jnp.all((scales > 0) & jnp.isfinite(scales)) & jnp.isfinite(at.L)
        return jnp.logical_not(moves & (self.num_tune * at.step_size > far))

    def _tune(
        self, key: jax.Array, kernel: Any, density: Any, state: _State
    ) -> tuple[Any, Parameters, Any]:
        """Run BlackJAX's tuning, whose first two stages tune the step size."""
        tune: Any = mclmc_find_L_and_step_size
        size = state.parameters.inverse_mass_matrix.size
        end, begin = self.desired_energy_var, self.initial_energy_var or self.desired_energy_var
        falling = 2 * round(STAGE * self.num_tune)

        def counting(state: _Counted, **arguments: Any) -> tuple[_Counted, Any]:
            wanted = begin + (end - begin) * jnp.minimum(state.count / falling, 1)
            moved, info = kernel(state=IntegratorState(*state[:-1]), **arguments)
            # For each failed step, which stays, BlackJAX lowers a bound on the step size that it
            # never raises again, so that a chain beside a region of zero density would freeze.
            error = jnp.where(info.nonans, info.energy_change, FAILURE * (wanted * size) ** 0.5)
            # BlackJAX compares with one energy variance, that of the end.
            info = info._replace(nonans=True, energy_change=error * (end / wanted) ** 0.5)
            return _Counted(*moved, count=state.count + 1), info

        start = _Counted(*state.sampler, count=jnp.zeros((), jnp.int32))
        sampler, found, count = tune(
            counting,
            self.num_tune,
            start,
            key,
            logdensity_fn=density,
            frac_tune1=STAGE,
            frac_tune2=STAGE,
            frac_tune3=STAGE if self.trajectory_length is None else 0.0,
            desired_energy_var=end,
            diagonal_preconditioning=self.adapt_mass_matrix,
            params=MCLMCAdaptationState(*state.parameters),
        )
        length = found.L if self.trajectory_length is None else state.parameters.L
        at = Parameters(length, found.step_size, found.inverse_mass_matrix)
        return IntegratorState(*sampler[:-1]), at, count


class _Counted(NamedTuple):
    """BlackJAX's own state, and the number of tuning steps so far."""

    position: Any
    momentum: Any
    logdensity: Any
    logdensity_grad: Any
    count: Any


class _State(NamedTuple):
    """The chain in whitened coordinates, the position they stand for, and the parameters."""

    sampler: Any
    position: Any
    parameters: Parameters
