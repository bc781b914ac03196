"""Bayesian linear regression: evidence and posterior, in single precision too."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

# Of the largest curvature: no more than rounding leaves of it, so that a factor always exists.
RIDGE = {4: 1e-6, 8: 1e-14}


class Regression(NamedTuple):
    """The posterior of v in r = v D + e, with standard normal v and e.

    Args:
        whitening: W, lower triangular, with W (D D^T + I) W^T near the identity.
        cholesky: Cholesky factor of W (D D^T + I) W^T.
        whitened: W D.
        mean: posterior mean of v `(p,)`.
    """

    whitening: jax.Array
    cholesky: jax.Array
    whitened: jax.Array
    mean: jax.Array

    @staticmethod
    def of(design: jax.Array, residual: jax.Array) -> Regression:
        """Return the posterior given D `(p, rows)` and r `(rows,)`.

        D D^T + I itself may be too ill-conditioned for its Cholesky factor in single precision; so
        a rough one comes first, and then that of what it leaves to be done.
        """
        unit = jnp.eye(len(design), dtype=design.dtype)
        rough = jax.lax.stop_gradient(design @ design.T + unit)
        ridge = RIDGE[design.dtype.itemsize] * jnp.max(jnp.diag(rough))
        factor = jnp.linalg.cholesky(rough + ridge * unit, symmetrize_input=False)
        whitening = jnp.tril(solve_triangular(factor, unit, lower=True))
        whitened = whitening @ design
        left = whitened @ whitened.T + whitening @ whitening.T
        cholesky = jnp.linalg.cholesky(left, symmetrize_input=False)
        mean = whitening.T @ cho_solve((cholesky, True), whitened @ residual)
        return Regression(whitening, cholesky, whitened, mean)

    def draw(self, key: jax.Array) -> jax.Array:
        """Draw v."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        spread = solve_triangular(self.cholesky, noise, lower=True, trans="T")
        return self.mean + self.whitening.T @ spread


@jax.custom_jvp
def log_evidence(design: jax.Array, residual: jax.Array) -> jax.Array:
    """Return log p(r) of the regression without its constant.

    It is -|r - v D|^2 / 2 - |v|^2 / 2 - log|D D^T + I| / 2 at the posterior mean v, a form without
    cancellation of large squares. Its derivatives are r - v D and v (r - v D) - (D D^T + I)^-1 D.
    """
    return _log_evidence(Regression.of(design, residual), design, residual)


@log_evidence.defjvp
def _(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (design, residual), (along_design, along_residual) = primals, tangents
    found = Regression.of(design, residual)
    left = residual - found.mean @ design
    back = found.whitening.T @ cho_solve((found.cholesky, True), jnp.eye(len(design)))
    slope = found.mean[:, None] * left - back @ found.whitened
    value = _log_evidence(found, design, residual)
    return value, jnp.vdot(slope, along_design) - jnp.vdot(left, along_residual)


def _log_evidence(found: Regression, design: jax.Array, residual: jax.Array) -> jax.Array:
    left = residual - found.mean @ design
    halves = jnp.log(jnp.diag(found.cholesky)) - jnp.log(jnp.diag(found.whitening))
    return -0.5 * (jnp.sum(left**2) + jnp.sum(found.mean**2)) - jnp.sum(halves)
