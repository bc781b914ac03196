"""Scores of predictions: errors of the mean, and proper scores of the whole distribution."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from nbcore.errors import ShapeError
from nbcore.metrics.arrays import Floats, aligned, floats, gaussian, refuse


def rmse(y: ArrayLike, mean: ArrayLike) -> float:
    """Root mean squared error, `sqrt(mean((y - mean)²))`, in the units of y.

    Args:
        y: measured values, shape `(n,)` or `(n, outputs)`.
        mean: predictions, same shape.

    Examples:
        >>> rmse([0.0, 0.0], [3.0, 4.0]) ** 2
        12.5
    """
    y, mean = aligned(y=y, mean=mean)
    return float(np.sqrt(np.mean((y - mean) ** 2)))


def mae(y: ArrayLike, mean: ArrayLike) -> float:
    """Mean absolute error, `mean(|y - mean|)`, in the units of y.

    Args:
        y: measured values, shape `(n,)` or `(n, outputs)`.
        mean: predictions, same shape.

    Examples:
        >>> mae([0.0, 0.0], [3.0, -4.0])
        3.5
    """
    y, mean = aligned(y=y, mean=mean)
    return float(np.mean(np.abs(y - mean)))


def nlpd(y: ArrayLike, mean: ArrayLike, variance: ArrayLike) -> float:
    """Negative log predictive density of Gaussians; lower is better.

    `mean(log(2π·variance)/2 + (y - mean)²/(2·variance))`; times k for k outputs jointly.

    Args:
        y: measured values, shape `(n,)` or `(n, outputs)`.
        mean: predictive means, same shape.
        variance: predictive variances (noise included), same shape, above 0.

    Raises:
        DataError: a variance is not positive.

    Examples:
        >>> round(nlpd([0.0], [0.0], [1.0]), 6)
        0.918939
    """
    y, mean, variance = gaussian(y, mean, variance)
    return float(np.mean(np.log(2 * np.pi * variance) + (y - mean) ** 2 / variance) / 2)


def lppd(log_likelihood: ArrayLike) -> float:
    """Mean log predictive density of the mixture over draws; higher is better.

    `mean_i log(1/S · Σ_s p(y_i | draw s))`: averaged over draws as densities, not as logarithms.

    Args:
        log_likelihood: `log p(y_i | draw s)`, shape `(draws, n)`; -inf is a density of zero.

    Examples:
        >>> round(math.exp(lppd(np.log([[0.1], [0.3]]))), 6)
        0.2

    References:
        Gelman, Hwang and Vehtari (2014), Statistics and Computing 24, eq. 5 (here divided by n).
    """
    values = floats("log_likelihood", log_likelihood)
    if values.ndim != 2 or 0 in values.shape:
        raise ShapeError(
            f"log_likelihood has shape {values.shape}; expected (draws, n), both at least 1. "
            "Chains are merged by log_likelihood.reshape(-1, n)."
        )
    refuse(np.isnan(values) | (values == np.inf), "log_likelihood", "are NaN or +inf")
    summed: Floats = np.logaddexp.reduce(values, axis=0)
    return float(np.mean(summed)) - math.log(len(values))


def crps(y: ArrayLike, samples: ArrayLike, *, fair: bool = True) -> float:
    """Continuous ranked probability score from draws, in the units of y; lower is better.

    `mean_i(E|X - y_i| - E|X - X'|/2)`, with X, X' independent draws of the prediction for point i.

    Args:
        y: measured values, shape `(n,)` or `(n, outputs)`.
        samples: predictive draws (noise included), shape `(draws, *y.shape)`.
        fair: average |X - X'| over pairs of different draws, unbiased for the distribution that
            was drawn from; False pairs every draw with itself too, scoring the draws as they are.

    Raises:
        ShapeError: fewer than two draws with `fair=True`, which has no pairs then.

    Examples:
        >>> crps([0.0], [[-1.0], [1.0]]), crps([0.0], [[-1.0], [1.0]], fair=False)
        (0.0, 0.5)

    References:
        Gneiting and Raftery (2007), JASA 102, eq. 21; Ferro (2014), QJRMS 140, for `fair`.
    """
    (y,) = aligned(y=y)
    draws = floats("samples", samples)
    if draws.shape[1:] != y.shape:
        raise ShapeError(
            f"samples has shape {draws.shape} and y {y.shape}; expected (draws, "
            f"{', '.join(map(str, y.shape))}). Draws come first: try np.moveaxis(samples, -1, 0)."
        )
    count = len(draws)
    if count < 1 + fair:
        raise ShapeError(f"samples holds {count} draws; expected at least {1 + fair}.")
    refuse(~np.isfinite(draws), "samples", "are not finite")
    # Both terms ignore a common shift; distances from y keep digits that large values would lose.
    distances = np.sort(draws - y, axis=0)
    # Σ_{s<t} (x_t - x_s) = Σ_s (2s - S - 1) x_s for sorted x, so no pair is formed.
    weights = 2.0 * np.arange(1, count + 1) - count - 1
    spread: Floats = np.tensordot(weights, distances, axes=1) / (count * (count - fair))
    return float(np.mean(np.abs(distances))) - float(np.mean(spread))


def crps_gaussian(y: ArrayLike, mean: ArrayLike, variance: ArrayLike) -> float:
    """Continuous ranked probability score of Gaussians, in the units of y; lower is better.

    `mean(σ·(z·(2Φ(z) - 1) + 2φ(z) - 1/√π))` with `z = (y - mean)/σ`.

    Args:
        y: measured values, shape `(n,)` or `(n, outputs)`.
        mean: predictive means, same shape.
        variance: predictive variances σ² (noise included), same shape, above 0.

    Raises:
        DataError: a variance is not positive.

    Examples:
        >>> round(crps_gaussian([0.0], [0.0], [1.0]), 6)
        0.233695

    References:
        Gneiting and Raftery (2007), JASA 102, section 4.2.
    """
    y, mean, variance = gaussian(y, mean, variance)
    sd = np.sqrt(variance)
    z = (y - mean) / sd
    central: Floats = np.vectorize(math.erf, otypes=[np.float64])(z / math.sqrt(2))  # 2Φ(z) - 1
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return float(np.mean(sd * (z * central + 2 * density - 1 / math.sqrt(math.pi))))
