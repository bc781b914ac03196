"""Scores of class probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbcore.errors import OptionError
from nbcore.metrics.arrays import Floats, classified
from nbcore.metrics.class_names import ClassNames


def accuracy(
    labels: ArrayLike, probabilities: ArrayLike, classes: ClassNames | None = None
) -> float:
    """Fraction of points whose most probable class is the label; the first of a tie counts.

    Args:
        labels: names of classes, or integers from 0 to classes - 1, shape `(n,)`.
        probabilities: shape `(n, classes)`, rows sum to 1.
        classes: name of each class, such as `model.classes`; `None`: labels are integers.

    Raises:
        LabelError: a label is no class.
        DataError: probabilities are negative or do not sum to 1.

    Examples:
        >>> accuracy([0, 1], [[0.9, 0.1], [0.6, 0.4]])
        0.5
        >>> accuracy(["no", "yes"], [[0.9, 0.1], [0.6, 0.4]], classes=("no", "yes"))
        0.5
    """
    codes, rows = classified(labels, probabilities, classes)
    hits: NDArray[np.bool_] = np.argmax(rows, axis=1) == codes
    return float(np.mean(hits))


def brier(labels: ArrayLike, probabilities: ArrayLike, classes: ClassNames | None = None) -> float:
    """Brier score over all classes, `mean_i Σ_c (p_ic - [label_i = c])²`, from 0 to 2.

    Args:
        labels: names of classes, or integers from 0 to classes - 1, shape `(n,)`.
        probabilities: shape `(n, classes)`, rows sum to 1.
        classes: name of each class, such as `model.classes`; `None`: labels are integers.

    Raises:
        LabelError: a label is no class.
        DataError: probabilities are negative or do not sum to 1.

    Examples:
        >>> brier([0, 1], [[1.0, 0.0], [1.0, 0.0]])
        1.0

    References:
        Brier (1950), Monthly Weather Review 78(1).
    """
    codes, rows = classified(labels, probabilities, classes)
    errors = rows - np.eye(rows.shape[1])[codes]
    return float(np.sum(errors**2)) / len(rows)


def ece(
    labels: ArrayLike,
    probabilities: ArrayLike,
    bins: int = 15,
    classes: ClassNames | None = None,
) -> float:
    """Expected calibration error, `Σ_b n_b/n · |accuracy_b - confidence_b|`, from 0 to 1.

    Points are binned by the probability of their most probable class, into equal widths over
    (0, 1]; a bin holds its upper edge.

    Args:
        labels: names of classes, or integers from 0 to classes - 1, shape `(n,)`.
        probabilities: shape `(n, classes)`, rows sum to 1.
        bins: how many bins.
        classes: name of each class, such as `model.classes`; `None`: labels are integers.

    Raises:
        LabelError: a label is no class.
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
    codes, rows = classified(labels, probabilities, classes)
    confidence: Floats = np.max(rows, axis=1)
    hits: NDArray[np.bool_] = np.argmax(rows, axis=1) == codes
    bin_of = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    # n_b/n · |accuracy_b - confidence_b| is |Σ (hit - confidence) over b| / n
    gaps = np.abs(np.bincount(bin_of, weights=hits - confidence))
    return float(np.sum(gaps)) / len(rows)
