"""The check that a subset lets randomness in early enough."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbcore as nb
from nbcore.testing.example import example_network, example_params
from nbcore_flax import FlaxMLP

S = nb.ProbabilisticSubset
X = np.ones((1, 3), np.float32)


def split_of(subset: nb.ProbabilisticSubset, hidden: tuple[int, ...] = (5,), outputs: int = 2):
    network = nb.as_network(FlaxMLP(hidden_dims=hidden, target_dim=outputs), example=X)
    shapes = jax.eval_shape(network.init, jax.random.key(0), X)
    return subset.split(network, jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes))


@pytest.mark.parametrize(
    ("subset", "enough"),
    [
        (S.last(0), False),
        (S.first_and_last(), True),
        (S.everything(), True),
        (S.layers("Dense0"), True),
        (S.pairs({"Dense0": [(0, 1), (2, 1)]}), False),  # two weights into one unit
        (S.pairs({"Dense0": [(0, 1), (0, 3)]}), True),
        (S.pairs({"Dense0": [(0, 1), (0, 3)]}, include_bias=False), True),
        (S.pairs({"Dense0": [(0, 1)], "Dense1": [(0, 0), (1, 1)]}), False),
    ],
)
def test_units_of_the_first_layer_are_counted(subset: Any, enough: bool) -> None:
    split = split_of(subset)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert nb.check_expressiveness(split, 2) is enough
    assert [w.category for w in caught] == [nb.ExpressivenessWarning] * (not enough)


@given(st.integers(1, 4), st.integers(1, 6))
def test_the_default_subset_is_never_warned_about(width: int, outputs: int) -> None:
    split = split_of(S.first_and_last(), (width,), outputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nb.check_expressiveness(split, outputs)


def test_features_of_an_embedding_are_units() -> None:
    network, params = example_network(), example_params()
    for pairs, enough in (([(1, 0), (2, 0)], False), ([(1, 0), (1, 3)], True)):
        split = S.pairs({"Embed": pairs}).split(network, params)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", nb.ExpressivenessWarning)
            assert nb.check_expressiveness(split, 2) is enough


def test_without_a_call_order_nothing_is_said() -> None:
    network = nb.as_network((lambda key, x: {}, lambda p, x: x @ p["a"]["kernel"]))
    split = S.everything().split(network, {"a": {"kernel": np.ones((2, 2), np.float32)}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nb.check_expressiveness(split, 9)


def test_the_warning_says_what_to_add() -> None:
    with pytest.warns(nb.ExpressivenessWarning, match=r"'Dense0', 0 units.*layers\('Dense0'\)"):
        nb.check_expressiveness(split_of(S.last(0)), 2)


class Reached(Exception):
    """Raised in place of sampling."""


@dataclass(frozen=True)
class Never:
    """A sampler that is reached and does not sample."""

    name: ClassVar[str] = "never"
    capabilities: ClassVar[frozenset[str]] = frozenset()

    def kernel(self, num_warmup: int) -> nb.Kernel:
        raise Reached


def test_fit_warns_and_the_default_does_not() -> None:
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    network = nb.as_network(FlaxMLP(hidden_dims=(5,), target_dim=2), example=X)
    params = network.init(jax.random.key(0), X)

    def told(y: np.ndarray, **chosen: Any) -> int:
        model = nb.PartialBNN(network, params, **chosen)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(Reached):
                model.fit(x, y, backend=Never(), progress=False)
        return sum(w.category is nb.ExpressivenessWarning for w in caught)

    assert told(x[:, :2]) == 0
    assert told(x[:, :2], num_probabilistic_layers=0) == 1
    labels = np.arange(6) % 2  # a softmax expresses every distribution of classes
    assert told(labels, num_probabilistic_layers=0, num_classes=2) == 0
