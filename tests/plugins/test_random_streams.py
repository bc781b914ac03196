"""Random streams of linen modules that have names of their own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import nbcore as nb
from nbcore.errors import NetworkError

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


class DropPath(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(64)(x)
        x = nn.Dropout(0.5, rng_collection="droppath", deterministic=not train)(x)
        return nn.Dropout(0.5, deterministic=not train)(x)


class Literal(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(64)(x)
        return x + jax.random.normal(self.make_rng("jitter"), x.shape) if train else x


class Asking(nn.Module):
    """Draws only where its stream is there, so that flax never tells its name."""

    stream: str = "noise"

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(64)(x)
        if self.has_rng(self.stream):
            x = x + jax.random.normal(self.make_rng(self.stream), x.shape)
        return x + jax.random.normal(self.make_rng("shift"), ()) if self.has_rng("shift") else x


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Asking()(x)


class Layer(nn.Module):
    """Adds a draw of its own in each layer of a stack."""

    @nn.compact
    def __call__(self, x, _):
        return x, x + jax.random.normal(self.make_rng("layer"), x.shape)


class Stacked(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(64)(x)
        if not train:
            return x
        stack = nn.scan(Layer, split_rngs={"layer": True}, length=2)
        return (jnp.diff(stack()(x, None)[1], axis=0))[0]


@pytest.mark.parametrize(
    ("module", "streams"),
    [
        (DropPath(), {"droppath"}),
        (Literal(), {"jitter"}),
        (Asking(), {"noise", "shift"}),
        (Inner(), {"noise", "shift"}),
        (Stacked(), {"layer"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_stream_draws_from_a_key_of_its_own(module, streams):
    network = nb.as_network(module)
    params = network.init(KEY, X)
    quiet = network.apply(params, X)
    assert np.array_equal(quiet, network.apply(params, X))
    train = [
        np.asarray(network.apply(params, X, train=True, key=jax.random.key(k))) for k in (1, 2)
    ]
    again = network.apply(params, X, train=True, key=jax.random.key(1))
    assert np.array_equal(train[0], again)
    assert np.abs(train[0] - train[1]).max() > 0.1
    assert streams < network._streams.names


def test_streams_of_one_module_draw_different_numbers():
    class Both(nn.Module):
        @nn.compact
        def __call__(self, x):
            if not self.has_rng("a"):
                return nn.Dense(1)(x)
            return jax.random.normal(self.make_rng("a"), x.shape) - jax.random.normal(
                self.make_rng("b"), x.shape
            )

    network = nb.as_network(Both())
    drawn = network.apply(network.init(KEY, X), X, train=True, key=KEY)
    assert np.all(np.asarray(drawn) != 0)


def test_layers_of_a_stack_draw_differently():
    network = nb.as_network(Stacked())
    params = network.init(KEY, X)
    drawn = np.asarray(network.apply(params, X, train=True, key=KEY))
    assert abs(np.std(drawn) - np.sqrt(2)) < 5 * np.sqrt(2) / np.sqrt(2 * drawn.size)


def test_a_network_with_a_stream_of_its_own_trains():
    det = nb.DeterministicNN(DropPath(), swa=None)
    det.train(X, X @ np.ones((3, 64), np.float32), epochs=1, batch_size=6, progress=False)
    assert np.isfinite(det.fit_result.losses[0])


def test_without_a_key_the_error_says_to_pass_one():
    network = nb.as_network(Literal())
    params = network.init(KEY, X)
    with pytest.raises(NetworkError, match="key="):
        network.apply(params, X, train=True)
