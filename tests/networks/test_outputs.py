"""The form of outputs: how many there are, whether examples mix, and whether padding is read."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore.errors import NetworkError
from nbcore.networks.network import Network, Padding
from nbcore.networks.outputs import OutputForm, output_form

TOKENS = np.zeros((3, 12), np.int32)
TOKENS[0, :2], TOKENS[1, 1], TOKENS[2] = 3, 5, np.arange(1, 13) % 9 + 1
PARAMS = {"w": jax.random.normal(jax.random.key(0), (10,))}


def pooled_by(pool) -> Network:
    """A network over tokens, padded with zeros, that sums or averages over positions."""

    def init(key, x):
        return PARAMS

    def apply(params, x):
        return pool(params["w"][x], x != 0)

    return Network.from_functions(init, apply, padding=Padding(axis=1, value=0))


READS_ITS_PADDING = pooled_by(lambda h, real: jnp.mean(h, axis=1))


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        (lambda params, x: x, OutputForm(2, True)),
        (lambda params, x: x[:, 0], OutputForm(1, True)),
        (lambda params, x: x - x.mean(axis=0), OutputForm(2, False)),
    ],
)
def test_outputs_are_counted_and_mixing_is_noticed(apply, expected):
    network = nb.as_network((lambda key, x: {}, apply))
    assert output_form(network, {}, np.eye(5, 2, dtype=np.float32)) == expected


def test_a_network_that_reads_its_padding_is_refused():
    assert output_form(pooled_by(lambda h, real: jnp.sum(h * real, axis=1)), PARAMS, TOKENS)
    with pytest.raises(NetworkError, match=r"padding=None"):
        output_form(READS_ITS_PADDING, PARAMS, TOKENS)


def test_training_refuses_a_network_that_reads_its_padding():
    det = nb.DeterministicNN(READS_ITS_PADDING)
    with pytest.raises(NetworkError, match=r"padding=None"):
        det.train(TOKENS, np.arange(3.0), epochs=1, progress=False)
