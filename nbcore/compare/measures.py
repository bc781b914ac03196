"""Measures of a posterior: its predictions, its convergence, and what it cost."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nbcore import metrics
from nbcore.distributions.discrete import BernoulliDistribution, CategoricalDistribution
from nbcore.posterior import convergence
from nbcore.posterior.posterior import NetworkPosterior
from nbcore.posterior.prediction import Prediction

LEVELS = np.linspace(0.05, 0.95, 19)

Columns = dict[str, Any]


def prediction_columns(prediction: Prediction, y: NDArray[Any]) -> Columns:
    """Return the columns of accuracy and calibration.

    Args:
        prediction: predictions of the test examples.
        y: their targets.
    """
    if _has_classes(prediction):
        probabilities = prediction.mean
        return {
            "task": "classification",
            "accuracy": metrics.accuracy(y, probabilities),
            "nlpd": prediction.nlpd(y),
            "calibration_error": metrics.ece(y, probabilities),
        }
    mean, variance = prediction.mean, prediction.variance
    observed = _observed(prediction, y)
    columns: Columns = {
        "task": "regression",
        "rmse": metrics.rmse(y, mean),
        "mae": metrics.mae(y, mean),
        "nlpd": prediction.nlpd(y),
        "crps": prediction.crps(y),
        "coverage_95": float(observed[-1]),
        "calibration_error": float(np.mean(np.abs(observed - LEVELS))),
        "sharpness": float(np.sqrt(np.mean(variance))),
    }
    if np.ptp(variance) > 1e-9 * np.max(variance) and np.ptp(np.abs(y - mean)) > 0:
        ranked = metrics.rank_correlation(y, mean, variance)
        columns |= {
            "spearman": ranked.value,
            "spearman_expected": ranked.reference,
            "ause": metrics.ause(y, mean, variance),
        }
    return columns


def _observed(prediction: Prediction, y: NDArray[Any]) -> NDArray[np.float64]:
    """Return the share of targets inside the central interval of each of `LEVELS`."""
    distance = np.abs(2 * np.asarray(prediction.cdf(y), np.float64) - 1)
    return np.mean(distance[..., None] <= LEVELS, axis=tuple(range(distance.ndim)))


def _has_classes(prediction: Prediction) -> bool:
    return isinstance(prediction.distribution, BernoulliDistribution | CategoricalDistribution)


def calibration_curve(prediction: Prediction, y: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """Return expected and observed coverage; nothing for classes."""
    if _has_classes(prediction):
        return {}
    observed = _observed(prediction, y)
    return {
        "expected": LEVELS.astype(np.float32),
        "observed": np.asarray(observed, np.float32),
    }


def convergence_columns(posterior: NetworkPosterior, outputs: NDArray[np.float64]) -> Columns:
    """Return the columns of convergence and cost.

    Args:
        posterior: the draws.
        outputs: outputs of the test examples by draw.
    """
    chains = outputs.reshape(posterior.num_chains, posterior.num_draws, -1)
    weights = [
        np.asarray(a, np.float64).reshape(posterior.num_chains, posterior.num_draws, -1)
        for a in posterior.draws["weights"].values()
    ]
    flat = np.concatenate(weights, axis=-1)
    r_hat, ess = worst_mixing(chains)
    info = posterior.info
    gradients, seconds = sum(info.num_gradients.values()), info.seconds
    sampling = seconds["warmup"] + seconds["sampling"]
    return {
        "r_hat_weights": float(np.max(convergence.r_hat(flat))),
        "r_hat_predictions": r_hat,
        "ess_weights": float(np.min(convergence.ess_bulk(flat))),
        "ess_predictions": ess,
        "num_draws": posterior.num_draws,
        "num_divergent": int(np.sum(posterior.stats.is_divergent)),
        "gradients": gradients,
        **{f"seconds_{phase}": seconds[phase] for phase in ("compile", "warmup", "sampling")},
        "ess_per_gradient": ess / gradients if gradients else None,
        "ess_per_second": ess / sampling if sampling else None,
    }


def worst_mixing(chains: NDArray[np.float64]) -> tuple[float, float]:
    """Return the largest R-hat and the least ESS of predictions that some chain moves.

    Weights may leave some predictions as they are. If no chain moves any, R-hat is infinite and the
    ESS 0.

    Args:
        chains: predictions `(chain, draw, functions)`.
    """
    moving = np.any(np.ptp(chains, axis=1) > 0, axis=0)
    if not moving.any():
        return float("inf"), 0.0
    moved = chains[..., moving]
    return float(np.max(convergence.r_hat(moved))), float(np.min(convergence.ess_bulk(moved)))
