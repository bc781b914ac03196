"""Checks of options and their values; errors say what was got and what is possible."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, TypeVar

from nbcore.errors import OptionError, did_you_mean

_Options = TypeVar("_Options", bound=type[Any])


def suggesting(cls: _Options) -> _Options:
    """Make a dataclass of options suggest the nearest name for one that it does not have.

    Args:
        cls: the dataclass.

    Examples:
        >>> from dataclasses import dataclass
        >>> @suggesting
        ... @dataclass(frozen=True)
        ... class Steps:
        ...     thin: int = 1
        >>> Steps(tin=2)
        Traceback (most recent call last):
        nbcore.errors.OptionError: Steps has no option 'tin'. Did you mean 'thin'? Possible: thin.
    """
    init = cls.__init__
    known = [f.name for f in fields(cls) if f.init]

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        check_names(known, owner=cls.__name__, names=options)
        init(self, *args, **options)

    cls.__init__ = checked
    return cls


def check_names(known: Iterable[str], *, owner: str, names: Iterable[str]) -> None:
    """Raise unless every name is known.

    Args:
        known: the possible names.
        owner: the object that has these options.
        names: the names to check.

    Raises:
        OptionError: one is unknown; the nearest name is suggested.

    Examples:
        >>> check_names(("thin", "mesh"), owner="SamplingOptions", names=["thin"])
    """
    possible = tuple(known)
    for name in names:
        if name not in possible:
            raise OptionError(
                f"{owner} has no option {name!r}.{did_you_mean(name, possible)} "
                f"Possible: {', '.join(possible) or 'none, it has no options'}."
            )


def check_fraction(*, zero: bool = False, **options: Any) -> None:
    """Raise unless every option is a number within (0, 1), or [0, 1) if zero is allowed.

    Args:
        zero: whether 0 is allowed.
        options: values by the name of their option.

    Raises:
        OptionError: one is not.

    Examples:
        >>> check_fraction(target_acceptance_rate=0.8)
    """
    for name, value in options.items():
        if not (_is_number(value) and 0 <= value < 1 and (zero or value != 0)):
            possible = "[0, 1)" if zero else "(0, 1)"
            raise OptionError(f"{name} is a number within {possible}, got {value!r}.")


def check_positive(*, optional: bool = False, **options: Any) -> None:
    """Raise unless every option is a finite positive number, or `None` if that is allowed.

    Args:
        optional: whether `None` is allowed.
        options: values by the name of their option.

    Raises:
        OptionError: one is not.

    Examples:
        >>> check_positive(optional=True, step_size=None, trajectory_length=2.0)
    """
    for name, value in options.items():
        if optional and value is None:
            continue
        if not (_is_number(value) and 0 < value < math.inf):
            raise OptionError(f"{name} is a positive number{_or_none(optional)}, got {value!r}.")


def check_at_least(low: float, **options: Any) -> None:
    """Raise unless every option is a finite number of at least `low`.

    Args:
        low: the smallest possible value.
        options: values by the name of their option.

    Raises:
        OptionError: one is not.

    Examples:
        >>> check_at_least(0, weight_decay=0.0)
    """
    for name, value in options.items():
        if not (_is_number(value) and low <= value < math.inf):
            raise OptionError(f"{name} is a number of at least {low:,}, got {value!r}.")


def check_count(
    low: int, high: int | None = None, *, optional: bool = False, **options: Any
) -> None:
    """Raise unless every option is an integer from `low` to `high`, or `None` if allowed.

    Args:
        low: the smallest possible value.
        high: the largest one; `None` if there is none.
        optional: whether `None` is allowed.
        options: values by the name of their option.

    Raises:
        OptionError: one is not.

    Examples:
        >>> check_count(1, 20, max_tree_depth=10)
        >>> check_count(1, optional=True, batch_size=None)
    """
    possible = f"of at least {low:,}" if high is None else f"{low:,} to {high:,}"
    for name, value in options.items():
        if optional and value is None:
            continue
        whole = isinstance(value, Integral) and value is not True and value is not False
        if not (whole and low <= int(value) and (high is None or int(value) <= high)):
            raise OptionError(
                f"{name} is an integer {possible}{_or_none(optional)}, got {value!r}."
            )


def check_choice(choices: Iterable[str], *, owner: str = "", **options: Any) -> None:
    """Raise unless every option is one of these words.

    Args:
        choices: the possible words.
        owner: whose words they are, if others have more.
        options: values by the name of their option.

    Raises:
        OptionError: one is not; the nearest word is suggested.

    Examples:
        >>> check_choice(("diagonal", "dense"), mass_matrix="dense")
    """
    known = tuple(choices)
    for name, value in options.items():
        if value not in known:
            possible = ", ".join(repr(choice) for choice in known)
            whose = f" for {owner}" if owner else ""
            raise OptionError(
                f"{name} is one of {possible}{whose}, got {value!r}."
                f"{did_you_mean(str(value), known)}"
            )


def check_flag(**options: Any) -> None:
    """Raise unless every option is true or false.

    Args:
        options: values by the name of their option.

    Raises:
        OptionError: one is not.

    Examples:
        >>> check_flag(adapt_step_size=True)
    """
    for name, value in options.items():
        if not isinstance(value, bool):
            raise OptionError(f"{name} is True or False, got {value!r}.")


def _or_none(optional: bool) -> str:
    return " or None" if optional else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and value is not True and value is not False
