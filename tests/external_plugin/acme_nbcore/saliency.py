"""The first-order change of the loss if a weight were zero."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from nbcore.extend import check_positive, required, weights_in


@dataclass(frozen=True)
class Saliency:
    """Score |w g|, with g the root mean square of the gradients that training met."""

    name: ClassVar[str] = "acme-saliency"
    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    power: float = 1.0

    def __post_init__(self):
        check_positive(power=self.power)

    def score(self, context, layer):
        gradients = required(context.gradients, "gradients", self.name)
        weights = weights_in(layer, context.params)
        slopes = weights_in(layer, gradients.root_mean_square)
        return {path: jnp.abs(weights[path] * slopes[path]) ** self.power for path in weights}
