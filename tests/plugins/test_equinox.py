"""Any Equinox module is the same function as a network; pairs are (in, out) as everywhere."""

from __future__ import annotations

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore.common.paths import leaf_paths, leaves_by_path
from nbcore.errors import NetworkError
from nbcore.networks.describe import layers_of
from nbcore.networks.network import Padding
from nbcore.testing import NetworkCase, parametrize_with_checks

eqx = pytest.importorskip("equinox")

S = nb.ProbabilisticSubset
KEY = jax.random.key(0)
TOKENS = jnp.array([[3, 1, 4], [1, 5, 2], [6, 0, 3]])


def values(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def modules():
    """Modules as users write them; in a function, since equinox may be missing."""

    class Attentive(eqx.Module):
        embed: eqx.nn.Embedding
        attend: eqx.nn.MultiheadAttention
        norm: eqx.nn.LayerNorm
        out: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.embed = eqx.nn.Embedding(7, 4, key=keys[0])
            self.attend = eqx.nn.MultiheadAttention(
                2, 4, use_query_bias=True, use_output_bias=True, dropout_p=0.5, key=keys[1]
            )
            self.norm = eqx.nn.LayerNorm(4)
            self.out = eqx.nn.Linear(4, 2, key=keys[2])

        def __call__(self, x, key=None):
            x = jax.vmap(self.embed)(x)
            return self.out(jax.vmap(self.norm)(self.attend(x, x, x, key=key)).mean(axis=0))

    class Convolutional(eqx.Module):
        down: eqx.nn.Conv1d
        up: eqx.nn.ConvTranspose1d
        head: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.down = eqx.nn.Conv1d(2, 3, 2, key=keys[0])
            self.up = eqx.nn.ConvTranspose1d(3, 4, 2, key=keys[1])
            self.head = eqx.nn.Linear(4, "scalar", key=keys[2])

        def __call__(self, x):
            return self.head(jnp.tanh(self.up(jnp.tanh(self.down(x)))).mean(axis=1))

    class Recurrent(eqx.Module):
        cell: eqx.nn.GRUCell
        out: eqx.nn.Linear
        scale: jax.Array

        def __init__(self, key):
            self.cell = eqx.nn.GRUCell(2, 3, key=key)
            self.out = eqx.nn.Linear(3, 1, key=key)
            self.scale = jnp.ones(())

        def __call__(self, x):
            step = lambda h, v: (self.cell(v, h), None)  # noqa: E731
            return self.scale * self.out(jax.lax.scan(step, jnp.zeros(3), x)[0])

    class Normalized(eqx.Module):
        dense: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        drop: eqx.nn.Dropout
        out: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key)
            self.dense = eqx.nn.Linear(2, 3, key=keys[0])
            self.norm = eqx.nn.BatchNorm(3, "batch", mode="ema")
            self.drop = eqx.nn.Dropout(0.5)
            self.out = eqx.nn.Linear(3, 2, key=keys[1])

        def __call__(self, x, state, *, key=None):
            x, state = self.norm(self.dense(x), state)
            return self.out(self.drop(jnp.tanh(x), key=key)), state

    return {
        "mlp": (functools.partial(eqx.nn.MLP, 2, 3, 4, 2), values(3, 2)),
        "attention": (Attentive, TOKENS),
        "convolution": (Convolutional, values(3, 2, 5)),
        "recurrent": (Recurrent, values(3, 4, 2)),
        "normalized": (Normalized, values(3, 2)),
    }


MODELS = modules()
STATELESS = [name for name in MODELS if name != "normalized"]
LAYERS = {
    "mlp": [(f"layers/{i}", "dense") for i in range(3)],
    "attention": [
        ("embed", "embedding"), ("attend", "attention"), ("norm", "norm"), ("out", "dense"),
    ],
    "convolution": [("down", "convolution"), ("up", "convolution"), ("head", "dense")],
    "recurrent": [("cell", "recurrent"), ("out", "dense"), ("params", "norm")],
    "normalized": [("dense", "dense"), ("norm", "norm"), ("out", "dense")],
}  # fmt: skip


