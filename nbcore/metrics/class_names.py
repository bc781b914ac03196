"""Names of classes: labels as they are given, and the integers from 0 that stand for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbcore.errors import LabelError, ShapeError

SHOWN = 5
ClassNames = tuple[Any, ...]
"""Name of each class: texts, numbers or booleans, in the order of the outputs."""


def classes_of(y: Any, num_classes: int) -> ClassNames:
    """Return the names of the classes of some labels.

    Integers from 0 to `num_classes - 1` name themselves, whether all of them occur or not. Of a
    column with categories these are the names, in their order. Other labels (texts, booleans,
    integers from 1) are sorted, and there must be as many as classes.

    Args:
        y: labels `(examples,)`.
        num_classes: number of classes of the network.

    Raises:
        LabelError: a label is missing, or there are more or fewer of them than classes.
        ShapeError: y has more than one column.

    Examples:
        >>> classes_of(["no", "yes", "no"], 2), classes_of([3, 1, 2], 3), classes_of([0, 2], 3)
        (('no', 'yes'), (1, 2, 3), (0, 1, 2))
    """
    categories = getattr(getattr(y, "dtype", None), "categories", None)
    labels = _labels(y, "y")
    found = set(labels)
    if categories is not None and hasattr(categories, "tolist"):
        names = tuple(categories.tolist())
    elif all(type(label) is int and 0 <= label < num_classes for label in found):
        return tuple(range(num_classes))
    else:
        try:
            names = tuple(sorted(found))
        except TypeError as error:
            kinds = ", ".join(sorted({type(label).__name__ for label in found}))
            raise LabelError(
                f"Labels are of several types ({kinds}), which have no order. Type: "
                "y = [str(label) for label in y]"
            ) from error
        if any(type(name) is float for name in names):
            raise LabelError(
                f"Labels are integers, texts or booleans, got the fraction {names[0]}. For "
                "measured values use a regression."
            )
    if len(names) != num_classes:
        raise LabelError(
            f"y has {len(names)} classes, {_shown(names)}, and the network has outputs for "
            f"{num_classes}. Give it target_dim={len(names)}; name classes that do not occur as "
            "categories of a column, or number classes from 0."
        )
    return names


def codes_of(classes: ClassNames, y: Any, *, name: str = "y") -> np.ndarray:
    """Return labels as integers from 0, in the order of the classes `(examples,)`.

    Args:
        classes: the name of each class.
        y: labels `(examples,)`.
        name: name in messages.

    Raises:
        LabelError: a label is missing, or is no class.
    """
    labels, codes = _labels(y, name), {label: code for code, label in enumerate(classes)}
    unknown = [i for i, label in enumerate(labels) if label not in codes]
    if unknown:
        more = f", and in {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise LabelError(
            f"{name} has the label {labels[unknown[0]]!r} in example {unknown[0]}{more}, which is "
            f"no class of the model: {_shown(classes)}."
        )
    return np.array([codes[label] for label in labels], int)


def names_of(classes: ClassNames, codes: np.ndarray) -> np.ndarray:
    """Return the names of classes that are given as integers from 0, in the same shape."""
    kinds = {type(name) for name in classes}
    names = np.empty(len(classes), object)
    names[:] = classes
    return (names.astype(kinds.pop()) if len(kinds) == 1 else names)[np.asarray(codes, int)]


def _labels(y: Any, name: str) -> list[Any]:
    array = np.asarray(y, object if isinstance(y, list | tuple) else None)
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1:
        raise ShapeError(f"Labels have shape (examples,), got {array.shape}.")
    labels = [_whole(label) for label in array.tolist()]
    missing = [i for i, label in enumerate(labels) if _is_missing(label)]
    if missing:
        raise LabelError(
            f"{name} has no label in {len(missing)} of {len(labels)} examples: "
            f"{', '.join(map(str, missing[:SHOWN]))}. Leave them out."
        )
    return labels


def _is_missing(label: Any) -> bool:
    is_itself = label == label
    return label is None or not isinstance(is_itself, bool | np.bool_) or not is_itself


def _whole(label: Any) -> Any:
    return int(label) if isinstance(label, float) and label.is_integer() else label


def _shown(names: ClassNames) -> str:
    more = ", ..." if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
