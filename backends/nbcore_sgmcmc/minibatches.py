"""Minibatch gradients in scaled coordinates, shared by the stochastic-gradient samplers.

A position x is flat `(d,)`; a whitening with the factor R stands for coordinates phi with
x = m + R phi, in which the log density has the gradient R^T g.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp

from nbcore import Target
from nbcore.extend import (
    Whitening,
    check_count,
    check_positive,
    largest_curvature,
    whiten,
)

MAX_BATCH = 256
NOISE_BATCHES = 16
LEAST_CURVATURE = 1e-6
POWER_STEPS = 20


class Walk(NamedTuple):
    """Where a chain is.

    Args:
        flat: the position `(d,)`.
        position: the same, as the target knows it.
        batch_key: key of the chain, which orders its minibatches.
        t: minibatches that it has read.
    """

    flat: jax.Array
    position: Any
    batch_key: jax.Array
    t: jax.Array

    @staticmethod
    def begin(key: jax.Array, position: Any) -> Walk:
        """Return the start of a chain at a position."""
        flat = jax.flatten_util.ravel_pytree(position)[0]
        return Walk(flat, position, key, jnp.zeros((), jnp.int32))

    def to(self, flat: jax.Array) -> Walk:
        """Return the walk at its next position, one minibatch later."""
        unravel = jax.flatten_util.ravel_pytree(self.position)[1]
        return Walk(flat, unravel(flat), self.batch_key, self.t + 1)


class Scale(NamedTuple):
    """Coordinates in which a sampler moves, and what limits its step size there.

    Args:
        whitening: the coordinates, around the mode.
        curvature: largest curvature c of the log density at the mode.
        noise: variance v of the minibatch gradient at the mode.
    """

    whitening: Whitening
    curvature: jax.Array
    noise: jax.Array

    def move(self, phi: jax.Array) -> jax.Array:
        """Return the move R phi of the position."""
        return self.whitening.move(phi)

    def gradient(self, gradient: jax.Array) -> jax.Array:
        """Return the gradient R^T g."""
        return self.whitening.pull(gradient)

    @property
    def longest(self) -> jax.Array:
        """The longest step of warmup, about a typical distance.

        Far from the mode, where step sizes do not fit, it keeps a chain from overshooting, and
        biases nothing that is kept.
        """
        return jnp.sqrt(self.whitening.center.size / self.curvature)


def check_options(backend: Any) -> None:
    """Check the options that all stochastic-gradient samplers have.

    Raises:
        OptionError: an option has an impossible value.
    """
    check_positive(optional=True, step_size=backend.step_size)
    check_positive(inflation=backend.inflation, temperature=backend.temperature)
    check_count(1, optional=True, batch_size=backend.batch_size)


def num_rows(target: Target, batch_size: int | None) -> int:
    """Return the rows of a minibatch: what was asked for, or min(N, 256).

    Raises:
        TargetError: the target has no minibatches.
    """
    if not target.has_minibatches:
        raise target.no_minibatches()
    return min(batch_size or MAX_BATCH, target.num_examples)


def estimate(
    target: Target, flat: jax.Array, key: jax.Array, t: jax.Array | int, size: int
) -> tuple[jax.Array, jax.Array]:
    """Return the log density and its gradient `(d,)`, estimated from minibatch `t`."""
    unravel = jax.flatten_util.ravel_pytree(target.start)[1]
    batch = target.batch(key, t, size)
    return jax.value_and_grad(lambda x: target.minibatch_log_density(unravel(x), batch))(flat)


def clipped(gradient: jax.Array, step_size: Any, limit: Any) -> jax.Array:
    """Return the gradient, shortened where a step along it would be longer than `limit`."""
    length = step_size * jnp.linalg.norm(gradient)
    return gradient * jnp.minimum(1.0, limit / jnp.maximum(length, 1e-30))


def measure(
    key: jax.Array, target: Target, whitening: Whitening, size: int
) -> tuple[Scale, jax.Array]:
    """Return the scale of a whitening with the largest noise of a coordinate, and all `(d,)`."""
    curvature_key, noise_key = jax.random.split(key)
    curvature = largest_curvature(curvature_key, target, whitening, target.start, steps=POWER_STEPS)
    scale = Scale(whitening, jnp.maximum(curvature, LEAST_CURVATURE), jnp.zeros(()))

    def gradient(k: jax.Array) -> jax.Array:
        return scale.gradient(estimate(target, whitening.center, k, 0, size)[1])

    gradients = jax.lax.map(gradient, jax.random.split(noise_key, NOISE_BATCHES))
    noise = jnp.var(gradients, axis=0, ddof=1)
    return scale._replace(noise=jnp.max(noise)), noise


def measure_plain(
    key: jax.Array, target: Target, center: jax.Array, size: int, factor: jax.Array | None = None
) -> Scale:
    """Return the scale of coordinates that are not whitened, with the noise of the worst one.

    Args:
        key: random key.
        target: the log density.
        center: the mode `(d,)`.
        size: rows of a minibatch.
        factor: R `(d,)`; 1 by default.
    """
    whitening = Whitening(center, jnp.ones_like(center) if factor is None else factor)
    return measure(key, target, whitening, size)[0]


def measure_whitened(key: jax.Array, target: Target, position: Any, size: int) -> Scale:
    """Find the mode near a position, and return the scale of coordinates whitened there.

    The noise is averaged over coordinates, which are all alike.
    """
    whiten_key, measure_key = jax.random.split(key)
    whitening = whiten(whiten_key, target, position)
    scale, noise = measure(measure_key, target, whitening, size)
    return scale._replace(noise=jnp.mean(noise))
