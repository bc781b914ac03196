"""Folds: whole groups, even sizes, the same key."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
import pytest

import nbcore as nb
from nbcore import errors
from nbcore.training.folds import fold_of_examples, group_codes
from nbcore_flax import FlaxMLP

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
GROUPS = RNG.integers(0, 9, size=60)
X = RNG.normal(size=(60, 3)).astype(np.float32)
NET = nb.as_network(FlaxMLP(hidden_dims=(4,)), example=X[:1])


class Missing:
    """As `pandas.NA`: what is compared with it is unknown."""

    def __eq__(self, other: object) -> Any:
        return self

    __hash__ = None

    def __bool__(self) -> bool:
        raise TypeError("ambiguous")


def groups_of_folds(fold: np.ndarray, groups: np.ndarray) -> list[set[Any]]:
    return [set(groups[fold == k].tolist()) for k in np.unique(fold)]


def test_no_group_is_in_two_folds() -> None:
    for seed in range(5):
        fold = fold_of_examples(jax.random.key(seed), 60, 4, GROUPS)
        parts = groups_of_folds(fold, GROUPS)
        assert len(parts) == 4
        assert sum(map(len, parts)) == len(set(GROUPS.tolist()))


def test_folds_of_groups_are_as_even_as_the_largest_group_allows() -> None:
    """Filling the smallest fold first, sizes differ by one group at most."""
    fold = fold_of_examples(KEY, 60, 4, GROUPS)
    assert np.ptp(np.bincount(fold)) <= np.bincount(GROUPS).max()
    singles = fold_of_examples(KEY, 23, 5, np.arange(23))
    assert sorted(np.bincount(singles)) == [4, 4, 5, 5, 5]
    assert not np.array_equal(singles, np.arange(23) % 5)


def test_folds_of_groups_follow_the_key_alone() -> None:
    again = [fold_of_examples(KEY, 60, 4, GROUPS) for _ in range(2)]
    np.testing.assert_array_equal(*again)
    other = fold_of_examples(jax.random.key(1), 60, 4, GROUPS)
    assert groups_of_folds(other, GROUPS) != groups_of_folds(again[0], GROUPS)


def test_the_largest_group_is_held_out_no_more_often_than_by_chance() -> None:
    groups = np.repeat(np.arange(5), [50, 3, 3, 3, 3])
    first = [fold_of_examples(jax.random.key(seed), 62, 5, groups)[0] for seed in range(200)]
    # Binomial, n = 200, p = 0.2: within 4 standard deviations of 5.66
    assert abs(np.sum(np.equal(first, 0)) - 40) < 23


def test_labels_of_any_kind_become_integers_without_gaps() -> None:
    for labels in (["b", "a", "b"], [7, -1, 7], [2.5, 0.5, 2.5], np.array(["b", "a", "b"])):
        codes = group_codes(labels, 3)
        assert codes is not None
        assert codes.tolist() == [1, 0, 1]
    assert group_codes(None, 3) is None


@pytest.mark.parametrize(
    ("groups", "error", "says"),
    [
        ([0, 1], errors.ShapeError, r"shape \(3,\); got \(2,\)"),
        ([[0], [1], [2]], errors.ShapeError, r"got \(3, 1\)"),
        ("abc", errors.ShapeError, r"got \(\)"),
        ([0.0, np.nan, 1.0], errors.DataError, "no label for some examples: 1"),
        (np.array(["a", None, "b"], object), errors.DataError, "no label for some examples: 1"),
        (np.array(["a", Missing(), "b"], object), errors.DataError, "for some examples: 1"),
        (np.array(["a", 1, "b"], object), errors.DataError, r"str\(g\) for g in groups"),
    ],
)
def test_bad_groups_are_refused(groups: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        group_codes(groups, 3)


def test_more_folds_than_groups_are_refused() -> None:
    with pytest.raises(errors.OptionError, match=re.escape("5 folds of whole groups need")):
        nb.cross_fit(NET, X, X[:, 0], groups=np.arange(60) % 3, epochs=1, progress=False)


def test_cross_fit_keeps_groups_whole_and_ignores_their_names() -> None:
    options: dict[str, Any] = {"folds": 3, "epochs": 1, "key": 1, "progress": False}
    cross = nb.cross_fit(NET, X, X[:, 0], groups=GROUPS, **options)
    assert sum(map(len, groups_of_folds(cross.fold, GROUPS))) == len(set(GROUPS.tolist()))
    named = nb.cross_fit(NET, X, X[:, 0], groups=[f"molecule {g}" for g in GROUPS], **options)
    np.testing.assert_array_equal(named.fold, cross.fold)
    np.testing.assert_array_equal(named.predictions, cross.predictions)
