"""Evaluation of predictions on measured examples: one line of the table of results."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbcore.metrics import aurc, ause, ence, mae, miscalibration_area, rank_correlation, rmse
from nbcore.posterior.prediction import Prediction

LEVELS = (0.5, 0.68, 0.95)
"""The levels that are reported as numbers: tails are heavy, so that one would hide something."""
BINS = 10


@dataclass(frozen=True)
class Ranking:
    """Whether the predictions that claim to be certain are those with the small errors.

    Args:
        rank_correlation: Spearman correlation of predictive deviation and absolute error.
        reference: its mean if every error were drawn from the prediction's own normal.
        reference_sd: standard deviation of that value over data sets of this size.
        ause: area between the sparsification curve of the deviations and that of an oracle.
        aurc: area under the risk-coverage curve of the squared error, in squared units of y.

    References:
        Rasmussen et al. (2023), Journal of Cheminformatics 15, 121; Ilg et al. (2018), ECCV;
        Geifman, Uziel and El-Yaniv (2019), ICLR.
    """

    rank_correlation: float
    reference: float
    reference_sd: float
    ause: float
    aurc: float

    @staticmethod
    def of(y: NDArray[np.float64], prediction: Prediction) -> Ranking | None:
        """Return how predictions rank their errors; `None` if all deviations or errors are equal.

        Args:
            y: measured values `(n,)`.
            prediction: the predictions.
        """
        mean, variance = prediction.mean, prediction.variance
        if np.ptp(variance) <= 1e-9 * np.max(variance) or np.ptp(np.abs(y - mean)) == 0:
            return None
        return Ranking(
            *rank_correlation(y, mean, variance), ause(y, mean, variance), aurc(y, mean, variance)
        )

    def to_data(self) -> dict[str, float]:
        """Return the measures as JSON data, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


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
        epistemic_share: share of the epistemic variance in the whole, summed over examples; the
            only part of the variance of a likelihood with constant noise that differs between
            inputs.
        ence: expected normalized calibration error, with at most 10 bins.
        ranking: how deviations rank the errors; `None` if all are equal.
    """

    name: str
    rmse: float
    mae: float
    nlpd: float
    crps: float
    ranks: NDArray[np.float64]
    epistemic_share: float
    ence: float
    ranking: Ranking | None

    def coverage(self, levels: ArrayLike) -> NDArray[np.float64]:
        """Return the fraction of examples inside the central interval of each level."""
        distance = np.abs(2 * self.ranks - 1)
        return np.mean(distance <= np.asarray(levels)[..., None], axis=-1)

    def to_data(self) -> dict[str, Any]:
        """Return the measures as JSON data; coverage by level in per cent."""
        shares = self.coverage(LEVELS).tolist()
        return {
            "rmse": self.rmse,
            "mae": self.mae,
            "nlpd": self.nlpd,
            "crps": self.crps,
            "coverage": {f"{level:.0%}": c for level, c in zip(LEVELS, shares, strict=True)},
            "miscalibration_area": miscalibration_area(self.ranks),
            "ence": self.ence,
            "epistemic_share": self.epistemic_share,
            "ranking": None if self.ranking is None else self.ranking.to_data(),
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
    mean, variance = prediction.mean, prediction.variance
    return Evaluation(
        name,
        rmse=rmse(y, mean),
        mae=mae(y, mean),
        nlpd=prediction.nlpd(y),
        crps=prediction.crps(y),
        ranks=np.asarray(prediction.cdf(y), np.float64),
        epistemic_share=float(np.sum(prediction.epistemic_variance) / np.sum(variance)),
        ence=ence(y, mean, variance, min(BINS, y.size)),
        ranking=Ranking.of(y, prediction),
    )
