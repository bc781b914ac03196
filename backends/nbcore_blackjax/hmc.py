"""Hamiltonian Monte Carlo of BlackJAX, with trajectories of a set length or of a set cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from blackjax.mcmc import hmc, metrics

from nbcore import Kernel, Stats, Target
from nbcore.errors import OptionError
from nbcore.extend import check_count, check_positive
from nbcore_blackjax.repeats import num_moves
from nbcore_blackjax.windows import MassMatrix, Windows, window_kernel

TRAJECTORY_LENGTH = 2.0
SHORTEST_SHARE = 0.5


@dataclass(frozen=True)
class BlackJAXHMC:
    """Hamiltonian Monte Carlo with window adaptation of step size and mass matrix.

    A trajectory of fixed length T comes back to where it started in every direction whose period
    divides T. So each step of the chain draws its length anew, t = s T with s ~ U(1/2, 1). With
    `trajectory_length` it takes ceil(t / e) leapfrog steps for a step size e; with
    `num_leapfrog_steps` it takes that many of the size s e, and every step costs the same.

    Args:
        num_leapfrog_steps: leapfrog steps of every trajectory; not beside `trajectory_length`.
            About as many as the widest direction is wider than the narrowest, once the mass matrix
            is accounted for: fewer walk at random, more turn back.
        trajectory_length: longest trajectory T, in units of a posterior standard deviation once
            the mass matrix is adapted; 2 by default. At most 1,024 leapfrog steps are taken.
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
        >>> "fixed_cost" in BlackJAXHMC(num_leapfrog_steps=16).capabilities
        True

    References:
        Duane et al. (1987), "Hybrid Monte Carlo"; Neal (2011), "MCMC using Hamiltonian dynamics",
        sections 5.3.2 and 5.4.2.
    """

    name: ClassVar[str] = "blackjax-hmc"

    num_leapfrog_steps: int | None = None
    trajectory_length: float | None = None
    target_acceptance_rate: float = 0.8
    mass_matrix: MassMatrix = "diagonal"
    max_rank: int = 10
    step_size: float = 0.1
    adapt_step_size: bool = True
    adapt_mass_matrix: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        steps, length = self.num_leapfrog_steps, self.trajectory_length
        if steps is not None and length is not None:
            raise OptionError(
                f"num_leapfrog_steps={steps} and trajectory_length={length} were both given. Give "
                "the number for a fixed cost, or the length for a fixed distance."
            )
        check_count(1, 10_000, optional=True, num_leapfrog_steps=steps)
        check_positive(optional=True, trajectory_length=length)
        Windows.of(self)

    @property
    def capabilities(self) -> frozenset[str]:
        """Capabilities: the cost of a step is fixed if the number of leapfrog steps is."""
        fixed = frozenset({"fixed_cost"} if self.num_leapfrog_steps else ())
        return frozenset({"exact", "adaptive"}) | fixed

    @property
    def expected_gradients(self) -> float:
        """About how many gradients a step takes."""
        return float(self.num_leapfrog_steps or 16)

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
            size, count = self._steps(share, step_size)
            moved, info = hamiltonian(key_move, state, target.log_density, size, matrix, count)
            return moved, Stats(
                log_density=moved.logdensity,
                acceptance_rate=info.acceptance_rate,
                is_divergent=info.is_divergent,
                num_gradients=count,
                step_size=step_size,
                energy=_energy(state, info, matrix),
            )

        return window_kernel(move, Windows.of(self), num_warmup)

    def _steps(self, share: jax.Array, step_size: Any) -> tuple[Any, Any]:
        """Return size and number of the leapfrog steps of a trajectory."""
        if self.num_leapfrog_steps is not None:
            return share * step_size, self.num_leapfrog_steps
        length = share * (self.trajectory_length or TRAJECTORY_LENGTH)
        return step_size, num_moves(length / step_size, 1)


def _energy(before: hmc.HMCState, info: hmc.HMCInfo, matrix: Any) -> jax.Array:
    """Return the Hamiltonian after the step; BlackJAX reports that of the proposal."""
    kinetic = metrics.default_metric(matrix).kinetic_energy(info.momentum)
    return jnp.where(info.is_accepted, info.energy, kinetic - before.logdensity)
