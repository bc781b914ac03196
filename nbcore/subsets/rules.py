"""Rules of a subset: each names entries of the layers of a network."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import numpy as np

from nbcore.errors import NetworkError, PairError, SubsetError, UnknownLayerError, did_you_mean
from nbcore.networks.layers import Layer, LayerKind, Leaf, Role
from nbcore.networks.stacks import LayerSlice, in_turn
from nbcore.subsets.patterns import matched, numbered, unknown_layer, without_numbers

Masks = dict[str, np.ndarray]
"""For each leaf path, which entries are stochastic (storage shape, bool)."""
Pairs = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class LayersRule:
    """Every weight that matches one of the patterns, of one kind of layer or one role if given.

    Raises:
        SubsetError: no pattern was given, one is not a string, or a kind or role is unknown.
    """

    kind: ClassVar[str] = "layers"
    patterns: tuple[str, ...]
    layer_kind: LayerKind | None = None
    role: Role | None = None

    def __post_init__(self) -> None:
        if not self.patterns:
            raise SubsetError("layers() got no name. Type: ProbabilisticSubset.layers('Dense0')")
        for pattern in self.patterns:
            if not isinstance(pattern, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise SubsetError(
                    f"A layer name is a string, got {type(pattern).__name__}: {pattern!r}. "
                    "Type: ProbabilisticSubset.layers('Dense0', 'Dense1')"
                )
        for name, value, possible in (
            ("kind", self.layer_kind, get_args(LayerKind)),
            ("role", self.role, [role for role in get_args(Role) if role != "state"]),
        ):
            if value is not None and value not in possible:
                raise SubsetError(
                    f"{name} is one of {', '.join(map(repr, possible))}, got {value!r}."
                    f"{did_you_mean(str(value), possible)}"
                )

    def masks(self, layers: Sequence[Layer]) -> Masks:
        """Return masks of the leaves that match; a pattern that matches nothing raises."""
        found: Masks = {}
        for pattern in self.patterns:
            parts = [(ly, leaf, matched(pattern, ly, leaf)) for ly in layers for leaf in ly.leaves]
            hits = [
                (leaf, hit) for _, leaf, hit in parts if hit is not None and self._fits(hit, leaf)
            ]
            if not hits:
                raise self._no_match(pattern, layers, [leaf for _, leaf, hit in parts if hit])
            for leaf, hit in hits:
                _mark(found, leaf, np.flatnonzero(hit.mask(leaf)))
        return found

    def _fits(self, hit: LayerSlice, leaf: Leaf) -> bool:
        return (
            leaf.role != "state"
            and self.layer_kind in (None, hit.layer.kind)
            and self.role in (None, leaf.role)
        )

    def _no_match(
        self, pattern: str, layers: Sequence[Layer], others: list[Leaf]
    ) -> UnknownLayerError:
        if not others:
            return unknown_layer(pattern, layers)
        asked = [f"{n}={v!r}" for n, v in (("kind", self.layer_kind), ("role", self.role)) if v]
        roles = ", ".join(dict.fromkeys(leaf.role for leaf in others))
        return UnknownLayerError(
            f"{pattern!r} matches no weights{' of ' + ', '.join(asked) if asked else ''}; the "
            f"arrays that it matches are: {roles}. State, such as running statistics and "
            "integers, is never stochastic."
        )


@dataclass(frozen=True)
class PairsRule:
    """Single entries of kernels, with their bias entries.

    Args:
        items: layer name, component (empty for none) and its pairs.
        include_bias: whether the bias entries of the pairs belong to it too.

    Raises:
        PairError: no pairs, duplicates, or indices that are not integers.
    """

    kind: ClassVar[str] = "pairs"
    items: tuple[tuple[str, str, Pairs], ...]
    include_bias: bool = True

    def __post_init__(self) -> None:
        if not self.items:
            raise PairError(
                "pairs() got no layer. Type: ProbabilisticSubset.pairs({'Dense0': [(0, 1)]})"
            )
        for name, component, _ in self.items:
            for text in (name, component):
                if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                    raise PairError(f"pairs() is keyed by names, got {text!r}. Type: '{text}'")
        items = tuple((name, part, _index_tuples(name, part, v)) for name, part, v in self.items)
        object.__setattr__(self, "items", items)

    @staticmethod
    def of(pairs: Mapping[str, Any], *, include_bias: bool) -> PairsRule:
        """Return the rule of a dict by layer, and by component if a layer has some."""
        if not isinstance(pairs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise PairError(
                f"pairs() takes a dict by layer, got {type(pairs).__name__}. "
                "Type: ProbabilisticSubset.pairs({'Dense0': [(0, 1)]})"
            )
        by_part: dict[str, Mapping[str, Any]] = {
            layer: value if isinstance(value, Mapping) else {"": value}
            for layer, value in pairs.items()
        }
        items = tuple(
            (name, part, v) for name, parts in by_part.items() for part, v in parts.items()
        )
        return PairsRule(items, include_bias)

    def masks(self, layers: Sequence[Layer]) -> Masks:
        """Return the masks of the entries that the pairs name."""
        found: Masks = {}
        for name, component, pairs in self.items:
            chosen = _named(name, layers)
            layer = chosen.layer
            weight = _weight_for(layer, component)
            index = _full_pairs(chosen, weight, pairs)
            _mark(found, weight, weight.entries(index))
            if self.include_bias and (bias := layer.bias_of(weight)) is not None:
                _mark(found, bias, layer.bias_entries(weight, index))
        return found


@dataclass(frozen=True)
class LastRule:
    """The last hidden layers and the outputs.

    Raises:
        SubsetError: the count is not an integer, or is negative.
    """

    kind: ClassVar[str] = "last"
    count: int

    def __post_init__(self) -> None:
        if not _is_index(self.count) or self.count < 0:
            raise SubsetError(f"last() counts hidden layers, got {self.count!r}. Type: last(1)")
        object.__setattr__(self, "count", operator.index(self.count))

    def masks(self, layers: Sequence[Layer]) -> Masks:
        """Return masks of the last hidden layers and of the outputs."""
        ordered = _ordered(layers, f"last({self.count})")
        hidden = [layer for layer in ordered if layer.is_hidden]
        if self.count > len(hidden):
            raise SubsetError(
                f"last({self.count}) asks for more hidden layers than there are: {len(hidden)} "
                f"({', '.join(layer.name for layer in hidden)}). Type: last({len(hidden)})"
            )
        return _masks_of(
            hidden[len(hidden) - self.count :] + [ly for ly in ordered if ly.is_output]
        )


@dataclass(frozen=True)
class FirstAndLastRule:
    """The first layer with weights and the outputs."""

    kind: ClassVar[str] = "first_and_last"

    def masks(self, layers: Sequence[Layer]) -> Masks:
        """Return masks of the first layer that has weights and of the outputs."""
        ordered = [ly for ly in _ordered(layers, "first_and_last()") if ly.layer.weights]
        return _masks_of(ordered[:1] + [layer for layer in ordered if layer.is_output])


@dataclass(frozen=True)
class EverythingRule:
    """Every weight."""

    kind: ClassVar[str] = "everything"

    def masks(self, layers: Sequence[Layer]) -> Masks:
        """Return full masks of every leaf that is not state."""
        weights = (leaf for layer in layers for leaf in layer.leaves if leaf.role != "state")
        return {leaf.path: np.ones(leaf.shape, bool) for leaf in weights}


def _masks_of(slices: Iterable[LayerSlice]) -> Masks:
    found: Masks = {}
    for part in slices:
        for leaf in part.layer.leaves:
            if leaf.role != "state":
                _mark(found, leaf, np.flatnonzero(part.mask(leaf)))
    return found


def _mark(masks: Masks, leaf: Leaf, entries: np.ndarray) -> None:
    masks.setdefault(leaf.path, np.zeros(leaf.shape, bool)).reshape(-1)[entries] = True


def _ordered(layers: Sequence[Layer], asked: str) -> list[LayerSlice]:
    if any(layer.order is None for layer in layers):
        raise NetworkError(
            f"{asked} needs the order in which layers are called, and no example input is known "
            "to trace. Type: nb.as_network(model, example=X[:1]), or name the layers: "
            "ProbabilisticSubset.layers(...)"
        )
    return in_turn(layers)


def _named(name: str, layers: Sequence[Layer]) -> LayerSlice:
    """Return the layer of a name, or those of its stacks that numbers in the name choose."""
    for layer in layers:
        if layer.name == name:
            return LayerSlice(layer, (None,) * len(layer.stacks))
    for layer in layers:
        chosen = numbered(name, layer) if layer.name == without_numbers(name) else None
        if chosen is not None:
            return chosen
    raise unknown_layer(name, layers)


def _is_index(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _index_tuples(layer: str, part: str, value: Any) -> Pairs:
    where = f"{layer}/{part}" if part else layer
    rows = value.tolist() if hasattr(value, "tolist") else value
    try:
        pairs = [tuple(row) for row in rows]
        if not all(_is_index(i) for pair in pairs for i in pair):
            raise TypeError("an index is not an integer")
    except TypeError as error:
        raise PairError(
            f"The pairs of {where!r} must be index tuples such as [(0, 1), (2, 3)], "
            f"got {value!r} ({error})."
        ) from error
    if not pairs:
        raise PairError(f"The list of pairs of {where!r} is empty. Leave the layer out instead.")
    seen: set[tuple[int, ...]] = set()
    for pair in pairs:
        if pair in seen:
            raise PairError(f"The pair {pair} of {where!r} is given twice. Give each pair once.")
        seen.add(pair)
    return tuple(tuple(int(i) for i in pair) for pair in pairs)


def _weight_for(layer: Layer, component: str) -> Leaf:
    if not layer.weights:
        raise PairError(
            f"The layer {layer.name!r} ({layer.kind}) has no kernel that pairs could index. "
            f"Type: ProbabilisticSubset.layers({layer.name!r})"
        )
    for weight in layer.weights:
        if weight.component == component:
            return weight
    if not component:
        example = {layer.name: {layer.components[0]: [(0,) * len(layer.weights[0].pair_axes)]}}
        raise PairError(
            f"The {layer.kind} layer {layer.name!r} has components "
            f"{', '.join(layer.components)}; its pairs are a dict by component, not a flat list. "
            f"Type: ProbabilisticSubset.pairs({example})"
        )
    possible = ", ".join(layer.components) or "none, so give a list of pairs"
    raise PairError(
        f"The layer {layer.name!r} has no component {component!r}."
        f"{did_you_mean(component, layer.components)} Possible: {possible}."
    )


def _full_pairs(chosen: LayerSlice, weight: Leaf, pairs: Pairs) -> np.ndarray:
    """Return pairs with the numbers of all chosen layers of the stacks in front, checked."""
    where = f"{chosen.name}/{weight.component}" if weight.component else chosen.name
    given = chosen.of(weight)
    ranges = [
        range(s.size) if n is None else (n,) for s, n in zip(weight.stacks, given, strict=True)
    ]
    full: list[tuple[int, ...]] = []
    for pair in pairs:
        in_layer = len(pair) == len(weight.layer_axes)
        if not in_layer and not (chosen.is_whole and len(pair) == len(weight.axes)):
            shown = f"({', '.join(weight.layer_axes)})"
            if weight.stacks and chosen.is_whole:
                shown += f", in all layers of its stack, or ({', '.join(weight.axes)})"
            raise PairError(
                f"{where!r} is indexed by {shown}, got {pair}. Give {len(weight.layer_axes)} "
                f"indices, such as {(0,) * len(weight.layer_axes)}."
            )
        several = [(*n, *pair) for n in itertools.product(*ranges)] if in_layer else [pair]
        for index, size, axis in zip(several[0], weight.pair_shape, weight.axes, strict=True):
            if not 0 <= index < size:
                raise PairError(
                    f"The pair {pair} of {where!r} is out of range: {axis} {index}, "
                    f"possible 0 to {size - 1}."
                )
        full += several
    return np.array(full, dtype=np.int64).reshape(len(full), len(weight.axes))
