"""Missing values of y, which scores of predictions leave out by option."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbcore.errors import DataError
from nbcore.networks.inputs import Missing


def is_nan(y: Any) -> np.ndarray:
    """Return which values are NaN."""
    array = np.asarray(y)
    is_float = array.dtype.kind == "f"
    return np.asarray(np.isnan(array)) if is_float else np.zeros(array.shape, bool)


def observed_examples(y: Any, missing: Missing) -> np.ndarray:
    """Return which examples have a value `(N,)`; all of them unless missing ones are left out."""
    absent = is_nan(y)
    if missing == "error":
        return np.ones(len(absent), bool)
    return np.asarray(~absent.reshape(len(absent), -1).all(axis=1))


def known_values(y: Any, missing: Missing) -> Any:
    """Return y, which has no missing value, or one that is left out.

    Raises:
        DataError: y has missing values, or nothing else.
    """
    absent = is_nan(y)
    count = int(absent.sum())
    if count and missing == "error":
        raise DataError(f"{count} value(s) of y are NaN. To leave them out: missing='mask'")
    if count and absent.all():
        raise DataError(f"All {count} values of y are NaN: there is nothing to score.")
    return y
