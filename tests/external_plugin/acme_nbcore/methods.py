"""A Metropolis-adjusted Langevin sampler, and a selector of the smallest weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from nbcore import Kernel, Layer, Stats, Target
from nbcore.layers import leaves_by_path


class State(NamedTuple):
    """Where a chain is, and its step size."""

    position: Any
    log_step: jax.Array


@dataclass(frozen=True)
class Langevin:
    """Propose x + e g(x) + sqrt(2 e) xi, and accept as Metropolis and Hastings do."""

    name: ClassVar[str] = "acme-langevin"
    capabilities: ClassVar[frozenset[str]] = frozenset({"exact", "adaptive", "fixed_cost"})

    step_size: float = 0.01
    target_acceptance_rate: float = 0.57

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions."""

        def init(key: Any, target: Target, shared: Any, position: Any) -> State:
            return State(position, jnp.log(jnp.asarray(self.step_size, jnp.float32)))

        def step(
            key: Any, target: Target, shared: Any, state: State, t: Any
        ) -> tuple[State, Stats]:
            x, unravel = ravel_pytree(state.position)
            density = jax.value_and_grad(lambda x: target.log_density(unravel(x)))
            for_noise, for_choice = jax.random.split(key)
            e = jnp.exp(state.log_step)
            value, gradient = density(x)
            y = x + e * gradient + jnp.sqrt(2 * e) * jax.random.normal(for_noise, x.shape)
            other, back = density(y)
            gain = other - value
            gain += (
                (jnp.sum((y - x - e * gradient) ** 2) - jnp.sum((x - y - e * back) ** 2)) / 4 / e
            )
            rate = jnp.exp(jnp.minimum(jnp.where(jnp.isnan(gain), -jnp.inf, gain), 0.0))
            accepted = jax.random.uniform(for_choice) < rate
            position = unravel(jnp.where(accepted, y, x))
            value = jnp.where(accepted, other, value)
            return State(position, state.log_step), Stats(value, rate, num_gradients=2, step_size=e)

        def warmup(
            key: Any, target: Target, shared: Any, state: State, t: Any
        ) -> tuple[State, Stats]:
            new, stats = step(key, target, shared, state, t)
            move = (stats.acceptance_rate - self.target_acceptance_rate) / (t + 1.0) ** 0.6
            return State(new.position, new.log_step + move), stats

        return Kernel(init, warmup, step, lambda state: state.position)


@dataclass(frozen=True)
class Smallest:
    """Score -|w|."""

    name: ClassVar[str] = "acme-smallest"
    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, context: Any, layer: Layer) -> dict[str, Any]:
        """Return minus the magnitude of every entry."""
        params = leaves_by_path(context.params)
        return {leaf.path: -jnp.abs(params[leaf.path]) for leaf in layer.weights}
