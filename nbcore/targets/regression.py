"""Bayesian linear regression: evidence and posterior, in single precision too.

Observations come in blocks that are never concatenated, because blocks may lie on several devices,
which would have to wait for each other.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

# Relative to the largest curvature: as small as rounding errors, so that a factor always exists.
RIDGE = {4: 1e-6, 8: 1e-14}
Blocks = tuple[jax.Array, ...]


class Regression(NamedTuple):
    """The posterior of v in r = v D + e, with standard normal v and e.

    Args:
        whitening: W, lower triangular, with W (D D^T + I) W^T near the identity.
        cholesky: Cholesky factor of W (D D^T + I) W^T.
        whitened: W D, by block.
        mean: posterior mean of v `(p,)`.
    """

    whitening: jax.Array
    cholesky: jax.Array
    whitened: Blocks
    mean: jax.Array

    @staticmethod
    def of(design: Blocks, residual: Blocks) -> Regression:
        """Return the posterior given D `(p, observations)` and r `(observations,)`, both by block.

        D D^T + I may be too ill-conditioned for its Cholesky factor in single precision. It is
        therefore whitened with a rough factor first, and the remainder is factored.
        """
        unit = jnp.eye(len(design[0]), dtype=design[0].dtype)
        rough = jax.lax.stop_gradient(sum((d @ d.T for d in design), unit))
        ridge = RIDGE[rough.dtype.itemsize] * jnp.max(jnp.diag(rough))
        factor = jnp.linalg.cholesky(rough + ridge * unit, symmetrize_input=False)
        whitening = jnp.tril(solve_triangular(factor, unit, lower=True))
        whitened = tuple(whitening @ d for d in design)
        left = sum((w @ w.T for w in whitened), whitening @ whitening.T)
        cholesky = jnp.linalg.cholesky(left, symmetrize_input=False)
        products = (w @ r for w, r in zip(whitened, residual, strict=True))
        mean = whitening.T @ cho_solve((cholesky, True), sum(products, jnp.zeros_like(unit[0])))
        return Regression(whitening, cholesky, whitened, mean)

    def left(self, design: Blocks, residual: Blocks) -> Blocks:
        """Return r - v D at the posterior mean."""
        return tuple(r - self.mean @ d for d, r in zip(design, residual, strict=True))

    def draw(self, key: jax.Array) -> jax.Array:
        """Draw v."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        spread = solve_triangular(self.cholesky, noise, lower=True, trans="T")
        return self.mean + self.whitening.T @ spread


@jax.custom_jvp
def log_evidence(design: Blocks, residual: Blocks) -> jax.Array:
    """Return log p(r) of the regression without its constant.

    It is -|r - v D|^2 / 2 - |v|^2 / 2 - log|D D^T + I| / 2 at the posterior mean v, a form without
    cancellation of large squares. Its derivatives are r - v D and v (r - v D) - (D D^T + I)^-1 D.
    """
    return _log_evidence(Regression.of(design, residual), design, residual)


@log_evidence.defjvp
def _(
    primals: tuple[Blocks, Blocks], tangents: tuple[Blocks, Blocks]
) -> tuple[jax.Array, jax.Array]:
    (design, residual), (along_design, along_residual) = primals, tangents
    found = Regression.of(design, residual)
    unit = jnp.eye(len(found.mean), dtype=found.mean.dtype)
    back = found.whitening.T @ cho_solve((found.cholesky, True), unit)
    change = jnp.zeros((), found.mean.dtype)
    for left, whitened, along, moved in zip(
        found.left(design, residual), found.whitened, along_design, along_residual, strict=True
    ):
        slope = found.mean[:, None] * left - back @ whitened
        change = change + jnp.vdot(slope, along) - jnp.vdot(left, moved)
    return _log_evidence(found, design, residual), change


def _log_evidence(found: Regression, design: Blocks, residual: Blocks) -> jax.Array:
    squares = sum(
        (jnp.sum(left**2) for left in found.left(design, residual)), jnp.sum(found.mean**2)
    )
    halves = jnp.log(jnp.diag(found.cholesky)) - jnp.log(jnp.diag(found.whitening))
    return -0.5 * squares - jnp.sum(halves)
