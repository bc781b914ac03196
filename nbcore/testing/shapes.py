"""Densities with known quantiles that are hard to sample: skewed and correlated ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from nbcore.posterior.posterior import Posterior
from nbcore.targets.target import Target
from nbcore.testing.runs import NUM_CHAINS

_Floats = NDArray[np.float64]

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
GAMMA_SHAPES = (0.5, 1.0, 4.0)
CONDITION = 1000.0
NUM_WARMUP = 2000


@dataclass(frozen=True)
class Shape:
    """A density, and probabilities of half-spaces under it.

    Args:
        name: what it is.
        target: the log density.
        project: `(..., d) -> (..., functions)`, applied to the draws.
        thresholds: `(functions, levels)`.
        probabilities: the probability of each function to be below each threshold, flat.
        starts: where chains start in turn, `(starts, d)`.
        num_warmup: steps to arrive and to adapt.
    """

    name: str
    target: Target
    project: Callable[[_Floats], _Floats]
    thresholds: _Floats
    probabilities: _Floats
    starts: _Floats
    num_warmup: int = NUM_WARMUP

    def below(self, posterior: Posterior) -> _Floats:
        """Return whether each function is below each threshold `(chain, draw, all)`, 0 or 1."""
        values = self.project(np.asarray(posterior.draws, np.float64))
        below = (values[..., None] <= self.thresholds).astype(np.float64)
        return below.reshape(*below.shape[:2], -1)

    def far_starts(self) -> _Floats:
        """Return a start for each chain."""
        return np.resize(self.starts, (NUM_CHAINS, self.starts.shape[1]))


@functools.cache
def log_gamma() -> Shape:
    """Return independent logarithms of gamma variates, p(x) proportional to exp(k x - e^x).

    P(x <= q) is the regularized incomplete gamma function P(k, e^q). The left tail of k = 1/2 is
    long and the right tails are shorter than a normal's.
    """
    k = jnp.array(GAMMA_SHAPES)

    def density(x: jax.Array) -> jax.Array:
        return jnp.sum(k * x - jnp.exp(x))

    # Rounded quantiles: their probabilities are computed, so they need not be exact.
    near = np.array(
        [[-5.5, -2.3, -1.5, -0.4, 0.65], [-3.0, -1.25, -0.37, 0.33, 1.1], [0.3, 0.93, 1.3, 1.63, 2]]
    )
    probabilities = jax.scipy.special.gammainc(k[:, None], jnp.exp(near))
    return Shape(
        "logarithms of gamma variates",
        Target.from_log_density(density, jnp.zeros(len(GAMMA_SHAPES))),
        lambda x: x,
        near,
        np.asarray(probabilities, np.float64).ravel(),
        np.array([[-12.0, -12.0, -12.0], [3.5, 3.5, 3.5]]),
    )


@functools.cache
def correlated_normal() -> Shape:
    """Return a normal in 4 dimensions, condition number 1,000, rotated."""
    scales = np.sqrt(np.logspace(-0.5, 0.5, 4, base=CONDITION))
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))[0]
    to_unit = jnp.asarray(rotation / scales, jnp.result_type(float))  # columns: principal axes

    def density(x: jax.Array) -> jax.Array:
        return -0.5 * jnp.sum((x @ to_unit) ** 2)

    normal = NormalDist()
    marginal = np.sqrt((rotation**2) @ scales**2)
    quantiles = np.array([normal.inv_cdf(level) for level in LEVELS])

    def project(x: _Floats) -> _Floats:
        return np.concatenate([x / marginal, x @ (rotation / scales)], axis=-1)

    return Shape(
        "a normal of condition number 1,000",
        Target.from_log_density(density, jnp.zeros(4)),
        project,
        np.tile(quantiles, (8, 1)),
        np.tile(np.array(LEVELS), 8),
        15.0 * scales.max() * np.array([[1.0, 1, 1, 1], [-1, 1, -1, 1]]) / 2,
    )
