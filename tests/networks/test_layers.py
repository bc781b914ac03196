"""Leaves become layers, and layers come in the order in which the network calls them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

import nbcore as nb
from nbcore.common.paths import leaf_paths, leaves_by_path
from nbcore.networks.call_order import in_call_order
from nbcore.networks.inference import infer_layers
from nbcore.networks.layers import Leaf

X = jnp.ones((2, 3))


def dense(width_in: int = 3, width_out: int = 3) -> dict[str, jax.Array]:
    return {"kernel": jnp.ones((width_in, width_out)), "bias": jnp.ones(width_out)}


def call(p, x):
    return x @ p["kernel"] + p["bias"]


def order_of(apply, params, x=X) -> tuple[list[str], list[str]]:
    """Names in call order, and names of the outputs."""
    layers = in_call_order(infer_layers(params), apply, params, x)
    assert sorted(ly.name for ly in layers) == sorted(ly.name for ly in infer_layers(params))
    assert [ly.order for ly in layers] == list(range(len(layers)))
    return [ly.name for ly in layers], [ly.name for ly in layers if ly.is_output]


# --- call order ----------------------------------------------------------------------------


@given(st.permutations(["a", "b", "c", "d", "e"]))
def test_the_order_is_that_of_the_calls_not_of_the_names(names):
    def apply(p, x):
        for name in names:
            x = jnp.tanh(call(p[name], x))
        return x

    assert order_of(apply, {n: dense() for n in "abcde"}) == (names, names[-1:])


def test_two_heads_are_two_outputs():
    def apply(p, x):
        h = call(p["z"], x)
        return jnp.concatenate([call(p["b"], h), call(p["a"], h)], axis=1)

    assert order_of(apply, {n: dense() for n in "abz"}) == (["z", "b", "a"], ["b", "a"])


def test_a_skip_connection_is_no_output():
    def apply(p, x):
        h = call(p["z"], x)
        return h + call(p["a"], h)

    assert order_of(apply, {n: dense() for n in "az"}) == (["z", "a"], ["a"])


def test_a_norm_after_the_last_weights_is_no_output():
    def apply(p, x):
        return call(p["a"], x) * p["n"]["scale"]

    params = {"a": dense(), "n": {"scale": jnp.ones(3)}}
    assert order_of(apply, params) == (["a", "n"], ["a"])


def test_a_tied_embedding_is_first_and_output():
    def apply(p, x):
        h = call(p["d"], p["e"]["embedding"][x].sum(axis=1))
        return h @ p["e"]["embedding"].T

    params = {"d": dense(4, 4), "e": {"embedding": jnp.ones((7, 4))}}
    assert order_of(apply, params, jnp.ones((2, 3), int)) == (["e", "d"], ["e"])


def test_a_layer_that_is_used_often_leaves_unused_ones_last():
    def apply(p, x):
        for _ in range(9):
            x = call(p["z"], x)
        return call(p["y"], x)

    assert order_of(apply, {n: dense() for n in "ayz"}) == (["z", "y", "a"], ["y"])


@pytest.mark.parametrize("loop", ["scan", "while", "fori"])
def test_weights_inside_loops(loop):
    def body(p, h):
        return jnp.tanh(call(p["y"], jnp.tanh(call(p["z"], h))))

    def apply(p, x):
        h = call(p["first"], x)
        if loop == "scan":
            h = jax.lax.scan(lambda h, _: (body(p, h), None), h, length=3)[0]
        elif loop == "fori":
            h = jax.lax.fori_loop(0, jnp.argmax(x[0]) + 2, lambda i, h: body(p, h), h)
        else:
            h = jax.lax.while_loop(lambda h: h.sum() < 10, lambda h: body(p, h) + 1, h)
        return call(p["a"], h)

    params = {n: dense() for n in ["a", "first", "y", "z"]}
    assert order_of(apply, params) == (["first", "z", "y", "a"], ["a"])


def test_a_network_that_ends_in_a_loop_ends_in_its_last_layer():
    def apply(p, x):
        return jax.lax.scan(
            lambda h, _: (call(p["a"], jnp.tanh(call(p["z"], h))), None), x, length=3
        )[0]

    assert order_of(apply, {n: dense() for n in "az"}) == (["z", "a"], ["a"])


def test_weights_inside_branches():
    def apply(p, x):
        h = call(p["c"], x)
        left, right = (lambda h, n=n: call(p[n], h) for n in "ba")
        return call(p["0"], jax.lax.cond(x[0, 0] > 0, left, right, h))

    names, outputs = order_of(apply, {n: dense() for n in "0abc"})
    assert names[0] == "c"
    assert set(names[1:3]) == {"a", "b"}
    assert names[3] == "0"
    assert outputs == ["0"]


def test_weights_inside_jit_remat_and_custom_derivatives():
    @jax.custom_jvp
    def clipped(x):
        return jnp.clip(x, -1, 1)

    clipped.defjvp(lambda primals, tangents: (clipped(*primals), tangents[0]))

    def apply(p, x):
        h = clipped(jax.jit(call)(p["c"], x))
        return jax.checkpoint(call)(p["a"], jax.nn.relu(jax.checkpoint(jax.jit(call))(p["b"], h)))

    assert order_of(apply, {n: dense() for n in "abc"}) == (["c", "b", "a"], ["a"])


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.OptimizedLSTMCell])
def test_a_recurrent_cell_is_one_hidden_layer(cell):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.RNN(cell(4), name="z")(x)
            return nn.Dense(1, name="a")(h[:, -1])

    x = jnp.ones((2, 5, 3))
    network = nb.as_network(Net(), example=x)
    params = network.init(jax.random.key(0), x)
    layers = network.layers(params)
    assert [ly.kind for ly in layers] == ["recurrent", "dense"]
    assert [ly.is_output for ly in layers] == [False, True]
    assert layers[0].is_hidden
    assert sum(ly.size for ly in layers) == sum(a.size for a in jax.tree.leaves(params))
    gate = layers[0].components[0]
    pair = nb.ProbabilisticSubset.pairs({layers[0].name: {gate: [(0, 1)]}})
    assert pair.split(network, params).size in (1, 2)  # with its bias where the gate has one


# --- what leaves are -----------------------------------------------------------------------


def test_names_and_shapes_tell_kinds_and_roles():
    params = {
        "conv": {"kernel": np.ones((3, 3, 2, 4)), "bias": np.ones(4)},
        "emb": {"embedding": np.ones((9, 4))},
        "list": [(np.ones((4, 2)), np.ones(2))],
        "norm": {"scale": np.ones(4), "bias": np.ones(4)},
        "steps": np.zeros((), np.int32),
        "stats": {"norm": {"mean": np.ones(4)}},
    }
    layers = {ly.name: ly for ly in infer_layers(params, state=("stats",))}
    kinds = {name: ly.kind for name, ly in layers.items()}
    assert kinds == {
        "conv": "convolution", "emb": "embedding", "list/0": "dense", "norm": "norm",
        "params": "other", "stats/norm": "other",
    }  # fmt: skip
    roles = {leaf.path: leaf.role for ly in layers.values() for leaf in ly.leaves}
    assert roles == {
        "conv/kernel": "kernel", "conv/bias": "bias", "emb/embedding": "embedding",
        "list/0/0": "kernel", "list/0/1": "bias", "norm/scale": "scale", "norm/bias": "bias",
        "steps": "state", "stats/norm/mean": "state",
    }  # fmt: skip
    assert layers["stats/norm"].size == layers["params"].size == 0
    conv = layers["conv"].weights[0]
    assert (conv.axes, conv.window_axes, conv.pair_shape) == (("in", "out"), (0, 1), (2, 4))
    assert layers["conv"].bias_of(conv).path == "conv/bias"


def test_kernels_of_one_dict_are_told_apart_by_their_names():
    params = {"w1": np.ones((3, 2)), "b1": np.ones(2), "w2": np.ones((2, 1)), "b2": np.ones(1)}
    (found,) = infer_layers(params)
    assert sorted(found.components) == ["w1", "w2"]
    masks = nb.ProbabilisticSubset.pairs({found.name: {"w2": [(1, 0)]}}).masks([found])
    assert {p: m.sum() for p, m in masks.items()} == {"b1": 0, "b2": 1, "w1": 0, "w2": 1}
    masks = nb.ProbabilisticSubset.layers("params/w1").masks([found])
    assert {p: m.sum() for p, m in masks.items()} == {"b1": 2, "b2": 0, "w1": 6, "w2": 0}


def test_a_prefix_is_left_out_of_names_but_not_of_paths():
    (found,) = infer_layers({"params": {"a": dense()}}, prefix="params")
    assert found.name == "a"
    assert {leaf.path for leaf in found.leaves} == {"params/a/kernel", "params/a/bias"}


def test_paths_follow_the_leaves():
    tree = {"b": [1.0, (2.0, 3.0)], "a": {"x": 4.0}}
    assert leaf_paths(tree) == ["a/x", "b/0", "b/1/0", "b/1/1"]
    assert leaves_by_path(tree) == {"a/x": 4.0, "b/0": 1.0, "b/1/0": 2.0, "b/1/1": 3.0}


@given(
    st.permutations([0, 1, 2, 3]),
    st.integers(1, 4),
    st.lists(st.integers(1, 4), min_size=4, max_size=4),
    st.data(),
)
def test_a_pair_covers_its_window_wherever_the_axes_are_stored(axes, num_axes, shape, data):
    pair_axes = tuple(axes[:num_axes])
    leaf = Leaf("w", "kernel", tuple(shape), pair_axes, ("axis",) * num_axes)
    pair = tuple(data.draw(st.integers(0, n - 1)) for n in leaf.pair_shape)
    (entries,) = leaf.entries(np.array([pair]))
    where = np.stack(np.unravel_index(entries, leaf.shape), axis=1)
    assert (where[:, list(pair_axes)] == pair).all()
    assert len({tuple(w) for w in where}) == leaf.size // leaf.num_pairs == len(where)
    values = np.arange(leaf.size).reshape(leaf.shape)
    assert np.array_equal(leaf.by_pair(values)[pair], values.ravel()[entries])


def test_all_pairs_together_are_the_leaf_once():
    leaf = Leaf("w", "kernel", (2, 3, 4, 5), (2, 3), ("in", "out"))
    every = leaf.entries(np.argwhere(np.ones(leaf.pair_shape, bool)))
    assert np.array_equal(np.sort(every.ravel()), np.arange(leaf.size))
