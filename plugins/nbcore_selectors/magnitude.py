"""The weights that are largest in absolute value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from nbcore import Layer
from nbcore.extend import SelectionContext, check_at_least, weights_in


@dataclass(frozen=True)
class Magnitude:
    """Score |w|: large weights move the output most.

    Args:
        threshold: only pairs whose magnitude (in a convolution the mean over its window) is at
            least this are eligible; None for all.

    Raises:
        OptionError: `threshold` is negative or not finite.

    Examples:
        >>> Magnitude(threshold=0.1)
        Magnitude(threshold=0.1)

    References:
        Han, Pool, Tran and Dally (2015), "Learning both weights and connections for efficient
        neural networks", section 3: the same score, there to decide what to prune.
    """

    name: ClassVar[str] = "magnitude"
    needs: ClassVar[frozenset[str]] = frozenset()

    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_at_least(0, threshold=self.threshold)

    def score(self, context: SelectionContext, layer: Layer) -> dict[str, Any]:
        """Return |w| of every entry, -inf if its pair is below the threshold."""
        scores = {path: jnp.abs(w) for path, w in weights_in(layer, context.params).items()}
        if self.threshold is None:
            return scores
        return {
            leaf.path: jnp.where(
                scores[leaf.path].mean(axis=leaf.window_axes, keepdims=True) >= self.threshold,
                scores[leaf.path],
                -jnp.inf,
            )
            for leaf in layer.weights
        }
