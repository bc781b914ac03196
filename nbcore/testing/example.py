"""A small network with every kind of layer that pairs index, in plain JAX."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.networks.network import Network, Params

TOKENS = np.random.default_rng(8).integers(0, 7, size=(6, 5), dtype=np.int32)
SHAPES: dict[str, Any] = {
    "Embed": {"embedding": (8, 4)},
    "Attention": {
        "query": {"kernel": (4, 2, 3), "bias": (2, 3)},
        "key": {"kernel": (4, 2, 3), "bias": (2, 3)},
        "value": {"kernel": (4, 2, 3), "bias": (2, 3)},
        "out": {"kernel": (2, 3, 4), "bias": (4,)},
    },
    "Convolution": {"kernel": (3, 4, 5), "bias": (5,)},
    "Dense": {"kernel": (5, 6), "bias": (6,)},
    "Head": {"kernel": (6, 2), "bias": (2,)},
}


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


def apply(params: Params, x: jax.Array) -> jax.Array:
    """Return outputs `(examples, 2)` of token sequences `(examples, length)`."""
    h = params["Embed"]["embedding"][x]
    attention = params["Attention"]

    def part(name: str) -> jax.Array:
        return jnp.einsum("nti,ihf->nthf", h, attention[name]["kernel"]) + attention[name]["bias"]

    weights = jax.nn.softmax(jnp.einsum("nshf,nthf->nhst", part("query"), part("key")), axis=-1)
    mixed = jnp.einsum("nhst,nthf->nshf", weights, part("value"))
    out = attention["out"]
    h = h + jnp.einsum("nshf,hfo->nso", mixed, out["kernel"]) + out["bias"]
    h = jax.lax.conv_general_dilated(
        h, params["Convolution"]["kernel"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    h = jnp.tanh(h + params["Convolution"]["bias"]).mean(axis=1)
    h = jnp.tanh(h @ params["Dense"]["kernel"] + params["Dense"]["bias"])
    return h @ params["Head"]["kernel"] + params["Head"]["bias"]


@functools.cache
def example_network() -> Network:
    """Return the network."""
    return Network.from_functions(init, apply, example=TOKENS[:1])


@functools.cache
def example_params() -> Params:
    """Return its weights."""
    return normal_like_shapes(9)
