"""Matrix functions that programs of several chains may call at the same time."""

from __future__ import annotations

from typing import Any

import jax
import jax.extend as jex
import jax.numpy as jnp

FACTORIZATIONS = frozenset((
    "cholesky", "cholesky_update", "eig", "eigh", "geqp3", "geqrf", "hessenberg",
    "householder_product", "lu", "ormqr", "qr", "schur", "svd", "triangular_solve", "tridiagonal",
    "tridiagonal_solve",
))  # fmt: skip
"""Primitives whose batches are spread over the threads that programs share, on a CPU."""


def factorizes_several(jaxpr: Any) -> bool:
    """Return whether a program factorizes several matrices in one call, here or in a loop.

    Programs that do must not run at the same time on a CPU, see `eigh`.

    Args:
        jaxpr: what `jax.make_jaxpr(f)(*args).jaxpr` is.

    Examples:
        >>> def several(matrices):
        ...     return jax.vmap(jnp.linalg.cholesky)(matrices)
        >>> factorizes_several(jax.make_jaxpr(several)(jnp.ones((3, 2, 2))).jaxpr)
        True
        >>> factorizes_several(jax.make_jaxpr(jnp.linalg.cholesky)(jnp.ones((2, 2))).jaxpr)
        False
    """
    return any(
        (eqn.primitive.name in FACTORIZATIONS and any(v.aval.ndim > 2 for v in eqn.invars))
        or any(factorizes_several(inner) for inner in jex.core.jaxprs_in_params(eqn.params))
        for eqn in jaxpr.eqns
    )


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