@functools.cache
def made(name):
    build, x = MODELS[name]
    network = nb.as_network(build, example=x)
    return network, network.init(KEY, x), x


@pytest.mark.parametrize("name", STATELESS)
def test_apply_is_the_modules_own_over_examples(name):
    build, x = MODELS[name]
    network, params, _ = made(name)
    module = eqx.nn.inference_mode(build(key=KEY))
    expected = jax.jit(jax.vmap(module))(x)
    np.testing.assert_allclose(jax.jit(network.apply)(params, x), expected, rtol=1e-6, atol=1e-7)
    for a, b in zip(
        jax.tree.leaves(eqx.filter(network.module_of(params), eqx.is_array)),
        jax.tree.leaves(eqx.filter(module, eqx.is_array)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", MODELS)
def test_layers_cover_the_parameters_in_call_order(name):
    network, params, x = made(name)
    layers = network.layers(params)
    assert [(layer.name, layer.kind) for layer in layers if layer.size] == LAYERS[name]
    covered = sorted(leaf.path for layer in layers for leaf in layer.leaves)
    assert covered == sorted(leaf_paths(params))
    assert all(leaf.shape == jnp.shape(leaves_by_path(params)[leaf.path])
               for layer in layers for leaf in layer.leaves)  # fmt: skip
    bare = network.layers(params["params"])
    assert [layer.name for layer in bare] == [layer.name for layer in layers if layer.size]
    assert [layer.name for layer in layers_of(MODELS[name][0], x)] == [ly.name for ly in layers]


def test_pairs_are_in_out_though_kernels_are_stored_out_in():
    network, params, x = made("mlp")
    split = S.pairs({"layers/2": [(3, 1)]}).split(network, params)
    moved = split.merge({path: w + 1 for path, w in split.stochastic.items()})
    change = moved["params"]["layers"]["2"]["weight"] - params["params"]["layers"]["2"]["weight"]
    assert np.argwhere(change).tolist() == [[1, 3]]
    outputs = network.apply(moved, x) - network.apply(params, x)
    assert np.any(outputs[:, 1])
    assert not np.any(outputs[:, [0, 2]])
    assert np.flatnonzero(moved["params"]["layers"]["2"]["bias"] !=
                          params["params"]["layers"]["2"]["bias"]).tolist() == [1]  # fmt: skip


def test_axes_of_attention_convolutions_and_gates():
    layers = {
        name: {layer.name: layer for layer in made(name)[0].layers(made(name)[1])}
        for name in ("attention", "convolution", "recurrent")
    }
    attend = layers["attention"]["attend"]
    assert sorted(attend.components) == ["key", "out", "query", "value"]
    biases = {leaf.component for leaf in attend.leaves if leaf.role == "bias"}
    assert biases == {"query", "out"}
    down, up = (layers["convolution"][name].weights[0] for name in ("down", "up"))
    assert (down.pair_shape, up.pair_shape) == ((2, 3), (3, 4))
    network, params, _ = made("convolution")
    assert S.pairs({"up": [(2, 3)]}).split(network, params).size == 2 + 1
    cell = layers["recurrent"]["cell"]
    shapes = {leaf.component: leaf.pair_shape for leaf in cell.weights}
    assert shapes == {"weight_ih": (2, 9), "weight_hh": (3, 9)}
    biased = [leaf.component for leaf in cell.weights if cell.bias_of(leaf)]
    assert biased == ["weight_ih"]


def test_state_is_used_frozen_and_no_weight():
    build, x = MODELS["normalized"]
    module, state = eqx.nn.make_with_state(build)(key=KEY)
    state = state.set(
        module.norm.ema_state_index, (jnp.array([1.0, -1.0, 0.5]), jnp.array([4.0, 1.0, 0.25]))
    )
    network = nb.as_network((module, state), example=x)
    inference = eqx.nn.inference_mode(module)
    expected = jax.vmap(lambda row: inference(row, state)[0])(x)
    np.testing.assert_allclose(network.apply(network.params, x), expected, rtol=1e-6)
    split = S.everything().split(network, network.params)
    assert all(path.startswith("params/") for path in split.paths)
    moved = split.merge({path: w + 1 for path, w in split.stochastic.items()})
    assert jax.tree.all(jax.tree.map(np.array_equal, moved["state"], network.params["state"]))
    with pytest.raises(NetworkError, match=r"stateful layers.*make_with_state\(Normalized\)"):
        nb.as_network(module)


def test_training_draws_dropout_for_each_example_and_keeps_statistics():
    network, params, _ = made("normalized")
    x = jnp.ones((6, 2))
    with pytest.warns(UserWarning, match="norm is trained with the running statistics"):
        drawn = network.apply(params, x, train=True, key=KEY)
    np.testing.assert_array_equal(drawn, network.apply(params, x, train=True, key=KEY))
    assert len(np.unique(np.asarray(drawn), axis=0)) > 1
    assert not np.array_equal(drawn, network.apply(params, x, train=True, key=jax.random.key(1)))
    with pytest.raises(NetworkError, match="key="):
        network.apply(params, x, train=True)
    still = network.apply(params, x)
    np.testing.assert_array_equal(still, network.apply(params, x, key=KEY))
    assert len(np.unique(np.asarray(still), axis=0)) == 1


def test_each_key_gives_weights_of_its_own_and_a_module_keeps_its_own():
    build, x = MODELS["mlp"]
    network, params, _ = made("mlp")
    other = network.init(jax.random.key(1), x)
    assert not np.allclose(*(p["params"]["layers"]["0"]["weight"] for p in (params, other)))
    assert network == nb.as_network(build)
    assert network.params is None
    module = build(key=KEY)
    held = nb.as_network(module, example=x)
    assert held == nb.as_network(module)
    assert held != nb.as_network(build(key=KEY))
    assert jax.tree.all(jax.tree.map(np.array_equal, held.params, params))
    with pytest.raises(NetworkError, match=r"functools.partial\(MLP, ...\).*network.params"):
        held.init(KEY, x)


@pytest.mark.slow
def test_it_is_trained_and_sampled():
    x = values(20, 2)
    build = functools.partial(eqx.nn.MLP, 2, 1, 4, 1)
    model = nb.PartialBNN(build, num_probabilistic_layers=0)
    model.fit(x, np.asarray(x[:, 0]), 0, 4, 1, backend="laplace", progress=False,
              calibration=nb.CalibrationOptions("crossfit", folds=2),
              training=nb.TrainingOptions(epochs=2))  # fmt: skip
    assert model.posterior.split.paths == ("params/layers/1/bias", "params/layers/1/weight")
    assert np.all(model.predict(x)[1] > 0)


def test_hints_of_the_module_reach_the_network():
    class Hinted(eqx.Module):
        dense: eqx.nn.Linear
        padding = Padding(1, 0)

        def __call__(self, x):
            return self.dense(x)

        def example_input(self, params):
            return jnp.zeros((1, 2))

        def check_inputs(self, x):
            raise ValueError(f"seen {x}")

    network = nb.as_network(Hinted(eqx.nn.Linear(2, 1, key=KEY)))
    assert network.padding == Padding(1, 0)
    assert [layer.order for layer in network.layers(network.params)] == [0]
    with pytest.raises(ValueError, match="seen 3"):
        network.check_inputs(3)


def test_importing_the_plugin_does_not_import_equinox():
    code = (
        "import sys, nbcore_equinox as e\n"
        "assert e.nbcore_as_network(3, None) is None\n"
        "assert not {'equinox', 'jax'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@parametrize_with_checks([NetworkCase(*MODELS["normalized"])])
def test_the_contract_of_networks(subject, check):
    check(subject)


@pytest.mark.slow
@parametrize_with_checks([NetworkCase(*MODELS[name]) for name in STATELESS])
def test_the_contract_of_networks_for_more_modules(subject, check):
    check(subject)
