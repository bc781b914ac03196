"""A small network with every kind of layer that pairs index, in plain JAX."""

from __future__ import annotations

import functools

import jax
import numpy as np

from nbcore.networks.network import Network, Params
from nbcore.references.networks import TOKENS as SHAPES
from nbcore.references.networks import tokens as apply

TOKENS = np.random.default_rng(8).integers(0, 7, size=(6, 5), dtype=np.int32)


def init(key: jax.Array, x: jax.Array) -> Params:
    """Return random weights."""
    del x
    return normal_like_shapes(int(jax.random.bits(key)))


def normal_like_shapes(seed: int) -> Params:
    """Return normal arrays of the shapes, by NumPy: nothing to compile for each of them."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: (0.5 * rng.normal(size=shape)).astype(np.float32),
        SHAPES,
        is_leaf=lambda s: isinstance(s, tuple),
    )


@functools.cache
def example_network() -> Network:
    """Return the network."""
    return Network.from_functions(init, apply, example=TOKENS[:1])


@functools.cache
def example_params() -> Params:
    """Return its weights."""
    return normal_like_shapes(9)
