"""Matrix functions that programs of several chains may call at the same time."""

from __future__ import annotations

import jax
import jax.numpy as jnp


@jax.custom_batching.sequential_vmap
def eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return eigenvalues `(n,)` in ascending order and eigenvectors `(n, n)`, in columns.

    `jax.vmap` of it decomposes one matrix after the other. On a CPU, `jax.numpy.linalg.eigh` of
    several matrices has them decomposed by the threads that programs share, and waits in one of
    these threads: of as many programs as there are cores each waits for the others, without end.

    Args:
        matrix: a symmetric matrix `(n, n)`.

    Examples:
        >>> values, vectors = jax.vmap(eigh)(jnp.ones((5, 2, 2)))
        >>> values.shape, vectors.shape
        ((5, 2), (5, 2, 2))
    """
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


@jax.custom_batching.sequential_vmap
def solve(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """Return A^-1 x `(n,)`; `jax.vmap` of it solves one system after the other, as in `eigh`.

    Args:
        matrix: A `(n, n)`.
        vector: x `(n,)`.

    Examples:
        >>> solve(jnp.array([[2.0, 0.0], [0.0, 4.0]]), jnp.ones(2)).tolist()
        [0.5, 0.25]
    """
    return jnp.linalg.solve(matrix, vector)
