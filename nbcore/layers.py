"""What a network is made of: layers, their leaves, their call order.

A *leaf* is one array of the parameter pytree; its *path* is the key path joined by `/`.
A *layer* is a named group of leaves. A *pair* indexes the axes of a kernel that are not window
axes, in canonical order (in ..., out ...); the bias entry that belongs to it is the out axes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

Role = Literal["kernel", "bias", "embedding", "scale", "state"]
Kind = Literal["dense", "convolution", "attention", "recurrent", "embedding", "norm", "other"]

HIDDEN_KINDS = ("dense", "convolution", "attention", "recurrent")
WEIGHT_ROLES = ("kernel", "embedding")


@dataclass(frozen=True)
class Leaf:
    """One array of the parameter pytree and how pairs index it.

    Args:
        path: key path in the parameters, joined by `/` (list items as numbers).
        role: kernel, bias, embedding, scale (of a normalisation layer) or state (not a weight).
        shape: storage shape.
        pair_axes: storage axes in canonical order (in ..., out ...); the others are window axes
            and belong to a pair as a whole.
        axes: names of the pair axes, in the same order.
        component: part of the layer, such as `"query"`; empty where a layer has one part.
    """

    path: str
    role: Role
    shape: tuple[int, ...]
    pair_axes: tuple[int, ...]
    axes: tuple[str, ...]
    component: str = ""

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def pair_shape(self) -> tuple[int, ...]:
        """Extent of each pair axis, in canonical order."""
        return tuple(self.shape[a] for a in self.pair_axes)

    @property
    def num_pairs(self) -> int:
        """Number of pairs."""
        return int(np.prod(self.pair_shape, dtype=np.int64))

    @property
    def window_axes(self) -> tuple[int, ...]:
        """Storage axes that belong to a pair as a whole."""
        return tuple(a for a in range(len(self.shape)) if a not in self.pair_axes)

    def by_pair(self, values: np.ndarray) -> np.ndarray:
        """Return values of the storage shape as `(*pair_shape, window)`."""
        axes = (*self.pair_axes, *self.window_axes)
        return values.transpose(axes).reshape(*self.pair_shape, -1)

    def from_pairs(self, values: np.ndarray) -> np.ndarray:
        """Return values `(*pair_shape, window)` in the storage shape: the inverse of `by_pair`."""
        axes = (*self.pair_axes, *self.window_axes)
        return values.reshape([self.shape[a] for a in axes]).transpose(np.argsort(axes))

    def entries(self, pairs: np.ndarray) -> np.ndarray:
        """Return the flat storage indices `(p, window)` that pairs `(p, len(pair_axes))` cover."""
        return self.by_pair(np.arange(self.size).reshape(self.shape))[tuple(pairs.T)]


@dataclass(frozen=True)
class Layer:
    """A named group of leaves.

    Args:
        name: module path joined by `/`.
        kind: what it computes.
        leaves: its arrays.
        order: position in the call order, `None` where it is not known.
        is_output: whether no weight layer comes after it, `None` where it is not known.
    """

    name: str
    kind: Kind
    leaves: tuple[Leaf, ...]
    order: int | None = None
    is_output: bool | None = None

    @property
    def is_hidden(self) -> bool:
        """Dense, convolution, attention or recurrent, and not an output layer."""
        return self.kind in HIDDEN_KINDS and not self.is_output

    @property
    def weights(self) -> tuple[Leaf, ...]:
        """The leaves that pairs index: kernels and embeddings."""
        return tuple(leaf for leaf in self.leaves if leaf.role in WEIGHT_ROLES)

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the parts that hold weights; empty where the layer has one unnamed part."""
        return tuple(leaf.component for leaf in self.weights if leaf.component)

    @property
    def size(self) -> int:
        """Number of entries that a subset can make stochastic."""
        return sum(leaf.size for leaf in self.leaves if leaf.role != "state")

    def bias_of(self, weight: Leaf) -> Leaf | None:
        """Return the bias that belongs to a weight leaf, if there is one."""
        for leaf in self.leaves:
            if leaf.role == "bias" and leaf.component == weight.component:
                return leaf
        return None


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
ATTENTION_PARTS = ("query", "key", "value", "out")
_RECURRENT_PARTS = re.compile(r"(i|h)[ifgorznh]?|if_|in|hn|dense_[ih]|recurrent_kernel")


def leaf_paths(tree: Any) -> list[str]:
    """Return the path of every leaf of a pytree, in the order of `jax.tree.leaves`.

    Examples:
        >>> leaf_paths({"Dense0": {"kernel": 1.0, "bias": 2.0}})
        ['Dense0/bias', 'Dense0/kernel']
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by their path.

    Examples:
        >>> leaves_by_path({"Dense0": {"kernel": 1.0, "bias": 2.0}})
        {'Dense0/bias': 2.0, 'Dense0/kernel': 1.0}
    """
    return dict(zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True))


