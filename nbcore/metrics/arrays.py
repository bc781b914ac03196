"""Checks of the arrays that metrics read: finite, of one shape, in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbcore.errors import DataError, LabelError, ShapeError
from nbcore.metrics.class_names import ClassNames, codes_of

Floats = NDArray[np.float64]


def floats(name: str, values: ArrayLike) -> Floats:
    """Return an array in float64.

    Raises:
        DataError: it holds no real numbers.
    """
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{name} is not an array of real numbers ({error}).") from error


def aligned(**arrays: ArrayLike) -> list[Floats]:
    """Check that all arrays are finite and have the shape of the first."""
    values = {name: floats(name, array) for name, array in arrays.items()}
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
        refuse(~np.isfinite(array), name, "are not finite")
    return list(values.values())


def gaussian(y: ArrayLike, mean: ArrayLike, variance: ArrayLike) -> list[Floats]:
    """Check measured values, means and variances: one shape, finite, variances above 0."""
    values = aligned(y=y, mean=mean, variance=variance)
    refuse(values[2] <= 0, "variance", "are not above 0")
    return values


def classified(
    labels: ArrayLike, probabilities: ArrayLike, names: ClassNames | None = None
) -> tuple[NDArray[np.intp], Floats]:
    """Check labels `(n,)` and probabilities `(n, classes)`; return labels as integers from 0."""
    classes = np.asarray(labels) if names is None else codes_of(names, labels, name="labels")
    rows = floats("probabilities", probabilities)
    if rows.ndim != 2 or rows.size == 0 or classes.shape != (len(rows),):
        raise ShapeError(
            f"labels has shape {classes.shape} and probabilities {rows.shape}; expected (n,) and "
            "(n, classes). For the probability p of class 1 type np.stack([1 - p, p], axis=1)."
        )
    if classes.dtype.kind not in "biu":
        raise LabelError(
            f"labels are {classes.dtype}; expected integers. Type classes=model.classes for labels "
            "with names, else labels.astype(int)."
        )
    outside = (classes < 0) | (classes >= rows.shape[1])
    if outside.any():
        at = np.flatnonzero(outside)
        raise LabelError(
            f"labels[{at[0]}] is {classes[at[0]]} ({at.size} in all); expected classes from 0 "
            f"to {rows.shape[1] - 1}, one for each column of probabilities."
        )
    refuse(~np.isfinite(rows), "probabilities", "are not finite")
    wrong = (rows < 0).any(axis=1) | (np.abs(rows.sum(axis=1) - 1) > 1e-4)  # float32 softmax: 1e-6
    refuse(wrong, "probabilities", "are negative or do not sum to 1; logits need a softmax first")
    return classes.astype(np.intp), rows


def refuse(wrong: NDArray[np.bool_], name: str, what: str) -> None:
    """Raise if any entry is wrong, naming the first few positions."""
    if wrong.any():
        at = [tuple(map(int, index)) for index in np.argwhere(wrong)[:3]]
        positions = ", ".join(str(i[0] if len(i) == 1 else i) for i in at)
        raise DataError(f"{wrong.sum()} entries of {name} {what} (the first: {positions}).")
