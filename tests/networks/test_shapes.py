"""Where inputs, outputs and examples meet: errors name both counts, and nothing is broadcast."""

from __future__ import annotations

import functools

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import nbcore as nb
from nbcore.errors import NetworkError, ShapeError
from nbcore.networks.evaluation import as_columns, count_outputs, is_per_example

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
Y = X[:, 0]


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.tanh(nn.Dense(4)(x)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first, self.out = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.tanh(self.first(x)))


def scale_and_sum(params, x):
    """Takes any number of columns that broadcasts against three, and so one."""
    return (x * params["scale"]).sum(axis=1)


MODELS = {
    "linen": Linen(),
    "nnx": Nnx,
    "equinox": functools.partial(eqx.nn.MLP, 3, 1, width_size=4, depth=1),
    "haiku": hk.transform(lambda x: hk.nets.MLP([4, 1])(x)),
    "functions": (lambda key, x: {"scale": jax.random.normal(key, (3,))}, scale_and_sum),
}


@functools.cache
def trained(name):
    return nb.DeterministicNN(MODELS[name], swa=None).train(X, Y, epochs=1, progress=False)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("columns", [1, 2, 4])
def test_other_columns_are_refused_with_both_widths(name, columns):
    wrong = np.resize(X, (12, columns))
    for network_or_model in (trained(name), laplace(name)):
        with pytest.raises(ShapeError, match=f"{columns} columns instead of 3"):
            network_or_model.predict(wrong)


@pytest.mark.parametrize("name", MODELS)
def test_one_example_without_its_axis_is_refused(name):
    for model in (trained(name), laplace(name)):
        with pytest.raises(ShapeError, match=r"\(3,\).*X\[None\]"):
            model.predict(X[0])


@functools.cache
def laplace(name):
    det = trained(name)
    subset = nb.ProbabilisticSubset.everything()
    target = nb.Target.build(det.network, det.params, subset, X, Y, likelihood=nb.Gaussian(1.0))
    return nb.sample(target, "laplace", num_warmup=0, num_samples=2, num_chains=1, progress=False)


def test_validation_data_and_ensembles_are_held_to_the_columns_too():
    with pytest.raises(ShapeError, match="validation X has shape"):
        nb.DeterministicNN(Linen()).train(X, Y, validation_data=(X[:, :2], Y), progress=False)
    ensemble = nb.EnsembleDeterministicNN(Linen(), num_models=2)
    ensemble.train(X, Y, epochs=1, progress=False)
    with pytest.raises(ShapeError, match="2 columns instead of 3"):
        ensemble.predict(X[:, :2])


