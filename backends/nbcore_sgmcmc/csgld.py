"""Cyclical SGLD: long steps find other modes, short steps draw from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from nbcore import Kernel, Stats, Target
from nbcore.extend import check_at_least, check_count, check_fraction
from nbcore_sgmcmc.langevin import Tuned, langevin_kernel, langevin_step
from nbcore_sgmcmc.minibatches import Walk, check_options, measure_whitened, num_rows


@dataclass(frozen=True)
class CyclicalSGLD:
    r"""SGLD with a cosine step size that restarts, and draws from the end of each cycle.

    Step k of a cycle of C steps has a step size proportional to 1 + cos(pi k / C). The first
    `exploration` of the cycle only explores: the sampler takes these steps within the first
    step of the cycle, so that every step that the driver sees, and may keep, is one of the
    `cycle_length` last ones. A run has num_samples / cycle_length cycles. The explored steps are
    in `num_gradients`; chains reach them together, so `chain_method="vectorized"` loses nothing.
    They are no longer than 1 / c, with c the largest whitened curvature (about 1).

    While exploring, the temperature falls with a cosine as well, from
    T `exploration_temperature` to T. (Zhang et al. explore without noise, from which draws start
    at a mode, too narrow, rather than with the spread of the posterior.)

    Draws are biased as those of `sgld`, in coordinates that are whitened at the mode near the
    trained weights: near a mode of that shape, variances are too large by at most about
    `inflation`, and by less towards the end of a cycle. How much weight each of several modes
    gets is a matter of where cycles end, and not exact.

    Args:
        step_size: step size of the first draw of a cycle, in whitened coordinates (no units);
            `None` chooses the one at which variances are too large by `inflation`.
        inflation: relative inflation of the variances that the default step size allows.
        cycle_length: steps of each cycle that are kept.
        exploration: share of a cycle that explores, within [0, 1).
        exploration_temperature: temperature of the first step of a cycle, in units of
            `temperature`; above 1 to cross to other modes.
        batch_size: rows of a minibatch; `None` is min(N, 256).
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
        """Gradients of a step, on average."""
        return 1 + self.num_explored / self.cycle_length

    @property
    def bias_tolerance(self) -> float:
        """Bias of means and deviations at the default step size, in posterior deviations."""
        return self.inflation

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions; warmup runs at the step size of the first draw of a cycle."""
        del num_warmup

        def shared(key: jax.Array, target: Target, position: Any) -> Tuned:
            scale = measure_whitened(key, target, position, num_rows(target, self.batch_size))
            return Tuned.of(scale, self.step_size, self.inflation)

        def step(
            key: jax.Array, target: Target, shared: Tuned, state: Walk, t: Any
        ) -> tuple[Walk, Stats]:
            place, size = t % self.cycle_length, num_rows(target, self.batch_size)
            explored = jnp.where(place == 0, self.num_explored, 0)

            def explore(k: jax.Array, walk: Walk) -> Walk:
                return langevin_step(
                    jax.random.fold_in(key, k), target, walk, self._exploring(shared, k), size,
                    temperature=self._temperature(k), limit=shared.scale.longest,
                )[0]  # fmt: skip

            state = jax.lax.fori_loop(0, explored, explore, state)
            tuned = shared.scheduled(self._height, self.num_explored + place)
            state, stats, _ = langevin_step(
                jax.random.fold_in(key, self.num_explored), target, state, tuned, size,
                temperature=self.temperature,
            )  # fmt: skip
            return state, stats._replace(num_gradients=1 + explored)

        return langevin_kernel(self, shared, step)

    def _height(self, k: Any) -> jax.Array:
        """Return the step size of step k of a cycle, in units of that of the first draw."""
        cycle = self.num_explored + self.cycle_length
        first = 1 + math.cos(math.pi * self.num_explored / cycle)
        return (1 + jnp.cos(jnp.pi * k / cycle)) / first

    def _exploring(self, tuned: Tuned, k: Any) -> Tuned:
        """Return the step size of explored step k."""
        scale, step_size = tuned.scheduled(self._height, k)
        return Tuned(scale, jnp.minimum(step_size, 1 / scale.curvature))

    def _temperature(self, k: Any) -> jax.Array:
        """Return the temperature of explored step k: hot first, T in the end."""
        heat = (1 + jnp.cos(jnp.pi * k / max(self.num_explored, 1))) / 2
        return self.temperature * (1 + (self.exploration_temperature - 1) * heat)
