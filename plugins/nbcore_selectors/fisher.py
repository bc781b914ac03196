"""The weights on which the log likelihood of single examples depends most steeply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nbcore import Layer
from nbcore.extend import SelectionContext, required


@dataclass(frozen=True)
class Fisher:
    """Score the diagonal of the empirical Fisher matrix, (1 / N) sum_i (d log p_i / dw)^2.

    Gradients are those of single examples: within a batch, as `gradient` sees it, they partly
    cancel. They are taken at the observed targets, so a weight that serves badly predicted
    examples counts more; `laplace-variance` looks at the Jacobian of the outputs instead.

    Examples:
        >>> Fisher()
        Fisher()

    References:
        Kunstner, Balles and Hennig (2019), "Limitations of the empirical Fisher approximation for
        natural gradient descent", equation 3, its diagonal.
    """

    name: ClassVar[str] = "fisher"
    needs: ClassVar[frozenset[str]] = frozenset({"curvature"})

    def score(self, context: SelectionContext, layer: Layer) -> dict[str, Any]:
        """Return the mean squared gradient of every entry."""
        fisher = required(context.curvature, "curvature", self.name).fisher
        return {leaf.path: fisher[leaf.path] for leaf in layer.weights}
