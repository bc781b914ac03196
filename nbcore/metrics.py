"""How good predictions are, and how honest their uncertainty: plain numbers, computed in float64.

Regression: `y` has shape `(n,)` or `(n, outputs)`; means, variances and bounds have exactly its
shape: broadcasting `(n, 1)` against `(n,)` would compare every point with every other. Averages
run over points and outputs alike. Classification: `labels` are integers of shape `(n,)`,
`probabilities` has shape `(n, classes)`. NaN raises everywhere (`DataError`), as do shapes that do
not fit (`ShapeError`).
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbcore.errors import DataError, LabelError, OptionError, ShapeError

_Floats = NDArray[np.float64]


def rmse(y: ArrayLike, mean: ArrayLike) -> float:
    """Root mean squared error, `sqrt(mean((y - mean)²))`, in the units of y.

    Args:
        y: measured values, shape `(n,)` or `(n, outputs)`.
        mean: predictions, same shape.

    Examples:
        >>> rmse([0.0, 0.0], [3.0, 4.0]) ** 2
        12.5
    """
    y, mean = _aligned(y=y, mean=mean)
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
    y, mean = _aligned(y=y, mean=mean)
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
    y, mean, variance = _gaussian(y, mean, variance)
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
    values = _floats("log_likelihood", log_likelihood)
    if values.ndim != 2 or 0 in values.shape:
        raise ShapeError(
            f"log_likelihood has shape {values.shape}; expected (draws, n), both at least 1. "
            "Chains are merged by log_likelihood.reshape(-1, n)."
        )
    _refuse(np.isnan(values) | (values == np.inf), "log_likelihood", "are NaN or +inf")
    summed: _Floats = np.logaddexp.reduce(values, axis=0)
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
    (y,) = _aligned(y=y)
    draws = _floats("samples", samples)
    if draws.shape[1:] != y.shape:
        raise ShapeError(
            f"samples has shape {draws.shape} and y {y.shape}; expected (draws, "
            f"{', '.join(map(str, y.shape))}). Draws come first: try np.moveaxis(samples, -1, 0)."
        )
    count = len(draws)
    if count < 1 + fair:
        raise ShapeError(f"samples holds {count} draws; expected at least {1 + fair}.")
    _refuse(~np.isfinite(draws), "samples", "are not finite")
    # Both terms ignore a common shift; distances from y keep digits that large values would lose.
    distances = np.sort(draws - y, axis=0)
    # Σ_{s<t} (x_t - x_s) = Σ_s (2s - S - 1) x_s for sorted x, so no pair is formed.
    weights = 2.0 * np.arange(1, count + 1) - count - 1
    spread: _Floats = np.tensordot(weights, distances, axes=1) / (count * (count - fair))
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
    y, mean, variance = _gaussian(y, mean, variance)
    sd = np.sqrt(variance)
    z = (y - mean) / sd
    central: _Floats = np.vectorize(math.erf, otypes=[np.float64])(z / math.sqrt(2))  # 2Φ(z) - 1
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return float(np.mean(sd * (z * central + 2 * density - 1 / math.sqrt(math.pi))))


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
) -> _Floats:
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
    y, mean, variance = _gaussian(y, mean, variance)
    distance = np.abs(y - mean) / np.sqrt(variance)
    levels = _floats("levels", levels)
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
    y, lower, upper = _aligned(y=y, lower=lower, upper=upper)
    _refuse(lower > upper, "lower", "are above upper; swap the two bounds")
    return float(np.mean((lower <= y) & (y <= upper)))


def accuracy(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Fraction of points whose most probable class is the label; the first of a tie counts.

    Args:
        labels: integers from 0 to classes - 1, shape `(n,)`.
        probabilities: shape `(n, classes)`, rows sum to 1.

    Raises:
        LabelError: a label is no integer or outside the classes.
        DataError: probabilities are negative or do not sum to 1.

    Examples:
        >>> accuracy([0, 1], [[0.9, 0.1], [0.6, 0.4]])
        0.5
    """
    classes, rows = _classified(labels, probabilities)
    hits: NDArray[np.bool_] = np.argmax(rows, axis=1) == classes
    return float(np.mean(hits))


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Brier score over all classes, `mean_i Σ_c (p_ic - [label_i = c])²`, from 0 to 2.

    Args:
        labels: integers from 0 to classes - 1, shape `(n,)`.
        probabilities: shape `(n, classes)`, rows sum to 1.

    Raises:
        LabelError: a label is no integer or outside the classes.
        DataError: probabilities are negative or do not sum to 1.

    Examples:
        >>> brier([0, 1], [[1.0, 0.0], [1.0, 0.0]])
        1.0

    References:
        Brier (1950), Monthly Weather Review 78(1).
    """
    classes, rows = _classified(labels, probabilities)
    errors = rows - np.eye(rows.shape[1])[classes]
    return float(np.sum(errors**2)) / len(rows)


def ece(labels: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error, `Σ_b n_b/n · |accuracy_b - confidence_b|`, from 0 to 1.

    Points are binned by the probability of their most probable class, into equal widths over
    (0, 1]; a bin holds its upper edge.

    Args:
        labels: integers from 0 to classes - 1, shape `(n,)`.
        probabilities: shape `(n, classes)`, rows sum to 1.
        bins: how many bins.

    Raises:
        LabelError: a label is no integer or outside the classes.
        DataError: probabilities are negative or do not sum to 1.
        OptionError: bins is below 1.

    Examples:
        >>> ece([0, 1], [[0.75, 0.25], [0.75, 0.25]])
        0.25

    References:
        Guo, Pleiss, Sun and Weinberger (2017), ICML, eq. 3.
    """
    if bins < 1:
        raise OptionError(f"bins is {bins}; expected at least 1.")
    classes, rows = _classified(labels, probabilities)
    confidence: _Floats = np.max(rows, axis=1)
    hits: NDArray[np.bool_] = np.argmax(rows, axis=1) == classes
    bin_of = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    # n_b/n · |accuracy_b - confidence_b| is |Σ (hit - confidence) over b| / n
    gaps = np.abs(np.bincount(bin_of, weights=hits - confidence))
    return float(np.sum(gaps)) / len(rows)


