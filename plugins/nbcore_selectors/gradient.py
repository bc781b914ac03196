"""The weights on which the loss depends most steeply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nbcore import Layer
from nbcore.extend import SelectionContext, required, weights_in


@dataclass(frozen=True)
class Gradient:
    """Score the root mean square of per-batch gradients, sqrt(mean_b g_b^2).

    A signed mean would vanish for every weight once training has converged; the root mean square
    is the root of the diagonal of the empirical Fisher matrix over batches, and does not. Batches
    average the gradients of their examples; `fisher` looks at each example.

    Examples:
        >>> Gradient()
        Gradient()

    References:
        Kunstner, Balles and Hennig (2019), "Limitations of the empirical Fisher approximation for
        natural gradient descent", equation 3, its diagonal.
    """

    name: ClassVar[str] = "gradient"
    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    def score(self, context: SelectionContext, layer: Layer) -> dict[str, Any]:
        """Return the root mean square gradient of every entry."""
        gradients = required(context.gradients, "gradients", self.name)
        return weights_in(layer, gradients.root_mean_square)
