"""Grouping padded sequences by length, so that padding is neither computed nor stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from nbcore.networks.network import Padding

MAX_GROUPS = 6
EXAMPLES_A_GROUP = 256
WORK_A_GROUP = 2**26
MANY_GRADIENTS = 10_000
"""Gradients that a sampler takes, about, as a rule."""
LEAST_GAIN, LEAST_GAIN_OF_GRADIENTS = 0.08, 0.03
"""What a group saves at least of the positions: compiling its program costs as much as any, and
thousands of gradients run it."""


@dataclass(frozen=True)
class Group:
    """Examples of similar length.

    Args:
        indices: where the examples are in the data, ascending.
        length: length that they are trimmed to; `None` if nothing is trimmed.
    """

    indices: np.ndarray
    length: int | None

    def take(self, x: Any, padding: Padding | None) -> Any:
        """Return the examples of `x`, trimmed."""
        taken = jax.tree.map(lambda a: np.asarray(a)[self.indices], x)
        if self.length is None or padding is None:
            return taken
        return np.take(taken, np.arange(self.length), axis=padding.axis)


def lengths(x: np.ndarray, padding: Padding) -> np.ndarray:
    """Return the number of positions of each example up to the last that is not padding, >= 1.

    Examples:
        >>> import numpy as np
        >>> lengths(np.array([[5, 6, 0], [7, 0, 0]]), Padding(axis=1, value=0)).tolist()
        [2, 1]
    """
    filled = np.moveaxis(x != padding.value, padding.axis, 1)
    filled = filled.reshape(*filled.shape[:2], -1).any(axis=2)
    last = filled.shape[1] - filled[:, ::-1].argmax(axis=1)
    return np.where(filled.any(axis=1), last, 1)


def on_grid(each: np.ndarray, longest: int) -> np.ndarray:
    """Round lengths up to 8, 16, 24, 32, 48, 64, 96, 128, ..., or to the longest.

    Similar data then have equal lengths, and share compiled programs.

    Examples:
        >>> import numpy as np
        >>> on_grid(np.array([3, 17, 33, 70]), 88).tolist()
        [8, 24, 48, 88]
    """
    grid = np.array([8, 24, *(n for k in range(4, 31) for n in (2**k, 2**k * 3 // 2))])
    grid.sort()
    return np.minimum(grid[np.searchsorted(grid, each)], longest)


def length_groups(
    x: Any,
    padding: Padding | None,
    *,
    max_groups: int | None = None,
    work: int = 0,
    num_gradients: float = MANY_GRADIENTS,
) -> list[Group]:
    """Split examples into few groups of similar length, chosen to minimize the work.

    The cuts minimize sum_g N_g L_g, the number of computed positions, exactly, by dynamic
    programming over the distinct lengths. Lengths are rounded up, see `on_grid`; if `work` is
    given to a multiple of 8, since targets share programs only if their data are equal.

    Args:
        x: inputs; one array if they are padded.
        padding: how they are padded; `None` gives one group.
        max_groups: largest number of groups, each of which costs a compilation. By default one for
            every 256 examples, or for every 64 MiB of work, at most 6, and none that saves less
            than 8 % of the positions, or 3 % if `work` is given. The fewer gradients, the fewer
            groups are worth it.
        work: bytes that a gradient writes to compute one group of all examples.
        num_gradients: how many gradients there will be, about; from 10,000 on they count as many.

    Returns:
        Groups in ascending order of length; every example is in exactly one.
    """
    count = len(jax.tree.leaves(x)[0])
    if padding is None or count == 0:
        return [Group(np.arange(count), None)]
    each, longest = lengths(np.asarray(x), padding), np.shape(x)[padding.axis]
    each = np.minimum(-(-each // 8) * 8, longest) if work else on_grid(each, longest)
    least_gain = 0.0
    if max_groups is None:
        worth = max(count // EXAMPLES_A_GROUP, work // WORK_A_GROUP)
        share = min(1.0, num_gradients / MANY_GRADIENTS)
        max_groups = min(MAX_GROUPS, 1 + int(share * worth))
        least_gain = LEAST_GAIN_OF_GRADIENTS if work else LEAST_GAIN
    values, counts = np.unique(each, return_counts=True)
    bounds = _best_cuts(values, counts, min(max_groups, len(values)), least_gain)
    lower = np.concatenate([[0], bounds[:-1]])
    return [
        Group(np.flatnonzero((each > low) & (each <= high)), int(high))
        for low, high in zip(lower, bounds, strict=True)
    ]


def _best_cuts(
    values: np.ndarray, counts: np.ndarray, groups: int, least_gain: float
) -> np.ndarray:
    """Return the largest length of each group, ascending; groups stop when one gains too little.

    Args:
        values: lengths, ascending.
        counts: how many examples have each.
        groups: how many groups at most.
        least_gain: fraction of the work that one more group must save.
    """
    below = np.concatenate([[0], np.cumsum(counts)])
    best = below[1:] * values  # one group up to each value
    previous: list[np.ndarray] = []
    for _ in range(groups - 1):
        # cost[i, j]: groups up to value i - 1 as best, then one group i..j
        before = np.concatenate([[0], best[:-1]])
        cost = before[:, None] + (below[None, 1:] - below[:-1, None]) * values[None, :]
        cost = np.where(np.tri(len(values), dtype=bool).T, cost, np.iinfo(np.int64).max)
        if cost[:, -1].min() > (1 - least_gain) * best[-1]:
            break
        previous.append(cost.argmin(axis=0))
        best = cost.min(axis=0)
    bounds: list[int] = []
    end = len(values) - 1
    for starts in reversed(previous):
        bounds.append(int(values[end]))
        end = int(starts[end]) - 1
        if end < 0:
            return np.array(bounds[::-1])
    return np.array([int(values[end]), *bounds[::-1]])


def batch_sizes(size: int) -> np.ndarray:
    """Return the sizes of batches of at most `size` examples: 1, 2, 4, 8, 16, 24, 32, 48, 64, ...

    Examples:
        >>> batch_sizes(100).tolist()
        [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 100]
    """
    grid = {1, 2, 4, 8, *(n for k in range(4, 31) for n in (2**k, 2**k * 3 // 2))}
    return np.array(sorted({n for n in grid if n < size} | {size}))


def batches(
    x: Any, padding: Padding | None, size: int, *, fills: bool = True
) -> Iterator[tuple[np.ndarray, Any]]:
    """Split inputs into batches of similar length, in few shapes, so that little is compiled.

    Args:
        x: inputs.
        padding: how they are padded.
        size: examples of a batch. The last batch of a group is filled up with examples that it
            already has, to `size`, or to one of `batch_sizes` if there are no more than that.
        fills: whether few examples are filled up, too; not if outputs mix examples.

    Yields:
        Indices of examples, and the inputs of at least those examples, in this order.
    """
    count = len(jax.tree.leaves(x)[0])
    groups = length_groups(x, padding, max_groups=1 if count <= size else None)
    sizes = batch_sizes(size)
    if count > size:
        filled = size
    else:
        filled = int(sizes[np.searchsorted(sizes, count)]) if fills and count else count
    for group in groups:
        for start in range(0, len(group.indices), size):
            indices = group.indices[start : start + size]
            full = np.resize(indices, filled)
            yield indices, Group(full, group.length).take(x, padding)


class ExampleBuffer:
    """Results of batches, written into one array in the order of the examples.

    Args:
        count: number of examples.
        axis: axis of the examples, in each result and in the array.
    """

    array: np.ndarray

    def __init__(self, count: int, axis: int = 1) -> None:
        self.count, self.axis = count, axis

    def put(self, indices: np.ndarray, values: Any) -> None:
        """Write the results of some examples; further ones are dropped.

        Args:
            indices: where they are in the data.
            values: their results, then those of the examples that filled up the batch.
        """
        values = np.asarray(values)
        if not hasattr(self, "array"):
            shape = list(values.shape)
            shape[self.axis] = self.count
            self.array = np.empty(shape, values.dtype)
        ahead = (slice(None),) * self.axis
        self.array[(*ahead, indices)] = values[(*ahead, slice(len(indices)))]
