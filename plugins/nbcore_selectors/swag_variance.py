"""The weights with the largest marginal variance under SWAG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from nbcore import Layer
from nbcore.errors import SelectionError
from nbcore.extend import SelectionContext, required, weights_in


@dataclass(frozen=True)
class SWAGVariance:
    r"""Score the marginal variance of a weight under SWAG, diagonal and low-rank part together.

    v / 2 + (1 / (K - 1)) sum_{t in last K} (w_t - mean_t)^2 / 2, with v the variance over all
    snapshots, which `variance` scores alone, and mean_t the mean of the snapshots up to t. So
    what a weight did in the last K snapshots counts again: weights that settled early fall
    behind, those that still drift come first. Training keeps the deviations on request:
    `swa=nb.SWA(num_recent=20)`.

    Raises:
        SelectionError: when it scores, the deviations of at least 2 snapshots were not kept.

    Examples:
        >>> SWAGVariance()
        SWAGVariance()

    References:
        Maddox, Garipov, Izmailov, Vetrov and Wilson (2019), "A simple baseline for Bayesian
        uncertainty in deep learning", section 3.2, the diagonal of its covariance.
    """

    name: ClassVar[str] = "swag-variance"
    needs: ClassVar[frozenset[str]] = frozenset({"trajectory"})

    def score(self, context: SelectionContext, layer: Layer) -> dict[str, Any]:
        """Return the marginal variance of every entry."""
        trajectory = required(context.trajectory, "trajectory", self.name)
        recent = {} if trajectory.recent is None else weights_in(layer, trajectory.recent)
        kept = min([int(trajectory.count), *(len(r) for r in recent.values())]) if recent else 0
        if kept < 2:
            raise SelectionError(
                f"The selector {self.name!r} needs the deviations of at least 2 snapshots, and "
                f"training kept {kept}. Train with nb.DeterministicNN(..., "
                "swa=nb.SWA(num_recent=20)), or choose method='variance'."
            )
        low_rank = jax.tree.map(lambda r: jnp.sum(r**2, axis=0) / np.float32(kept - 1), recent)
        diagonal = weights_in(layer, trajectory.variance)
        return {path: (diagonal[path] + low_rank[path]) / 2 for path in diagonal}
