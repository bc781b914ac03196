"""Stochastic gradient Langevin dynamics: minibatches, for cheap runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.sgmcmc import sgld as blackjax_sgld

from nbcore.backend import Kernel, Stats
from nbcore.curvature import Whitening, largest_curvature, whiten
from nbcore.errors import OptionError
from nbcore.target import NetworkTarget, Target

MAX_BATCH = 256
NOISE_BATCHES = 16


@dataclass(frozen=True)
class SGLD:
    r"""Stochastic gradient Langevin dynamics with a constant preconditioner.

    In coordinates phi that are whitened by the curvature at the mode,
    phi' = phi + e g(phi) + sqrt(2 T e) xi, with g the gradient of an unbiased estimate of the log
    density from a minibatch, and xi standard normal. Draws are biased: near the mode the
    variances are too large by about a factor 1 + e (c + v) / 2, with c the largest whitened
    curvature (about 1) and v the variance of the minibatch gradient.

    Args:
        step_size: e, in whitened coordinates (no units); `None` chooses the one at which the
            variances are too large by `inflation`.
        inflation: relative inflation of the variances that the default step size allows.
        schedule: an optax schedule, a factor on the step size as a function of the step number
            after warmup; `None` keeps it constant.
        batch_size: rows of a minibatch; `None` is min(N, 256).
        temperature: T; 1 is the posterior.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> SGLD(batch_size=64).temperature
        1.0

    References:
        Welling & Teh (2011), "Bayesian learning via stochastic gradient Langevin dynamics",
        equation 4; Li et al. (2016), "Preconditioned stochastic gradient Langevin dynamics".
    """

    name: ClassVar[str] = "sgld"
    capabilities: ClassVar[frozenset[str]] = frozenset({"minibatch", "adaptive", "fixed_cost"})

    step_size: float | None = None
    inflation: float = 0.1
    schedule: Callable[[Any], Any] | None = None
    batch_size: int | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        for option in ("step_size", "inflation", "temperature"):
            value = getattr(self, option)
            if value is not None and not value > 0:
                raise OptionError(f"{option} must be positive, got {value}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise OptionError(f"batch_size must be at least 1, got {self.batch_size}.")

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions; warmup runs at the step size that `shared` found."""
        langevin = blackjax_sgld.build_kernel()

        def shared(key: jax.Array, target: Target, position: Any) -> _Shared:
            keys = jax.random.split(key, 3)
            whitening = whiten(keys[0], target, position)
            like = target.start
            if self.step_size is not None:
                return _Shared(whitening, jnp.asarray(self.step_size))
            curvature = largest_curvature(keys[1], target, whitening, like)
            noise = self._gradient_noise(keys[2], target, whitening, like)
            return _Shared(whitening, 2 * self.inflation / (jnp.maximum(curvature, 1.0) + noise))

        def init(key: jax.Array, target: Target, shared: _Shared, position: Any) -> _State:
            phi = shared.whitening.from_position(position)
            return _State(phi, position, key, jnp.zeros((), jnp.int32))

        def move(
            key: jax.Array, target: Target, shared: _Shared, state: _State, factor: Any, limit: Any
        ) -> tuple[_State, Stats]:
            like = target.start
            batch = target.batch(state.batch_key, state.t, self._batch(target))

            def density(phi: jax.Array, rows: Any) -> jax.Array:
                return target.minibatch_log_density(shared.whitening.to_position(phi, like), rows)

            value, gradient = jax.value_and_grad(density)(state.phi, batch)
            step_size = shared.step_size * factor
            length = step_size * jnp.linalg.norm(gradient)
            gradient = gradient * jnp.minimum(1.0, limit / jnp.maximum(length, 1e-30))
            phi = langevin(key, state.phi, lambda *_: gradient, batch, step_size, self.temperature)
            position = shared.whitening.to_position(phi, like)
            stats = Stats(log_density=value, num_gradients=1, step_size=step_size)
            return _State(phi, position, state.batch_key, state.t + 1), stats

        def warmup(
            key: jax.Array, target: Target, shared: _Shared, state: _State, t: Any
        ) -> tuple[_State, Stats]:
            del t
            # The curvature is that of the mode; far from it a step may be no longer than a
            # typical distance, which biases nothing that is kept.
            return move(key, target, shared, state, 1.0, jnp.sqrt(state.phi.size))

        def step(
            key: jax.Array, target: Target, shared: _Shared, state: _State, t: Any
        ) -> tuple[_State, Stats]:
            factor = 1.0 if self.schedule is None else self.schedule(t)
            return move(key, target, shared, state, factor, jnp.inf)

        return Kernel(init, warmup, step, lambda state: state.position, shared)

    def _batch(self, target: Target) -> int:
        if not isinstance(target, NetworkTarget):
            target.batch(None, 0, 0)  # pyright: ignore[reportArgumentType]  raises why there is none
        return min(self.batch_size or MAX_BATCH, target.num_examples)

    def _gradient_noise(
        self, key: jax.Array, target: Target, whitening: Whitening, like: Any
    ) -> jax.Array:
        """Return the variance of the minibatch gradient at the mode, averaged over coordinates."""
        zero = jnp.zeros_like(whitening.center)

        def gradient(k: jax.Array) -> jax.Array:
            batch = target.batch(k, 0, self._batch(target))
            return jax.grad(
                lambda phi: target.minibatch_log_density(whitening.to_position(phi, like), batch)
            )(zero)

        gradients = jax.lax.map(gradient, jax.random.split(key, NOISE_BATCHES))
        return jnp.mean(jnp.var(gradients, axis=0, ddof=1))


class _Shared(NamedTuple):
    """Whitening and step size, found once per run."""

    whitening: Whitening
    step_size: jax.Array


class _State(NamedTuple):
    """Whitened coordinates, the position they stand for, the chain's key and step counter."""

    phi: jax.Array
    position: Any
    batch_key: jax.Array
    t: jax.Array
