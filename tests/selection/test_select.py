"""The core of a selection: budgets, ranking, checks; with selectors made for the purpose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from selecting import (
    ATTENTION_SCORES,
    Choice,
    Scores,
    TrainedStub,
    attention_params,
    dense,
    descending,
    first_pairs,
    moments_of,
)

import nbcore as nb
from nbcore import errors
from nbcore.common.moments import Moments
from nbcore.networks.layers import Layer, Leaf
from nbcore.selection.select import get_selector
from nbcore.selection.selector import SelectionContext


@dataclass(frozen=True)
class Needing:
    """A selector with needs that writes down the contexts it got and scores zero."""

    needs: frozenset[str]
    seen: list[SelectionContext] = field(default_factory=list)
    name: ClassVar[str] = "needing"

    def score(self, context: SelectionContext, layer: Layer) -> dict[str, Any]:
        self.seen.append(context)
        return {leaf.path: np.zeros(leaf.shape) for leaf in layer.weights}


def needing(*needs: str) -> Any:
    return Needing(frozenset(needs))


# ---- ranking


def test_the_highest_scores_are_chosen_in_ascending_order_of_pairs() -> None:
    det = TrainedStub({"A": dense()})
    scores = Scores({"A/kernel": np.array([[0.0, 5.0, 1.0], [4.0, -1.0, 3.0]])})
    subset = nb.select_bayesian_components(det, ["A"], scores, 3)
    assert subset == nb.ProbabilisticSubset.pairs({"A": [(0, 1), (1, 0), (1, 2)]})


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(
        lambda shape: st.tuples(
            hnp.arrays(np.float64, shape, elements=st.integers(-2, 2).map(float)),
            st.integers(1, shape[0] * shape[1]),
        )
    )
)
def test_ties_go_to_the_lowest_index(case: tuple[np.ndarray, int]) -> None:
    scores, count = case
    det = TrainedStub({"A": dense(*scores.shape)})
    subset = nb.select_bayesian_components(det, None, Scores({"A/kernel": scores}), count)
    by_rank = sorted(np.ndindex(scores.shape), key=lambda pair: (-scores[pair], pair))
    assert subset == nb.ProbabilisticSubset.pairs({"A": sorted(by_rank[:count])})


def test_a_convolution_window_is_ranked_by_its_mean() -> None:
    det = TrainedStub({"Conv": {"kernel": jnp.ones((3, 2, 2)), "bias": jnp.zeros(2)}})
    scores = np.zeros((3, 2, 2))
    scores[0, 0, 0] = 5.0  # the largest entry of all, mean 5/3
    scores[:, 1, 0] = 2.0  # mean 2
    scores[:2, 0, 1] = 2.75  # mean 5.5/3
    subset = nb.select_bayesian_components(det, ["Conv"], Scores({"Conv/kernel": scores}), 2)
    assert subset == nb.ProbabilisticSubset.pairs({"Conv": [(0, 1), (1, 0)]})
    split = subset.split(det.network, det.params)
    assert split.size == 2 * 3 + 2  # two windows and the biases of both output channels


def test_pairs_are_canonical_where_storage_is_transposed() -> None:
    leaf = Leaf("A/weight", "kernel", (3, 2), (1, 0), ("in", "out"))  # stored (out, in)
    network = nb.Network.from_functions(
        lambda key, x: {}, lambda p, x: x, layers=lambda p: (Layer("A", "dense", (leaf,)),)
    )
    det = TrainedStub({"A": {"weight": jnp.ones((3, 2))}}, network=network)
    scores = np.zeros((3, 2))
    scores[2, 0] = scores[0, 1] = 1.0
    subset = nb.select_bayesian_components(det, ["A"], Scores({"A/weight": scores}), 2)
    assert subset == nb.ProbabilisticSubset.pairs({"A": [(0, 2), (1, 0)]})


def test_minus_infinity_is_never_chosen() -> None:
    det = TrainedStub({"A": dense()})
    scores = Scores({"A/kernel": np.array([[-np.inf, 1.0, -np.inf], [-9.0, -np.inf, -np.inf]])})
    subset = nb.select_bayesian_components(det, ["A"], scores, 2)
    assert subset == nb.ProbabilisticSubset.pairs({"A": [(0, 1), (1, 0)]})
    with pytest.raises(errors.SelectionError, match=r"'A' finds 2 of 6 pairs eligible.* the 3"):
        nb.select_bayesian_components(det, ["A"], scores, 3)


# ---- layers and budgets


def test_attention_splits_the_budget_over_its_components() -> None:
    det = TrainedStub(attention_params())
    subset = nb.select_bayesian_components(det, ["Attention"], Scores(ATTENTION_SCORES), 10)
    expected = {
        "query": [(0, 0, 0), (0, 0, 1), (0, 0, 2)],
        "key": [(0, 0, 0), (0, 0, 1), (0, 0, 2)],
        "value": [(0, 0, 0), (0, 0, 1)],
        "out": [(0, 0, 0), (0, 0, 1)],
    }
    assert subset == nb.ProbabilisticSubset.pairs({"Attention": expected})
    # bias entries: (head, feature) of each query, key, value pair, (out) of each out pair
    assert subset.split(det.network, det.params).size == 10 + (3 + 3 + 2 + 2)


def test_components_without_a_share_are_left_out() -> None:
    det = TrainedStub(attention_params())
    subset = nb.select_bayesian_components(det, ["Attention"], Scores(ATTENTION_SCORES), 2)
    first = [(0, 0, 0)]
    assert subset == nb.ProbabilisticSubset.pairs({"Attention": {"query": first, "key": first}})


def test_a_component_that_is_named_gets_the_whole_budget() -> None:
    det = TrainedStub(attention_params())
    subset = nb.select_bayesian_components(det, "Attention/value", Scores(ATTENTION_SCORES), 2)
    pairs = {"Attention": {"value": [(0, 0, 0), (0, 0, 1)]}}
    assert subset == nb.ProbabilisticSubset.pairs(pairs)


@pytest.mark.parametrize(
    ("layer_names", "exclude", "expected"),
    [
        (None, (), ["Block0_A", "Block1_A", "Head"]),
        ("Head", (), ["Head"]),
        (["Head", "Block0_A"], (), ["Block0_A", "Head"]),
        (["Block*"], (), ["Block0_A", "Block1_A"]),
        (["Block*", "Block1_A"], ["Block0*"], ["Block1_A"]),
        (None, "Head", ["Block0_A", "Block1_A"]),
        (None, ["Norm", "Block1_A"], ["Block0_A", "Head"]),
    ],
)
def test_layers_are_chosen_by_pattern(layer_names: Any, exclude: Any, expected: list[str]) -> None:
    params = {n: dense() for n in ("Block0_A", "Block1_A", "Head")} | {
        "Norm": {"scale": jnp.ones(3)}
    }
    scores = Scores({f"{name}/kernel": descending((2, 3)) for name in params})
    subset = nb.select_bayesian_components(
        TrainedStub(params), layer_names, scores, 1, exclude=exclude
    )
    assert subset == nb.ProbabilisticSubset.pairs({name: [(0, 0)] for name in expected})


@pytest.mark.parametrize("include_bias", [True, False])
def test_biases_are_included_on_request(include_bias: bool) -> None:
    det = TrainedStub({"A": dense()})
    scores = Scores({"A/kernel": descending((2, 3))})
    subset = nb.select_bayesian_components(det, ["A"], scores, 4, include_bias=include_bias)
    split = subset.split(det.network, det.params)
    assert split.size == 4 + (3 if include_bias else 0)
    assert nb.ProbabilisticSubset.from_json(subset.to_json()) == subset


# ---- choosing selectors and keys


def test_a_choosing_selector_sees_one_component_at_a_time() -> None:
    det = TrainedStub(attention_params())
    subset = nb.select_bayesian_components(det, ["Attention"], Choice(first_pairs), 10)
    assert subset == nb.select_bayesian_components(det, ["Attention"], Scores(ATTENTION_SCORES), 10)


def test_choices_are_sorted() -> None:
    det = TrainedStub({"A": dense()})
    backwards = Choice(lambda *arguments: first_pairs(*arguments)[::-1])
    subset = nb.select_bayesian_components(det, ["A"], backwards, 4)
    assert subset == nb.ProbabilisticSubset.pairs({"A": [(0, 0), (0, 1), (0, 2), (1, 0)]})


def keys_seen(params: Any, layer_names: Any = None, key: Any = None) -> dict[str, tuple[int, ...]]:
    seen: dict[str, tuple[int, ...]] = {}

    def record(layer: Layer, num_pairs: int, key: jax.Array) -> np.ndarray:
        seen[layer.weights[0].path] = tuple(np.asarray(jax.random.bits(key, (2,))).tolist())
        return first_pairs(layer, num_pairs, key)

    nb.select_bayesian_components(TrainedStub(params), layer_names, Choice(record), 4, key=key)
    return seen


def test_every_layer_and_component_has_a_key_of_its_own() -> None:
    params = {"A": dense(), "B": dense(), **attention_params()}
    seen = keys_seen(params)
    assert len(seen) == 6
    assert len(set(seen.values())) == 6
    assert keys_seen(params, ["B"]) == {"B/kernel": seen["B/kernel"]}


def test_without_a_key_the_same_call_chooses_the_same() -> None:
    params = {"A": dense()}
    assert keys_seen(params) == keys_seen(params) == keys_seen(params, key=jax.random.key(0))
    assert keys_seen(params) == keys_seen(params, key=jax.random.PRNGKey(0))  # an old-style key
    assert keys_seen(params) != keys_seen(params, key=1) == keys_seen(params, key=jax.random.key(1))


@pytest.mark.parametrize(
    "choice",
    [
        [(0, 0), (0, 0)],
        [(0, 0)],
        [(0, 0), (0, 3)],
        [(0, 0), (0, -1)],
        [(0.0, 0.0), (0.0, 1.0)],
        [0, 1],
    ],
    ids=["duplicate", "too few", "out of range", "negative", "float", "flat"],
)
def test_a_choice_that_breaks_the_contract_is_refused(choice: Any) -> None:
    det = TrainedStub({"A": dense()})
    with pytest.raises(errors.SelectionError, match=r"'choice' on 'A' must return distinct pairs"):
        nb.select_bayesian_components(det, ["A"], Choice(lambda *_: np.array(choice)), 2)


# ---- what selectors need


def test_gradients_come_from_training_or_from_the_data_given() -> None:
    params = {"A": dense()}
    det = TrainedStub(params, gradients=moments_of(params, params))
    selector = needing("gradients")
    X, y = np.ones((4, 1)), np.full((4, 1), 3.0)
    nb.select_bayesian_components(det, None, selector, 1)
    nb.select_bayesian_components(det, None, selector, 1, X=X, y=y)
    streamed, given_data = (context.gradients for context in selector.seen)
    assert streamed is det.gradients
    assert given_data is not None
    assert int(given_data.count) == 1
    assert float(given_data.root_mean_square["A"]["kernel"][0, 0]) == 3.0


def test_gradients_are_not_computed_for_selectors_that_do_not_need_them() -> None:
    params = {"A": dense()}
    selector = needing("data", "trajectory")
    det = TrainedStub(params, trajectory=moments_of(params, params))
    nb.select_bayesian_components(det, None, selector, 1, X=np.ones((2, 1)), y=np.ones((2, 1)))
    (context,) = selector.seen
    assert context.gradients is None
    assert context.trajectory is det.trajectory
    assert context.X is not None


ONE = moments_of({"A": dense()})


@pytest.mark.parametrize(
    ("selector", "options", "error", "message"),
    [
        (needing("data"), {}, errors.SelectionError, r"needs data.*X=X"),
        (needing("gradients"), {}, errors.SelectionError, r"none were kept .*X=X, y=y"),
        (needing("gradients"), {"X": np.ones((2, 1))}, errors.SelectionError, r"X .* without y"),
        (needing("trajectory"), {}, errors.SelectionError, r"at least 2 .* took 0.*swa=nb"),
        (needing("curvature"), {}, errors.SelectionError, r"needs curvature.*X=X, y=y"),
        (needing("curvature"), {"X": np.ones((2, 1))}, errors.SelectionError, r"with targets"),
        (needing("tarot"), {}, errors.OptionError, r"'tarot'.*Possible: data, gradients"),
        (needing(), {"y": np.ones(2)}, errors.DataError, r"y without X"),
        (
            needing(),
            {"X": np.ones(2), "y": np.ones(3)},
            errors.ShapeError,
            "2 examples.*3 examples",
        ),
        (needing(), {"X": np.array([[1.0], [np.nan]])}, errors.DataError, r"1"),
    ],
)
def test_what_is_missing_is_named(
    selector: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        nb.select_bayesian_components(TrainedStub({"A": dense()}), None, selector, 1, **options)
    assert not selector.seen


def test_one_snapshot_is_not_enough() -> None:
    det = TrainedStub({"A": dense()}, trajectory=ONE)
    with pytest.raises(errors.SelectionError, match=r"took 1\b"):
        nb.select_bayesian_components(det, None, needing("trajectory"), 1)


def test_gradients_of_no_batch_are_none() -> None:
    det = TrainedStub({"A": dense()}, gradients=Moments.empty({"A": dense()}))
    with pytest.raises(errors.SelectionError, match="none were kept"):
        nb.select_bayesian_components(det, None, needing("gradients"), 1)


@dataclass(frozen=True)
class OnlyB(Scores):
    """Looks at the layer B alone."""

    def restrict(self, layers: Any) -> list[Layer]:
        return [layer for layer in layers if layer.name == "B"]


def test_a_selector_may_leave_layers_out() -> None:
    scores = OnlyB({"B/kernel": descending((3, 2))})
    det = TrainedStub({"A": dense(), "B": {"kernel": jnp.ones((3, 2))}})
    subset = nb.select_bayesian_components(det, None, scores, 2)
    assert subset == nb.ProbabilisticSubset.pairs({"B": [(0, 0), (0, 1)]})
    with pytest.raises(errors.SelectionError, match=r"'scores' leaves out every layer.*: A\."):
        nb.select_bayesian_components(det, ["A"], scores, 2)


def test_storage_is_restored_from_pairs() -> None:
    leaf = Leaf("C/kernel", "kernel", (3, 2, 4, 5), (3, 2), ("in", "out"))
    values = np.arange(120.0).reshape(leaf.shape)
    assert (leaf.from_pairs(leaf.by_pair(values)) == values).all()


# ---- bad input

NO_PAIRS = {"num_pairs_per_layer": None}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layer_names": ["Hed"]}, errors.UnknownLayerError, r"'Hed'.*Did you mean 'Head'"),
        ({"layer_names": ["Block*"]}, errors.UnknownLayerError, r"'Block\*'"),
        ({"exclude": ["Hed"]}, errors.UnknownLayerError, r"Did you mean 'Head'"),
        ({"layer_names": ["Head", "Norm"]}, errors.SelectionError, r"'Norm' matches no kernel"),
        ({"layer_names": []}, errors.SelectionError, r"No layer is left.*Possible: Head"),
        ({"exclude": ["**"]}, errors.SelectionError, r"No layer is left"),
        ({"num_pairs_per_layer": 7}, errors.SelectionError, r"'Head' has 6 of 7.*=6.*\['Head'\]"),
        ({"num_pairs_per_layer": 0}, errors.OptionError, r"got 0"),
        ({"num_pairs_per_layer": True}, errors.OptionError, r"got True"),
        ({"num_pairs_per_layer": 2.0}, errors.OptionError, r"got 2\.0"),
        ({"num_pairs_per_layer": "2"}, errors.OptionError, r"got '2'"),
        ({"num_pairs_per_layer": 2, "num_weights": 3}, errors.OptionError, r"2 budgets: num_pairs"),
        ({"num_weights": 3, "fraction": 0.1, **NO_PAIRS}, errors.OptionError, r"2 budgets"),
        ({"num_weights": 0, **NO_PAIRS}, errors.OptionError, r"num_weights is an integer.*got 0"),
        ({"num_weights": 1, **NO_PAIRS}, errors.SelectionError, r"budget of 1 is less than any"),
        ({"num_weights": 10, **NO_PAIRS}, errors.SelectionError, r"10 .*Head\) hold 9.*=9"),
        ({"fraction": 0.0, **NO_PAIRS}, errors.OptionError, r"fraction.*got 0\.0"),
        ({"fraction": 1.5, **NO_PAIRS}, errors.OptionError, r"fraction.*got 1\.5"),
        ({"fraction": 0.01, **NO_PAIRS}, errors.OptionError, r"0\.01 of 12 weights is none"),
        ({"key": "seed"}, errors.OptionError, r"random key.*got 'seed'"),
        ({"method": "varianze"}, errors.UnknownSelectorError, r"Did you mean 'variance'"),
        ({"method": Scores}, errors.OptionError, r"name, needs, and score or choose"),
        ({"method": 3}, errors.OptionError, r"got 3"),
        ({"threshold": 0.1}, errors.OptionError, r"threshold.*in addition to a Scores"),
        ({"method": "magnitude", "treshold": 1.0}, errors.OptionError, r"mean 'threshold'"),
        ({"method": "random", "name": "x"}, errors.OptionError, r"no option 'name'.*none"),
    ],
)
def test_bad_input_says_what_to_type(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    det = TrainedStub({"Head": dense(), "Norm": {"scale": jnp.ones(3)}})
    given_by_hand = {
        "method": Scores({"Head/kernel": descending((2, 3))}),
        "num_pairs_per_layer": 2,
    }
    with pytest.raises(error, match=message):
        nb.select_bayesian_components(det, **{**given_by_hand, **arguments})


def test_a_short_component_is_named_with_its_share() -> None:
    det = TrainedStub(attention_params())
    with pytest.raises(errors.SelectionError, match=r"'Attention/query' has 12 of 13.*=48"):
        nb.select_bayesian_components(det, ["Attention"], Scores(ATTENTION_SCORES), 49)
    nb.select_bayesian_components(det, ["Attention"], Scores(ATTENTION_SCORES), 48)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    scores = descending((2, 3))
    scores[1, 1] = bad
    with pytest.raises(errors.SelectionError, match=r"'scores' on 'A'.*not finite"):
        nb.select_bayesian_components(
            TrainedStub({"A": dense()}), None, Scores({"A/kernel": scores}), 1
        )


def test_scores_of_the_wrong_shape_are_refused() -> None:
    det = TrainedStub({"A": dense()})
    with pytest.raises(
        errors.SelectionError, match=r"shape \(3, 2\).*'A/kernel' of shape \(2, 3\)"
    ):
        nb.select_bayesian_components(det, None, Scores({"A/kernel": descending((3, 2))}), 1)


def test_kernels_that_pairs_cannot_distinguish_are_refused() -> None:
    def layers(params: Any) -> tuple[nb.Layer, ...]:
        names = {"Cell": ("w", "kernel"), "A": ("kernel",)}
        return tuple(
            nb.Layer(
                layer,
                "dense",
                tuple(
                    nb.Leaf(f"{layer}/{n}", "kernel", params[layer][n].shape, (0, 1), ("in", "out"))
                    for n in leaves
                ),
            )
            for layer, leaves in names.items()
        )

    network = nb.Network.from_functions(lambda key, x: {}, lambda p, x: x, layers=layers)
    params = {"Cell": {"w": jnp.ones((2, 2)), "kernel": jnp.ones((2, 2))}, "A": dense()}
    det = TrainedStub(params, network=network)
    scores = Scores({"A/kernel": descending((2, 3))})
    with pytest.raises(errors.SelectionError, match=r"kernels of 'Cell'.*exclude=\['Cell'\]"):
        nb.select_bayesian_components(det, None, scores, 1)
    nb.select_bayesian_components(det, None, scores, 1, exclude=["Cell"])


# ---- names


def test_selectors_are_listed_without_importing_them() -> None:
    known = nb.list_selectors()
    assert set(known) >= {"clustering", "gradient", "magnitude", "random", "variance"}
    assert known["clustering"].extra == "selectors"


def test_a_selector_is_returned_as_it_is() -> None:
    selector = Scores({})
    assert get_selector(selector) is selector