def test_what_a_network_can_take_is_not_refused():
    class Pooling(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(nn.tanh(nn.Conv(4, (3,))(x)).mean(axis=1))

    x = np.ones((5, 8, 2), np.float32)
    det = nb.DeterministicNN(Pooling()).train(x, x[:, 0, 0], epochs=1, progress=False)
    assert det.predict(x[:, :6]).shape == (5,)
    with pytest.raises(ShapeError, match=r"\(5, 8, 1\).*\(examples, 8, 2\)"):
        det.predict(x[:, :, :1])


def test_a_pytree_of_inputs_is_held_to_its_arrays():
    def apply(params, x):
        return x["a"] @ params["w"] + x["b"]

    model = (lambda key, x: {"w": jnp.ones(3)}, apply)
    x = {"a": X, "b": Y}
    det = nb.DeterministicNN(model).train(x, Y, epochs=1, progress=False)
    with pytest.raises(ShapeError, match=r"X\['a'\] has shape \(12, 2\).*2 columns instead of 3"):
        det.predict({"a": X[:, :2], "b": Y})
    with pytest.raises(ShapeError, match="same containers"):
        det.predict({"a": X})


def ending_in(function):
    class Ending(nn.Module):
        @nn.compact
        def __call__(self, x):
            return function(nn.Dense(64)(x))

    return Ending()


OUTPUTS = {
    "tuple": (lambda h: (h, h), r"a tuple \(0: \(12, 64\), 1: \(12, 64\)\)"),
    "dict": (lambda h: {"mean": h}, r"a dict \(mean: \(12, 64\)\)"),
    "nothing": (lambda h: None, "NoneType"),
    "images": (lambda h: h.reshape(-1, 8, 8, 1), r"\(12, 8, 8, 1\).*64 outputs.*reshape"),
    "one number": (lambda h: h.sum(), "12 examples.*no output"),
    "one row": (lambda h: h.mean(axis=0, keepdims=True), r"12 examples.*1 output\(s\)"),
    "one prediction": (lambda h: h.mean(axis=0)[:1], r"12 examples.*1 output\(s\)"),
    "complex": (lambda h: h + 1j, "complex64.*real"),
    "labels": (lambda h: h.argmax(axis=1), "int32"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_that_a_network_must_not_have_are_named(name):
    function, message = OUTPUTS[name]
    model = ending_in(function)
    with pytest.raises(ShapeError, match=message):
        nb.DeterministicNN(model).train(X, Y, epochs=1, progress=False)
    params = model.init(KEY, X)
    with pytest.raises(ShapeError, match=message):
        nb.Target.build(model, params, nb.ProbabilisticSubset.everything(), X, Y)


class PoolsInTraining(nn.Module):
    """As many outputs as examples in predictions, and one for all of them in training."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        h = nn.Dense(1)(x)
        return h.mean(axis=0, keepdims=True) if train else h


def test_outputs_in_training_are_counted_too():
    model = PoolsInTraining()
    ensemble = nb.EnsembleDeterministicNN(model, num_models=2)
    for train in (
        lambda: nb.DeterministicNN(model).train(X, Y, 1, progress=False),
        lambda: ensemble.train(X, Y, 1, progress=False),
        lambda: nb.cross_fit(model, X, Y, 2, epochs=1, progress=False),
    ):
        with pytest.raises(ShapeError, match=r"examples.*\(1, 1\): 1 output\(s\)"):
            train()


def test_images_work_as_columns():
    model = ending_in(lambda h: h.reshape(-1, 8, 8, 1).reshape(len(h), -1))
    images = np.random.default_rng(1).normal(size=(12, 8, 8, 1))
    y = images.reshape(12, -1)
    det = nb.DeterministicNN(model).train(X, y, epochs=1, progress=False)
    expected = det.network.apply(det.params, X)
    assert np.allclose(det.predict(X), expected, atol=1e-5)
    error = images - np.reshape(expected, images.shape)  # pixel by pixel
    noise = np.sqrt(np.mean(error**2, axis=0)).ravel()
    assert np.allclose(det.residual_noise(X, y), noise, rtol=1e-4)


def test_residuals_are_not_broadcast():
    det = trained("linen")
    with pytest.raises(ShapeError, match="12 examples and y has 1 examples"):
        det.residuals(X, Y[:1])
    with pytest.raises(ShapeError, match=r"2 column\(s\).*predicts 1"):
        det.residuals(X, np.stack([Y, Y], axis=1))
    assert np.allclose(det.residuals(X, Y)[:, 0], Y - det.predict(X))


def test_columns_are_counted():
    assert as_columns(jnp.zeros(3), 3).shape == (3, 1)
    assert as_columns(jnp.zeros((3, 2)), 3).shape == (3, 2)
    with pytest.raises(ShapeError, match="4 examples"):
        as_columns(jnp.zeros((3, 2)), 4)


def test_outputs_that_mix_examples_are_still_told_apart():
    network = nb.as_network((lambda key, x: {}, lambda params, x: x - x.mean(axis=0)))
    assert not is_per_example(network, {}, X)
    assert count_outputs(network, {}, X) == 3


class TwoLinen(nn.Module):
    @nn.compact
    def __call__(self, x, t, train):
        return nn.Dense(1)(x + t)


class TwoNnx(nnx.Module):
    def __init__(self, rngs):
        self.out = nnx.Linear(3, 1, rngs=rngs)

    def __call__(self, x, t, *, deterministic):
        return self.out(x + t)


class TwoEquinox(eqx.Module):
    out: eqx.nn.Linear

    def __init__(self, key):
        self.out = eqx.nn.Linear(3, 1, key=key)

    def __call__(self, x, t, *, key):
        return self.out(x + t)


TWO_ARGUMENTS = [
    TwoLinen(),
    TwoNnx,
    TwoEquinox,
    hk.transform(lambda x, t, is_training: x + t),
    hk.transform_with_state(lambda x, t: x + t),
    (lambda key, x: {}, lambda params, x, t: x + t),
]


@pytest.mark.parametrize("model", TWO_ARGUMENTS, ids=lambda m: getattr(m, "__name__", str(type(m))))
def test_a_second_argument_is_refused_and_the_pytree_named(model):
    with pytest.raises(NetworkError, match=r"2 arguments \(x, t\).*X=\(x, t\)"):
        nb.as_network(model)


def test_two_inputs_in_one_pytree_are_the_advice_that_works():
    class OneInput(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            x, t = inputs
            return nn.Dense(1)(x + t)

    T = X[::-1] ** 2
    det = nb.DeterministicNN(OneInput()).train((X, T), Y, epochs=1, progress=False)
    kernel, bias = (jax.tree.leaves(det.params)[i] for i in (1, 0))
    assert np.allclose(det.predict((X, T)), ((X + T) @ kernel + bias)[:, 0], atol=1e-5)
