"""The weights of the first and of the output layers, ranked by another selector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nbcore import Layer, ProbabilisticSubset, Selector
from nbcore.extend import SelectionContext
from nbcore_selectors.wrapped import scoring


@dataclass(frozen=True)
class FirstAndLast:
    """Choose from the first and the output layers alone, of those asked for.

    Which of their weights are taken is left to another selector. To sample them as a whole, as
    `nb.PartialBNN` does by default, type `nb.ProbabilisticSubset.first_and_last()`.

    Args:
        selector: name of a selector that gives scores, or an instance with options.

    Raises:
        UnknownSelectorError: no selector has this name.
        OptionError: the selector has no scores.
        NetworkError: when it chooses, the order in which layers are called is not known.

    Examples:
        >>> FirstAndLast()
        FirstAndLast(selector='magnitude')

    References:
        Sharma, Farquhar, Nalisnick and Rainforth (2023), "Do Bayesian neural networks need to be
        fully stochastic?": why the first layer.
    """

    name: ClassVar[str] = "first-and-last"

    selector: str | Selector = "magnitude"

    def __post_init__(self) -> None:
        scoring(self.selector, self.name)

    @property
    def needs(self) -> frozenset[str]:
        """What the other selector needs."""
        return scoring(self.selector, self.name).needs

    def restrict(self, layers: Sequence[Layer]) -> Sequence[Layer]:
        """Return the first layer that has weights, and the output layers."""
        chosen = ProbabilisticSubset.first_and_last().masks(layers)
        return [ly for ly in layers if any(chosen[leaf.path].any() for leaf in ly.weights)]

    def score(self, context: SelectionContext, layer: Layer) -> Mapping[str, Any]:
        """Return the scores of the other selector; of a stack, those of its first or last layer."""
        scores = scoring(self.selector, self.name).score(context, layer)
        if not layer.stacks:
            return scores
        first_and_last = ProbabilisticSubset.first_and_last()
        masks = first_and_last.masks(context.layers)
        if not any(masks[leaf.path].any() for leaf in layer.weights):
            masks = first_and_last.masks([layer])  # the first of those that were asked for
        return {path: np.where(masks[path], s, -np.inf) for path, s in scores.items()}
