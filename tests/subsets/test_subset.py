"""Which weights: rules name what they say, sets obey the laws of sets, mistakes are explained."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbcore as nb
from nbcore.errors import NetworkError, PairError, SubsetError, UnknownLayerError
from nbcore.networks.inference import infer_layers
from nbcore.networks.layers import Layer, LayerKind, Leaf
from nbcore.subsets.patterns import matches

S = nb.ProbabilisticSubset


def layer(
    name: str, kind: LayerKind, order: int, shape, axes, *, output=False, bias=(), component=""
):
    every = tuple(range(len(shape)))
    pair_axes = every[-2:] if kind == "convolution" else every
    role = "embedding" if kind == "embedding" else "kernel"
    leaves = [Leaf(f"{name}/kernel", role, shape, pair_axes, axes, component)]
    if bias:
        leaves.append(Leaf(f"{name}/bias", "bias", bias, tuple(range(len(bias))), ("out",)))
    return Layer(name, kind, tuple(leaves), order, output)


def attention(name: str, order: int) -> Layer:
    (found,) = infer_layers(
        {
            name: {
                part: {"kernel": np.zeros(shape), "bias": np.zeros(bias)}
                for part, shape, bias in [
                    ("query", (4, 2, 3), (2, 3)),
                    ("key", (4, 2, 3), (2, 3)),
                    ("value", (4, 2, 3), (2, 3)),
                    ("out", (2, 3, 4), (4,)),
                ]
            }
        }
    )
    return Layer(found.name, found.kind, found.leaves, order, is_output=False)


STATE = Leaf("stats/mean", "state", (3,), (0,), ("out",))
LAYERS = (  # not in call order
    layer("head/b", "dense", 6, (3, 1), ("in", "out"), output=True, bias=(1,)),
    layer("head/a", "dense", 5, (3, 2), ("in", "out"), output=True, bias=(2,)),
    layer("embed", "embedding", 0, (5, 4), ("token", "feature")),
    attention("block/attention", 2),
    layer("block/dense", "dense", 3, (4, 3), ("in", "out"), bias=(3,)),
    layer("conv", "convolution", 1, (2, 3, 4, 4), ("in", "out"), bias=(4,)),
    Layer("norm", "norm", (Leaf("norm/scale", "scale", (3,), (0,), ("out",)), STATE), 4, False),
)
PATHS = [leaf.path for ly in LAYERS for leaf in ly.leaves]


def chosen(subset: nb.ProbabilisticSubset) -> dict[str, list[tuple[int, ...]]]:
    """The stochastic entries of each leaf that has some."""
    masks = subset.masks(LAYERS)
    assert set(masks) == set(PATHS)
    return {p: [tuple(map(int, i)) for i in np.argwhere(m)] for p, m in masks.items() if m.any()}


def whole(*names: str) -> set[str]:
    """Paths of all weights of some layers."""
    return {
        leaf.path for ly in LAYERS if ly.name in names for leaf in ly.leaves if leaf.role != "state"
    }


def assert_whole(subset: nb.ProbabilisticSubset, *names: str) -> None:
    masks = subset.masks(LAYERS)
    assert {p for p, m in masks.items() if m.any()} == whole(*names)
    assert all(masks[path].all() for path in whole(*names))


# --- what the rules name -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("embed", ["embed"]),
        ("head", ["head/a", "head/b"]),
        ("head/*", ["head/a", "head/b"]),
        ("*/a*", ["head/a", "block/attention"]),
        ("block/**", ["block/attention", "block/dense"]),
        ("**/d*", ["block/dense"]),
        ("*e*", ["embed", "head/a", "head/b"]),
        ("**", [ly.name for ly in LAYERS]),
    ],
)
def test_patterns_name_layers_and_ancestors(pattern, names):
    assert_whole(S.layers(pattern), *names)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("a.c", "abc", False),
        ("a[b]", "a[b]", True),
        ("a", "ab", False),
        ("b", "a/b", False),
        ("*", "a/b", True),
        ("a*d", "a/b/cd", False),
        ("a**d", "a/b/cd", True),
    ],
)
def test_only_stars_are_special(pattern, name, expected):
    assert matches(pattern, Layer(name, "dense", ())) is expected


def test_a_component_is_named_with_its_bias():
    masks = S.layers("block/attention/query").masks(LAYERS)
    full = {path for path, mask in masks.items() if mask.all()}
    assert full == {"block/attention/query/kernel", "block/attention/query/bias"}


def test_last_counts_hidden_layers_in_call_order():
    heads = ["head/a", "head/b"]
    assert_whole(S.last(0), *heads)
    assert_whole(S.last(1), "block/dense", *heads)
    assert_whole(S.last(2), "block/dense", "block/attention", *heads)
    assert_whole(S.last(3), "block/dense", "block/attention", "conv", *heads)
    assert S.last(np.int64(2)) == S.last(2)


def test_first_and_last_and_everything():
    assert_whole(S.first_and_last(), "embed", "head/a", "head/b")
    assert_whole(S.everything(), *(ly.name for ly in LAYERS))
    assert not S.everything().masks(LAYERS)["stats/mean"].any()


def test_a_dense_pair_has_the_bias_of_its_output():
    assert chosen(S.pairs({"head/a": [(0, 1), (2, 1)]})) == {
        "head/a/kernel": [(0, 1), (2, 1)],
        "head/a/bias": [(1,)],
    }
    without = S.pairs({"head/a": [(0, 1)]}, include_bias=False)
    assert chosen(without) == {"head/a/kernel": [(0, 1)]}


def test_an_embedding_pair_is_a_token_and_a_feature():
    assert chosen(S.pairs({"embed": [(4, 0)]})) == {"embed/kernel": [(4, 0)]}


def test_a_convolution_pair_covers_the_window():
    found = chosen(S.pairs({"conv": [(1, 3)]}))
    window = [(i, j, 1, 3) for i in range(2) for j in range(3)]
    assert found == {"conv/kernel": window, "conv/bias": [(3,)]}


def test_attention_pairs_go_by_component():
    found = chosen(S.pairs({"block/attention": {"query": [(3, 1, 2)], "out": [(1, 0, 2)]}}))
    assert found == {
        "block/attention/query/kernel": [(3, 1, 2)],
        "block/attention/query/bias": [(1, 2)],
        "block/attention/out/kernel": [(1, 0, 2)],
        "block/attention/out/bias": [(2,)],
    }


def test_pairs_may_be_arrays():
    pairs = [(0, 1), (2, 0)]
    for array in (np.array(pairs), jnp.array(pairs), np.array(pairs, np.uint8), map(list, pairs)):
        assert S.pairs({"head/a": array}) == S.pairs({"head/a": pairs})


# --- sets ----------------------------------------------------------------------------------

patterns = st.sampled_from(["embed", "head", "block/**", "*/attention/key", "norm", "conv", "**"])
pair_sets = st.builds(
    lambda p, q, bias: S.pairs({"head/a": sorted(p), "conv": sorted(q)}, include_bias=bias),
    st.sets(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1),
    st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=5),
    st.booleans(),
)
simple = st.one_of(
    st.lists(patterns, min_size=1, max_size=3).map(lambda p: S.layers(*p)),
    pair_sets,
    st.integers(0, 3).map(S.last),
    st.sampled_from([S.first_and_last(), S.everything()]),
)
subsets = st.recursive(
    simple,
    lambda s: st.builds(lambda a, b, minus: a - b if minus else a | b, s, s, st.booleans()),
    max_leaves=5,
)


def mask(subset: nb.ProbabilisticSubset) -> np.ndarray:
    masks = subset.masks(LAYERS)
    return np.concatenate([masks[path].ravel() for path in PATHS])


@given(subsets, subsets, subsets)
def test_the_laws_of_sets(s, t, u):
    a, b, c = mask(s), mask(t), mask(u)
    assert np.array_equal(mask(s | t), a | b)
    assert np.array_equal(mask(s - t), a & ~b)
    assert np.array_equal(mask(s - (t - u)), (a & ~b) | (a & c))
    assert np.array_equal(mask((s | t) - u), (a | b) & ~c)
    assert np.array_equal(mask(s | (t - u)), a | (b & ~c))
    assert not mask(s - s).any()


@given(subsets)
def test_subsets_are_values(s):
    again = S.from_json(s.to_json())
    assert again == s
    assert hash(again) == hash(s)
    assert again.to_json() == s.to_json()
    assert np.array_equal(mask(again), mask(s))
    assert isinstance(json.loads(s.to_json()), dict)


@given(subsets)
def test_state_is_in_no_subset(s):
    assert not s.masks(LAYERS)["stats/mean"].any()


# --- mistakes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: S.layers(), SubsetError, r"got no name.*layers\('Dense0'\)"),
        (lambda: S.layers(["a", "b"]), SubsetError, r"got list.*layers\('Dense0', 'Dense1'\)"),
        (lambda: S.last(-1), SubsetError, r"got -1.*last\(1\)"),
        (lambda: S.last(1.5), SubsetError, r"got 1.5.*last\(1\)"),
        (lambda: S.last(True), SubsetError, r"got True"),
        (lambda: S.pairs({}), PairError, r"no layer.*pairs\(\{'Dense0': \[\(0, 1\)\]\}\)"),
        (lambda: S.pairs([(0, 1)]), PairError, r"dict by layer, got list.*pairs\(\{'Dense0'"),
        (lambda: S.pairs({0: [(0, 1)]}), PairError, r"keyed by names, got 0.*'0'"),
        (lambda: S.pairs({"a": []}), PairError, r"'a' is empty. Leave the layer out"),
        (lambda: S.pairs({"a": [(0, 1), (0, 1)]}), PairError, r"\(0, 1\) of 'a' is given twice"),
        (lambda: S.pairs({"a": (0, 1)}), PairError, r"index tuples such as \[\(0, 1\)"),
        (lambda: S.pairs({"a": [(0, 1.0)]}), PairError, r"not an integer"),
        (lambda: S.pairs({"a": [("0", "1")]}), PairError, r"not an integer"),
        (lambda: S.pairs({"a": np.ones((2, 2))}), PairError, r"not an integer"),
        (lambda: S.pairs({"a": np.eye(2, dtype=bool)}), PairError, r"not an integer"),
        (lambda: S.pairs({"a": None}), PairError, r"index tuples"),
        (lambda: S.from_json("nothing"), SubsetError, r"not a subset written by to_json"),
        (lambda: S.from_json("[1]"), SubsetError, r"not a subset written by to_json"),
        (lambda: S.from_json('{"format": "x"}'), SubsetError, r"'x'; possible: 'nbcore-subset-1'"),
    ],
)
def test_what_is_wrong_at_once(make, error, says):
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize(
    ("term", "says"),
    [
        ({"sign": "*", "rule": "everything"}, r"'\+' or '-', got '\*'"),
        ({"sign": "+", "rule": "most"}, r"rule 'most'; possible: layers, pairs"),
        ({"sign": "+", "rule": "last", "count": "2"}, r"last\(\) counts hidden layers, got '2'"),
        ({"sign": "+", "rule": "last", "size": 2}, r"unexpected keyword"),
        ({"sign": "+", "rule": "layers", "patterns": [1]}, r"A layer name is a string"),
        ({"sign": "+", "rule": "pairs", "items": [["a", "", [[0, 0.5]]]]}, r"not an integer"),
        ("everything", r"not a subset written by to_json"),
    ],
)
def test_json_is_checked_like_python(term, says):
    with pytest.raises(SubsetError, match=says):
        S.from_json(json.dumps({"format": "nbcore-subset-1", "terms": [term]}))


@pytest.mark.parametrize(
    ("subset", "error", "says"),
    [
        (S.layers("heads/a"), UnknownLayerError, r"'heads/a'.*Did you mean 'head/a'.*Possible"),
        (S.layers("Embed"), UnknownLayerError, r"Did you mean 'embed'"),
        (S.layers("block/attention/qery"), UnknownLayerError, r"'block/attention/query'"),
        (S.layers("x*"), UnknownLayerError, r"No layer matches 'x\*'.*Possible: head/b, head/a"),
        (S.pairs({"emebd": [(0, 0)]}), UnknownLayerError, r"Did you mean 'embed'"),
        (S.everything() - S.layers("nothing"), UnknownLayerError, r"'nothing'"),
        (S.pairs({"head/a": [(3, 0)]}), PairError, r"\(3, 0\) .*'head/a'.*in 3, possible 0 to 2"),
        (S.pairs({"head/a": [(0, -1)]}), PairError, r"out -1, possible 0 to 1"),
        (S.pairs({"embed": [(0, 4)]}), PairError, r"feature 4, possible 0 to 3"),
        (S.pairs({"conv": [(0, 4)]}), PairError, r"out 4, possible 0 to 3"),
        (S.pairs({"head/a": [(1,)]}), PairError, r"indexed by \(in, out\).*\(0, 0\)"),
        (
            S.pairs({"block/attention": [(0, 1)]}),
            PairError,
            r"key, out, query, value;.*not a flat list.*pairs\(\{'block/attention': \{'key'",
        ),
        (S.pairs({"block/attention": {"qury": [(0, 0, 0)]}}), PairError, r"Did you mean 'query'"),
        (
            S.pairs({"block/attention": {"out": [(2, 0, 0)]}}),
            PairError,
            r"'block/attention/out' is out of range: head 2",
        ),
        (S.pairs({"head/a": {"query": [(0, 1)]}}), PairError, r"no component.*give a list"),
        (S.pairs({"norm": [(0,)]}), PairError, r"norm\) has no kernel.*layers\('norm'\)"),
        (S.last(4), SubsetError, r"more hidden layers than there are: 3 \(conv, .*last\(3\)"),
    ],
)
def test_what_does_not_fit_the_network(subset, error, says):
    with pytest.raises(error, match=says):
        subset.masks(LAYERS)


@pytest.mark.parametrize("subset", [S.last(1), S.first_and_last(), S.everything() - S.last(0)])
def test_an_order_that_is_unknown_cannot_be_asked_for(subset):
    unordered = [Layer(ly.name, ly.kind, ly.leaves) for ly in LAYERS]
    with pytest.raises(NetworkError, match=r"nb\.as_network\(model, example=X\[:1\]\)"):
        subset.masks(unordered)


def test_an_empty_subset_is_refused_when_it_is_split():
    network = nb.Network.from_functions(lambda key, x: None, lambda p, x: x @ p["out"]["w"])
    params = {"out": {"w": jnp.ones((2, 1))}}
    with pytest.raises(SubsetError, match=r"empty.*out.*ProbabilisticSubset\.everything\(\)"):
        (S.layers("out") - S.everything()).split(network, params)


# --- roles, kinds and single arrays ------------------------------------------------------------


NORMED = infer_layers(
    {
        "Dense0": {"kernel": np.ones((3, 4)), "bias": np.ones(4)},
        "Norm0": {"scale": np.ones(4), "bias": np.ones(4)},
        "enc": {"Dense1": {"w": np.ones((4, 2)), "b": np.ones(2), "count": np.ones((), int)}},
    }
)


@pytest.mark.parametrize(
    ("subset", "paths"),
    [
        (S.layers("**/bias"), ["Dense0/bias", "Norm0/bias", "enc/Dense1/b"]),
        (S.layers("*/bias"), ["Dense0/bias", "Norm0/bias"]),
        (S.layers("Dense0/kernel"), ["Dense0/kernel"]),
        (S.layers("**/w"), ["enc/Dense1/w"]),
        (S.layers("enc/Dense1/kernel"), ["enc/Dense1/w"]),
        (S.layers(role="bias"), ["Dense0/bias", "Norm0/bias", "enc/Dense1/b"]),
        (S.layers("Norm*", role="bias"), ["Norm0/bias"]),
        (S.layers(kind="norm"), ["Norm0/bias", "Norm0/scale"]),
        (S.layers(kind="dense", role="kernel"), ["Dense0/kernel", "enc/Dense1/w"]),
        (S.everything() - S.layers("**/bias"), ["Dense0/kernel", "Norm0/scale", "enc/Dense1/w"]),
    ],
)
def test_arrays_are_reached_by_role_name_and_kind(subset, paths):
    masks = subset.masks(NORMED)
    assert sorted(path for path, mask in masks.items() if mask.all()) == paths
    assert not any(mask.any() for path, mask in masks.items() if path not in paths)
    assert S.from_json(subset.to_json()) == subset
    assert hash(S.from_json(subset.to_json())) == hash(subset)


def test_a_subset_of_names_alone_is_written_as_before():
    (term,) = json.loads(S.layers("Dense0").to_json())["terms"]
    assert term == {"sign": "+", "rule": "layers", "patterns": ["Dense0"]}


def test_unknown_roles_and_kinds_and_what_they_leave_are_named():
    with pytest.raises(SubsetError, match=r"kind is one of.*'norms'.*Did you mean 'norm'"):
        S.layers(kind="norms")
    with pytest.raises(SubsetError, match=r"role is one of.*'state'"):
        S.layers(role="state")
    with pytest.raises(UnknownLayerError, match="'Dense0' matches no weights of kind='norm'"):
        S.layers("Dense0", kind="norm").masks(NORMED)
    with pytest.raises(UnknownLayerError, match=r"'enc/Dense1/count' matches no weights.*state"):
        S.layers("enc/Dense1/count").masks(NORMED)
    with pytest.raises(UnknownLayerError, match=r"No layer matches '\*\*/gamma'"):
        S.layers("**/gamma").masks(NORMED)
