"""A warning if predictions are all about as wide, so that widths say nothing about errors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from nbcore.distributions.continuous import Continuous
from nbcore.networks.inputs import num_examples
from nbcore.posterior.mixture import MixturePosterior
from nbcore.posterior.posterior import NetworkPosterior
from nbcore.training.folds import take

LEAST_SHARE = 0.03
EXAMPLES = 256
DRAWS = 100


class RankingWarning(UserWarning):
    """Nearly all of the predictive variance is the same for all inputs."""


def warn_if_alike(posterior: NetworkPosterior | MixturePosterior, X: Any) -> None:
    """Warn if nearly all of the variance is a noise that is the same for all inputs.

    Args:
        posterior: the posterior.
        X: inputs, of which some hundred are predicted.
    """
    count = num_examples(X)
    some = np.unique(np.linspace(0, count - 1, min(count, EXAMPLES)).astype(int))
    prediction = posterior.predict(take(X, some), max_draws=DRAWS)
    noise = prediction.draw_variances
    if not isinstance(prediction.distribution, Continuous) or np.any(noise != noise[:, :1]):
        return
    share = float(np.mean(prediction.epistemic_share))
    if share < LEAST_SHARE:
        warnings.warn(
            f"{share:.1%} of the variance differs between inputs: these intervals say how wrong "
            "predictions are on average, not where. Several networks differ more: "
            "calibration='mixture'; so do more weights, or a wider prior.",
            RankingWarning,
            stacklevel=3,
        )
