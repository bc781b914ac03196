"""Evaluation of predictions on measured examples: one line of the table of results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbcore.metrics import mae, rmse
from nbcore.posterior.prediction import Prediction

LEVELS = (0.5, 0.68, 0.95)
"""The levels that are reported as numbers: tails are heavy, so that one would hide something."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions of one way of predicting, compared with measured values.

    Args:
        name: name of the way of predicting.
        rmse: root mean squared error, in the units of y.
        mae: mean absolute error, in the units of y.
        nlpd: negative log predictive density.
        crps: continuous ranked probability score, in the units of y.
        ranks: for each example the predicted probability of values below the measured one `(n,)`.
    """

    name: str
    rmse: float
    mae: float
    nlpd: float
    crps: float
    ranks: NDArray[np.float64]

    def coverage(self, levels: ArrayLike) -> NDArray[np.float64]:
        """Return the fraction of examples inside the central interval of each level."""
        distance = np.abs(2 * self.ranks - 1)
        return np.mean(distance <= np.asarray(levels)[..., None], axis=-1)

    def to_data(self) -> dict[str, Any]:
        """Return the numbers as JSON data; coverage by level in per cent."""
        shares = self.coverage(LEVELS).tolist()
        return {
            "rmse": self.rmse,
            "mae": self.mae,
            "nlpd": self.nlpd,
            "crps": self.crps,
            "coverage": {f"{level:.0%}": c for level, c in zip(LEVELS, shares, strict=True)},
        }


def evaluation_of(name: str, prediction: Prediction, y: ArrayLike) -> Evaluation:
    """Compare predictions with measured values.

    Args:
        name: name of the way of predicting.
        prediction: the predictions.
        y: measured values `(n,)`.

    Raises:
        ShapeError: the shape of y is not that of the predictions.

    Examples:
        >>> exact = Prediction.normal(np.zeros((1, 3, 1)), np.ones((1, 1, 1)))
        >>> result = evaluation_of("standard normal", exact, [-0.5, 0.0, 3.0])
        >>> result.coverage([0.5, 0.95]).round(3).tolist()
        [0.667, 0.667]
    """
    y = np.asarray(y, np.float64)
    return Evaluation(
        name,
        rmse=rmse(y, prediction.mean),
        mae=mae(y, prediction.mean),
        nlpd=prediction.nlpd(y),
        crps=prediction.crps(y),
        ranks=np.asarray(prediction.cdf(y), np.float64),
    )
