"""Which weights are stochastic: an ordered list of (sign, rule), pure data without arrays."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from nbcore.errors import (
    NetworkError,
    PairError,
    SubsetError,
    UnknownLayerError,
    did_you_mean,
)
from nbcore.layers import Layer, Leaf

if TYPE_CHECKING:
    from nbcore.network import Network, Params
    from nbcore.split import ParameterSplit

Masks = dict[str, np.ndarray]
"""For each leaf path, which entries are stochastic (storage shape, bool)."""


@dataclass(frozen=True)
class ProbabilisticSubset:
    """Which weights of a network are stochastic.

    Subsets are values: they compare equal by content, can be hashed, and round trip through JSON.
    They are read from left to right: `+` adds what a rule matches, `-` takes it away.

    Args:
        terms: pairs of a sign and a rule; made by the class methods and by `|` and `-`.

    Examples:
        >>> import nbcore as nb
        >>> attention = nb.ProbabilisticSubset.layers("Block*_Attention")
        >>> head = nb.ProbabilisticSubset.layers("FinalDense2")
        >>> subset = (attention | head) - nb.ProbabilisticSubset.layers("Block0_Attention")
        >>> nb.ProbabilisticSubset.from_json(subset.to_json()) == subset
        True

    References:
        Sharma et al. (2023), "Do Bayesian neural networks need to be fully stochastic?".
    """

    terms: tuple[tuple[Literal["+", "-"], Rule], ...]

    @staticmethod
    def layers(*patterns: str) -> ProbabilisticSubset:
        """Return every weight of the layers that match.

        A pattern matches a layer, one component of it (`Block0_Attention/query`), or an ancestor,
        then its whole subtree. `*` does not cross `/`, `**` does.

        Raises:
            SubsetError: no pattern was given.
        """
        if not patterns:
            raise SubsetError("layers() got no name. Type: ProbabilisticSubset.layers('Dense0')")
        for pattern in patterns:
            if not isinstance(pattern, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise SubsetError(
                    f"A layer name is a string, got {type(pattern).__name__}: {pattern!r}. "
                    "Type: ProbabilisticSubset.layers('Dense0', 'Dense1')"
                )
        return ProbabilisticSubset((("+", LayersRule(tuple(patterns))),))

    @staticmethod
    def pairs(
        pairs: Mapping[str, Any], *, include_bias: bool = True
    ) -> ProbabilisticSubset:
        """Return single entries of kernels and embeddings.

        Args:
            pairs: for each layer, a sequence of index tuples, or an integer array
                `(pairs, axes)`: dense `(in, out)`, embedding `(token, feature)`, convolution
                `(in_channel, out_channel)`. For a layer with components, such as attention, a
                dict from component to those: query, key, value `(in, head, feature)`, out
                `(head, feature, out)`.
            include_bias: whether the bias entry of each pair becomes stochastic too, once.

        Raises:
            PairError: no pairs, duplicates, or indices that are not integers.
        """
        items: list[tuple[str, str, tuple[tuple[int, ...], ...]]] = []
        for layer, value in pairs.items():
            parts: Mapping[str, Any] = value if isinstance(value, Mapping) else {"": value}  # pyright: ignore[reportUnknownVariableType]
            items.extend((layer, part, _index_tuples(layer, part, v)) for part, v in parts.items())
        if not items:
            raise PairError("pairs() got no layer. Type: ProbabilisticSubset.pairs({'Dense0': [(0, 1)]})")
        return ProbabilisticSubset((("+", PairsRule(tuple(items), include_bias)),))

    @staticmethod
    def last(count: int) -> ProbabilisticSubset:
        """Return the last `count` hidden layers and the output layer or layers.

        Hidden layers are dense, convolution, attention and recurrent ones; embeddings and
        normalisation layers are not counted.
        """
        if count < 0:
            raise SubsetError(f"last() counts hidden layers, got {count}. Type: last(1)")
        return ProbabilisticSubset((("+", LastRule(int(count))),))

    @staticmethod
    def first_and_last() -> ProbabilisticSubset:
        """Return the first layer that has weights and the output layer or layers."""
        return ProbabilisticSubset((("+", FirstAndLastRule()),))

    @staticmethod
    def everything() -> ProbabilisticSubset:
        """Return every weight; state, such as running statistics, is no weight."""
        return ProbabilisticSubset((("+", EverythingRule()),))

    def __or__(self, other: ProbabilisticSubset) -> ProbabilisticSubset:
        """Return what is in either subset."""
        only_adds = all(sign == "+" for sign, _ in other.terms)
        added = other.terms if only_adds else (("+", NestedRule(other)),)
        return ProbabilisticSubset(self.terms + added)

    def __sub__(self, other: ProbabilisticSubset) -> ProbabilisticSubset:
        """Return what is in this subset and not in the other."""
        only_adds = all(sign == "+" for sign, _ in other.terms)
        rules = [rule for _, rule in other.terms] if only_adds else [NestedRule(other)]
        return ProbabilisticSubset(self.terms + tuple(("-", rule) for rule in rules))

    def to_json(self) -> str:
        """Return the subset as a JSON text."""
        return json.dumps({"format": "nbcore-subset-1", "terms": _terms_to_data(self)})

    @staticmethod
    def from_json(text: str) -> ProbabilisticSubset:
        """Return the subset that `to_json` wrote.

        Raises:
            SubsetError: the text is no such JSON.
        """
        try:
            data = json.loads(text)
            if data["format"] != "nbcore-subset-1":
                raise SubsetError(
                    f"Got the subset format {data['format']!r}; possible: 'nbcore-subset-1'."
                )
            return _terms_from_data(data["terms"])
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, SubsetError):
                raise
            raise SubsetError(f"This is no subset written by to_json(): {error!r}") from error

    def masks(self, layers: Sequence[Layer]) -> Masks:
        """Resolve against the layers of a network: which entries of each leaf are stochastic.

        Raises:
            UnknownLayerError: a name or pattern matches nothing.
            PairError: a pair does not fit its layer.
            NetworkError: a rule needs the call order and it is not known.
        """
        chosen = {leaf.path: np.zeros(leaf.shape, bool) for ly in layers for leaf in ly.leaves}
        for sign, rule in self.terms:
            for path, mask in rule.masks(layers).items():
                chosen[path] = chosen[path] | mask if sign == "+" else chosen[path] & ~mask
        return chosen

    def split(self, network: Network, params: Params) -> ParameterSplit:
        """Resolve against a network and its parameters; see `nbcore.split.ParameterSplit`."""
        from nbcore.split import ParameterSplit  # noqa: PLC0415  split.py stands on this file

        return ParameterSplit.build(self, network, params)


@dataclass(frozen=True)
class LayersRule:
    """Every weight of the layers that match one of the patterns."""

    kind: ClassVar[str] = "layers"
    patterns: tuple[str, ...]

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
    """Single entries of kernels, with their bias entries."""

    kind: ClassVar[str] = "pairs"
    items: tuple[tuple[str, str, tuple[tuple[int, ...], ...]], ...]
    include_bias: bool = True

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
    """The last hidden layers and the outputs."""

    kind: ClassVar[str] = "last"
    count: int

    def masks(self, layers: Sequence[Layer]) -> Masks:
        """Return full masks of the last hidden layers and of the outputs."""
        ordered = _ordered(layers, f"last({self.count})")
        hidden = [layer for layer in ordered if layer.is_hidden]
        if self.count > len(hidden):
            raise SubsetError(
                f"last({self.count}) asks for more hidden layers than there are: {len(hidden)} "
                f"({', '.join(layer.name for layer in hidden)})."
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
        """Return full masks of every leaf that is no state."""
        return _full(leaf for layer in layers for leaf in _weights(layer))


@dataclass(frozen=True)
class NestedRule:
    """A whole subset as one rule, where `|` and `-` meet a subset that itself takes away."""

    kind: ClassVar[str] = "subset"
    subset: ProbabilisticSubset

    def masks(self, layers: Sequence[Layer]) -> Masks:
        """Return the masks of the nested subset."""
        return self.subset.masks(layers)


Rule = LayersRule | PairsRule | LastRule | FirstAndLastRule | EverythingRule | NestedRule
_RULES: dict[str, Any] = {
    r.kind: r for r in (LayersRule, PairsRule, LastRule, FirstAndLastRule, EverythingRule)
}


def matches(pattern: str, layer: Layer, leaf: Leaf | None = None) -> bool:
    """Return whether a pattern matches a layer, an ancestor, or the component a leaf is in.

    Examples:
        >>> from nbcore.layers import Layer
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
    return UnknownLayerError(
        f"No layer matches {name!r}.{did_you_mean(name, names)} Possible: {', '.join(names)}."
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


def _index_tuples(layer: str, part: str, value: Any) -> tuple[tuple[int, ...], ...]:
    where = f"{layer}/{part}" if part else layer
    rows = value.tolist() if isinstance(value, np.ndarray) or hasattr(value, "tolist") else value
    try:
        pairs = [tuple(row) for row in rows]
        if not all(isinstance(i, int | np.integer) for pair in pairs for i in pair):
            raise TypeError("an index is no integer")
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
    raise PairError(
        f"The layer {layer.name!r} has no component {component!r}."
        f"{did_you_mean(component, layer.components)} "
        + (f"Possible: {', '.join(layer.components)}." if layer.components else "It has none: give a list.")
    )


def _checked(layer: Layer, weight: Leaf, pairs: tuple[tuple[int, ...], ...]) -> np.ndarray:
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


def _terms_to_data(subset: ProbabilisticSubset) -> list[dict[str, Any]]:
    return [
        {"sign": sign, "rule": rule.kind, "terms": _terms_to_data(rule.subset)}
        if isinstance(rule, NestedRule)
        else {"sign": sign, "rule": rule.kind, **asdict(rule)}
        for sign, rule in subset.terms
    ]


def _terms_from_data(data: list[dict[str, Any]]) -> ProbabilisticSubset:
    terms: list[tuple[Literal["+", "-"], Rule]] = []
    for item in data:
        options = {k: _tuples(v) for k, v in item.items() if k not in ("sign", "rule")}
        if item["sign"] not in ("+", "-"):
            raise SubsetError(f"A term's sign is '+' or '-', got {item['sign']!r}.")
        if item["rule"] == NestedRule.kind:
            rule: Rule = NestedRule(_terms_from_data(item["terms"]))
        elif item["rule"] in _RULES:
            rule = _RULES[item["rule"]](**options)
        else:
            raise SubsetError(
                f"Got the rule {item['rule']!r}; possible: {', '.join(_RULES)}, {NestedRule.kind}."
            )
        terms.append((item["sign"], rule))
    return ProbabilisticSubset(tuple(terms))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType]
