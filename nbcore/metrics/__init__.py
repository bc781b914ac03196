"""Metrics of predictions and of their uncertainty: plain numbers, computed in float64.

Regression: `y` has shape `(n,)` or `(n, outputs)`; means, variances and bounds have exactly its
shape: broadcasting `(n, 1)` against `(n,)` would compare every point with every other. Averages
run over points and outputs alike. Classification: `labels` are integers of shape `(n,)`,
`probabilities` has shape `(n, classes)`. NaN raises everywhere (`DataError`), as do shapes that do
not fit (`ShapeError`).
"""

from __future__ import annotations

from nbcore.metrics.accuracy import crps, crps_gaussian, lppd, mae, nlpd, rmse
from nbcore.metrics.calibration import (
    calibration_curve,
    calibration_error,
    coverage,
    ence,
    interval_coverage,
    miscalibration_area,
    pit,
)
from nbcore.metrics.classification import accuracy, brier, ece
from nbcore.metrics.comparison import (
    MeanRanks,
    PairedDifference,
    mean_ranks,
    paired_difference,
)
from nbcore.metrics.ranking import (
    RankCorrelation,
    aurc,
    ause,
    rank_correlation,
    risk_coverage_curve,
)

__all__ = [
    "MeanRanks",
    "PairedDifference",
    "RankCorrelation",
    "accuracy",
    "aurc",
    "ause",
    "brier",
    "calibration_curve",
    "calibration_error",
    "coverage",
    "crps",
    "crps_gaussian",
    "ece",
    "ence",
    "interval_coverage",
    "lppd",
    "mae",
    "mean_ranks",
    "miscalibration_area",
    "nlpd",
    "paired_difference",
    "pit",
    "rank_correlation",
    "risk_coverage_curve",
    "rmse",
]
