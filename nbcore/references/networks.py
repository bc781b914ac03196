"""Networks of the references, as plain functions of parameters."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from nbcore.networks.network import Params

Shapes = Mapping[str, Any]
"""Shapes of the parameters of a network: a tuple in place of each leaf."""


def dense(inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a dense layer."""
    return {"kernel": (inputs, outputs), "bias": (outputs,)}


def attention_shapes(width: int, heads: int, features: int) -> dict[str, Any]:
    """Return the shapes of an attention layer."""
    part = {"kernel": (width, heads, features), "bias": (heads, features)}
    out = {"kernel": (heads, features, width), "bias": (width,)}
    return {"query": part, "key": part, "value": part, "out": out}


def mlp(params: Params, x: jax.Array) -> jax.Array:
    """Return the outputs `(examples, outputs)` of a perceptron, tanh between its layers."""
    *hidden, last = params
    for name in hidden:
        x = jnp.tanh(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params[last]["kernel"] + params[last]["bias"]


def convolution(params: Params, x: jax.Array) -> jax.Array:
    """Return logits `(examples, classes)` of sequences `(examples, length, channels)`."""
    kernel = params["Convolution"]["kernel"]
    h = jax.lax.conv_general_dilated(
        x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    h = jnp.tanh(h + params["Convolution"]["bias"])
    h = h.reshape(h.shape[0], 4, -1, h.shape[2]).mean(axis=2).reshape(h.shape[0], -1)
    h = jnp.tanh(h @ params["Middle"]["kernel"] + params["Middle"]["bias"])
    return h @ params["Head"]["kernel"] + params["Head"]["bias"]


def attend(layer: Params, h: jax.Array, is_token: jax.Array | None = None) -> jax.Array:
    """Return what an attention layer gives `(examples, length, width)`."""

    def part(name: str) -> jax.Array:
        return jnp.einsum("nti,ihf->nthf", h, layer[name]["kernel"]) + layer[name]["bias"]

    scores = jnp.einsum("nshf,nthf->nhst", part("query"), part("key"))
    if is_token is not None:
        scores = jnp.where(is_token[:, None, None, :], scores, -1e9)
    mixed = jnp.einsum("nhst,nthf->nshf", jax.nn.softmax(scores, axis=-1), part("value"))
    return jnp.einsum("nshf,hfo->nso", mixed, layer["out"]["kernel"]) + layer["out"]["bias"]


def tokens(params: Params, x: jax.Array) -> jax.Array:
    """Return outputs `(examples, 2)` of token sequences `(examples, length)`."""
    h = params["Embed"]["embedding"][x]
    h = h + attend(params["Attention"], h)
    h = jax.lax.conv_general_dilated(
        h, params["Convolution"]["kernel"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    h = jnp.tanh(h + params["Convolution"]["bias"]).mean(axis=1)
    h = jnp.tanh(h @ params["Dense"]["kernel"] + params["Dense"]["bias"])
    return h @ params["Head"]["kernel"] + params["Head"]["bias"]


def transformer(params: Params, x: jax.Array) -> jax.Array:
    """Return outputs `(examples, 1)` of token sequences `(examples, length)`, 0 is padding."""
    is_token = x != 0
    h = params["TokenEmbed"]["embedding"][x] + params["PosEmbed"]["embedding"][: x.shape[1]]
    h = h + attend(params["Attention"], h, is_token)
    inner = jnp.tanh(h @ params["Dense1"]["kernel"] + params["Dense1"]["bias"])
    h = h + inner @ params["Dense2"]["kernel"] + params["Dense2"]["bias"]
    pooled = jnp.where(is_token[:, :, None], h, 0).sum(axis=1) / 8
    h = jnp.tanh(pooled @ params["FinalDense1"]["kernel"] + params["FinalDense1"]["bias"])
    return h @ params["FinalDense2"]["kernel"] + params["FinalDense2"]["bias"]


TOKENS: Shapes = {
    "Embed": {"embedding": (8, 4)},
    "Attention": attention_shapes(4, 2, 3),
    "Convolution": {"kernel": (3, 4, 5), "bias": (5,)},
    "Dense": dense(5, 6),
    "Head": dense(6, 2),
}


def perceptron(*widths: int) -> Shapes:
    """Return the shapes of a perceptron: `Layer0`, `Layer1`, ..."""
    return {f"Layer{i}": dense(*pair) for i, pair in enumerate(itertools.pairwise(widths))}


def transformer_shapes(vocabulary: int, length: int) -> Shapes:
    """Return the shapes of the transformer: width 8, two heads."""
    return {
        "TokenEmbed": {"embedding": (vocabulary, 8)},
        "PosEmbed": {"embedding": (length, 8)},
        "Attention": attention_shapes(8, 2, 4),
        "Dense1": dense(8, 16),
        "Dense2": dense(16, 8),
        "FinalDense1": dense(8, 16),
        "FinalDense2": dense(16, 1),
    }


def num_values(shapes: Shapes) -> int:
    """Return how many parameters some shapes have."""
    return sum(int(np.prod(s)) for s in jax.tree.leaves(shapes, is_leaf=_is_shape))


def unflat(shapes: Shapes, values: NDArray[np.float32]) -> Params:
    """Return parameters of some shapes out of one vector."""
    leaves, structure = jax.tree.flatten(shapes, is_leaf=_is_shape)
    ends = np.cumsum([int(np.prod(shape)) for shape in leaves])
    parts = np.split(values, ends[:-1])
    return jax.tree.unflatten(
        structure, [part.reshape(shape) for part, shape in zip(parts, leaves, strict=True)]
    )


def _is_shape(node: Any) -> bool:
    return isinstance(node, tuple)
