"""The control of any other selector: as many weights of each layer, in other places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nbcore import Layer, Leaf, Selector
from nbcore.extend import RestrictingSelector, SelectionContext
from nbcore_selectors.wrapped import scoring


@dataclass(frozen=True)
class Permuted:
    """Score pairs with the scores of another selector, shuffled within each layer.

    Layers, and the components of attention, get as many weights as the other selector gives
    them, biases included, whatever the budget; only where they lie is left to chance. If the
    other selector does no better than this one, its choice of layers matters and its choice of
    weights does not. Output units change places, and within each unit its inputs, so that as many
    biases are met; pairs without a bias are shuffled freely. The sizes are exact up to equal
    scores.

    Args:
        selector: name of a selector that gives scores, or an instance with options.

    Raises:
        UnknownSelectorError: no selector has this name.
        OptionError: the selector has no scores.

    Examples:
        >>> sorted(Permuted("fisher").needs)
        ['curvature']

    References:
        The control that Linhard and Filippone use for the selection of stochastic weights.
    """

    name: ClassVar[str] = "permuted"

    selector: str | Selector = "magnitude"

    def __post_init__(self) -> None:
        scoring(self.selector, self.name)

    @property
    def needs(self) -> frozenset[str]:
        """What the other selector needs."""
        return scoring(self.selector, self.name).needs

    def restrict(self, layers: Sequence[Layer]) -> Sequence[Layer]:
        """Return the layers that the other selector looks at."""
        other = scoring(self.selector, self.name)
        return other.restrict(layers) if isinstance(other, RestrictingSelector) else layers

    def score(self, context: SelectionContext, layer: Layer) -> dict[str, Any]:
        """Return the scores of the other selector in other places."""
        scores = scoring(self.selector, self.name).score(context, layer)
        return {
            leaf.path: shuffled(
                context.rng_for(leaf.path), np.asarray(scores[leaf.path]), leaf, layer.bias_of(leaf)
            )
            for leaf in layer.weights
        }


def shuffled(
    rng: np.random.Generator, scores: np.ndarray, leaf: Leaf, bias: Leaf | None
) -> np.ndarray:
    """Return scores with output units, and the inputs of each, in random order.

    Layers that are stacked are shuffled one by one.
    """
    windows = leaf.by_pair(scores)
    units = 1 if bias is None else int(np.prod(bias.layer_shape))
    stacked = windows.reshape(leaf.num_stacked, -1, units, windows.shape[-1])
    moved = np.empty_like(stacked)
    for flat, into in zip(stacked, moved, strict=True):
        unit = rng.permutation(units)
        places = np.broadcast_to(np.arange(len(flat))[:, None], flat.shape[:2])
        into[:] = flat[rng.permuted(places, axis=0), unit]
    return leaf.from_pairs(moved.reshape(windows.shape))
