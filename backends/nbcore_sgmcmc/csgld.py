"""Cyclical SGLD: large steps find other modes, small steps draw from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from nbcore import Kernel, Stats
from nbcore.extend import check_at_least, check_count, check_fraction
from nbcore_sgmcmc.minibatches import Minibatches, minibatch_size
from nbcore_sgmcmc.trajectories import Leapfrog, PhasePoint, Trajectory, transitions
from nbcore_sgmcmc.warmup import check_options, kernel_of


@dataclass(frozen=True)
class CyclicalSGLD:
    r"""SGLD with a cosine step size that restarts, and draws from the end of each cycle.

    Leapfrog steps of step k of a cycle of C steps have a size proportional to
    sqrt(1 + cos(pi k / C)), so that its square, the step size of SGLD, falls with a cosine. The
    first `exploration` of the cycle only explores: the sampler takes these steps within the first
    step of the cycle, so that every step that the driver sees, and may keep, is one of the
    `cycle_length` last ones. A run has num_samples / cycle_length cycles. The explored steps are in
    `num_gradients`; chains reach them together, so `chain_method="vectorized"` loses nothing. A
    step is that of `sgld`, a trajectory that is accepted or rejected; warmup takes the largest.

    In the first half of exploring, the temperature falls with a cosine as well, from
    T `exploration_temperature` to T; the second half forgets the heat. (Zhang et al. explore
    without noise, from which draws start at a mode, too narrow, rather than with the spread of the
    posterior.)

    Draws are biased as those of `sgld`, by less towards the end of a cycle: with all examples in a
    minibatch, as by default up to 1,024, and `exploration_temperature=1`, not at all. With another
    temperature, the weight of each of several modes depends on where cycles end, and is not
    exact.

    Args:
        step_size: the largest h of the first draw of a cycle, in the coordinates phi of `sgld` (no
            units); each step takes a random share of it, from 1/2 to 1. `None`: so that the first
            step of a cycle has 1.2 d^(-1/4) for d parameters, or less, so that the noise adds at
            most `inflation` to variances.
        inflation: relative inflation of variances that the default step size allows.
        momentum: the share of the momentum that a step keeps.
        num_leapfrog_steps: leapfrog steps of a step. Each takes one gradient of all examples, or
            two of its minibatch.
        target_acceptance_rate: mean acceptance rate that warmup adapts to; see `sgld`.
        preconditioner: `"curvature"`, `"rmsprop"` or `"none"`; see `sgld`.
        cycle_length: steps of each cycle that are kept.
        exploration: share of a cycle that explores, within [0, 1).
        exploration_temperature: temperature of the first step of a cycle, in units of
            `temperature`; above 1 to cross to other modes.
        batch_size: examples of a minibatch; `None` is all of up to 1,024, else N / 16 or 512.
        temperature: T; 1 is the posterior.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> CyclicalSGLD(cycle_length=50, exploration=0.8).num_explored
        200

    References:
        Zhang et al. (2020), "Cyclical stochastic gradient MCMC for Bayesian deep learning",
        equation 1 and algorithm 1.
    """

    name: ClassVar[str] = "csgld"
    capabilities: ClassVar[frozenset[str]] = frozenset({"minibatch", "adaptive"})

    step_size: float | None = None
    inflation: float = 0.1
    momentum: float = 0.9
    num_leapfrog_steps: int = 5
    target_acceptance_rate: float = 0.95
    preconditioner: Literal["curvature", "rmsprop", "none"] = "curvature"
    cycle_length: int = 50
    exploration: float = 0.8
    exploration_temperature: float = 1.0
    batch_size: int | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        check_options(self)
        check_count(1, cycle_length=self.cycle_length)
        check_fraction(zero=True, exploration=self.exploration)
        check_at_least(0, exploration_temperature=self.exploration_temperature)

    @property
    def num_explored(self) -> int:
        """Steps of each cycle that are not kept."""
        return round(self.cycle_length * self.exploration / (1 - self.exploration))

    @property
    def expected_gradients(self) -> float:
        """Gradients of a step on average, with all examples in a minibatch."""
        return self.num_leapfrog_steps * (1 + self.num_explored / self.cycle_length)

    @property
    def bias_tolerance(self) -> float:
        """Bias of means and deviations at the default step size, in posterior deviations."""
        return self.inflation

    def minibatch_size(self, num_examples: int) -> int:
        """Return how many of the examples a minibatch holds."""
        return minibatch_size(num_examples, self.batch_size)

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions."""
        trajectory = Trajectory(self.num_leapfrog_steps, self.momentum, every_step=True)

        def step(
            key: jax.Array, batches: Minibatches, point: PhasePoint, leapfrog: Leapfrog, t: Any
        ) -> tuple[PhasePoint, Stats]:
            place = t % self.cycle_length
            explored = jnp.where(place == 0, self.num_explored, 0)
            before = jnp.where(place == 0, 0, self.num_explored + place)
            return transitions(
                key, batches, point, leapfrog, trajectory, lambda i: self._temperature(before + i),
                count=explored + 1, factor=lambda i: self._size(before + i),
            )  # fmt: skip

        first = float(self._size(self.num_explored))
        largest = None if self.step_size is None else self.step_size / first
        return kernel_of(self, num_warmup, trajectory, step, step_size=largest)

    def _size(self, k: Any) -> jax.Array:
        """Return the step size of step k of a cycle, in units of the largest."""
        cycle = self.num_explored + self.cycle_length
        return jnp.sqrt((1 + jnp.cos(jnp.pi * k / cycle)) / 2)

    def _temperature(self, k: Any) -> jax.Array:
        """Return the temperature of step k of a cycle: hot first, then T."""
        share = jnp.minimum(2 * k / max(self.num_explored, 1), 1.0)
        heat = (1 + jnp.cos(jnp.pi * share)) / 2
        return self.temperature * (1 + (self.exploration_temperature - 1) * heat)
