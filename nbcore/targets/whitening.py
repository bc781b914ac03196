"""Affine coordinates in which a log density has about unit curvature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp

from nbcore.common.matrices import solve
from nbcore.common.pytrees import register_pytree

FLOOR = 1e-6


@register_pytree
@dataclass(frozen=True)
class Dense:
    """A curvature H as a matrix.

    Args:
        matrix: H `(n, n)`, symmetric.
        scale: S `(n,)`, such that S H S is about the identity if the data say nothing.
    """

    matrix: jax.Array
    scale: jax.Array

    def solve(self, gradient: jax.Array, damping: jax.Array | float = 0.0) -> jax.Array:
        """Return (H + damping S^-2)^-1 g; NaN if that is not positive definite."""
        lower = jnp.linalg.cholesky(self._scaled(damping), symmetrize_input=False)
        return self.scale * jax.scipy.linalg.cho_solve((lower, True), self.scale * gradient)

    def root(self) -> jax.Array:
        """Return R `(n, n)` with R R^T = H^-1.

        Where rounding, or negative curvature, leave H short of positive definite, S^-2 is added to
        it as often as it takes, in powers of ten of the rounding.
        """
        largest = jnp.max(jnp.abs(jnp.diagonal(self.matrix)) * self.scale**2)
        least = jnp.finfo(self.matrix.dtype).eps * largest

        def lower(damping: jax.Array) -> jax.Array:
            return jnp.linalg.cholesky(self._scaled(damping), symmetrize_input=False)

        def failed(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
            return ~jnp.all(jnp.isfinite(carry[1])) & (carry[0] < 100 * largest)

        def again(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            damping = jnp.maximum(10 * carry[0], least)
            return damping, lower(damping)

        zero = jnp.zeros_like(largest)
        found = jax.lax.while_loop(failed, again, (zero, lower(zero)))[1]
        unit = jnp.eye(len(found), dtype=found.dtype)
        inverse = jax.scipy.linalg.solve_triangular(found, unit, lower=True)
        return self.scale[:, None] * inverse.T

    def _scaled(self, damping: jax.Array | float) -> jax.Array:
        scaled = self.scale[:, None] * self.matrix * self.scale
        return scaled + damping * jnp.eye(len(scaled), dtype=scaled.dtype)


@register_pytree
@dataclass(frozen=True)
class LowRank:
    r"""A curvature that differs from a diagonal in a few directions.

    H = S^-1 (I + V (diag(l) - I) V^T) S^-1 has the root R = S (I + V (diag(l)^-1/2 - I) V^T),
    R R^T = H^-1, where S is diagonal, V has orthonormal columns and l > 0.

    Args:
        scale: diagonal of S `(n,)`.
        vectors: V `(n, r)`.
        values: l `(r,)`.

    Examples:
        >>> curvature = LowRank(jnp.ones(2), jnp.array([[1.0], [0.0]]), jnp.array([4.0]))
        >>> curvature.move(jnp.ones(2)).tolist(), curvature.solve(jnp.ones(2)).tolist()
        ([0.5, 1.0], [0.25, 1.0])
    """

    scale: jax.Array
    vectors: jax.Array
    values: jax.Array

    def move(self, phi: jax.Array) -> jax.Array:
        """Return R phi."""
        return self.scale * self._power(-0.5, phi)

    def pull(self, gradient: jax.Array) -> jax.Array:
        """Return R^T g."""
        return self._power(-0.5, self.scale * gradient)

    def unmove(self, move: jax.Array) -> jax.Array:
        """Return R^-1 x."""
        return self._power(0.5, move / self.scale)

    def solve(self, gradient: jax.Array, damping: jax.Array | float = 0.0) -> jax.Array:
        """Return (H + damping S^-2)^-1 g."""
        scaled = self.scale * gradient
        inside = self.vectors.T @ scaled
        change = inside / (self.values + damping) - inside / (1 + damping)
        return self.scale * (scaled / (1 + damping) + self.vectors @ change)

    def _power(self, power: float, x: jax.Array) -> jax.Array:
        return x + self.vectors @ ((self.values**power - 1) * (self.vectors.T @ x))


def low_rank(
    scale: jax.Array,
    product: Callable[[jax.Array], jax.Array],
    basis: jax.Array,
    diagonal: jax.Array | None = None,
) -> LowRank:
    """Return the curvature S^-1 (I + G) S^-1, with G kept in the span of a basis.

    Args:
        scale: diagonal of S `(n,)`.
        product: V -> G V for columns `(n, r)`, with G symmetric.
        basis: columns `(n, r)` of the span in which G is kept, r at most n.
        diagonal: diagonal of G `(n,)`. Its part outside the span is kept; `None` if there is none.
    """
    columns = jnp.linalg.qr(basis)[0]
    inner = columns.T @ product(columns)
    if diagonal is not None:
        left = 1 + jnp.maximum(diagonal - jnp.sum(columns @ inner * columns, axis=1), 0)
        columns, upper = jnp.linalg.qr(columns / jnp.sqrt(left)[:, None])
        inner, scale = upper @ inner @ upper.T, scale / jnp.sqrt(left)
    values, rotation = jnp.linalg.eigh((inner + inner.T) / 2)
    values = jnp.abs(1 + values)
    floor = jnp.minimum(FLOOR * jnp.max(values), 1)
    return LowRank(scale, columns @ rotation, jnp.maximum(values, floor))


Factor = jax.Array | LowRank
"""R with R R^T = H^-1: `(n, n)`, `(n,)` for a diagonal, or a diagonal and a low rank."""


@register_pytree
@dataclass(frozen=True)
class Whitening:
    """An affine map to coordinates in which the log density has about unit curvature.

    position = unravel(center + R phi), with R R^T the inverse of the negative Hessian at the mode,
    or an approximation of it.

    Args:
        center: the mode, flat `(n,)`.
        factor: R: `(n, n)`, `(n,)` for a diagonal, or `LowRank`.
    """

    center: jax.Array
    factor: Factor

    @staticmethod
    def identity(position: Any) -> Whitening:
        """Return the coordinates that are the parameters themselves, of a position."""
        flat = jax.flatten_util.ravel_pytree(position)[0]
        return Whitening(jnp.zeros_like(flat), jnp.ones_like(flat))

    def to_position(self, phi: jax.Array, like: Any) -> Any:
        """Return the position of whitened coordinates `(n,)`, with the structure of `like`."""
        place = (self.center + self.move(phi)).astype(self.center.dtype)  # whatever phi's type
        return jax.flatten_util.ravel_pytree(like)[1](place)

    def from_position(self, position: Any) -> jax.Array:
        """Return the whitened coordinates `(n,)` of a position."""
        move = jax.flatten_util.ravel_pytree(position)[0] - self.center
        if isinstance(self.factor, LowRank):
            return self.factor.unmove(move)
        return move / self.factor if self.factor.ndim == 1 else solve(self.factor, move)

    def from_gradient(self, gradient: Any) -> jax.Array:
        """Return the gradient in whitened coordinates `(n,)` of a gradient in the position."""
        return self.pull(jax.flatten_util.ravel_pytree(gradient)[0])

    def move(self, phi: jax.Array) -> jax.Array:
        """Return the move R phi of the position."""
        if isinstance(self.factor, LowRank):
            return self.factor.move(phi)
        return self.factor * phi if self.factor.ndim == 1 else self.factor @ phi

    def pull(self, gradient: jax.Array) -> jax.Array:
        """Return R^T g for a flat gradient `(n,)`."""
        if isinstance(self.factor, LowRank):
            return self.factor.pull(gradient)
        return self.factor * gradient if self.factor.ndim == 1 else self.factor.T @ gradient

    def log_volume(self) -> jax.Array:
        """Return log |det R|."""
        if isinstance(self.factor, LowRank):
            return jnp.sum(jnp.log(self.factor.scale)) - 0.5 * jnp.sum(jnp.log(self.factor.values))
        if self.factor.ndim == 1:
            return jnp.sum(jnp.log(jnp.abs(self.factor)))
        return jnp.linalg.slogdet(self.factor)[1]
