"""The weights that move most while stochastic weight averaging takes snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nbcore.errors import SelectionError
from nbcore.layers import Layer, leaves_by_path
from nbcore.selector import SelectionContext


@dataclass(frozen=True)
class Variance:
    """Score the variance of a weight over the SWA snapshots, (1/T) sum_t (w_t - mean)^2.

    Examples:
        >>> Variance()
        Variance()

    References:
        Maddox, Garipov, Izmailov, Vetrov and Wilson (2019), "A simple baseline for Bayesian
        uncertainty in deep learning", section 3.2: the diagonal of SWAG.
    """

    name: ClassVar[str] = "variance"
    needs: ClassVar[frozenset[str]] = frozenset({"trajectory"})

    def score(self, context: SelectionContext, layer: Layer) -> dict[str, Any]:
        """Return the variance of every entry over the snapshots."""
        if context.trajectory is None:
            raise SelectionError("The selector 'variance' needs a trajectory in its context.")
        scores = leaves_by_path(context.trajectory.variance)
        return {leaf.path: scores[leaf.path] for leaf in layer.weights}
