"""Checks of option values: what was got, and what is possible."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from nbcore.errors import OptionError, did_you_mean


def check_fraction(**options: Any) -> None:
    """Raise unless every option is a number within (0, 1).

    Raises:
        OptionError: one is not.

    Examples:
        >>> check_fraction(target_acceptance_rate=0.8)
    """
    for name, value in options.items():
        if not (_is_number(value) and 0 < value < 1):
            raise OptionError(f"{name} is a number within (0, 1), got {value!r}.")


def check_positive(*, optional: bool = False, **options: Any) -> None:
    """Raise unless every option is a finite positive number, or `None` where that is allowed.

    Raises:
        OptionError: one is not.

    Examples:
        >>> check_positive(optional=True, step_size=None, trajectory_length=2.0)
    """
    for name, value in options.items():
        if optional and value is None:
            continue
        if not (_is_number(value) and 0 < value < math.inf):
            other = " or None" if optional else ""
            raise OptionError(f"{name} is a positive number{other}, got {value!r}.")


def check_count(low: int, high: int, **options: Any) -> None:
    """Raise unless every option is an integer from `low` to `high`.

    Raises:
        OptionError: one is not.

    Examples:
        >>> check_count(1, 20, max_tree_depth=10)
    """
    for name, value in options.items():
        whole = isinstance(value, Integral) and value is not True and value is not False
        if not (whole and low <= int(value) <= high):
            raise OptionError(f"{name} is an integer {low:,} to {high:,}, got {value!r}.")


def check_choice(choices: tuple[str, ...], **options: Any) -> None:
    """Raise unless every option is one of these words.

    Raises:
        OptionError: one is not; the nearest word is suggested.

    Examples:
        >>> check_choice(("diagonal", "dense"), mass_matrix="dense")
    """
    for name, value in options.items():
        if value not in choices:
            possible = ", ".join(repr(choice) for choice in choices)
            raise OptionError(
                f"{name} is one of {possible}, got {value!r}.{did_you_mean(str(value), choices)}"
            )


def check_flag(**options: Any) -> None:
    """Raise unless every option is true or false.

    Raises:
        OptionError: one is not.

    Examples:
        >>> check_flag(adapt_step_size=True)
    """
    for name, value in options.items():
        if not isinstance(value, bool):
            raise OptionError(f"{name} is True or False, got {value!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and value is not True and value is not False
