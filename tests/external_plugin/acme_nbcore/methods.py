"""A Metropolis-adjusted Langevin sampler, and a selector of the smallest weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from nbcore import Kernel, Layer, Stats, Target
from nbcore.extend import Whitening, leaves_by_path, whiten


class State(NamedTuple):
    """Where a chain is in whitened coordinates, the position that it stands for, its step size."""

    phi: jax.Array
    position: Any
    log_step: jax.Array


@dataclass(frozen=True)
class Langevin:
    """Propose x + e g(x) + sqrt(2 e) xi where the curvature is 1; accept as Metropolis does."""

    name: ClassVar[str] = "acme-langevin"
    capabilities: ClassVar[frozenset[str]] = frozenset({"exact", "adaptive", "fixed_cost"})

    step_size: float = 0.3
    target_acceptance_rate: float = 0.57

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions."""

        def init(key: Any, target: Target, shared: Whitening, position: Any) -> State:
            phi = shared.from_position(position)
            return State(phi, position, jnp.log(jnp.asarray(self.step_size, phi.dtype)))

        def step(
            key: Any, target: Target, shared: Whitening, state: State, t: Any
        ) -> tuple[State, Stats]:
            def place(phi: Any) -> Any:
                return shared.to_position(phi, target.start)

            density = jax.value_and_grad(lambda phi: target.log_density(place(phi)))
            for_noise, for_choice = jax.random.split(key)
            x, e = state.phi, jnp.exp(state.log_step)
            value, gradient = density(x)
            y = x + e * gradient + jnp.sqrt(2 * e) * jax.random.normal(for_noise, x.shape, x.dtype)
            other, back = density(y)
            gain = other - value
            gain += (
                (jnp.sum((y - x - e * gradient) ** 2) - jnp.sum((x - y - e * back) ** 2)) / 4 / e
            )
            rate = jnp.exp(jnp.minimum(jnp.where(jnp.isnan(gain), -jnp.inf, gain), 0.0))
            accepted = jax.random.uniform(for_choice) < rate
            phi, value = jnp.where(accepted, y, x), jnp.where(accepted, other, value)
            stats = Stats(value, rate, num_gradients=2, step_size=e)
            return State(phi, place(phi), state.log_step), stats

        def warmup(
            key: Any, target: Target, shared: Whitening, state: State, t: Any
        ) -> tuple[State, Stats]:
            new, stats = step(key, target, shared, state, t)
            move = (stats.acceptance_rate - self.target_acceptance_rate) / (t + 1.0) ** 0.6
            return new._replace(log_step=new.log_step + move), stats

        return Kernel(init, warmup, step, lambda state: state.position, whiten)


@dataclass(frozen=True)
class Smallest:
    """Score -|w|."""

    name: ClassVar[str] = "acme-smallest"
    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, context: Any, layer: Layer) -> dict[str, Any]:
        """Return minus the magnitude of every entry."""
        params = leaves_by_path(context.params)
        return {leaf.path: -jnp.abs(params[leaf.path]) for leaf in layer.weights}
