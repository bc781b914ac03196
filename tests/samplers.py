"""Samplers for tests of what surrounds one: draws that are known in advance, and a plain HMC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import nbcore as nb
from nbcore.extend import check_count, check_fraction, check_positive
from nbcore.posterior.stats import Stats
from nbcore.sampling.backend import Kernel


def without_warmup(step: Any) -> Kernel:
    """A kernel whose state is the position, and whose steps of warmup are those of sampling."""
    return Kernel(lambda key, target, shared, position: position, step, step, lambda s: s)


@dataclass(frozen=True)
class Stay:
    """Chains that stay where they start."""

    name: ClassVar[str] = "stay"
    capabilities: ClassVar[frozenset[str]] = frozenset({"fixed_cost"})
    acceptance_rate: float = float("nan")

    def kernel(self, num_warmup: int) -> Kernel:
        def step(key: Any, target: nb.Target, shared: Any, state: Any, t: Any) -> Any:
            return state, Stats(target.log_density(state), acceptance_rate=self.acceptance_rate)

        return without_warmup(step)


@dataclass(frozen=True)
class Still:
    """Draws that all are the start: the trained weights, bit for bit."""

    name: ClassVar[str] = "still"
    capabilities: ClassVar[frozenset[str]] = frozenset({"fixed_cost"})

    def kernel(self, num_warmup: int) -> Kernel:
        def step(key: Any, target: nb.Target, shared: Any, state: Any, t: Any) -> Any:
            return target.start, Stats(target.log_density(target.start))

        return without_warmup(step)


@dataclass(frozen=True)
class Spread:
    """Independent draws around the start; none of them moves where `scale` is 0."""

    name: ClassVar[str] = "spread"
    capabilities: ClassVar[frozenset[str]] = frozenset({"independent", "fixed_cost"})
    scale: float = 0.0

    def kernel(self, num_warmup: int) -> Kernel:
        def step(key: Any, target: nb.Target, shared: Any, state: Any, t: Any) -> Any:
            return target.initial_position(key, jitter=self.scale), Stats(jnp.zeros(()))

        return without_warmup(step)


class HMCState(NamedTuple):
    """Where a chain is, and the logarithm of its step size."""

    position: Any
    log_step: jax.Array


@dataclass(frozen=True)
class PlainHMC:
    """Hamiltonian Monte Carlo with a random number of leapfrog steps and one step size."""

    name: ClassVar[str] = "plain-hmc"
    capabilities: ClassVar[frozenset[str]] = frozenset({"exact", "adaptive"})

    step_size: float = 0.1
    max_steps: int = 16
    target_acceptance_rate: float = 0.8

    def __post_init__(self):
        check_positive(step_size=self.step_size)
        check_count(1, 1024, max_steps=self.max_steps)
        check_fraction(target_acceptance_rate=self.target_acceptance_rate)

    def kernel(self, num_warmup: int) -> Kernel:
        def init(key, target, shared, position):
            return HMCState(position, jnp.log(jnp.asarray(self.step_size, jnp.float32)))

        def step(key, target, shared, state, t):
            x, unravel = ravel_pytree(state.position)
            density = jax.value_and_grad(lambda x: target.log_density(unravel(x)))
            for_momentum, for_count, for_choice = jax.random.split(key, 3)
            p = jax.random.normal(for_momentum, x.shape)
            count = jax.random.randint(for_count, (), 1, self.max_steps + 1)
            e = jnp.exp(state.log_step)

            def leap(_, carry):
                y, q, (_, gradient) = carry
                q = q + e / 2 * gradient
                y = y + e * q
                there = density(y)
                return y, q + e / 2 * there[1], there

            here = density(x)
            y, q, there = jax.lax.fori_loop(0, count, leap, (x, p, here))
            gain = there[0] - here[0] - (q @ q - p @ p) / 2
            rate = jnp.exp(jnp.minimum(jnp.where(jnp.isnan(gain), -jnp.inf, gain), 0.0))
            accepted = jax.random.uniform(for_choice) < rate
            position = unravel(jnp.where(accepted, y, x))
            value = jnp.where(accepted, there[0], here[0])
            stats = Stats(value, rate, gain < -1000, count + 1, step_size=e)
            return HMCState(position, state.log_step), stats

        def warmup(key, target, shared, state, t):
            new, stats = step(key, target, shared, state, t)
            move = (stats.acceptance_rate - self.target_acceptance_rate) / (t + 1.0) ** 0.6
            return HMCState(new.position, new.log_step + move), stats

        return Kernel(init, warmup, step, lambda state: state.position)
