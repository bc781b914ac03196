"""Calibration on average: whether intervals hold as many values as they promise."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from nbcore.errors import OptionError, ShapeError
from nbcore.metrics.arrays import Floats, aligned, floats, gaussian, refuse


def coverage(y: ArrayLike, mean: ArrayLike, variance: ArrayLike, level: float = 0.95) -> float:
    """Fraction of y inside the central Gaussian interval of this level; calibrated is `level`.

    Args:
        y: measured values, shape `(n,)` or `(n, outputs)`.
        mean: predictive means, same shape.
        variance: predictive variances (noise included), same shape, above 0.
        level: probability inside the interval, between 0 and 1.

    Raises:
        DataError: a variance is not positive.
        OptionError: level is not between 0 and 1.

    Examples:
        >>> coverage([0.0, 1.9, 2.1, -5.0], [0.0] * 4, [1.0] * 4)
        0.5
    """
    return float(calibration_curve(y, mean, variance, [level])[0])


def calibration_curve(
    y: ArrayLike, mean: ArrayLike, variance: ArrayLike, levels: ArrayLike
) -> Floats:
    """Coverage at several levels; a calibrated model gives the levels back.

    Args:
        y: measured values, shape `(n,)` or `(n, outputs)`.
        mean: predictive means, same shape.
        variance: predictive variances (noise included), same shape, above 0.
        levels: probabilities inside the central Gaussian interval, between 0 and 1.

    Returns:
        float64 array, shape `(len(levels),)`.

    Raises:
        DataError: a variance is not positive.
        OptionError: a level is not between 0 and 1.

    Examples:
        >>> calibration_curve([0.0, 0.5, 1.0, 3.0], [0.0] * 4, [1.0] * 4, [0.5, 0.95])
        array([0.5 , 0.75])
    """
    y, mean, variance = gaussian(y, mean, variance)
    distance = np.abs(y - mean) / np.sqrt(variance)
    levels = floats("levels", levels)
    if levels.ndim != 1 or not ((levels > 0) & (levels < 1)).all():
        raise OptionError(f"Levels are {levels}; expected probabilities such as 0.95.")
    half_widths = [-NormalDist().inv_cdf((1 - level) / 2) for level in levels.tolist()]
    return np.array([np.mean(distance <= width) for width in half_widths], dtype=np.float64)


def calibration_error(y: ArrayLike, mean: ArrayLike, variance: ArrayLike) -> float:
    """Mean of |coverage - level| over the levels 0.01, 0.02 … 0.99; 0 is calibrated.

    Args:
        y: measured values, shape `(n,)` or `(n, outputs)`.
        mean: predictive means, same shape.
        variance: predictive variances (noise included), same shape, above 0.

    Raises:
        DataError: a variance is not positive.

    Examples:
        >>> round(calibration_error([0.0, 0.0], [0.0, 0.0], [1.0, 1.0]), 6)
        0.5

    References:
        After Kuleshov, Fenner and Ermon (2018), ICML, with central intervals, not squared.
    """
    levels = np.arange(1, 100) / 100
    return float(np.mean(np.abs(calibration_curve(y, mean, variance, levels) - levels)))


def interval_coverage(y: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> float:
    """Fraction of y with `lower <= y <= upper`, for intervals of any shape, such as quantiles.

    Args:
        y: measured values, shape `(n,)` or `(n, outputs)`.
        lower: lower bounds, same shape.
        upper: upper bounds, same shape, not below the lower ones.

    Raises:
        DataError: a lower bound is above its upper bound.

    Examples:
        >>> interval_coverage([1.0, 2.0], [0.0, 0.0], [1.0, 1.0])
        0.5
    """
    y, lower, upper = aligned(y=y, lower=lower, upper=upper)
    refuse(lower > upper, "lower", "are above upper; swap the two bounds")
    return float(np.mean((lower <= y) & (y <= upper)))


def pit(y: ArrayLike, mean: ArrayLike, variance: ArrayLike) -> Floats:
    """Probability integral transform of Gaussians, `Phi((y - mean)/sd)`; uniform if calibrated.

    Predictions of other families have `prediction.cdf(y)`.

    Args:
        y: measured values, shape `(n,)` or `(n, outputs)`.
        mean: predictive means, same shape.
        variance: predictive variances (noise included), same shape, above 0.

    Returns:
        float64 array of the shape of y, between 0 and 1.

    Raises:
        DataError: a variance is not positive.

    Examples:
        >>> pit([0.0, 1.959964], [0.0, 0.0], [1.0, 1.0]).round(3)
        array([0.5  , 0.975])

    References:
        Dawid (1984), Journal of the Royal Statistical Society A 147.
    """
    from scipy.special import ndtr  # noqa: PLC0415  scipy takes long to import

    y, mean, variance = gaussian(y, mean, variance)
    return np.asarray(ndtr((y - mean) / np.sqrt(variance)), np.float64)


def miscalibration_area(ranks: ArrayLike) -> float:
    """Area between the distribution function of PIT values and the diagonal; 0 is calibrated.

    `integral_0^1 |F_n(p) - p| dp`, exact for the empirical distribution F_n of the values; 1/2 is
    the worst.

    Args:
        ranks: PIT values between 0 and 1, of any shape: `pit(...)` or `prediction.cdf(y)`.

    Raises:
        DataError: a value is outside of 0 to 1.

    Examples:
        >>> miscalibration_area([0.0]), miscalibration_area([0.5])
        (0.5, 0.25)

    References:
        Tran et al. (2020), Machine Learning: Science and Technology 1, 025006, with F_n integrated
        exactly.
    """
    values = np.sort(floats("ranks", ranks).ravel())
    if values.size == 0:
        raise ShapeError("ranks holds no value; expected at least one.")
    refuse(~((values >= 0) & (values <= 1)), "ranks", "are not between 0 and 1")
    edges = np.concatenate([[0.0], values, [1.0]])
    low, high = edges[:-1], edges[1:]
    level = np.arange(values.size + 1) / values.size  # F_n between two edges

    def primitive(p: Floats) -> Floats:
        return np.sign(p - level) * (p - level) ** 2 / 2

    return float(np.sum(primitive(high) - primitive(low)))


def ence(y: ArrayLike, mean: ArrayLike, variance: ArrayLike, bins: int = 10) -> float:
    """Expected normalized calibration error, `mean_b |RMV_b - RMSE_b| / RMV_b`; 0 is calibrated.

    Points are sorted by variance and cut into bins of equal size; RMV is the root mean variance of
    a bin, RMSE the root mean squared error. Finite bins keep it above 0: its expectation for
    perfectly calibrated predictions is about `sqrt(bins/(pi n))`.

    Args:
        y: measured values, shape `(n,)` or `(n, outputs)`; outputs are binned together.
        mean: predictive means, same shape.
        variance: predictive variances (noise included), same shape, above 0.
        bins: how many bins.

    Raises:
        DataError: a variance is not positive.
        OptionError: bins is below 1, or above the number of points.

    Examples:
        >>> ence([2.0, -2.0], [0.0, 0.0], [1.0, 1.0], bins=1)
        1.0

    References:
        Levi, Gispan, Giladi and Fetaya (2022), Sensors 22, 5540, eq. 8.
    """
    y, mean, variance = gaussian(y, mean, variance)
    if not 1 <= bins <= y.size:
        raise OptionError(f"bins is {bins}; expected 1 to {y.size}, the number of points.")
    order = np.argsort(variance, axis=None, kind="stable")
    squared = ((y - mean) ** 2).ravel()[order]
    parts = zip(
        np.array_split(variance.ravel()[order], bins), np.array_split(squared, bins), strict=True
    )
    each = [abs(1 - np.sqrt(np.mean(error) / np.mean(claimed))) for claimed, error in parts]
    return float(np.mean(each))
