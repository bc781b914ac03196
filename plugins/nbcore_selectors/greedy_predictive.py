"""The weights that together tell most about the predictions: greedy, each given those before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nbcore import Layer
from nbcore.extend import SelectionContext, check_count, check_positive, required


@dataclass(frozen=True)
class GreedyPredictive:
    r"""Score what each weight adds to what the others of its layer let the predictions vary.

    Linearized, a set S of weights with prior N(w, s^2) moves the outputs by J_S (w_S - w), and
    shares log det(I + s^2 G_SS) / 2 nats with the targets, G = J^T L J. The set grows greedily:
    first the weight with the longest column of s L^(1/2) J, then again and again the one that
    adds most, log(v_j) / 2 with v_j = 1 + s^2 (G_jj - G_jS (G_SS + I / s^2)^-1 G_Sj): what its
    column keeps when those of the chosen weights are projected out, as far as the data determine
    them. The gain is submodular, so that a greedy set has at least 1 - 1/e of the best one's. The
    score is the gain when a weight was chosen; after as many picks as there are rows of J, what a
    weight would still add. Each layer is treated by itself, each window entry of a convolution
    too.

    Args:
        prior_scale: s, in the units of the weights.
        num_rows: how many rows of J, one for each example and output, at most; if there are
            more, evenly spaced examples stand for all. A pick costs rows x weights operations.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> GreedyPredictive()
        GreedyPredictive(prior_scale=1.0, num_rows=256)

    References:
        Nemhauser, Wolsey and Fisher (1978), "An analysis of approximations for maximizing
        submodular set functions I"; Krause, Singh and Guestrin (2008), "Near-optimal sensor
        placements in Gaussian processes"; Immer, Korzepa and Bauer (2021), "Improving predictions
        of Bayesian neural nets via local linearization".
    """

    name: ClassVar[str] = "greedy-predictive"
    needs: ClassVar[frozenset[str]] = frozenset({"curvature"})

    prior_scale: float = 1.0
    num_rows: int = 256

    def __post_init__(self) -> None:
        check_positive(prior_scale=self.prior_scale)
        check_count(1, num_rows=self.num_rows)

    def score(self, context: SelectionContext, layer: Layer) -> dict[str, Any]:
        """Return the gain of every entry, in nats."""
        curvature = required(context.curvature, "curvature", self.name)
        rows = curvature.gauss_newton_rows(layer, self.num_rows)
        flat = [np.asarray(rows[w.path], np.float64).reshape(-1, w.size) for w in layer.weights]
        gains = greedy_gains(self.prior_scale * np.concatenate(flat, axis=1))
        cuts = np.cumsum([weight.size for weight in layer.weights])[:-1]
        parts = np.split(gains, cuts)
        return {w.path: part.reshape(w.shape) for w, part in zip(layer.weights, parts, strict=True)}


def greedy_gains(columns: np.ndarray) -> np.ndarray:
    """Return the gain of each column of R, `(rows, weights)`, in log det(I + R_S^T R_S) / 2.

    Equal gains go to the first column.
    """
    reduced = columns.copy()  # (I + R_S R_S^T)^-1 R
    left = 1 + np.sum(columns**2, axis=0)
    gains = np.full(len(left), -np.inf)
    for _ in range(min(columns.shape)):
        pick = int(np.argmax(np.where(gains == -np.inf, left, -np.inf)))
        gains[pick] = np.log(left[pick]) / 2
        shared = reduced[:, pick] @ columns
        reduced -= np.outer(reduced[:, pick], shared / left[pick])
        left = np.maximum(left - shared**2 / left[pick], 1.0)
    return np.where(gains == -np.inf, np.log(left) / 2, gains)
