"""Grouping by length is optimal, loses no row, and refuses networks that read their padding."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nbcore.networks.length_buckets import (
    ExampleBuffer,
    batch_sizes,
    batches,
    length_groups,
    lengths,
    on_grid,
)
from nbcore.networks.network import Padding

PADDING = Padding(axis=1, value=0)


def padded(each: list[int], width: int) -> np.ndarray:
    """Rows of the given lengths; the last token of each is no padding, some before it are."""
    x = np.zeros((len(each), width), np.int32)
    for row, length in enumerate(each):
        x[row, :length] = np.arange(length) % 3  # padding tokens inside a sequence are no padding
        if length:
            x[row, length - 1] = 9
    return x


def cheapest(each: list[int], groups: int) -> int:
    """The least sum_g N_g L_g over all ways to cut the distinct lengths: brute force."""
    values = sorted(set(each))
    costs: list[int] = []
    for k in range(1, min(groups, len(values)) + 1):
        for cuts in itertools.combinations(range(1, len(values)), k - 1):
            parts = [values[a:b] for a, b in itertools.pairwise([0, *cuts, len(values)])]
            costs.append(sum(part[-1] * sum(n in part for n in each) for part in parts))
    return min(costs)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=14), st.integers(1, 5))
def test_groups_are_the_cheapest_and_hold_every_row_once(each, max_groups):
    x = padded(each, 60)
    assert lengths(x, PADDING).tolist() == each
    groups = length_groups(x, PADDING, max_groups=max_groups)
    assert len(groups) <= max_groups
    assert sorted(np.concatenate([g.indices for g in groups]).tolist()) == list(range(len(each)))
    assert [g.length for g in groups] == sorted({g.length for g in groups})
    assert sum(len(g.indices) * g.length for g in groups) == cheapest(
        on_grid(np.array(each), 60).tolist(), max_groups
    )
    for group in groups:
        taken = group.take(x, PADDING)
        assert (taken == x[group.indices, : group.length]).all()
        assert (x[group.indices, group.length :] == 0).all()


def test_groups_are_as_many_as_pay():
    x = padded([8] * 30 + [16] * 30 + [24] * 30 + [32] * 30, 40)
    bounds = [[g.length for g in length_groups(x, PADDING, work=w)] for w in (0, 2**26, 2**29)]
    assert bounds[0] == [32]  # few rows, nothing to compute
    assert bounds[1] == [16, 32]
    assert bounds[2] == [8, 16, 24, 32]
    for gradients, expected in ((1e5, [8, 16, 24, 32]), (2000, [16, 32]), (100, [32])):
        found = length_groups(x, PADDING, work=2**29, num_gradients=gradients)
        assert [g.length for g in found] == expected
    assert [g.length for g in length_groups(x[::40], PADDING, work=2**40)] == [8, 16, 24]
    few = padded([8] * 99 + [16], 40)
    assert [g.length for g in length_groups(few, PADDING, work=2**40)] == [8, 16]
    assert [g.length for g in length_groups(padded([15] * 99 + [16], 40), PADDING)] == [16]


def test_a_row_of_padding_alone_keeps_one_position():
    assert lengths(np.zeros((2, 4), int), PADDING).tolist() == [1, 1]


def test_features_after_the_padded_axis():
    x = np.zeros((2, 5, 3))
    x[0, 1, 2] = 1.0
    x[1, 4, 0] = np.float64(-1.0)
    assert lengths(x, Padding(axis=1, value=0)).tolist() == [2, 5]
    assert lengths(np.moveaxis(x, 1, 2), Padding(axis=2, value=0)).tolist() == [2, 5]


def test_without_padding_there_is_one_group_and_nothing_is_trimmed():
    (group,) = length_groups({"a": np.ones((3, 2)), "b": np.ones(3)}, None)
    taken = group.take({"a": np.arange(3), "b": np.arange(3)}, None)
    assert group.length is None
    assert taken["a"].tolist() == taken["b"].tolist() == [0, 1, 2]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 12))
def test_batches_hold_every_row_once_in_few_shapes(each, size):
    x = padded(each, 60)
    parts = list(batches(x, PADDING, size))
    for rows, inputs in parts:
        assert len(inputs) in batch_sizes(size)
        assert len(inputs) == size or len(each) <= len(inputs) <= 2 * len(each)
        assert np.array_equal(inputs[: len(rows)], x[rows, : inputs.shape[1]])
        assert not x[rows, inputs.shape[1] :].any()
    sums = ExampleBuffer(len(x))
    for rows, inputs in parts:
        sums.put(rows, inputs.sum(axis=1)[None])
    assert np.array_equal(sums.array[0], x.sum(axis=1))
    if len(each) <= size:
        ((_, inputs),) = batches(x, PADDING, size, fills=False)
        assert len(inputs) == len(each)
