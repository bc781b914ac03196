"""Layers inferred from the names and shapes of a parameter pytree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from nbcore.common.paths import leaves_by_path
from nbcore.errors import NetworkError
from nbcore.networks.layers import ATTENTION_PARTS, WEIGHT_ROLES, Layer, LayerKind, Leaf, Role

_ROLE_BY_NAME: Mapping[str, Role] = {
    "kernel": "kernel",
    "weight": "kernel",
    "weights": "kernel",
    "w": "kernel",
    "bias": "bias",
    "b": "bias",
    "embedding": "embedding",
    "embeddings": "embedding",
    "scale": "scale",
    "gamma": "scale",
}

HALF = 16
"""Bits of the shortest floats that weights are sampled in."""

_RECURRENT_PARTS = re.compile(r"(i|h)[ifgorznh]?|if_|in|hn|dense_[ih]|recurrent_kernel")


def infer_layers(params: Any, *, prefix: str = "", state: Sequence[str] = ()) -> tuple[Layer, ...]:
    """Group the leaves of a parameter pytree into layers by their names and shapes.

    Integers, such as counters, are state. Leaves that share a parent are one layer; a parent with
    parts `query, key, value, out` is one attention layer, and the gates of a recurrent cell are
    one recurrent layer.

    Args:
        params: pytree of arrays.
        prefix: path that is left out of layer names, such as `"params"`.
        state: first path parts whose leaves are state (statistics, counters), never weights.

    Returns:
        Layers in pytree order, call order unknown.

    Raises:
        NetworkError: weights are complex or of 8 bits, or what is named as a weight is not of
            floats (quantized weights).

    Examples:
        >>> import numpy as np
        >>> layers = infer_layers({"Dense0": {"kernel": np.ones((3, 2)), "bias": np.ones(2)}})
        >>> layers[0].name, layers[0].kind, layers[0].size
        ('Dense0', 'dense', 8)
    """
    shapes: dict[str, tuple[int, ...]] = {}
    no_weights: set[str] = set()
    for path, array in leaves_by_path(params).items():
        shapes[path] = tuple(np.shape(array))
        is_state = path.split("/")[0] in state
        if is_state or not jnp.issubdtype(jnp.result_type(array), jnp.floating):
            no_weights.add(path)
        if not is_state:
            _check_type(path, jnp.result_type(array))
    return tuple(
        _infer_layer(name, paths, shapes, prefix, no_weights)
        for name, paths in _grouped(shapes).items()
    )


def _check_type(path: str, dtype: Any) -> None:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise NetworkError(
            f"The weights {path!r} are {dtype}, and weights are real numbers. Keep the real and "
            "the imaginary part as two arrays of floats, and join them in the network: "
            "jax.lax.complex(params['real'], params['imag'])"
        )
    is_float = bool(jnp.issubdtype(dtype, jnp.floating))
    is_named_as_weight = path.rpartition("/")[2] in _ROLE_BY_NAME
    if (is_named_as_weight and not is_float) or (is_float and jnp.finfo(dtype).bits < HALF):
        raise NetworkError(
            f"The weights {path!r} are {dtype}, and weights that can move are floats of at least "
            f"{HALF} bits. Undo the quantization, params.astype('float32') times its scale; or, "
            "for what is no weight (a counter, an index, a mask), give it another name."
        )


def _grouped(paths: Iterable[str]) -> dict[str, list[str]]:
    """Group leaves by their parent; parts of attention layers and recurrent cells by theirs."""
    grouped: dict[str, list[str]] = {}
    for path in paths:
        grouped.setdefault(path.rpartition("/")[0], []).append(path)
    children: dict[str, set[str]] = {}
    for name in grouped:
        parent, _, part = name.rpartition("/")
        children.setdefault(parent, set()).add(part)
    joined: dict[str, list[str]] = {}
    for name, members in grouped.items():
        parent, _, part = name.rpartition("/")
        parts = children[parent]
        attention = parts.issuperset(ATTENTION_PARTS) and part in ATTENTION_PARTS
        recurrent = len(parts) > 1 and all(_RECURRENT_PARTS.fullmatch(p) for p in sorted(parts))
        joined.setdefault(parent if attention or recurrent else name, []).extend(members)
    return joined


def _infer_layer(
    name: str, paths: list[str], shapes: dict[str, tuple[int, ...]], prefix: str, state: set[str]
) -> Layer:
    parts = {p: p[len(name) :].strip("/").split("/") for p in paths}
    components = {p: "/".join(parts[p][:-1]) for p in paths}
    is_attention = {components[p] for p in paths}.issuperset(ATTENTION_PARTS)
    leaves: list[Leaf] = []
    for path in paths:
        siblings = [shapes[q] for q in paths if q != path and components[q] == components[path]]
        role = "state" if path in state else _infer_role(parts[path][-1], shapes[path], siblings)
        leaves.append(_make_leaf(path, role, shapes[path], components[path], is_attention))
    leaves = _told_apart(leaves)
    shown = name[len(prefix) :].strip("/") if prefix and name.startswith(prefix) else name
    return Layer(shown or "params", _infer_kind(leaves, is_attention), tuple(leaves))


def _told_apart(leaves: list[Leaf]) -> list[Leaf]:
    """Make components of several kernels in one dict (w1, b1, w2, b2), so that each has a name."""
    names = {leaf.path: leaf.path.rpartition("/")[2] for leaf in leaves if not leaf.component}
    weights = [names[f.path] for f in leaves if f.role in WEIGHT_ROLES and f.path in names]
    if len(weights) < 2:
        return leaves
    suffixes = {_suffix(weight): weight for weight in weights}
    component = {p: n if n in weights else suffixes.get(_suffix(n), "") for p, n in names.items()}
    return [replace(leaf, component=component.get(leaf.path, leaf.component)) for leaf in leaves]


def _suffix(name: str) -> str:
    return re.sub("^(kernel|weight|bias|w|b)s?_?", "", name.lower())


def _infer_role(name: str, shape: tuple[int, ...], siblings: list[tuple[int, ...]]) -> Role:
    if name in _ROLE_BY_NAME and not (_ROLE_BY_NAME[name] == "kernel" and len(shape) < 2):
        return _ROLE_BY_NAME[name]
    if len(shape) >= 2:
        return "kernel"
    matrix = any(len(s) >= 2 and shape and shape[-1] in (s[-1], s[0]) for s in siblings)
    return "bias" if matrix else "scale"


def _make_leaf(
    path: str, role: Role, shape: tuple[int, ...], component: str, is_attention: bool
) -> Leaf:
    every = tuple(range(len(shape)))
    if role == "embedding" and len(shape) == 2:
        return Leaf(path, role, shape, every, ("token", "feature"), component)
    if role == "kernel" and is_attention:
        axes = ("head", "feature", "out") if component == "out" else ("in", "head", "feature")
        return Leaf(path, role, shape, every, axes[: len(shape)], component)
    if role == "kernel" and len(shape) > 2:
        return Leaf(path, role, shape, every[-2:], ("in", "out"), component)
    if role == "kernel" and len(shape) == 2:
        return Leaf(path, role, shape, every, ("in", "out"), component)
    axes = ("head", "feature")[-len(shape) :] if is_attention and component != "out" else ("out",)
    if len(axes) != len(shape):
        axes = tuple(f"axis{a}" for a in every)
    return Leaf(path, role, shape, every, axes, component)


def _infer_kind(leaves: list[Leaf], is_attention: bool) -> LayerKind:
    roles = {leaf.role for leaf in leaves}
    if is_attention:
        return "attention"
    if "embedding" in roles:
        return "embedding"
    kernels = [leaf for leaf in leaves if leaf.role == "kernel"]
    if len(kernels) > 1:
        return "recurrent"
    if kernels:
        return "convolution" if len(kernels[0].shape) > 2 else "dense"
    return "norm" if "scale" in roles else "other"
