"""Weights at random: the baseline that every other selector has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from nbcore.layers import Layer
from nbcore.network import Key
from nbcore.selector import SelectionContext


@dataclass(frozen=True)
class Random:
    """Choose pairs uniformly, without replacement.

    Examples:
        >>> Random()
        Random()

    References:
        Sharma, Farquhar, Nalisnick and Rainforth (2023), "Do Bayesian neural networks need to be
        fully stochastic?": a small stochastic part can do, so chance is a fair rival.
    """

    name: ClassVar[str] = "random"
    needs: ClassVar[frozenset[str]] = frozenset()

    def choose(self, context: SelectionContext, layer: Layer, num_pairs: int, key: Key) -> Any:
        """Return `num_pairs` distinct pairs of the layer's weight leaf."""
        (weight,) = layer.weights
        flat = np.asarray(jax.random.permutation(key, weight.num_pairs))[:num_pairs]
        return np.stack(np.unravel_index(flat, weight.pair_shape), axis=1)
