"""The classes of flax whose parameters shapes alone would misread, and its random keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore import Layer, Leaf
from nbcore.extend import LayerKind, Params


def collections_of(params: Params) -> Mapping[str, Any]:
    """Return parameters as collections, `{"params": weights, …}`; weights alone are accepted."""
    return params if "params" in params else {"params": params}


def typed_key(key: jax.Array) -> jax.Array:
    """Return a key as a typed key; old keys are plain uint32 arrays."""
    return key if is_key(key) else jax.random.wrap_key_data(key)


def is_key(array: jax.Array) -> bool:
    """Tell whether an array holds typed random keys."""
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


@dataclass(frozen=True)
class ModuleTypes:
    """The classes of one module library whose parameters shapes alone would misread.

    Args:
        kinds: what a class computes, if that is sure.
        general: linear map between several axes at once; contracts the attribute `axis`.
        transposed: convolution that keeps (out, in) when its `transpose_kernel` is set.
    """

    kinds: Mapping[type, LayerKind]
    general: type
    transposed: type

    def refine(self, layer: Layer, module: Any) -> Layer:
        """Correct what shapes said about a layer by the module that holds it."""
        kind = next((k for cls, k in self.kinds.items() if isinstance(module, cls)), layer.kind)
        leaves = layer.leaves
        if isinstance(module, self.general):
            leaves = tuple(_over_all_axes(leaf, np.size(module.axis)) for leaf in leaves)
        elif isinstance(module, self.transposed) and module.transpose_kernel:
            leaves = tuple(_transposed(leaf) for leaf in leaves)
        return replace(layer, kind=kind, leaves=leaves)


def _over_all_axes(leaf: Leaf, num_inputs: int) -> Leaf:
    """A linear map between several axes: each is a pair axis, none is a window."""
    rank = len(leaf.shape)
    if leaf.role == "kernel":
        axes = (*_numbered("in", num_inputs), *_numbered("out", rank - num_inputs))
    elif leaf.role == "bias":
        axes = _numbered("out", rank)
    else:
        return leaf
    return replace(leaf, pair_axes=tuple(range(rank)), axes=axes)


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return (name,) if count == 1 else tuple(f"{name}{i}" for i in range(count))


def _transposed(leaf: Leaf) -> Leaf:
    if leaf.role != "kernel":
        return leaf
    rank = len(leaf.shape)
    return replace(leaf, pair_axes=(rank - 1, rank - 2), axes=("in", "out"))
