"""The selector `clustering`: rows nearest the centers of k-means."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from selecting import TrainedStub, layer, select

import nbcore as nb
from nbcore import errors
from nbcore.networks.network import Padding

TWO_GROUPS = np.array([[0.0], [1.0], [2.0], [100.0], [101.0], [102.0]]) * np.ones((1, 3))


def rows_of(pairs: list[tuple[int, ...]]) -> list[int]:
    return [pair[0] for pair in pairs]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["kernel", "embedding"])
def test_clustering_takes_the_rows_nearest_the_centers(name: str, seed: int) -> None:
    det = TrainedStub(layer(TWO_GROUPS, name))
    key = jax.random.key(seed)
    assert rows_of(select(det, "clustering", 2, key=key)) == [1, 4]
    two = {"key": key, "n_clusters": 2}
    assert rows_of(select(det, "clustering", 4, **two)) == [0, 1, 3, 4]  # a tie: the first row
    assert rows_of(select(det, "clustering", 6, **two)) == [0, 1, 2, 3, 4, 5]
    assert rows_of(select(det, "clustering", 8, **two)) == [0, 1, 1, 2, 3, 4, 4, 5]


def test_clustering_draws_the_columns_from_the_key() -> None:
    det = TrainedStub(layer(np.repeat(TWO_GROUPS, 20, axis=1)))
    choices = [tuple(select(det, "clustering", 2, key=jax.random.key(s))) for s in (0, 0, 1)]
    assert choices[0] == choices[1] != choices[2]


def test_clustering_groups_input_channels_by_their_windows() -> None:
    # channels 0, 1, 2 hold one pattern and 3, 4, 5 its mirror image; sums and sizes are equal
    pattern = np.array([1.0, 0.0, -1.0])
    strength = np.array([9.0, 10.0, 11.0, -9.0, -10.0, -11.0])
    kernel = pattern[:, None, None] * strength[None, :, None] * np.ones((1, 1, 2))
    det = TrainedStub(layer(kernel))
    assert rows_of(select(det, "clustering", 2)) == [1, 4]


def test_clustering_takes_head_and_feature_as_the_input_of_attention_out() -> None:
    parts = {c: {"kernel": jnp.ones((2, 2, 3))} for c in ("query", "key", "value")}
    out = TWO_GROUPS.reshape(2, 3, 3)  # (head, feature, out): each head is a group
    det = TrainedStub({"A": {**parts, "out": {"kernel": jnp.asarray(out)}}})
    subset = nb.select_bayesian_components(det, ["A/out"], "clustering", 2)
    ((_, rule),) = subset.terms
    ((_, part, pairs),) = rule.items
    assert part == "out"
    assert [pair[:2] for pair in pairs] == [(0, 1), (1, 1)]


FREQUENT = np.array([[0] * 50 + [2] * 90 + [3] * 20 + [5]], np.int32)


def test_clustering_counts_tokens_as_often_as_they_occur() -> None:
    det = TrainedStub(layer(TWO_GROUPS, "embedding"))
    options = {"token_frequency": True, "X": FREQUENT}
    assert rows_of(select(det, "clustering", 2, **options)) == [2, 3]
    # tokens 1 and 4 do not occur: they come after all entries of those that do
    assert set(rows_of(select(det, "clustering", 12, **options))) == {0, 2, 3, 5}
    assert len(select(det, "clustering", 18, **options)) == 18


def test_clustering_does_not_count_padding() -> None:
    network = nb.Network.from_functions(
        lambda key, x: {}, lambda params, x: x, padding=Padding(axis=1, value=2)
    )
    det = TrainedStub(layer(TWO_GROUPS, "embedding"), network=network)
    pairs = select(det, "clustering", 2, token_frequency=True, X=FREQUENT)
    assert rows_of(pairs) == [0, 3]


def test_clustering_counts_tokens_for_embeddings_alone() -> None:
    det = TrainedStub(layer(TWO_GROUPS, "kernel"))
    pairs = select(det, "clustering", 2, token_frequency=True, X=FREQUENT)
    assert rows_of(pairs) == [1, 4]


def test_clustering_counts_tokens_for_the_embedding_that_is_called_first() -> None:
    def apply(params: Any, x: Any) -> Any:
        tokens = params["Token"]["embedding"][x]
        return (tokens + params["Position"]["embedding"][jnp.arange(x.shape[1])]).sum((1, 2))

    table = {"embedding": jnp.asarray(TWO_GROUPS)}
    params = {"Position": table, "Token": table}

    def chosen(example: Any) -> dict[str, list[int]]:
        network = nb.Network.from_functions(lambda key, x: {}, apply, example=example)
        subset = nb.select_bayesian_components(
            TrainedStub(params, network=network),
            None,
            "clustering",
            2,
            token_frequency=True,
            X=FREQUENT,
        )
        ((_, rule),) = subset.terms
        return {name: rows_of(list(pairs)) for name, _, pairs in rule.items}

    assert chosen(np.zeros((1, 4), np.int32)) == {"Token": [2, 3], "Position": [1, 4]}
    with pytest.raises(errors.SelectionError, match="Position, Token is called first"):
        chosen(None)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (None, errors.SelectionError, r"needs data.*X=X"),
        (np.array([[0.0, 1.0]]), errors.TokenError, r"float64"),
        (np.array([[0, 6]]), errors.TokenError, r"tokens 0 to 5; X holds 0 to 6"),
        (np.array([[-1, 5]]), errors.TokenError, r"X holds -1 to 5"),
    ],
)
def test_clustering_refuses_tokens_that_it_cannot_count(
    X: Any, error: type[Exception], message: str
) -> None:
    det = TrainedStub(layer(TWO_GROUPS, "embedding"))
    with pytest.raises(error, match=message):
        select(det, "clustering", 2, token_frequency=True, X=X)


@pytest.mark.parametrize("n_clusters", [0, -1, 2.0, True])
def test_clustering_refuses_an_impossible_number_of_clusters(n_clusters: Any) -> None:
    with pytest.raises(errors.OptionError, match="n_clusters"):
        select(TrainedStub(layer(TWO_GROUPS)), "clustering", 2, n_clusters=n_clusters)


def test_clustering_refuses_weights_that_are_not_finite() -> None:
    det = TrainedStub(layer([[1.0, np.nan], [0.0, 1.0]]))
    with pytest.raises(errors.SelectionError, match=r"'A' are not all finite"):
        select(det, "clustering", 2)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_clustering_never_repeats_and_never_falls_short(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 4)))
    # few distinct values, so that many rows are equal
    weights = data.draw(hnp.arrays(np.float32, shape, elements=st.sampled_from([0.0, 1.0, -2.0])))
    num_pairs = data.draw(st.integers(1, weights.size))
    n_clusters = data.draw(st.none() | st.integers(1, 8))
    pairs = select(TrainedStub(layer(weights)), "clustering", num_pairs, n_clusters=n_clusters)
    assert len(pairs) == len(set(pairs)) == num_pairs
