"""Rules of a subset: each names entries of the layers of a network."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nbcore.errors import NetworkError, PairError, SubsetError, UnknownLayerError, did_you_mean
from nbcore.networks.layers import Layer, Leaf

Masks = dict[str, np.ndarray]
"""For each leaf path, which entries are stochastic (storage shape, bool)."""
Pairs = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class LayersRule:
    """Every weight of the layers that match one of the patterns.

    Raises:
        SubsetError: no pattern was given, or one is not a string.
    """

    kind: ClassVar[str] = "layers"
    patterns: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.patterns:
            raise SubsetError("layers() got no name. Type: ProbabilisticSubset.layers('Dense0')")
        for pattern in self.patterns:
            if not isinstance(pattern, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise SubsetError(
                    f"A layer name is a string, got {type(pattern).__name__}: {pattern!r}. "
                    "Type: ProbabilisticSubset.layers('Dense0', 'Dense1')"
                )

    def masks(self, layers: Sequence[Layer]) -> Masks:
        """Return full masks of the leaves that match; a pattern that matches nothing raises."""
        found: Masks = {}
        for pattern in self.patterns:
            matched = [leaf for ly in layers for leaf in _weights(ly) if matches(pattern, ly, leaf)]
            if not matched:
                raise unknown_layer(pattern, layers)
            found.update(_full(matched))
        return found


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
        by_name = {layer.name: layer for layer in layers}
        found: Masks = {}
        for name, component, pairs in self.items:
            if name not in by_name:
                raise unknown_layer(name, layers)
            layer = by_name[name]
            weight = _weight_for(layer, component)
            index = _checked(layer, weight, pairs)
            _mark(found, weight, weight.entries(index))
            bias = layer.bias_of(weight)
            if self.include_bias and bias is not None:
                _mark(found, bias, bias.entries(index[:, index.shape[1] - len(bias.pair_axes) :]))
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
        """Return full masks of the last hidden layers and of the outputs."""
        ordered = _ordered(layers, f"last({self.count})")
        hidden = [layer for layer in ordered if layer.is_hidden]
        if self.count > len(hidden):
            raise SubsetError(
                f"last({self.count}) asks for more hidden layers than there are: {len(hidden)} "
                f"({', '.join(layer.name for layer in hidden)}). Type: last({len(hidden)})"
            )
        kept = hidden[len(hidden) - self.count :] + [ly for ly in ordered if ly.is_output]
        return _full(leaf for layer in kept for leaf in _weights(layer))


@dataclass(frozen=True)
class FirstAndLastRule:
    """The first layer with weights and the outputs."""

    kind: ClassVar[str] = "first_and_last"

    def masks(self, layers: Sequence[Layer]) -> Masks:
        """Return full masks of the first layer that has weights and of the outputs."""
        ordered = [layer for layer in _ordered(layers, "first_and_last()") if layer.weights]
        kept = ordered[:1] + [layer for layer in ordered if layer.is_output]
        return _full(leaf for layer in kept for leaf in _weights(layer))


@dataclass(frozen=True)
class EverythingRule:
    """Every weight."""

    kind: ClassVar[str] = "everything"

    def masks(self, layers: Sequence[Layer]) -> Masks:
        """Return full masks of every leaf that is not state."""
        return _full(leaf for layer in layers for leaf in _weights(layer))


def matches(pattern: str, layer: Layer, leaf: Leaf | None = None) -> bool:
    """Return whether a pattern matches a layer, an ancestor, or the component a leaf is in.

    Examples:
        >>> from nbcore.networks.layers import Layer
        >>> matches("encoder/*", Layer("encoder/Dense0", "dense", ()))
        True
        >>> matches("*", Layer("encoder/Dense0", "dense", ()))  # an ancestor matches
        True
        >>> matches("*0", Layer("encoder/Dense0", "dense", ()))
        False
    """
    name = f"{layer.name}/{leaf.component}" if leaf and leaf.component else layer.name
    parts = [re.escape(p).replace(r"\*", "[^/]*") for p in pattern.split("**")]
    return re.fullmatch(".*".join(parts) + "(/.*)?", name) is not None


def unknown_layer(name: str, layers: Sequence[Layer]) -> UnknownLayerError:
    """Return the error for a name or pattern that matches no layer, with the nearest names."""
    names = [layer.name for layer in layers if layer.size]
    parts = [f"{layer.name}/{part}" for layer in layers for part in layer.components]
    return UnknownLayerError(
        f"No layer matches {name!r}.{did_you_mean(name, names + parts)} "
        f"Possible: {', '.join(names)}."
    )


def _weights(layer: Layer) -> list[Leaf]:
    return [leaf for leaf in layer.leaves if leaf.role != "state"]


def _full(leaves: Iterable[Leaf]) -> Masks:
    return {leaf.path: np.ones(leaf.shape, bool) for leaf in leaves}


def _mark(masks: Masks, leaf: Leaf, entries: np.ndarray) -> None:
    masks.setdefault(leaf.path, np.zeros(leaf.shape, bool)).reshape(-1)[entries] = True


def _ordered(layers: Sequence[Layer], asked: str) -> list[Layer]:
    if any(layer.order is None for layer in layers):
        raise NetworkError(
            f"{asked} needs the order in which layers are called, and no example input is known "
            "to trace. Type: nb.as_network(model, example=X[:1]), or name the layers: "
            "ProbabilisticSubset.layers(...)"
        )
    return sorted(layers, key=lambda layer: layer.order or 0)


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


def _checked(layer: Layer, weight: Leaf, pairs: Pairs) -> np.ndarray:
    where = f"{layer.name}/{weight.component}" if weight.component else layer.name
    for pair in pairs:
        if len(pair) != len(weight.pair_axes):
            raise PairError(
                f"{where!r} is indexed by ({', '.join(weight.axes)}), got {pair}. "
                f"Give {len(weight.pair_axes)} indices, such as {(0,) * len(weight.pair_axes)}."
            )
        for index, size, axis in zip(pair, weight.pair_shape, weight.axes, strict=True):
            if not 0 <= index < size:
                raise PairError(
                    f"The pair {pair} of {where!r} is out of range: {axis} {index}, "
                    f"possible 0 to {size - 1}."
                )
    return np.array(pairs, dtype=np.int64)
