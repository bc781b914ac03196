"""Subsets of stochastic weights: an ordered list of (sign, rule), data without arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from nbcore.errors import SubsetError
from nbcore.networks.layers import Layer, LayerKind, Role
from nbcore.subsets.rules import (
    EverythingRule,
    FirstAndLastRule,
    LastRule,
    LayersRule,
    Masks,
    PairsRule,
)

if TYPE_CHECKING:
    from nbcore.networks.network import Network, Params
    from nbcore.subsets.split import ParameterSplit

Sign = Literal["+", "-"]


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

    terms: tuple[tuple[Sign, Rule], ...]

    @staticmethod
    def layers(
        *patterns: str, kind: LayerKind | None = None, role: Role | None = None
    ) -> ProbabilisticSubset:
        """Return every weight that matches.

        Args:
            patterns: each matches a layer, one component of it (`Block0_Attention/query`), an
                ancestor, then its whole subtree, or one array by its role or its own name
                (`**/bias`, `Dense0/kernel`). `*` does not cross `/`, `**` does. Of layers that are
                stacked, a number chooses one: `blocks[1]/dense`; without it, it is all of them.
            kind: only of layers that compute this, such as `"norm"`; of all, without a pattern.
            role: only arrays of this role: `"kernel"`, `"bias"`, `"embedding"` or `"scale"`.

        Raises:
            SubsetError: nothing was given, a pattern is not a string, or a kind or role is unknown.

        Examples:
            >>> import nbcore as nb
            >>> S = nb.ProbabilisticSubset
            >>> S.layers(kind="norm") == S.layers("**", kind="norm")
            True
        """
        everywhere = ("**",) if kind is not None or role is not None else ()
        return ProbabilisticSubset((("+", LayersRule(patterns or everywhere, kind, role)),))

    @staticmethod
    def pairs(pairs: Mapping[str, Any], *, include_bias: bool = True) -> ProbabilisticSubset:
        """Return single entries of kernels and embeddings.

        Args:
            pairs: for each layer, a sequence of index tuples, or an integer array
                `(pairs, axes)`: dense `(in, out)`, embedding `(token, feature)`, convolution
                `(in_channel, out_channel)`. For a layer with components, such as attention, a
                dict from component to those: query, key, value `(in, head, feature)`, out
                `(head, feature, out)`. Of layers that are stacked, a pair is in all of them; in
                one, if the name has its number (`blocks[1]/dense`) or the pair begins with it.
            include_bias: whether the bias entry of each pair becomes stochastic too, once.

        Raises:
            PairError: no pairs, duplicates, or indices that are not integers.
        """
        return ProbabilisticSubset((("+", PairsRule.of(pairs, include_bias=include_bias)),))

    @staticmethod
    def last(count: int) -> ProbabilisticSubset:
        """Return the last `count` hidden layers and the output layer or layers.

        Hidden layers are dense, convolution, attention and recurrent ones; embeddings and
        normalization layers are not counted.

        Raises:
            SubsetError: the count is not an integer, or is negative.
        """
        return ProbabilisticSubset((("+", LastRule(count)),))

    @staticmethod
    def first_and_last() -> ProbabilisticSubset:
        """Return the first layer that has weights and the output layer or layers."""
        return ProbabilisticSubset((("+", FirstAndLastRule()),))

    @staticmethod
    def everything() -> ProbabilisticSubset:
        """Return every weight; state, such as running statistics, is not a weight."""
        return ProbabilisticSubset((("+", EverythingRule()),))

    def __or__(self, other: ProbabilisticSubset) -> ProbabilisticSubset:
        """Return what is in either subset."""
        return ProbabilisticSubset(self.terms + other._as("+"))

    def __sub__(self, other: ProbabilisticSubset) -> ProbabilisticSubset:
        """Return what is in this subset and not in the other."""
        return ProbabilisticSubset(self.terms + other._as("-"))

    def _as(self, sign: Sign) -> tuple[tuple[Sign, Rule], ...]:
        """Return terms that add this subset to another, or take it away."""
        if any(own == "-" for own, _ in self.terms):
            return ((sign, NestedRule(self)),)
        return tuple((sign, rule) for _, rule in self.terms)

    def to_json(self) -> str:
        """Return the subset as a JSON text."""
        return json.dumps({"format": "nbcore-subset-1", "terms": _terms_to_data(self)})

    @staticmethod
    def from_json(text: str) -> ProbabilisticSubset:
        """Return the subset that `to_json` wrote.

        Raises:
            SubsetError: the text is not JSON of a subset.
        """
        try:
            data = json.loads(text)
            if data["format"] != "nbcore-subset-1":
                raise SubsetError(
                    f"Got the subset format {data['format']!r}; possible: 'nbcore-subset-1'."
                )
            return _terms_from_data(data["terms"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, SubsetError):
                raise
            raise SubsetError(f"This is not a subset written by to_json(): {error!r}") from error

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
        """Resolve against a network and its parameters; see `nb.ParameterSplit`."""
        from nbcore.subsets.split import ParameterSplit  # noqa: PLC0415  it stands on this file

        return ParameterSplit.build(self, network, params)


@dataclass(frozen=True)
class NestedRule:
    """A whole subset as one rule, if `|` and `-` meet a subset that itself takes away."""

    kind: ClassVar[str] = "subset"
    subset: ProbabilisticSubset

    def masks(self, layers: Sequence[Layer]) -> Masks:
        """Return the masks of the nested subset."""
        return self.subset.masks(layers)


Rule = LayersRule | PairsRule | LastRule | FirstAndLastRule | EverythingRule | NestedRule
_RULES: dict[str, Any] = {
    r.kind: r for r in (LayersRule, PairsRule, LastRule, FirstAndLastRule, EverythingRule)
}


def _terms_to_data(subset: ProbabilisticSubset) -> list[dict[str, Any]]:
    return [
        {"sign": sign, "rule": rule.kind, "terms": _terms_to_data(rule.subset)}
        if isinstance(rule, NestedRule)
        else {"sign": sign, "rule": rule.kind, **_options(rule)}
        for sign, rule in subset.terms
    ]


def _options(rule: Rule) -> dict[str, Any]:
    return {name: value for name, value in asdict(rule).items() if value is not None}


def _terms_from_data(data: list[dict[str, Any]]) -> ProbabilisticSubset:
    terms: list[tuple[Sign, Rule]] = []
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
