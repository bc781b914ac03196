"""Minibatches of the stochastic-gradient samplers: their size, and their estimates."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp

from nbcore import Target

WHOLE = 1024
LEAST = 512
SHARE = 16


def minibatch_size(num_examples: int, batch_size: int | None) -> int:
    """Return the examples of a minibatch: what was asked for, or all of up to 1,024, else N / 16.

    A leapfrog step takes two gradients of its minibatch, but one if minibatches hold all examples
    (the last gradient of a step is the first of the next), so that minibatches of 512 cost as much
    as 1,024 examples. The variance of a minibatch gradient grows with N / B and step sizes shrink
    with it, so that the passes over the data in an autocorrelation time hardly depend on B; with
    N / 16 that time is tens of steps.

    Examples:
        >>> minibatch_size(200, None), minibatch_size(2000, None), minibatch_size(10**6, None)
        (200, 512, 62500)
    """
    if batch_size is not None:
        return min(batch_size, num_examples)
    return num_examples if num_examples <= WHOLE else max(LEAST, num_examples // SHARE)


class Minibatches(NamedTuple):
    """Estimates of a log density on minibatches of a fixed size.

    Args:
        target: the log density.
        size: examples of a minibatch.
    """

    target: Target
    size: int

    @staticmethod
    def of(target: Target, batch_size: int | None) -> Minibatches:
        """Return the minibatches of a target.

        Raises:
            TargetError: the target has no data, or its outputs mix examples.
        """
        if not target.has_minibatches:
            raise target.no_minibatches()
        return Minibatches(target, minibatch_size(target.num_examples, batch_size))

    @property
    def is_whole(self) -> bool:
        """Whether each of them holds all examples."""
        return self.size >= self.target.num_examples

    @property
    def gradients_per_step(self) -> int:
        """Gradients of a leapfrog step; one of all examples serves two steps."""
        return 1 if self.is_whole else 2

    def estimate(
        self, flat: jax.Array, key: jax.Array, t: jax.Array | int
    ) -> tuple[jax.Array, jax.Array]:
        """Return log density and gradient `(d,)` at a flat position, on minibatch `t`."""
        target, unravel = self.target, jax.flatten_util.ravel_pytree(self.target.start)[1]
        if self.is_whole:
            return jax.value_and_grad(lambda x: target.log_density(unravel(x)))(flat)
        batch = target.batch(key, t, self.size)
        return jax.value_and_grad(lambda x: target.minibatch_log_density(unravel(x), batch))(flat)

    def gradient_noise(self, key: jax.Array, visited: jax.Array) -> jax.Array:
        """Return a draw of the noise of a minibatch gradient at each position, `(positions, d)`.

        It is the difference between two minibatches over sqrt(2); zeros if they hold all examples.

        Args:
            key: random key.
            visited: positions `(positions, d)`.
        """
        if self.is_whole:
            return jnp.zeros_like(visited)
        keys = jax.random.split(key, (len(visited), 2))

        def gradients(at: tuple[jax.Array, jax.Array]) -> jax.Array:
            return self.estimate(at[1], at[0], 0)[1]

        twice = jnp.repeat(visited, 2, axis=0)
        drawn = jax.lax.map(gradients, (keys.reshape(-1), twice))
        return (drawn[::2] - drawn[1::2]) / 2**0.5

    @property
    def noise_gradients(self) -> int:
        """Gradients that a draw of the noise takes at each position."""
        return 0 if self.is_whole else 2