def _floats(name: str, values: ArrayLike) -> _Floats:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{name} is not an array of real numbers ({error}).") from error


def _aligned(**arrays: ArrayLike) -> list[_Floats]:
    """Check that all arrays are finite and have the shape of the first."""
    values = {name: _floats(name, array) for name, array in arrays.items()}
    (first, reference), *others = values.items()
    if reference.ndim not in (1, 2) or reference.size == 0:
        raise ShapeError(f"{first}: got {reference.shape}; expected (n,) or (n, outputs), n > 0.")
    for name, array in others:
        if array.shape != reference.shape:
            pair = ((first, reference), (name, array))
            columns = [n for n, a in pair if a.ndim == 2 and a.shape[1] == 1]
            hint = f" Type {columns[0]}[:, 0]." if columns and array.size == reference.size else ""
            raise ShapeError(
                f"{first} has shape {reference.shape} and {name} {array.shape}; expected the same "
                f"shape.{hint}"
            )
    for name, array in values.items():
        _refuse(~np.isfinite(array), name, "are not finite")
    return list(values.values())


def _gaussian(y: ArrayLike, mean: ArrayLike, variance: ArrayLike) -> list[_Floats]:
    values = _aligned(y=y, mean=mean, variance=variance)
    _refuse(values[2] <= 0, "variance", "are not above 0")
    return values


def _classified(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.intp], _Floats]:
    classes = np.asarray(labels)
    rows = _floats("probabilities", probabilities)
    if rows.ndim != 2 or rows.size == 0 or classes.shape != (len(rows),):
        raise ShapeError(
            f"labels has shape {classes.shape} and probabilities {rows.shape}; expected (n,) and "
            "(n, classes). For the probability p of class 1 type np.stack([1 - p, p], axis=1)."
        )
    if classes.dtype.kind not in "biu":
        raise LabelError(f"labels are {classes.dtype}; expected integers. Type labels.astype(int).")
    outside = (classes < 0) | (classes >= rows.shape[1])
    if outside.any():
        at = np.flatnonzero(outside)
        raise LabelError(
            f"labels[{at[0]}] is {classes[at[0]]} ({at.size} such rows); expected classes from 0 "
            f"to {rows.shape[1] - 1}, one for each column of probabilities."
        )
    _refuse(~np.isfinite(rows), "probabilities", "are not finite")
    wrong = (rows < 0).any(axis=1) | (np.abs(rows.sum(axis=1) - 1) > 1e-4)  # float32 softmax: 1e-6
    _refuse(wrong, "probabilities", "are negative or do not sum to 1; logits need a softmax first")
    return classes.astype(np.intp), rows


def _refuse(wrong: NDArray[np.bool_], name: str, what: str) -> None:
    """Raise, naming the first few offending positions, where any entry is wrong."""
    if wrong.any():
        at = [tuple(map(int, index)) for index in np.argwhere(wrong)[:3]]
        positions = ", ".join(str(i[0] if len(i) == 1 else i) for i in at)
        raise DataError(f"{wrong.sum()} entries of {name} {what} (the first: {positions}).")
