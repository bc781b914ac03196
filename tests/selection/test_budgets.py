"""Budgets of the whole network: what pairs and their biases cost, and who gets them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selecting import (
    ATTENTION,
    NETWORK,
    Choice,
    Scores,
    TrainedStub,
    attention_params,
    dense,
    first_pairs,
)

import nbcore as nb
from nbcore import errors

SMALL = {"A": dense(), "B": {"kernel": jnp.ones((3, 2))}}


def test_layers_are_compared_by_their_scores() -> None:
    scores = Scores(
        {
            "A/kernel": np.array([[9.0, 1.0, 8.0], [7.0, 1.0, 1.0]]),
            "B/kernel": np.array([[6.0, 1.0], [8.5, 1.0], [1.0, 1.0]]),
        }
    )
    det = TrainedStub(SMALL)
    # 9 costs 2 with its bias, 8.5 costs 1, 8 costs 2, 7 costs 1: its bias is there already
    expected = {"A": [(0, 0), (0, 2), (1, 0)], "B": [(1, 0)]}
    subset = nb.select_bayesian_components(det, None, scores, num_weights=6)
    assert subset == nb.ProbabilisticSubset.pairs(expected)
    assert subset == nb.select_bayesian_components(det, None, scores, fraction=0.4)  # of 15
    # With 4, 8 no longer fits after 9 and 8.5; 7 does.
    subset = nb.select_bayesian_components(det, None, scores, num_weights=4)
    assert subset == nb.ProbabilisticSubset.pairs({"A": [(0, 0), (1, 0)], "B": [(1, 0)]})


def test_equal_scores_go_to_the_earlier_layer() -> None:
    scores = Scores({"A/kernel": np.ones((2, 3)), "B/kernel": np.ones((3, 2))})
    subset = nb.select_bayesian_components(TrainedStub(SMALL), None, scores, num_weights=10)
    every = [(i, j) for i in range(2) for j in range(3)]
    assert subset == nb.ProbabilisticSubset.pairs({"A": every, "B": [(0, 0)]})


def test_layers_without_a_good_pair_are_left_out() -> None:
    scores = Scores({"A/kernel": np.zeros((2, 3)), "B/kernel": np.ones((3, 2))})
    subset = nb.select_bayesian_components(TrainedStub(SMALL), None, scores, num_weights=6)
    assert subset == nb.ProbabilisticSubset.pairs({"B": list(np.ndindex(3, 2))})


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 15 + 56), st.booleans(), st.integers(0, 2**31))
def test_a_budget_of_weights_is_met_exactly(budget: int, include_bias: bool, seed: int) -> None:
    """Dense layers, embeddings and attention: a pair and its bias cost 1 or 2."""
    params = {**SMALL, **attention_params()}
    rng = np.random.default_rng(seed)
    shapes = {"A/kernel": (2, 3), "B/kernel": (3, 2)}
    shapes |= {f"Attention/{c}/kernel": s for c, s in ATTENTION.items()}
    scores = Scores({path: rng.normal(size=shape) for path, shape in shapes.items()})
    det = TrainedStub(params)
    held = 12 + 48 + (3 + 20 if include_bias else 0)
    if budget > held:
        with pytest.raises(errors.SelectionError, match=rf"hold {held}"):
            nb.select_bayesian_components(
                det, None, scores, num_weights=budget, include_bias=include_bias
            )
        return
    subset = nb.select_bayesian_components(
        det, None, scores, num_weights=budget, include_bias=include_bias
    )
    assert subset.split(det.network, det.params).size == budget


def test_windows_are_paid_for_as_a_whole() -> None:
    params = {"Conv": {"kernel": jnp.ones((3, 2, 2)), "bias": jnp.zeros(2)}}
    det = TrainedStub(params)
    scores = Scores({"Conv/kernel": np.arange(12.0).reshape(3, 2, 2)})
    sizes = [
        nb.select_bayesian_components(det, None, scores, num_weights=n).split(NETWORK, params).size
        for n in (4, 6, 7, 8, 14)
    ]
    assert sizes == [4, 4, 7, 8, 14]  # 3 a window, 1 a bias


def test_too_few_eligible_pairs_for_a_budget_are_an_error() -> None:
    values = np.full((2, 3), -np.inf)
    values[0, 1] = 1.0
    det = TrainedStub({"A": dense()})
    with pytest.raises(errors.SelectionError, match=r"1 of 6 pairs eligible, 3 weights short"):
        nb.select_bayesian_components(det, None, Scores({"A/kernel": values}), num_weights=5)


def test_a_choice_within_layers_has_no_order_of_layers() -> None:
    with pytest.raises(errors.SelectionError, match=r"'choice'.*Type: num_pairs_per_layer"):
        nb.select_bayesian_components(TrainedStub(SMALL), None, Choice(first_pairs), num_weights=5)
