"""Modules of the user's own: recurrent, message-passing, pre-trained, with running statistics."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import nbcore as nb
from nbcore.errors import NetworkError, TargetError, TrainingError
from nbcore.networks.describe import layers_of

S = nb.ProbabilisticSubset
KEY = jax.random.key(0)


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def normal_log_density(residual, scale=1.0):
    return np.sum(-0.5 * (residual / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi))


def moved_by_pairs(network, params, pairs):
    """The entries that a step along the pairs moves, and the size of their split."""
    split = S.pairs(pairs).split(network, params)
    merged = split.merge(split.stochastic)
    assert jax.tree.all(jax.tree.map(np.array_equal, merged, split.params))
    moved = split.merge({path: np.asarray(w) + 1 for path, w in split.stochastic.items()})
    changed = jax.tree.map(lambda a, b: int((a != b).sum()), moved, split.params)
    return sum(jax.tree.leaves(changed)), split.size


# --- recurrent -------------------------------------------------------------------------------


class LinenRecurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        hidden = nn.RNN(nn.GRUCell(3), name="rnn")(x)
        return nn.Dense(1, name="out")(hidden[:, -1])


class NnxRecurrent(nnx.Module):
    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.GRUCell(2, 3, rngs=rngs), rngs=rngs)
        self.out = nnx.Linear(3, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(self.rnn(x)[:, -1])


RECURRENT = pytest.mark.parametrize("model", [LinenRecurrent(), NnxRecurrent], ids=["linen", "nnx"])


@RECURRENT
def test_the_gates_of_a_recurrent_network_are_one_layer_with_components(model):
    x = values(5, 4, 2)
    network = nb.as_network(model, example=x)
    params = network.init(KEY, x)
    cell, head = (layer for layer in network.layers(params) if layer.size)
    assert (cell.kind, head.name, head.is_output) == ("recurrent", "out", True)
    gates = {part: [(0, 1), (1, 2)] for part in cell.components}
    moved, size = moved_by_pairs(network, params, {cell.name: gates})
    biases = sum(2 for leaf in cell.weights if cell.bias_of(leaf))
    assert moved == size == 2 * len(gates) + biases
    last = S.last(1).split(network, params)
    assert last.size == last.total_size


@pytest.mark.slow
@RECURRENT
def test_a_recurrent_network_goes_through_training_choice_and_sampling(model):
    x = values(24, 4, 2)
    y = x.sum(axis=(1, 2))
    det = nb.DeterministicNN(model).train(x, y, epochs=2, batch_size=12, progress=False)
    name = det.network.layers(det.params)[0].name
    subset = nb.select_bayesian_components(det, [name], "magnitude", num_pairs_per_layer=6)
    partial = nb.PartialBNN(model, det.params, subset=subset, likelihood=nb.Gaussian(noise=1.0))
    partial.fit(x, y, 0, 5, 1, backend="laplace", progress=False)
    draws = partial.posterior.draws["weights"]
    size = subset.split(det.network, det.params).size
    assert sum(a[0, 0].size for a in jax.tree.leaves(draws)) == size


# --- message passing ---------------------------------------------------------------------------


class MessagePassing(nn.Module):
    """One round of messages along the edges; nodes in the second axis from the end."""

    is_graph: bool = True

    @nn.compact
    def __call__(self, x):
        sent = nn.Dense(3, name="message")(x["nodes"])
        own = nn.Dense(3, name="self", use_bias=False)(x["nodes"])
        hidden = nn.tanh(own + x["adjacency"] @ sent)
        return nn.Dense(1, name="out")(hidden.mean(axis=-2) if self.is_graph else hidden)


def graphs(*leading):
    edges = np.triu(values(*leading, 4, 4, seed=1) > 0, 1)
    adjacency = (edges | np.swapaxes(edges, -1, -2)).astype(np.float32)
    return {"nodes": values(*leading, 4, 2), "adjacency": adjacency}


def by_hand(params, x, is_graph):
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])
    sent = x["nodes"] @ p["message"]["kernel"] + p["message"]["bias"]
    hidden = np.tanh(x["nodes"] @ p["self"]["kernel"] + x["adjacency"] @ sent)
    hidden = hidden.mean(axis=-2) if is_graph else hidden
    return hidden @ p["out"]["kernel"] + p["out"]["bias"]


def test_graphs_as_examples_are_a_pytree_of_inputs():
    x = graphs(6)
    network = nb.as_network(MessagePassing(), example=x)
    params = network.init(KEY, x)
    outputs = by_hand(params, x, True)
    np.testing.assert_allclose(network.apply(params, x), outputs, rtol=1e-4, atol=1e-6)
    names = [layer.name for layer in network.layers(params)]
    assert sorted(names[:2]) == ["message", "self"]
    assert names[2] == "out"
    assert moved_by_pairs(network, params, {"message": [(1, 2)], "self": [(0, 0)]}) == (3, 3)
    y = x["adjacency"].sum(axis=(1, 2))[:, None]
    target = nb.Target.build(network, params, S.last(2), x, y, likelihood=nb.Gaussian(noise=2.0))
    assert target.has_minibatches
    prior = normal_log_density(np.zeros(target.split.size))
    value = target.log_density(target.initial_position())
    np.testing.assert_allclose(value, prior + normal_log_density(y - outputs, 2.0), rtol=1e-5)


@pytest.mark.slow
def test_graphs_as_examples_are_trained_and_sampled():
    x = graphs(20)
    y = x["adjacency"].sum(axis=(1, 2))
    model = nb.PartialBNN(MessagePassing(), num_probabilistic_layers=0)
    short = nb.TrainingOptions(epochs=2)
    folds = nb.CalibrationOptions("crossfit", folds=2)
    model.fit(x, y, 0, 4, 1, backend="laplace", training=short, calibration=folds, progress=False)
    scaler, params = model.det.scaler, model.det.params
    expected = scaler.shift + scaler.scale * by_hand(params, x, True)
    np.testing.assert_allclose(model.det.predict(x), expected[:, 0], rtol=1e-4)
    assert model.predict(x)[0].shape == (20,)


def one_graph():
    x, y = graphs(), values(4, 1, seed=2)
    network = nb.as_network(MessagePassing(is_graph=False), example=x)
    target = nb.Target.build(
        network, network.init(KEY, x), S.layers("message"), x, y, likelihood=nb.Gaussian(noise=1.0)
    )
    return x, y, target


def test_one_graph_whose_nodes_are_the_examples():
    x, y, target = one_graph()
    assert not target.has_minibatches
    with pytest.raises(TargetError, match="mix examples"):
        target.batch(KEY, 0, 2)
    position = target.initial_position(KEY, jitter=0.1)
    weights = position["weights"]
    residual = y - by_hand(target.split.merge(weights), x, False)
    shift = [np.ravel(weights[path] - w) for path, w in target.split.stochastic.items()]
    expected = normal_log_density(residual) + normal_log_density(np.concatenate(shift))
    np.testing.assert_allclose(target.log_density(position), expected, rtol=1e-4)


@pytest.mark.slow
def test_predictions_for_one_graph():
    x, _, target = one_graph()
    laplace = nb.get_backend("laplace", predictions="sampled")
    posterior = nb.sample(target, laplace, num_warmup=0, num_samples=3, progress=False)
    draw = jax.tree.map(lambda a: jnp.asarray(a[0, 1]), posterior.draws["weights"])
    outputs = posterior.outputs(x).reshape(*posterior.stats.log_density.shape, 4)
    expected = by_hand(target.split.merge(draw), x, False)[:, 0]
    np.testing.assert_allclose(outputs[0, 1], expected, rtol=1e-4, atol=1e-5)


def test_training_refuses_to_tear_a_graph_apart():
    def init(key, x):
        return {"out": {"kernel": jax.random.normal(key, (2, 1))}}

    def apply(params, x):  # each node and the mean of all
        return (x + x.mean(axis=0)) @ params["out"]["kernel"]

    with pytest.raises(TrainingError, match=r"mix the examples of X.*as one example"):
        nb.DeterministicNN((init, apply)).train(values(6, 2), values(6), 1, progress=False)


# --- pre-trained and nested ----------------------------------------------------------------------


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.tanh(nn.Dense(3)(x))
        return x


class Finetuned(nn.Module):
    """A pre-trained encoder, given as a module, under a new head."""

    encoder: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, name="head")(self.encoder(x))


def test_a_pretrained_module_keeps_its_weights_inside_of_another():
    x = values(5, 3)
    pretrained = Encoder().init(jax.random.key(7), x)
    network = nb.as_network(Finetuned(Encoder()), example=x)
    params = network.init(KEY, x)
    params = {"params": {**params["params"], "encoder": pretrained["params"]}}
    hidden = Encoder().apply(pretrained, x)
    head = params["params"]["head"]
    np.testing.assert_allclose(
        network.apply(params, x), hidden @ head["kernel"] + head["bias"], rtol=1e-5, atol=1e-6
    )
    names = [layer.name for layer in network.layers(params)]
    assert names == ["encoder/Dense_0", "encoder/Dense_1", "head"]
    split = (S.everything() - S.layers("encoder")).split(network, params)
    assert split.paths == ("params/head/bias", "params/head/kernel")
    merged = split.merge({path: w + 1 for path, w in split.stochastic.items()})
    assert jax.tree.all(
        jax.tree.map(np.array_equal, merged["params"]["encoder"], pretrained["params"])
    )
    assert moved_by_pairs(network, params, {"encoder/Dense_1": [(0, 1), (2, 1)]}) == (3, 3)


# --- running statistics -----------------------------------------------------------------------


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(3, name="dense")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(1, name="out")(nn.tanh(x))


class NnxNormalized(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(2, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.out = nnx.Linear(3, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.tanh(self.norm(self.dense(x))))


@pytest.mark.parametrize("model", [Normalized(), NnxNormalized], ids=["linen", "nnx"])
def test_statistics_are_frozen_state(model):
    x = values(12, 2)
    network = nb.as_network(model, example=x)
    params = network.init(KEY, x)
    collection = "batch_stats" if "batch_stats" in params else "state"
    mean, var = np.array([1.0, -1.0, 0.5], np.float32), np.array([4.0, 1.0, 0.25], np.float32)
    params[collection] = {"norm": {"mean": mean, "var": var}}
    p = jax.tree.map(np.asarray, params["params"])
    hidden = (x @ p["dense"]["kernel"] + p["dense"]["bias"] - mean) / np.sqrt(var + 1e-5)
    hidden = np.tanh(hidden * p["norm"]["scale"] + p["norm"]["bias"])
    expected = hidden @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(network.apply(params, x), expected, rtol=1e-5, atol=1e-6)
    split = S.everything().split(network, params)
    assert all(path.startswith("params/") for path in split.paths)
    assert split.size == split.total_size == sum(a.size for a in jax.tree.leaves(p))
    moved = split.merge({path: w + 1 for path, w in split.stochastic.items()})
    for name, given in (("mean", mean), ("var", var)):
        np.testing.assert_array_equal(moved[collection]["norm"][name], given)


@pytest.mark.parametrize("model", [Normalized(), NnxNormalized], ids=["linen", "nnx"])
def test_training_warns_that_statistics_stay_as_they_are(model):
    x = values(12, 2)
    network = nb.as_network(model)
    params = network.init(KEY, x)
    with pytest.warns(UserWarning, match=r"norm is trained with the running statistics"):
        trained = network.apply(params, x, train=True, key=KEY)
    np.testing.assert_array_equal(trained, network.apply(params, x))


@pytest.mark.slow
def test_trained_parameters_keep_the_statistics_that_they_had():
    x = values(12, 2)
    with pytest.warns(UserWarning, match=r"norm is trained"):
        det = nb.DeterministicNN(Normalized()).train(x, x[:, 0], epochs=1, progress=False)
    np.testing.assert_array_equal(det.params["batch_stats"]["norm"]["mean"], np.zeros(3))
    np.testing.assert_array_equal(det.params["batch_stats"]["norm"]["var"], np.ones(3))


# --- nnx modules and keys ------------------------------------------------------------------------


class Small(nnx.Module):
    def __init__(self, width, rngs):
        self.first = nnx.Linear(2, width, rngs=rngs)
        self.out = nnx.Linear(width, 1, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.out(self.drop(nnx.tanh(self.first(x))))


def test_what_builds_an_nnx_module_gives_each_key_weights_of_its_own():
    x = values(5, 2)
    build = functools.partial(Small, 3)
    network = nb.as_network(build, example=x)
    assert network == nb.as_network(build)
    assert hash(network) == hash(nb.as_network(build))
    assert network != nb.as_network(functools.partial(Small, 3))
    params = network.init(KEY, x)
    own = Small(3, rngs=nnx.Rngs(KEY))
    np.testing.assert_allclose(
        params["params"]["first"]["kernel"], own.first.kernel[...], rtol=1e-6
    )
    own.eval()
    np.testing.assert_allclose(network.apply(params, x), own(x), rtol=1e-6, atol=1e-7)
    other = network.init(jax.random.key(1), x)
    assert not np.allclose(other["params"]["first"]["kernel"], params["params"]["first"]["kernel"])
    assert network.params is None
    assert [layer.name for layer in layers_of(build, x)] == ["first", "out"]


@pytest.mark.slow
def test_folds_of_an_nnx_network_start_from_weights_of_their_own():
    x = values(20, 2)
    fitted = nb.cross_fit(
        functools.partial(Small, 3), x, x[:, 0], 2, epochs=1, learning_rate=1e-9,
        swa=None, progress=False,
    )  # fmt: skip
    kernels = [m.params["params"]["first"]["kernel"] for m in (*fitted.members, fitted.full)]
    for i, kernel in enumerate(kernels):
        assert all(np.abs(kernel - other).min() > 1e-3 for other in kernels[:i])


def test_a_module_with_weights_says_how_to_train_it_and_how_to_keep_them():
    x = values(5, 2)
    module = Small(3, nnx.Rngs(0))
    with pytest.raises(NetworkError, match=r"functools.partial\(Small, ...\).*network.params"):
        nb.cross_fit(module, x, x[:, 0], 2, epochs=1, progress=False)
    network = nb.as_network(module, example=x)
    np.testing.assert_array_equal(network.params["params"]["out"]["bias"], module.out.bias[...])
    assert [layer.name for layer in layers_of(module, x)] == ["first", "out"]
    split = S.layers("out").split(network, network.params)
    module.eval()
    outputs = network.apply(split.merge(split.stochastic), x)
    np.testing.assert_allclose(outputs, module(x), rtol=1e-6)
