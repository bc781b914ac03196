"""Folds of examples, each kept from the training of one network."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from nbcore.common.keys import shuffled
from nbcore.common.missing import is_missing
from nbcore.errors import DataError, OptionError, ShapeError
from nbcore.networks.inputs import num_examples

SHOWN = 5
ROUNDING = 4
"""Width of the cells in which values of a feature are the same, over its range and rounding."""


class CalibrationWarning(UserWarning):
    """The predictive uncertainty may be too small, or could not be checked."""


class Splitter(Protocol):
    """A cross-validator of scikit-learn, such as `GroupKFold` or `TimeSeriesSplit`."""

    def split(self, X: Any, y: Any, groups: Any) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """Yield the indices to train on, and those that are held out."""
        ...


@dataclass(frozen=True, eq=False)
class Folds:
    """The examples that each network is trained without.

    Args:
        fold: number of the network that each example is held out from `(N,)`; -1: from none.
        trained: indices of the examples that each network is trained on, ascending.
    """

    fold: np.ndarray
    trained: tuple[np.ndarray, ...]

    @property
    def count(self) -> int:
        """Number of networks."""
        return len(self.trained)

    def held_out(self, k: int) -> np.ndarray:
        """Return the indices of the examples that network k is tested on."""
        return np.flatnonzero(self.fold == k)


def make_folds(
    key: jax.Array, X: Any, y: Any, folds: int | Splitter, groups: np.ndarray | None = None
) -> Folds:
    """Return the folds of a cross-fit.

    Args:
        key: random key of folds that are given as a number.
        X: inputs `(N, ...)`.
        y: targets, for splitters that stratify.
        folds: number of folds, or a cross-validator of scikit-learn.
        groups: group of each example `(N,)`, as integers from 0, see `group_codes`.

    Raises:
        OptionError: there are fewer than 2 folds, or more than examples or groups; or a splitter
            holds out an example twice, or draws from the global random state.

    Examples:
        >>> import numpy as np
        >>> from sklearn.model_selection import TimeSeriesSplit
        >>> found = make_folds(jax.random.key(0), np.arange(6), np.zeros(6), TimeSeriesSplit(2))
        >>> found.fold.tolist(), [t.tolist() for t in found.trained]
        ([-1, -1, 0, 0, 1, 1], [[0, 1], [0, 1, 2, 3]])
    """
    count = num_examples(X)
    if groups is None:
        warn_of_copies(X)
    if isinstance(folds, int):
        _check_number(folds, count)
        fold = fold_of_examples(key, count, folds, groups)
        return Folds(fold, tuple(np.flatnonzero(fold != k) for k in range(folds)))
    return _split(folds, count, np.asarray(y), groups)


def _check_number(folds: int, count: int) -> None:
    if count < 2:
        raise OptionError(
            f"Cross-fitting keeps examples from training, and X has {count}. Give more examples, "
            "or type calibration='none', whose intervals are too narrow."
        )
    if not 2 <= folds <= count:
        raise OptionError(
            f"{count} examples can be split into 2 to {count} folds, got {folds}. Type: "
            f"calibration=nb.CalibrationOptions(folds={count})"
        )


def _split(splitter: Any, count: int, y: np.ndarray, groups: np.ndarray | None) -> Folds:
    if isinstance(splitter, str) or not callable(getattr(splitter, "split", None)):
        raise OptionError(
            f"folds is a number or a cross-validator of scikit-learn, got {splitter!r}."
        )
    if getattr(splitter, "shuffle", True) and getattr(splitter, "random_state", 0) is None:
        raise OptionError(
            f"{type(splitter).__name__} draws from the global random state, so that a fit is not "
            "repeatable. Give it random_state=0."
        )
    labels = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    pairs = list(splitter.split(np.zeros((count, 1)), labels, groups))
    held = np.bincount(np.concatenate([test for _, test in pairs]), minlength=count)
    if len(pairs) < 2 or held.max() > 1:
        twice = np.flatnonzero(held > 1)
        what = f"holds out example {twice[0]} {held[twice[0]]} times" if len(twice) else "is one"
        raise OptionError(
            f"Cross-fitting holds out each example once at most, in at least 2 folds; "
            f"{type(splitter).__name__} {what}. Use KFold, GroupKFold, StratifiedKFold or "
            "TimeSeriesSplit."
        )
    fold = np.full(count, -1)
    for k, (_, test) in enumerate(pairs):
        fold[test] = k
    return Folds(fold, tuple(np.sort(train) for train, _ in pairs))


def warn_of_copies(X: Any) -> None:
    """Warn if examples have the same inputs, up to rounding, which folds would separate."""
    count = num_examples(X)
    pairs = _copies([np.asarray(leaf).reshape(count, -1) for leaf in jax.tree.leaves(X)])
    if not pairs:
        return
    shown = ", ".join(f"{b} of {a}" for a, b in pairs[:SHOWN])
    more = ", ..." if len(pairs) > SHOWN else ""
    warnings.warn(
        f"{len(pairs)} of {count} examples have the inputs of another one ({shown}{more}). Copies "
        "on both sides of a fold make the out-of-fold noise too small. Give groups=, a label for "
        "each example that copies share, such as np.unique(X, axis=0, return_inverse=True)[1]; "
        "groups=np.arange(len(X)) says that they are independent measurements.",
        CalibrationWarning,
        stacklevel=5,
    )


def _copies(tables: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Return pairs of examples, the first first, whose rows are the same up to rounding.

    Floats are compared on two grids, so that a pair that one sets apart is found on the other.
    """
    found: dict[int, int] = {}
    for offset in (0.0, 0.5):
        cells: list[np.ndarray] = []
        for table in tables:
            rows = table
            if table.dtype.kind == "f":
                cell = ROUNDING * np.finfo(table.dtype).eps * np.ptp(table, axis=0)
                rows = (table - table.min(axis=0)) / np.where(cell > 0, cell, 1.0)
                rows = np.floor(rows.astype(np.float64) + offset)
            rows = np.ascontiguousarray(rows + 0)  # no negative zeros
            cells.append(rows.view(np.uint8).reshape(len(rows), -1))
        first: dict[bytes, int] = {}
        for i, row in enumerate(np.concatenate(cells, axis=1)):
            original = first.setdefault(row.tobytes(), i)
            if original != i:
                found.setdefault(i, original)
    return sorted((original, copy) for copy, original in found.items())


