"""Weights at random: the baseline that every other selector has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nbcore import Layer
from nbcore.extend import SelectionContext


@dataclass(frozen=True)
class Random:
    """Score pairs by uniform numbers, so that any set of pairs is as likely as any other.

    Examples:
        >>> Random()
        Random()

    References:
        Kampen, Als and Andersen (2024), "Towards scalable Bayesian transformers: investigating
        stochastic subset selection for NLP": for larger subsets, chance was the best selector.
    """

    name: ClassVar[str] = "random"
    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, context: SelectionContext, layer: Layer) -> dict[str, Any]:
        """Return a uniform number for every pair, the same in its whole window."""
        scores: dict[str, Any] = {}
        for leaf in layer.weights:
            drawn = context.rng_for(leaf.path).random(leaf.pair_shape)
            windows = np.broadcast_to(drawn[..., None], (*drawn.shape, leaf.size // drawn.size))
            scores[leaf.path] = leaf.from_pairs(windows)
        return scores
