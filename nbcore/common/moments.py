"""Mean and variance of a stream of pytrees, in constant memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from nbcore.common.pytrees import register_pytree


@register_pytree
@dataclass(frozen=True)
class Moments:
    """Running moments of a stream of pytrees (Welford 1962).

    mean_n = mean_{n-1} + (x_n - mean_{n-1}) / n,
    M_n = M_{n-1} + (x_n - mean_{n-1}) (x_n - mean_n).

    Args:
        count: how many were seen, int32.
        mean: their mean, a pytree.
        sum_of_squares: M, the sum of squared deviations from the mean, a pytree.
        recent: the last K deviations x_n - mean_n, a pytree with a leading axis K, in turns;
            `None` if they are not kept.

    Examples:
        >>> import jax.numpy as jnp
        >>> moments = Moments.empty(jnp.zeros(2))
        >>> for x in (jnp.array([1.0, 2.0]), jnp.array([3.0, 2.0])):
        ...     moments = moments.update(x)
        >>> moments.mean.tolist(), moments.variance.tolist()
        ([2.0, 2.0], [1.0, 0.0])

    References:
        Welford (1962), "Note on a method for calculating corrected sums of squares and products".
    """

    count: jax.Array
    mean: Any
    sum_of_squares: Any
    recent: Any = None

    @staticmethod
    def empty(like: Any, num_recent: int = 0) -> Moments:
        """Return moments of nothing, for pytrees with the structure and shapes of `like`.

        Args:
            like: a pytree of arrays.
            num_recent: how many of the last deviations to keep.
        """
        zeros = jax.tree.map(jnp.zeros_like, like)
        recent = jax.tree.map(lambda z: jnp.zeros((num_recent, *z.shape), z.dtype), zeros)
        return Moments(jnp.zeros((), jnp.int32), zeros, zeros, recent if num_recent else None)

    def update(self, value: Any) -> Moments:
        """Return the moments with one more pytree; jittable."""
        count = self.count + 1
        mean = jax.tree.map(lambda m, x: m + (x - m) / count, self.mean, value)
        squares = jax.tree.map(
            lambda s, m_old, m_new, x: s + (x - m_old) * (x - m_new),
            self.sum_of_squares,
            self.mean,
            mean,
            value,
        )
        if self.recent is None:
            return Moments(count, mean, squares)
        recent = jax.tree.map(
            lambda r, x, m: r.at[self.count % r.shape[0]].set(x - m), self.recent, value, mean
        )
        return Moments(count, mean, squares, recent)

    @property
    def variance(self) -> Any:
        """Variance of what was seen (divided by the count)."""
        return jax.tree.map(lambda s: s / jnp.maximum(self.count, 1), self.sum_of_squares)

    @property
    def root_mean_square(self) -> Any:
        """Root of the mean square of what was seen, sqrt(mean^2 + variance)."""
        return jax.tree.map(lambda m, v: jnp.sqrt(m**2 + v), self.mean, self.variance)
