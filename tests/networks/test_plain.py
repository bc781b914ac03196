"""Parameters that cannot be sampled or stored are refused before anything is done with them."""

from __future__ import annotations

import collections
from typing import Any, NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import nbcore as nb
from nbcore.errors import NetworkError
from nbcore.networks.inference import infer_layers

S = nb.ProbabilisticSubset
X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
Y = X[:, 0]
KERNEL = jnp.ones((3, 1))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, param_dtype=np.complex64)(x).real


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.w = nnx.Param(KERNEL.astype(np.complex64))

    def __call__(self, x):
        return (x @ self.w[...]).real


class Equinox(eqx.Module):
    w: jax.Array

    def __init__(self, key):
        self.w = KERNEL[:, 0].astype(np.complex64)

    def __call__(self, x):
        return (x @ self.w).real


COMPLEX = {
    "linen": Linen(),
    "nnx": Nnx,
    "equinox": Equinox,
    "haiku": hk.transform(
        lambda x: (x @ hk.get_parameter("w", (3, 1), np.complex64, init=jnp.ones)).real
    ),
    "functions": (
        lambda key, x: {"w": KERNEL.astype(np.complex64)},
        lambda p, x: (x @ p["w"]).real,
    ),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_weights_are_refused_at_every_door(name):
    model = COMPLEX[name]
    network = nb.as_network(model, example=X)
    params = network.init(jax.random.key(0), X)
    doors = [
        lambda: network.layers(params),
        lambda: nb.print_layer_configs(model, example=X),
        lambda: S.everything().split(network, params),
        lambda: nb.Target.build(model, params, S.everything(), X, Y),
        lambda: nb.DeterministicNN(model).train(X, Y, epochs=1, progress=False),
        lambda: nb.BNN(model).fit(X, Y, num_warmup=0, num_samples=1, progress=False),
    ]
    for door in doors:
        with pytest.raises(NetworkError, match=r"complex64.*real and the imaginary part"):
            door()


def test_complex_state_is_no_weight():
    params = {
        "params": {"out": {"kernel": KERNEL}},
        "state": {"twiddle": jnp.ones(3, np.complex64)},
    }
    layers = infer_layers(params, prefix="params", state=("state",))
    assert [layer.size for layer in layers] == [3, 0]


def functions(params: Any) -> Any:
    return (lambda key, x: params, lambda p, x: x @ KERNEL)


def test_real_and_imaginary_parts_are_the_advice_that_works():
    def apply(params, x):
        w = jax.lax.complex(params["w"]["real"], params["w"]["imag"])
        return (x @ w).imag + (x @ w).real

    parts = {"w": {"real": KERNEL, "imag": KERNEL}}
    network = nb.as_network((lambda key, x: parts, apply), example=X)
    assert S.everything().split(network, parts).size == 6


class Weights(NamedTuple):
    w: Any


class Unfit(NamedTuple):
    params: Any
    message: str


UNFIT = {
    "quantized": Unfit({"D": {"kernel": jnp.ones((3, 1), jnp.int8)}}, "'D/kernel' are int8"),
    "unsigned": Unfit({"D": {"bias": jnp.ones(1, jnp.uint8), "w": KERNEL}}, "uint8.*quantization"),
    "4 bits": Unfit({"D": {"kernel": jnp.ones((3, 1), jnp.int4)}}, "int4.*quantization"),
    "float8": Unfit({"w": KERNEL.astype(jnp.float8_e4m3fn)}, "float8_e4m3fn.*at least 16 bits"),
    "float8, wide": Unfit({"w": KERNEL.astype(jnp.float8_e5m2)}, "'w' are float8_e5m2"),
    "binary": Unfit({"D": {"kernel": jnp.ones((3, 1), bool)}}, "'D/kernel' are bool"),
    "key": Unfit({"w": KERNEL, "k": jax.random.key(0)}, "'k' is a random key"),
    "objects": Unfit({"w": KERNEL, "o": np.array([object()])}, "'o' is not an array of numbers"),
    "text": Unfit({"w": KERNEL, "act": "relu"}, "'act' is not an array of numbers, got str 'relu'"),
    "function": Unfit({"w": KERNEL, "act": jnp.tanh}, "'act' is not an array of numbers"),
    "named tuple": Unfit({"a": Weights(KERNEL)}, r"at 'a' they are .*Weights.*_asdict"),
    "whole named tuple": Unfit(Weights(KERNEL), "as a whole they are .*Weights"),
    "tuple as key": Unfit({"a": {(0, 1): KERNEL}}, r"'a' has the key \(0, 1\)"),
    "deque": Unfit({"a": collections.deque([KERNEL])}, "'a' is not an array of numbers, got deque"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_be_sampled_or_stored_is_refused_before_sampling(name):
    params, message = UNFIT[name]
    model = functions(params)
    with pytest.raises(NetworkError, match=message):
        S.everything().split(nb.as_network(model), params)
    with pytest.raises(NetworkError, match=message):
        nb.DeterministicNN(model).train(X, Y, epochs=1, progress=False)


FIT = {
    "a Python float": ({"w": KERNEL, "s": 1.0}, 4),
    "numpy in double precision": ({"w": np.ones((3, 1))}, 3),
    "nothing": ({"w": KERNEL, "none": None}, 3),
    "an empty array": ({"w": KERNEL, "empty": jnp.zeros((0, 3))}, 3),
    "a counter": ({"w": KERNEL, "count": jnp.zeros((), int)}, 3),
    "a mask": ({"w": KERNEL, "mask": jnp.ones((3, 1), bool)}, 3),
    "a list and a tuple": ({"w": [KERNEL, (KERNEL,)]}, 6),
    "integer keys": ({0: {"w": KERNEL}}, 3),
}


@pytest.mark.parametrize("name", FIT)
def test_what_can_be_sampled_and_stored_is(name, tmp_path):
    params, size = FIT[name]
    network = nb.as_network(functions(params), example=X)
    target = nb.Target.build(network, params, S.everything(), X, Y, likelihood=nb.Gaussian(1.0))
    assert target.split.size == target.split.total_size == size
    posterior = nb.sample(target, "laplace", num_warmup=0, num_samples=1, progress=False)
    posterior.save(tmp_path / "run")
    loaded = nb.Posterior.load(tmp_path / "run", network)
    assert np.array_equal(loaded.predict(X).mean, posterior.predict(X).mean)
