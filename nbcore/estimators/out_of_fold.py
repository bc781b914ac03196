"""The noise of a mixture of sampled fold networks, and their errors out of fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nbcore.posterior.conformal import OutOfFold
from nbcore.posterior.mixture import MixtureCalibration
from nbcore.posterior.posterior import NetworkPosterior
from nbcore.training.cross_fit import CrossFit
from nbcore.training.fold_mixture import HeldOutErrors

DRAWS = 200
USUAL = 0.99
"""Share of the examples whose epistemic variance, had no network seen them, is usual."""


def calibration_out_of_fold(
    posteriors: Sequence[NetworkPosterior],
    X: Any,
    y: Any,
    cross: CrossFit,
    *,
    scale_draws: bool = True,
) -> MixtureCalibration:
    """Return the noise of the mixture of fold networks, and their errors out of fold.

    Args:
        posteriors: one for each fold.
        X: inputs `(N, ...)`.
        y: targets `(N,)` or `(N, outputs)`.
        cross: the cross-fit whose networks they are of.
        scale_draws: whether the variance of the draws is scaled by the errors.
    """
    found = [posterior.predict(X, max_draws=DRAWS) for posterior in posteriors]
    means = np.stack([each.draw_means.mean(axis=0) for each in found])
    within = np.stack([each.draw_means.var(axis=0) for each in found])
    variance = within + np.stack([each.draw_variances.mean(axis=0) for each in found])
    errors = HeldOutErrors.of(means, within, y, cross, scale_draws=scale_draws)
    tested = np.flatnonzero(cross.fold >= 0)
    own = (cross.fold[tested], tested)
    residuals = np.asarray(y, np.float64).reshape(len(cross.fold), -1)[tested] - means[own]
    scores = np.abs(residuals) / np.sqrt(variance[own])
    limit = np.quantile(errors.epistemic(means, within), USUAL, axis=0)
    return MixtureCalibration(
        errors.noise(len(posteriors)),
        OutOfFold(cross.fold[tested], scores),
        limit,
        errors.scale(len(posteriors)),
    )