def fold_of_examples(
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
        >>> fold = fold_of_examples(jax.random.key(0), 6, 2, np.array([0, 0, 1, 1, 2, 2]))
        >>> bool(np.all(fold[::2] == fold[1::2]))
        True
    """
    if groups is None:
        return shuffled(key, np.arange(count) % folds)
    sizes = np.bincount(groups)
    if folds > len(sizes):
        raise OptionError(
            f"{folds} folds of whole groups need at least {folds} groups, and groups has "
            f"{len(sizes)}. Use fewer folds, such as folds={max(len(sizes), 2)}, or finer groups."
        )
    order_key, name_key = jax.random.split(key)
    order = shuffled(order_key, np.arange(len(sizes)))
    order = order[np.argsort(-sizes[order], kind="stable")]
    names = shuffled(name_key, np.arange(folds))
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
    labels = np.asarray(groups, object if isinstance(groups, list | tuple) else None)
    if labels.shape != (count,):
        raise ShapeError(
            f"groups holds one label for each example, shape ({count},); got {labels.shape}."
        )
    missing = np.flatnonzero([is_missing(label) for label in labels.tolist()])
    if missing.size:
        raise DataError(
            f"groups has no label for some examples: {', '.join(map(str, missing[:5]))}. Give an "
            "example that belongs to no group a label of its own."
        )
    try:
        return np.unique(labels, return_inverse=True)[1]
    except TypeError as error:
        raise DataError(
            "groups mixes labels that cannot be compared. Type: groups=[str(g) for g in groups]"
        ) from error


def take(x: Any, chosen: np.ndarray) -> Any:
    """Return some examples of an array, or of a pytree of arrays, by their indices."""
    return jax.tree.map(lambda a: np.asarray(a)[chosen], x)
