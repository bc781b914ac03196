"""The layers of an Equinox module: what its classes say about the arrays that they hold.

Equinox keeps kernels as (out, in, window ...); `pair_axes` translate that into (in, out).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np

from nbcore import Layer, Leaf
from nbcore.extend import (
    LayerKind,
    Params,
    StackAxes,
    axes_beyond,
    infer_layers,
    known_axes,
    leaves_by_path,
)

NORMS = (eqx.nn.LayerNorm, eqx.nn.RMSNorm, eqx.nn.GroupNorm, eqx.nn.BatchNorm)
RECURRENT = (eqx.nn.GRUCell, eqx.nn.LSTMCell)
CONVOLUTIONS = (eqx.nn.Conv, eqx.nn.ConvTranspose)
ATTENTION = {
    "query_proj": "query",
    "key_proj": "key",
    "value_proj": "value",
    "output_proj": "out",
}

Shapes = dict[str, tuple[int, ...]]
"""Shapes of the arrays of one module, by their path in it."""


def describe(module: Any, params: Params) -> tuple[Layer, ...]:
    """Return the layers of a module, call order unknown.

    Layers of Equinox are known by their class; arrays that a module of the user's own holds are
    described by their names and shapes, and indexed as they are stored.

    Args:
        module: the module.
        params: its parameters, `{"params": …}` or the weights alone.
    """
    prefix = "params" if "params" in params else ""
    inferred = infer_layers(params, prefix=prefix, state=("state",))
    start = f"{prefix}/" if prefix else ""
    shapes = {path: tuple(np.shape(a)) for path, a in leaves_by_path(params).items()}
    known: dict[str, Layer] = {}
    for name, part in parts_of_type(module, tuple(_KNOWN)).items():
        root = f"{start}{name}/" if name else start
        own = {path[len(root) :]: shape for path, shape in shapes.items() if path.startswith(root)}
        if own:
            cls = next(cls for cls in _KNOWN if isinstance(part, cls))
            kind, describe_leaf = _KNOWN[cls]
            leaves = tuple(describe_leaf(root, path, shape) for path, shape in own.items())
            known |= {leaf.path: Layer(name or "params", kind, leaves) for leaf in leaves}
    return tuple(dict.fromkeys(known.get(layer.leaves[0].path, layer) for layer in inferred))


def stacked_axes(module: Any, params: Params, traced: StackAxes) -> StackAxes:
    """Return the axes that arrays of Equinox's layers have beyond those of one layer.

    Args:
        module: the module.
        params: its parameters.
        traced: the stack axes that the trace of the module found.
    """
    start = "params/" if "params" in params else ""
    shapes = {path: np.shape(a) for path, a in leaves_by_path(params).items()}
    known: dict[str, tuple[int, ...]] = {}
    for name, part in parts_of_type(module, tuple(_KNOWN)).items():
        root = f"{start}{name}/" if name else start
        for path, shape in shapes.items():
            if path.startswith(root):
                rank = _rank(part, path.rpartition("/")[2].startswith("bias"))
                known[path] = axes_beyond(rank, len(shape), traced.get(path, ()))
    return known_axes(traced, known)


def _rank(part: Any, is_bias: bool) -> int:
    """Return how many axes an array of one layer of Equinox has."""
    if isinstance(part, CONVOLUTIONS):
        return part.num_spatial_dims + (1 if is_bias else 2)
    if isinstance(part, eqx.nn.LayerNorm | eqx.nn.RMSNorm):
        return len(part.shape)
    return 1 if is_bias or isinstance(part, NORMS) else 2


def parts_of_type(module: Any, types: type[Any] | tuple[type[Any], ...]) -> dict[str, Any]:
    """Return the parts of a module that are of given types, outermost first, by their path."""
    flat, _ = jax.tree_util.tree_flatten_with_path(module, is_leaf=lambda m: isinstance(m, types))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): part
        for path, part in flat
        if isinstance(part, types)
    }


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested dicts of leaves by path.

    Examples:
        >>> nested({"layers/0/weight": 1, "layers/0/bias": 2})
        {'layers': {'0': {'weight': 1, 'bias': 2}}}
    """
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def _kernel(path: str, shape: tuple[int, ...], component: str = "") -> Leaf:
    return Leaf(path, "kernel", shape, (1, 0), ("in", "out"), component)


def _bias(path: str, shape: tuple[int, ...], component: str = "") -> Leaf:
    return Leaf(path, "bias", shape, (0,), ("out",), component)


def _linear(root: str, path: str, shape: tuple[int, ...]) -> Leaf:
    return (_kernel if path == "weight" else _bias)(root + path, shape)


def _attention(root: str, path: str, shape: tuple[int, ...]) -> Leaf:
    part, _, name = path.partition("/")
    return (_kernel if name == "weight" else _bias)(root + path, shape, ATTENTION[part])


def _recurrent(root: str, path: str, shape: tuple[int, ...]) -> Leaf:
    if path.startswith("weight"):
        return _kernel(root + path, shape, path)
    # The bias of all gates belongs to the weights of the input; GRU's second one, to none.
    return _bias(root + path, shape, "weight_ih" if path == "bias" else path)


def _embedding(root: str, path: str, shape: tuple[int, ...]) -> Leaf:
    return Leaf(root + path, "embedding", shape, (0, 1), ("token", "feature"))


def _norm(root: str, path: str, shape: tuple[int, ...]) -> Leaf:
    axes = tuple(range(len(shape)))
    names = ("out",) if len(axes) == 1 else tuple(f"axis{a}" for a in axes)
    return Leaf(root + path, "scale" if path == "weight" else "bias", shape, axes, names)


_KNOWN: dict[type[Any], tuple[LayerKind, Callable[[str, str, tuple[int, ...]], Leaf]]] = {
    eqx.nn.Linear: ("dense", _linear),
    **dict.fromkeys(CONVOLUTIONS, ("convolution", _linear)),
    eqx.nn.MultiheadAttention: ("attention", _attention),
    **dict.fromkeys(RECURRENT, ("recurrent", _recurrent)),
    eqx.nn.Embedding: ("embedding", _embedding),
    **dict.fromkeys(NORMS, ("norm", _norm)),
}
