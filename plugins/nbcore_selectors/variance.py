"""The weights that move most while stochastic weight averaging takes snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nbcore import Layer
from nbcore.extend import SelectionContext, required, weights_in


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
        trajectory = required(context.trajectory, "trajectory", self.name)
        return weights_in(layer, trajectory.variance)
