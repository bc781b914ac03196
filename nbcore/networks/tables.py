"""Inputs as arrays, of data frames and lists of numbers, and the names of their columns.

A table is any object with `columns` and `to_numpy`, such as a data frame of pandas or polars;
neither library is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from nbcore.common.missing import is_missing
from nbcore.errors import DataError, ShapeError

SHOWN = 5
Names = tuple[str, ...]


def is_table(x: Any) -> bool:
    """Return whether an object is a data frame."""
    return hasattr(x, "columns") and hasattr(x, "to_numpy")


def column_names(x: Any) -> Names | None:
    """Return the names of the columns of a table; `None` if they are not texts, or not there."""
    names = tuple(x.columns) if is_table(x) else ()
    return names if names and all(isinstance(name, str) for name in names) else None


def as_arrays(x: Any, names: Names | None = None, *, name: str = "X") -> Any:
    """Return inputs as an array, or as the pytree of arrays that they are.

    Args:
        x: a table, nested lists of numbers, an array, or a pytree of these.
        names: the columns that a table must have, in this order; `None` allows any.
        name: name in messages.

    Raises:
        DataError: columns are missing, unknown, in another order, or hold no numbers.
        ShapeError: lists have different lengths.

    Examples:
        >>> as_arrays([[1, 2], [3, 4]]).shape
        (2, 2)
    """
    if is_table(x):
        if names is not None:
            _check_names(column_names(x) or tuple(map(str, x.columns)), names, name)
        return _of_table(x, name)
    if type(x) in (list, tuple) and x and all(map(_is_number, jax.tree.leaves(x))):
        try:
            return np.asarray(x)
        except ValueError as error:
            lengths = sorted({np.size(row) for row in x})
            raise ShapeError(
                f"{name} is a list whose rows have {', '.join(map(str, lengths))} numbers. Give "
                "each example the same columns."
            ) from error
    return jax.tree.map(lambda leaf: _plain(leaf, name), x)


def as_column(values: Any, label: str) -> np.ndarray:
    """Return a column of numbers as an array; missing values become NaN.

    Args:
        values: a column of a table, a list, or an array.
        label: what it is, for messages.

    Raises:
        DataError: it holds something else than numbers.
    """
    array = np.asarray(values)
    is_category = str(getattr(values, "dtype", "")).startswith(("category", "Categorical"))
    if array.dtype.kind in "biufc" and not is_category:
        return array
    held = array.ravel().tolist()
    missing = np.array([is_missing(value) for value in held], bool)
    wrong = [v for v, gone in zip(held, missing, strict=True) if not gone and not _is_number(v)]
    if is_category or wrong or array.dtype.kind not in "OV":
        shown = f", such as {wrong[0]!r}" if wrong else ""
        raise DataError(
            f"{label} holds no numbers (dtype {getattr(values, 'dtype', array.dtype)}{shown}). "
            "Leave it out, or encode it as numbers."
        )
    numbers = [np.nan if gone else value for value, gone in zip(held, missing, strict=True)]
    return np.asarray(numbers, np.float64 if missing.any() else None).reshape(array.shape)


def _check_names(given: Names, known: Names, name: str) -> None:
    missing = [column for column in known if column not in given]
    unknown = [column for column in given if column not in known]
    if missing or unknown:
        parts = [f"lacks {_shown(missing)}"] if missing else []
        parts += [f"has {_shown(unknown)} besides"] if unknown else []
        raise DataError(
            f"{name} {' and '.join(parts)}: the model was fitted to the columns {_shown(known)}. "
            f"Type: {name}[list(model.feature_names)]"
        )
    if given != known:
        raise DataError(
            f"The columns of {name} are in another order than those that the model was fitted to: "
            f"{_shown(known)}. Type: {name}[list(model.feature_names)]"
        )


def _shown(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more


def _of_table(table: Any, name: str) -> np.ndarray:
    array = np.asarray(table.to_numpy())
    if array.dtype.kind in "iuf" and array.ndim == 2:
        return array
    columns: list[np.ndarray] = []
    problems: list[str] = []
    for i, label in enumerate(table.columns):
        column = table.iloc[:, i] if hasattr(table, "iloc") else table[label]
        try:
            columns.append(as_column(column, repr(label)))
        except DataError as error:
            problems.append(str(error).removesuffix(" Leave it out, or encode it as numbers."))
    if problems:
        more = f" And {len(problems) - SHOWN} more." if len(problems) > SHOWN else ""
        raise DataError(
            f"Columns of {name} hold no numbers. {' '.join(problems[:SHOWN])}{more} Leave them "
            "out, or encode them as numbers."
        )
    return np.stack(columns, axis=1)


def _plain(leaf: Any, name: str) -> Any:
    if is_table(leaf):
        return _of_table(leaf, name)
    return as_column(leaf, name) if hasattr(leaf, "to_numpy") else leaf


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number | np.bool_)
