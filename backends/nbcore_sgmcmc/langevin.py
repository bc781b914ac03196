"""One step of stochastic gradient Langevin dynamics, and the step size of a given bias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.sgmcmc import sgld as blackjax_sgld

from nbcore import Kernel, Stats, Target
from nbcore_sgmcmc.minibatches import Scale, Walk, clipped, estimate, num_rows

_kernel = blackjax_sgld.build_kernel()


class Tuned(NamedTuple):
    """Coordinates and the step size e in them."""

    scale: Scale
    step_size: jax.Array

    @staticmethod
    def of(scale: Scale, step_size: float | None, inflation: float) -> Tuned:
        """Return a given step size, or the one at which variances are too large by `inflation`.

        In a direction of curvature c and gradient noise v, phi' = phi + e g + sqrt(2 e) xi has
        the variance (1 + e v / 2) / (1 - e c / 2) / c: too large by about e (c + v) / 2.
        """
        chosen = 2 * inflation / (scale.curvature + scale.noise) if step_size is None else step_size
        return Tuned(scale, jnp.asarray(chosen))

    def scheduled(self, schedule: Callable[[Any], Any] | None, t: Any) -> Tuned:
        """Return it with the step size of step `t`."""
        return self if schedule is None else Tuned(self.scale, self.step_size * schedule(t))


def langevin_step(
    key: jax.Array,
    target: Target,
    walk: Walk,
    tuned: Tuned,
    size: int,
    *,
    temperature: Any,
    limit: Any = jnp.inf,
) -> tuple[Walk, Stats, jax.Array]:
    """Move by phi' = phi + e g + sqrt(2 T e) xi in scaled coordinates.

    Args:
        key: random key.
        target: the log density.
        walk: where the chain is.
        tuned: coordinates and e.
        size: rows of a minibatch.
        temperature: T.
        limit: the drift e g is shortened to this length.

    Returns:
        The next place, statistics, and the gradient `(d,)` in the coordinates of the position.
    """
    scale, step_size = tuned
    value, gradient = estimate(target, walk.flat, walk.batch_key, walk.t, size)
    slope = clipped(scale.gradient(gradient), step_size, limit)
    origin = jnp.zeros_like(walk.flat)
    phi: Any = _kernel(key, origin, lambda *_: slope, (), step_size, temperature)  # pyright: ignore[reportArgumentType]
    stats = Stats(log_density=value, num_gradients=1, step_size=step_size)
    return walk.to(walk.flat + scale.move(phi)), stats, gradient


def langevin_kernel(backend: Any, shared: Callable[..., Tuned], step: Callable[..., Any]) -> Kernel:
    """Return the pure functions of a sampler whose warmup is steps of limited length.

    Args:
        backend: the options; `batch_size` and `temperature` are read.
        shared: finds coordinates and step size.
        step: one step after warmup.
    """

    def init(key: jax.Array, target: Target, shared: Tuned, position: Any) -> Walk:
        del target, shared
        return Walk.begin(key, position)

    def warmup(
        key: jax.Array, target: Target, shared: Tuned, state: Walk, t: Any
    ) -> tuple[Walk, Stats]:
        del t
        size, limit = num_rows(target, backend.batch_size), shared.scale.longest
        return langevin_step(
            key, target, state, shared, size, temperature=backend.temperature, limit=limit
        )[:2]

    return Kernel(init, warmup, step, lambda state: state.position, shared)