def infer_layers(params: Any, *, prefix: str = "", state: Sequence[str] = ()) -> tuple[Layer, ...]:
    """Group the leaves of a parameter pytree into layers by their names and shapes.

    Leaves that are not of floating type are state. Leaves that share a parent are one layer; a
    parent with parts `query, key, value, out` is one attention layer, and the gates of a
    recurrent cell are one recurrent layer.

    Args:
        params: pytree of arrays.
        prefix: path that is left out of layer names, such as `"params"`.
        state: first path parts whose leaves are state (statistics, counters), never weights.

    Returns:
        Layers in pytree order, call order unknown.

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
        if path.split("/")[0] in state or not jnp.issubdtype(jnp.result_type(array), jnp.floating):
            no_weights.add(path)
    return tuple(
        _infer_layer(name, paths, shapes, prefix, no_weights)
        for name, paths in _grouped(shapes).items()
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


def _infer_kind(leaves: list[Leaf], is_attention: bool) -> Kind:
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


def in_call_order(
    layers: Iterable[Layer], apply: Callable[[Any, Any], Any], params: Any, example: Any
) -> tuple[Layer, ...]:
    """Sort layers by the first use of their leaves in the traced network, and mark the outputs.

    Args:
        layers: layers in any order.
        apply: `(params, x) -> outputs`; traced, never run.
        params: pytree of arrays.
        example: input with a leading example axis.

    Returns:
        The layers with `order` and `is_output` set; layers that are never used come last.
    """
    layers = tuple(layers)
    owner = {leaf.path: i for i, layer in enumerate(layers) for leaf in layer.leaves}
    closed = jax.make_jaxpr(apply)(params, example)
    owners = [owner.get(path) for path in leaf_paths(params)]
    num_inputs = len(closed.jaxpr.invars) - len(owners)
    trace = _Trace(frozenset(i for i, layer in enumerate(layers) if layer.weights))
    results = trace.walk(closed.jaxpr, [_param(o) for o in owners] + [_INPUT] * num_inputs)
    ends = frozenset[int]().union(*(value.ends for value in results))
    first_use = {o: n for n, o in reversed(list(enumerate(trace.used)))}
    ordered = sorted(range(len(layers)), key=lambda i: (first_use.get(i, len(trace.used)), i))
    return tuple(
        replace(layers[i], order=n, is_output=i in ends and not trace.passes_on(i, ends))
        for n, i in enumerate(ordered)
    )


@dataclass(frozen=True)
class _Value:
    """What a traced value depends on.

    Args:
        layers: the layers it depends on.
        has_input: whether the network's input is among what it depends on.
        ends: the weight layers that data met last on its ways to this value.
    """

    layers: frozenset[int]
    has_input: bool
    ends: frozenset[int] = frozenset()


_INPUT = _Value(frozenset(), True)
_NOTHING = _Value(frozenset(), False)


def _param(owner: int | None) -> _Value:
    return _NOTHING if owner is None else _Value(frozenset([owner]), False)


class _Trace:
    """Walks a jaxpr and records in which order layers meet data, and which follow which."""

    def __init__(self, has_weights: frozenset[int]) -> None:
        self.has_weights = has_weights
        self.used: list[int] = []
        self.followed_by: set[tuple[int, int]] = set()

    def passes_on(self, layer: int, others: frozenset[int]) -> bool:
        """Whether its results meet others that never pass theirs on to it."""
        pairs = self.followed_by
        return any((layer, b) in pairs and (b, layer) not in pairs for b in others)

    def walk(self, jaxpr: jex.Jaxpr, inputs: Sequence[_Value]) -> list[_Value]:
        values: dict[Any, _Value] = dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> _Value:
            return _NOTHING if isinstance(atom, jex.Literal) else values.get(atom, _NOTHING)

        for eqn in jaxpr.eqns:
            ins = [read(v) for v in eqn.invars]
            outs = self._inner(eqn, ins) or [self._meet(ins)] * len(eqn.outvars)
            values.update(zip(eqn.outvars, outs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _meet(self, ins: list[_Value]) -> _Value:
        data = [v for v in ins if v.has_input]
        ends = frozenset[int]().union(*(v.ends for v in data))
        if data:
            met = frozenset[int]().union(*(v.layers for v in ins if not v.has_input))
            for layer in sorted(met):
                self.used.append(layer)
                before = frozenset[int]().union(*(v.layers for v in data)) - {layer}
                self.followed_by.update((b, layer) for b in before)
            ends = (met & self.has_weights) or ends
        return _Value(frozenset[int]().union(*(v.layers for v in ins)), bool(data), ends)

    def _inner(self, eqn: jex.JaxprEqn, ins: list[_Value]) -> list[_Value] | None:
        """Walk into calls, loops and branches; None where the equation has no such body."""
        params, name = eqn.params, eqn.primitive.name
        if name == "while":
            cond = params["cond_nconsts"]
            return self._loop(params["body_jaxpr"].jaxpr, ins[cond:], params["body_nconsts"])
        if name == "scan":
            consts, carry = params["num_consts"], params["num_carry"]
            return self._loop(params["jaxpr"].jaxpr, ins, consts, carry)
        if name == "cond":
            outs = [self.walk(b.jaxpr, ins[1:]) for b in params["branches"]]
            return [self._meet([ins[0], *vs]) for vs in zip(*outs, strict=True)]
        for value in params.values():
            body = value.jaxpr if isinstance(value, jex.ClosedJaxpr) else value
            if isinstance(body, jex.Jaxpr) and len(body.invars) == len(ins):
                return self.walk(body, ins)
        return None

    def _loop(
        self, body: jex.Jaxpr, ins: list[_Value], consts: int, carry: int | None = None
    ) -> list[_Value]:
        carry = len(ins) - consts if carry is None else carry
        first = self.walk(body, ins)
        merged = [self._meet([a, b]) for a, b in zip(ins[consts:], first[:carry], strict=False)]
        return self.walk(body, [*ins[:consts], *merged, *ins[consts + carry :]])
