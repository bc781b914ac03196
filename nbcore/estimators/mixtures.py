"""Several posteriors that predict together, as the equal mixture of their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nbcore.posterior.posterior import NetworkPosterior
from nbcore.posterior.prediction import Prediction
from nbcore.training.cross_fit import mixture_noise

DRAWS = 200


def shared_noise(posteriors: Sequence[NetworkPosterior], X: Any, noise: np.ndarray) -> np.ndarray:
    """Return the noise of a mixture, so that the spread of its members is not counted twice.

    Args:
        posteriors: one for each member.
        X: inputs, over which spreads are averaged.
        noise: root mean square error of a member on unseen examples `(outputs,)`.
    """
    predictions = [posterior.predict(X, max_draws=DRAWS) for posterior in posteriors]
    members = np.stack([p.draw_means.mean(axis=0) for p in predictions])
    between = members.var(axis=0).mean(axis=0)
    epistemic = np.mean([p.draw_means.var(axis=0).mean(axis=0) for p in predictions], axis=0)
    return mixture_noise(noise**2, between, epistemic)


def predict_together(
    posteriors: Sequence[NetworkPosterior], X: Any, noise: np.ndarray | None = None
) -> Prediction:
    """Return the mixture of posteriors; `noise` `(outputs,)`, if given, replaces their noise."""
    mixture = Prediction.mixture([posterior.predict(X) for posterior in posteriors])
    if noise is None:
        return mixture
    return mixture.with_variance(noise**2)
