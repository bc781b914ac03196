"""Any transformed Haiku function is the same function as a network."""

from __future__ import annotations

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore.common.paths import leaf_paths
from nbcore.errors import NetworkError
from nbcore.networks.describe import layers_of
from nbcore.testing import NetworkCase, parametrize_with_checks

hk = pytest.importorskip("haiku")

S = nb.ProbabilisticSubset
KEY = jax.random.key(0)
TOKENS = jnp.array([[3, 1, 4], [1, 5, 2], [6, 0, 3]])


def values(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def attentive(x):
    x = hk.Embed(7, 4)(x)
    x = hk.MultiHeadAttention(2, 2, model_size=4, w_init_scale=1.0)(x, x, x)
    return hk.Linear(2)(hk.LayerNorm(-1, True, True)(x).mean(axis=1))


def convolutional(x):
    x = jnp.tanh(hk.Conv1D(3, 2, name="down")(x))
    return hk.Linear(1, name="head")(jnp.tanh(hk.Conv1DTranspose(4, 2, name="up")(x)).mean(axis=1))


def recurrent(x):
    core = hk.GRU(3)
    hidden, _ = hk.dynamic_unroll(core, x, core.initial_state(len(x)), time_major=False)
    return hk.Linear(1)(hidden[:, -1])


def normalized(x, is_training):
    x = hk.Linear(3, name="dense")(x)
    x = jnp.tanh(hk.BatchNorm(True, True, 0.9, name="norm")(x, is_training))
    if is_training:
        x = hk.dropout(hk.next_rng_key(), 0.5, x)
    return hk.Linear(2, name="out")(x)


MODELS = {
    "mlp": (hk.transform(lambda x: hk.nets.MLP([4, 3])(x)), values(3, 2)),
    "attention": (hk.transform(attentive), TOKENS),
    "convolution": (hk.without_apply_rng(hk.transform(convolutional)), values(3, 5, 2)),
    "recurrent": (hk.transform(recurrent), values(3, 4, 2)),
    "normalized": (hk.transform_with_state(normalized), values(3, 2)),
}
STATELESS = [name for name in MODELS if name != "normalized"]
LAYERS = {
    "mlp": [("mlp/~/linear_0", "dense"), ("mlp/~/linear_1", "dense")],
    "attention": [
        ("embed", "embedding"), ("multi_head_attention", "attention"), ("layer_norm", "norm"),
        ("linear", "dense"),
    ],
    "convolution": [("down", "convolution"), ("up", "convolution"), ("head", "dense")],
    "recurrent": [("gru", "recurrent"), ("linear", "dense")],
    "normalized": [("dense", "dense"), ("norm", "norm"), ("out", "dense")],
}  # fmt: skip


@functools.cache
def made(name):
    transformed, x = MODELS[name]
    network = nb.as_network(transformed, example=x)
    return network, network.init(KEY, x), x


@pytest.mark.parametrize("name", STATELESS)
def test_apply_is_the_functions_own_with_its_own_parameters(name):
    transformed, x = MODELS[name]
    network, params, _ = made(name)
    own = jax.jit(transformed.init)(KEY, x)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), params, own)
    rng = () if name == "convolution" else (None,)
    expected = jax.jit(lambda p, x: transformed.apply(p, *rng, x))(own, x)
    np.testing.assert_allclose(jax.jit(network.apply)(own, x), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_layers_cover_the_parameters_in_call_order(name):
    network, params, x = made(name)
    layers = network.layers(params)
    assert [(layer.name, layer.kind) for layer in layers if layer.size] == LAYERS[name]
    covered = sorted(leaf.path for layer in layers for leaf in layer.leaves)
    assert covered == sorted(leaf_paths(params))
    outputs = [layer.name for layer in layers if layer.is_output]
    assert outputs == [LAYERS[name][-1][0]]
    assert [layer.name for layer in layers_of(MODELS[name][0], x)] == [ly.name for ly in layers]
    unordered = nb.as_network(MODELS[name][0]).layers(params)
    assert {layer.order for layer in unordered} == {None}


def test_axes_and_roles():
    layers = {
        name: {layer.name: layer for layer in made(name)[0].layers(made(name)[1])}
        for name in MODELS
    }
    attention = layers["attention"]["multi_head_attention"]
    assert sorted(attention.components) == ["key", "out", "query", "value"]
    assert all(attention.bias_of(leaf) for leaf in attention.weights)
    up = layers["convolution"]["up"].weights[0]
    assert (up.shape, up.axes, up.pair_shape) == ((2, 4, 3), ("in", "out"), (3, 4))
    gates = layers["recurrent"]["gru"]
    assert {leaf.component: leaf.pair_shape for leaf in gates.weights} == {
        "w_i": (2, 9), "w_h": (3, 9),
    }  # fmt: skip
    assert [leaf.component for leaf in gates.weights if gates.bias_of(leaf)] == ["w_i"]
    norm = layers["normalized"]["norm"]
    roles = {leaf.path.rpartition("/")[2]: leaf.role for leaf in norm.leaves}
    assert roles == {"scale": "scale", "offset": "bias"}


def test_state_is_used_frozen_and_no_weight():
    transformed, x = MODELS["normalized"]
    network, params, _ = made("normalized")
    moved = {**params, "state": jax.tree.map(lambda a: a + 1, params["state"])}
    expected, _ = transformed.apply(moved["params"], moved["state"], None, x, is_training=False)
    np.testing.assert_allclose(network.apply(moved, x), expected, rtol=1e-6)
    split = S.everything().split(network, moved)
    assert all(path.startswith("params/") for path in split.paths)
    away = split.merge({path: w + 1 for path, w in split.stochastic.items()})
    assert jax.tree.all(jax.tree.map(np.array_equal, away["state"], moved["state"]))


def test_training_draws_dropout_and_keeps_statistics():
    network, params, x = made("normalized")
    with pytest.warns(UserWarning, match="norm is trained with the running statistics"):
        drawn = network.apply(params, x, train=True, key=KEY)
    np.testing.assert_array_equal(drawn, network.apply(params, x, train=True, key=KEY))
    assert not np.array_equal(drawn, network.apply(params, x, train=True, key=jax.random.key(1)))
    with pytest.raises(NetworkError, match="key="):
        network.apply(params, x, train=True)
    np.testing.assert_array_equal(network.apply(params, x), network.apply(params, x, key=KEY))
    # The same scale and offset for every example: statistics of the batch would differ.
    alone = [network.apply(params, x[i : i + 1]) for i in range(len(x))]
    np.testing.assert_allclose(network.apply(params, x), np.concatenate(alone), rtol=1e-5)


def test_random_numbers_in_evaluation_are_refused():
    noisy = hk.transform(lambda x: hk.Linear(1)(hk.dropout(hk.next_rng_key(), 0.5, x)))
    network = nb.as_network(noisy)
    with pytest.raises(NetworkError, match=r"in evaluation too.*is_training"):
        network.apply(network.init(KEY, values(3, 2)), values(3, 2), key=KEY)


@pytest.mark.slow
def test_it_is_trained_and_sampled():
    x = values(20, 2)
    model = nb.PartialBNN(
        hk.transform(lambda x: hk.nets.MLP([4, 1])(x)), num_probabilistic_layers=0
    )
    model.fit(x, np.asarray(x[:, 0]), 0, 4, 1, backend="laplace", progress=False,
              calibration=nb.CalibrationOptions("crossfit", folds=2),
              training=nb.TrainingOptions(epochs=2))  # fmt: skip
    assert model.posterior.split.paths == ("mlp/~/linear_1/b", "mlp/~/linear_1/w")
    assert np.all(model.predict(x)[1] > 0)


def test_importing_the_plugin_does_not_import_haiku():
    code = (
        "import sys, nbcore_haiku as h\n"
        "assert h.nbcore_as_network(3, None) is None\n"
        "assert not {'haiku', 'jax'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@parametrize_with_checks([NetworkCase(*MODELS["normalized"])])
def test_the_contract_of_networks(subject, check):
    check(subject)


@pytest.mark.slow
@parametrize_with_checks([NetworkCase(*MODELS[name]) for name in STATELESS])
def test_the_contract_of_networks_for_more_functions(subject, check):
    check(subject)
