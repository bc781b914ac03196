"""Hamiltonian Monte Carlo of BlackJAX: trajectories of a fixed number of steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from blackjax.mcmc import hmc, metrics

from nbcore import Kernel, Stats, Target
from nbcore.extend import check_count
from nbcore_blackjax.windows import MassMatrix, Windows, window_kernel

SHORTEST_SHARE = 0.5


@dataclass(frozen=True)
class BlackJAXHMC:
    """Hamiltonian Monte Carlo with window adaptation; every step costs the same.

    A trajectory of fixed length comes back to where it started in every direction whose period
    divides the length. So each has `num_leapfrog_steps` steps of size s e, with e the adapted step
    size and s ~ U(1/2, 1): the length varies, the cost does not, and chains can be vectorized.

    Args:
        num_leapfrog_steps: leapfrog steps of a trajectory. About as many as the widest direction
            is wider than the narrowest, once the mass matrix is accounted for: fewer walk at
            random, more turn back.
        target_acceptance_rate: mean acceptance rate that the step size is adapted to.
        mass_matrix: `"diagonal"`, `"dense"`, or `"low_rank"`, a diagonal and `max_rank`
            directions, for many correlated numbers.
        max_rank: number of directions of a low-rank matrix, at most.
        step_size: first step size e; adapted in warmup if `adapt_step_size` is true.
        adapt_step_size: whether warmup adapts the step size.
        adapt_mass_matrix: whether warmup adapts the mass matrix.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> BlackJAXHMC(num_leapfrog_steps=16).expected_gradients
        16

    References:
        Duane et al. (1987), "Hybrid Monte Carlo"; Neal (2011), "MCMC using Hamiltonian dynamics",
        sections 5.3.2 and 5.4.2.
    """

    name: ClassVar[str] = "blackjax-hmc"
    capabilities: ClassVar[frozenset[str]] = frozenset({"exact", "adaptive", "fixed_cost"})

    num_leapfrog_steps: int = 32
    target_acceptance_rate: float = 0.8
    mass_matrix: MassMatrix = "diagonal"
    max_rank: int = 10
    step_size: float = 0.1
    adapt_step_size: bool = True
    adapt_mass_matrix: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        check_count(1, 10_000, num_leapfrog_steps=self.num_leapfrog_steps)
        Windows.of(self)

    @property
    def expected_gradients(self) -> float:
        """Gradients of a step."""
        return self.num_leapfrog_steps

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions for a warmup of this many steps."""
        hamiltonian = hmc.build_kernel()

        def move(
            key: jax.Array, target: Target, state: hmc.HMCState, step_size: Any, matrix: Any
        ) -> tuple[hmc.HMCState, Stats]:
            key_length, key_move = jax.random.split(key)
            share = jax.random.uniform(
                key_length, (), jnp.result_type(step_size), SHORTEST_SHARE, 1.0
            )
            moved, info = hamiltonian(
                key_move,
                state,
                target.log_density,
                share * step_size,
                matrix,
                self.num_leapfrog_steps,
            )
            return moved, Stats(
                log_density=moved.logdensity,
                acceptance_rate=info.acceptance_rate,
                is_divergent=info.is_divergent,
                num_gradients=self.num_leapfrog_steps,
                step_size=step_size,
                energy=_energy(state, info, matrix),
            )

        return window_kernel(move, Windows.of(self), num_warmup)


def _energy(before: hmc.HMCState, info: hmc.HMCInfo, matrix: Any) -> jax.Array:
    """Return the Hamiltonian after the step; BlackJAX reports that of the proposal."""
    kinetic = metrics.default_metric(matrix).kinetic_energy(info.momentum)
    return jnp.where(info.is_accepted, info.energy, kinetic - before.logdensity)
