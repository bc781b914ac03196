"""Checks of option values: what passes, and what the error says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nbcore.common import options
from nbcore.errors import OptionError

SIZES = (True, "1", None, math.nan, math.inf, 1j)
"""What is no number, or no finite one."""


@pytest.mark.parametrize(
    ("check", "good", "bad", "says"),
    [
        (lambda x: options.check_fraction(a=x), (0.5, np.float32(0.5)), (0, 1), "within (0, 1)"),
        (lambda x: options.check_fraction(zero=True, a=x), (0, 0.5), (-0.1, 1), "within [0, 1)"),
        (lambda x: options.check_positive(a=x), (1e-9, 3, np.int64(2)), (0, -1), "positive number"),
        (lambda x: options.check_at_least(2, a=x), (2, 2.5), (1.9,), "a number of at least 2"),
        (
            lambda x: options.check_count(1, a=x),
            (1, np.int32(7)),
            (0, 1.5),
            "integer of at least 1",
        ),
        (lambda x: options.check_count(1, 2000, a=x), (1, 2000), (0, 2001), "integer 1 to 2,000"),
    ],
    ids=["fraction", "fraction with 0", "positive", "at least", "count", "count in a range"],
)
def test_numbers(
    check: Callable[[Any], None], good: tuple[Any, ...], bad: tuple[Any, ...], says: str
) -> None:
    for value in good:
        check(value)
    for value in (*bad, *SIZES):
        with pytest.raises(OptionError) as caught:
            check(value)
        assert str(caught.value).startswith("a is a")
        assert says in str(caught.value)
        assert str(caught.value).endswith(f", got {value!r}.")


def test_none_passes_only_where_it_is_allowed() -> None:
    options.check_positive(optional=True, a=None)
    options.check_count(1, optional=True, a=None)
    with pytest.raises(OptionError, match="a is a positive number or None, got -1"):
        options.check_positive(optional=True, a=-1)
    with pytest.raises(OptionError, match="a is an integer of at least 1 or None, got 0"):
        options.check_count(1, optional=True, a=0)


def test_every_option_is_checked_and_the_wrong_one_named() -> None:
    with pytest.raises(OptionError, match=r"^b is a positive number"):
        options.check_positive(a=1.0, b=0.0)


def test_words_and_flags() -> None:
    options.check_choice(["full", "diagonal"], a="full")
    with pytest.raises(OptionError) as caught:
        options.check_choice(("full", "diagonal"), owner="laplace", a="diagnal")
    assert str(caught.value) == (
        "a is one of 'full', 'diagonal' for laplace, got 'diagnal'. Did you mean 'diagonal'?"
    )
    options.check_flag(a=True, b=False)
    for value in (1, 0, None, "yes"):
        with pytest.raises(OptionError, match="a is True or False, got"):
            options.check_flag(a=value)
