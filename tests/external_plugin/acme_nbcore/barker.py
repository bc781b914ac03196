"""The Barker proposal, whitened by the covariance of its own draws."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softplus

from nbcore import Kernel, Stats
from nbcore.extend import (
    AdaptiveWhitening,
    DualAveraging,
    check_fraction,
    check_positive,
    metropolis,
    warmup_windows,
)


class State(NamedTuple):
    position: Any
    density: Any  # the log density there, and its gradient
    tuning: DualAveraging
    whitening: AdaptiveWhitening


@dataclass(frozen=True)
class Barker:
    """Propose z ~ N(0, step_size^2), or -z with probability 1 / (1 + exp(z g)), with g the slope.

    References:
        Livingstone & Zanella (2022), "The Barker proposal", algorithm 1.
    """

    name: ClassVar[str] = "acme-barker"
    capabilities: ClassVar[frozenset[str]] = frozenset({"exact", "adaptive", "fixed_cost"})

    step_size: float = 0.5
    target_acceptance_rate: float = 0.57

    def __post_init__(self):
        check_positive(step_size=self.step_size)
        check_fraction(target_acceptance_rate=self.target_acceptance_rate)

    def kernel(self, num_warmup: int) -> Kernel:
        windows = warmup_windows(num_warmup)

        def init(key, target, shared, position):
            density = jax.value_and_grad(target.log_density)(position)
            tuning = DualAveraging.start(self.step_size)
            return State(position, density, tuning, AdaptiveWhitening.start(position))

        def step(key, target, shared, state, t, size=None):
            size = state.tuning.average if size is None else size
            for_size, for_sign, for_choice = jax.random.split(key, 3)
            around = state.whitening.at(state.position)
            slope = around.from_gradient(state.density[1])
            z = size * jax.random.normal(for_size, slope.shape, slope.dtype)
            u = jnp.where(jax.random.bernoulli(for_sign, sigmoid(z * slope)), z, -z)
            place = around.to_position(u, state.position)
            there = jax.value_and_grad(target.log_density)(place)
            back = around.from_gradient(there[1])
            gain = there[0] - state.density[0] + jnp.sum(softplus(-u * slope) - softplus(u * back))
            chosen, rate = metropolis(for_choice, gain, (place, there), state[:2])
            return State(*chosen, *state[2:]), Stats(chosen[1][0], rate, step_size=size)

        def warmup(key, target, shared, state, t):
            new, stats = step(key, target, shared, state, t, state.tuning.step_size)
            inside, ends = jnp.asarray(windows)[t]
            tuning = state.tuning.update(stats.acceptance_rate, self.target_acceptance_rate, ends)
            whitening = state.whitening.update(new.position, new.density[1], inside, ends)
            return State(new.position, new.density, tuning, whitening), stats

        return Kernel(init, warmup, step, lambda state: state.position)
