"""Ranking of pairs by scores: budgets, order, ties, and checks of what selectors return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from nbcore.common.options import check_count, check_positive
from nbcore.errors import OptionError, SelectionError
from nbcore.networks.layers import Layer, Leaf
from nbcore.selection.selector import ChoosingSelector, ScoringSelector, SelectionContext


class Part(NamedTuple):
    """A weight leaf to choose from.

    Args:
        leaf: the leaf.
        layers: which of the layers that are stacked in it to choose from `(leaf.num_stacked,)`.
    """

    leaf: Leaf
    layers: np.ndarray


Selected = list[tuple[Layer, list[Part]]]
"""The layers to choose from, each with its weight leaves."""
Shares = list[tuple[Layer, list[tuple[Part, int]]]]
"""The same, with how many pairs of each leaf; of one that is stacked, in each of its layers."""
Pairs = dict[str, dict[str, np.ndarray]]
"""Chosen pairs by layer and component, ascending."""

DEFAULT_PAIRS = 32


@dataclass(frozen=True)
class Budget:
    """The number of weights to choose: one of three options, or 32 pairs of each layer.

    Args:
        num_pairs_per_layer: pairs of each layer.
        num_weights: weights of the network, biases included.
        fraction: the same, as a fraction of all weights of the network.

    Raises:
        OptionError: more than one is given, or one has an impossible value.
    """

    num_pairs_per_layer: int | None = None
    num_weights: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        given = [name for name in self.__dataclass_fields__ if getattr(self, name) is not None]
        if len(given) > 1:
            raise OptionError(f"Got {len(given)} budgets: {', '.join(given)}. Give one.")
        check_count(
            1,
            optional=True,
            num_pairs_per_layer=self.num_pairs_per_layer,
            num_weights=self.num_weights,
        )
        check_positive(optional=True, fraction=self.fraction)
        if self.fraction is not None and self.fraction > 1:
            raise OptionError(
                f"fraction is at most 1, all weights of the network; got {self.fraction!r}. "
                "5 % is fraction=0.05."
            )

    @property
    def pairs(self) -> int | None:
        """Pairs of each layer; `None` for a budget of the whole network."""
        if self.num_weights is None and self.fraction is None:
            return self.num_pairs_per_layer or DEFAULT_PAIRS
        return None

    def weights(self, total: int) -> int:
        """Return the number of weights to choose from `total`.

        Raises:
            OptionError: the fraction is less than half a weight.
        """
        count = self.num_weights or round((self.fraction or 0.0) * total)
        if count < 1:
            raise OptionError(f"fraction={self.fraction} of {total:,} weights is none. Give more.")
        return count


def shares(selected: Selected, num_pairs: int) -> Shares:
    """Split the pairs of each layer evenly over its weight leaves.

    Raises:
        SelectionError: a leaf has fewer pairs than its share.
    """
    found: Shares = []
    for layer, parts in selected:
        each, remainder = divmod(int(num_pairs), len(parts))
        counts = [each + (n < remainder) for n in range(len(parts))]
        found.append((layer, [(p, c) for p, c in zip(parts, counts, strict=True) if c]))
    short = [(ly, p.leaf, c) for ly, parts in found for p, c in parts if c > _pairs_in(p.leaf)]
    if short:
        shown = "; ".join(f"{_where(ly, w)} has {_pairs_in(w)} of {c}" for ly, w, c in short)
        possible = min(len(ps) * min(_pairs_in(p.leaf) for p in ps) for _, ps in selected)
        raise SelectionError(
            f"num_pairs_per_layer={num_pairs} asks for more pairs than there are: {shown}. Type: "
            f"num_pairs_per_layer={possible}, or leave out: "
            f"exclude={list(dict.fromkeys(ly.name for ly, _, _ in short))}"
        )
    return found


def _pairs_in(leaf: Leaf) -> int:
    """Return the number of pairs of each layer that is stacked in a leaf."""
    return leaf.num_pairs // leaf.num_stacked


def best_of_layers(
    selector: ScoringSelector | ChoosingSelector, context: SelectionContext, wanted: Shares
) -> Pairs:
    """Return the best pairs of each layer, as many as its share.

    Raises:
        SelectionError: scores or choices break the contract, or too few pairs are eligible.
    """
    return {layer.name: _of_layer(selector, context, layer, parts) for layer, parts in wanted}


def _of_layer(
    selector: ScoringSelector | ChoosingSelector,
    context: SelectionContext,
    layer: Layer,
    parts: list[tuple[Part, int]],
) -> dict[str, np.ndarray]:
    if isinstance(selector, ScoringSelector):
        scores = selector.score(context, layer)
        flat = [_best(selector, scores, layer, part, count) for part, count in parts]
    else:
        flat = [_chosen(selector, context, layer, part, count) for part, count in parts]
    return {
        part.leaf.component: _as_pairs(part.leaf, index)
        for index, (part, _) in zip(flat, parts, strict=True)
    }


def check_capacity(selected: Selected, num_weights: int, *, include_bias: bool) -> None:
    """Check that the layers hold as many weights as a budget of the network.

    Raises:
        SelectionError: the layers hold fewer.
    """
    capacity = sum(_part_of(p.leaf, p) for _, parts in selected for p in parts)
    if include_bias:
        biases = {
            b.path: _part_of(b, p) for ly, ps in selected for p in ps if (b := ly.bias_of(p.leaf))
        }
        capacity += sum(biases.values())
    if num_weights > capacity:
        raise SelectionError(
            f"The budget is {num_weights:,} weights, and the layers to choose from "
            f"({', '.join(layer.name for layer, _ in selected)}) hold {capacity:,}. Type: "
            f"num_weights={capacity}, or name more layers."
        )


def _part_of(leaf: Leaf, part: Part) -> int:
    """Return how many entries of a leaf are in the layers to choose from."""
    if leaf.stacks != part.leaf.stacks:
        return leaf.size
    return leaf.size // leaf.num_stacked * int(part.layers.sum())


def best_of_network(
    selector: ScoringSelector | ChoosingSelector,
    context: SelectionContext,
    selected: Selected,
    num_weights: int,
    *,
    include_bias: bool,
) -> Pairs:
    """Return the best pairs of all layers together that fit a budget of weights.

    Pairs come in order of their scores, equal scores in call order of the layers and then by
    index. A pair costs its entries and those of its bias that no earlier pair has paid for; a
    pair that no longer fits is skipped. The budget is never exceeded, and met exactly unless
    the rest is less than any remaining pair costs.

    Raises:
        SelectionError: the selector has no scores, they break the contract, or too few pairs are
            eligible.
    """
    if not isinstance(selector, ScoringSelector):
        raise SelectionError(
            f"The selector {selector.name!r} chooses within a layer and has no scores to compare "
            "layers by. Type: num_pairs_per_layer=32"
        )
    leaves = [(layer, part.leaf) for layer, parts in selected for part in parts]
    scores = {layer.name: selector.score(context, layer) for layer, _ in selected}
    ranked = [
        np.ravel(_ranked(selector, scores[layer.name], layer, part))
        for layer, parts in selected
        for part in parts
    ]
    joined = np.concatenate(ranked)
    eligible = int(np.count_nonzero(joined > -np.inf))
    order = np.argsort(-joined, kind="stable")[:eligible]
    starts = np.cumsum([0, *(len(r) for r in ranked)])
    costs = _Costs(leaves, include_bias=include_bias)
    taken: list[list[int]] = [[] for _ in leaves]
    left = num_weights
    for item in order:
        part = int(np.searchsorted(starts, item, side="right")) - 1
        pair = int(item - starts[part])
        cost = costs.of(part, pair)
        if cost <= left:
            costs.pay(part, pair)
            taken[part].append(pair)
            left -= cost
        if left == 0:
            break
    count = sum(len(pairs) for pairs in taken)
    if left and count == eligible:
        raise SelectionError(
            f"The selector {selector.name!r} finds {eligible:,} of {len(joined):,} pairs eligible, "
            f"{left:,} weights short of the budget of {num_weights:,}. Give a smaller budget, or "
            "relax the selector's options."
        )
    if not count:
        raise SelectionError(
            f"A budget of {num_weights} is less than any pair and its bias cost. Give more, or "
            "include_bias=False."
        )
    found: Pairs = {}
    for (layer, weight), pairs in zip(leaves, taken, strict=True):
        if pairs:
            found.setdefault(layer.name, {})[weight.component] = _as_pairs(weight, np.array(pairs))
    return found


class _Costs:
    """Costs of pairs in weights; each bias is paid for once."""

    def __init__(self, leaves: Sequence[tuple[Layer, Leaf]], *, include_bias: bool) -> None:
        self.windows = [weight.size // weight.num_pairs for _, weight in leaves]
        biases = [layer.bias_of(weight) if include_bias else None for layer, weight in leaves]
        self.paid = {bias.path: np.zeros(bias.size, bool) for bias in biases if bias is not None}
        self.entries = [
            None
            if bias is None
            else (self.paid[bias.path], layer.bias_entries(weight, _all_pairs(weight)))
            for (layer, weight), bias in zip(leaves, biases, strict=True)
        ]

    def of(self, part: int, pair: int) -> int:
        """Return the current cost of a pair."""
        bias = self.entries[part]
        new = 0 if bias is None else int(np.count_nonzero(~bias[0][bias[1][pair]]))
        return self.windows[part] + new

    def pay(self, part: int, pair: int) -> None:
        """Record that the bias of a pair is paid for."""
        bias = self.entries[part]
        if bias is not None:
            bias[0][bias[1][pair]] = True


def _all_pairs(weight: Leaf) -> np.ndarray:
    return _as_pairs(weight, np.arange(weight.num_pairs))


def _ranked(
    selector: ScoringSelector, scores: Mapping[str, Any], layer: Layer, part: Part
) -> np.ndarray:
    """Return the score of every pair `(stacked layers, pairs)`, the mean over its window, checked.

    Layers that were not asked for score minus infinity.
    """
    weight = part.leaf
    who = f"The selector {selector.name!r} on {_where(layer, weight)}"
    values = np.asarray(scores.get(weight.path, np.nan), np.float64)
    if values.shape != weight.shape:
        raise SelectionError(
            f"{who} returned scores for {sorted(scores)}, of shape {values.shape}; "
            f"expected {weight.path!r} of shape {weight.shape}."
        )
    if np.isnan(values).any() or np.isposinf(values).any():
        raise SelectionError(
            f"{who} returned scores that are not finite: training has probably diverged. Train "
            "again with a smaller learning_rate."
        )
    ranked = weight.by_pair(values).mean(axis=-1).reshape(weight.num_stacked, _pairs_in(weight))
    return np.where(part.layers[:, None], ranked, -np.inf)


def _best(
    selector: ScoringSelector, scores: Mapping[str, Any], layer: Layer, part: Part, count: int
) -> np.ndarray:
    """Return the flat indices of the pairs with the highest scores, of each stacked layer.

    Layers of a stack in which nothing is eligible are left out, unless all are.
    """
    ranked = _ranked(selector, scores, layer, part)
    eligible = np.count_nonzero(ranked > -np.inf, axis=1)
    asked = np.flatnonzero(eligible) if eligible.any() else np.arange(len(ranked))
    if eligible[asked].min() < count:
        raise SelectionError(
            f"The selector {selector.name!r} on {_where(layer, part.leaf)} finds "
            f"{eligible[asked].min()} of {ranked.shape[1]} pairs eligible, fewer than the {count} "
            "asked for. Ask for fewer pairs, or relax the selector's options."
        )
    best = np.argsort(-ranked[asked], axis=1, kind="stable")[:, :count]
    return (asked[:, None] * ranked.shape[1] + best).ravel()


def _chosen(
    selector: ChoosingSelector, context: SelectionContext, layer: Layer, asked: Part, count: int
) -> np.ndarray:
    """Return the flat indices of the pairs that a selector chooses, checked."""
    weight = asked.leaf
    if not asked.layers.all():
        raise SelectionError(
            f"The selector {selector.name!r} chooses among all layers that are stacked in "
            f"{layer.name!r}. Type: layer_names=[{layer.name!r}]"
        )
    count *= weight.num_stacked
    part = replace(layer, leaves=tuple(w for w in layer.leaves if w.component == weight.component))
    key = context.key_for(f"{layer.name}/{weight.component}")
    pairs = np.asarray(selector.choose(context, part, count, key))
    expected = (count, len(weight.pair_axes))
    fits = pairs.shape == expected and np.issubdtype(pairs.dtype, np.integer)
    if fits and ((pairs >= 0) & (pairs < weight.pair_shape)).all():
        flat = np.unique(np.ravel_multi_index(tuple(pairs.T), weight.pair_shape))
        if len(flat) == count:
            return flat
    raise SelectionError(
        f"The selector {selector.name!r} on {_where(layer, weight)} must return distinct pairs as "
        f"integers of shape {expected} below {weight.pair_shape}; it returned {pairs.dtype} of "
        f"shape {pairs.shape}, or duplicates, or indices out of range."
    )


def _as_pairs(weight: Leaf, flat: np.ndarray) -> np.ndarray:
    return np.stack(np.unravel_index(np.sort(flat), weight.pair_shape), axis=1)


def _where(layer: Layer, weight: Leaf) -> str:
    return repr(f"{layer.name}/{weight.component}" if weight.component else layer.name)
