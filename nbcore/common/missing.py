"""Missing values, as tables and lists hold them."""

from __future__ import annotations

from typing import Any

import numpy as np


def is_missing(value: Any) -> bool:
    """Return whether a value is `None`, NaN, or the missing value of a table.

    Examples:
        >>> is_missing(None), is_missing(float("nan")), is_missing(0), is_missing("")
        (True, True, False, False)
    """
    is_itself = value == value
    return value is None or not isinstance(is_itself, bool | np.bool_) or not is_itself
