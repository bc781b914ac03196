"""Folds of the examples, by which networks are kept from a part of them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from nbcore.errors import DataError, OptionError, ShapeError


def fold_of_rows(
    key: jax.Array, count: int, folds: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """Return a random fold for each example `(count,)`.

    Without groups, the sizes of folds differ by one at most. With groups, each group is in one
    fold: the groups, largest first and in random order among equals, go to the fold with the
    fewest examples so far, and the folds are then numbered at random.

    Args:
        key: random key.
        count: number of examples N.
        folds: number of folds.
        groups: group of each example `(N,)`, as integers from 0, see `group_codes`.

    Raises:
        OptionError: there are more folds than groups.

    Examples:
        >>> fold = fold_of_rows(jax.random.key(0), 6, 2, np.array([0, 0, 1, 1, 2, 2]))
        >>> bool(np.all(fold[::2] == fold[1::2]))
        True
    """
    if groups is None:
        return np.asarray(jax.random.permutation(key, np.arange(count) % folds))
    sizes = np.bincount(groups)
    if folds > len(sizes):
        raise OptionError(
            f"{folds} folds of whole groups need at least {folds} groups, and groups has "
            f"{len(sizes)}. Use fewer folds, such as folds={max(len(sizes), 2)}, or finer groups."
        )
    order_key, name_key = jax.random.split(key)
    order = np.asarray(jax.random.permutation(order_key, len(sizes)))
    order = order[np.argsort(-sizes[order], kind="stable")]
    names = np.asarray(jax.random.permutation(name_key, folds))
    filled = np.zeros(folds, int)
    fold_of_group = np.zeros(len(sizes), int)
    for group in order:
        smallest = int(np.argmin(filled))
        fold_of_group[group] = names[smallest]
        filled[smallest] += sizes[group]
    return fold_of_group[groups]


def group_codes(groups: Any, count: int) -> np.ndarray | None:
    """Return the group of each example as an integer from 0 `(count,)`; `None` without groups.

    Args:
        groups: a label for each example `(N,)`, numbers or strings, or `None`.
        count: number of examples N.

    Raises:
        ShapeError: there is not one label for each example.
        DataError: a label is missing, or labels of several types cannot be compared.

    Examples:
        >>> group_codes(["b", "a", "b"], 3).tolist()
        [1, 0, 1]
    """
    if groups is None:
        return None
    labels = np.asarray(groups)
    if labels.shape != (count,):
        raise ShapeError(
            f"groups holds one label for each example, shape ({count},); got {labels.shape}."
        )
    missing = np.flatnonzero([label is None or label != label for label in labels.tolist()])
    if missing.size:
        raise DataError(
            f"groups has no label for some examples: {', '.join(map(str, missing[:5]))}. Give an "
            "example that belongs to no other a label of its own."
        )
    try:
        return np.unique(labels, return_inverse=True)[1]
    except TypeError as error:
        raise DataError(
            "groups mixes labels that cannot be compared. Type: groups=[str(g) for g in groups]"
        ) from error


def take(x: Any, rows: np.ndarray) -> Any:
    """Return some examples of an array, or of a pytree of arrays."""
    return jax.tree.map(lambda a: np.asarray(a)[rows], x)
