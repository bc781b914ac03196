"""The noise of several posteriors that predict together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nbcore.distributions.likelihoods import Likelihood
from nbcore.estimators.frozen import FrozenNetwork
from nbcore.estimators.out_of_fold import calibration_out_of_fold
from nbcore.posterior.mixture import MixtureCalibration
from nbcore.posterior.posterior import NetworkPosterior
from nbcore.training.cross_fit import CrossFit, mixture_noise

DRAWS = 200


def calibration_of_mixture(
    posteriors: Sequence[NetworkPosterior],
    frozen: Sequence[FrozenNetwork],
    likelihood: Likelihood,
    cross: CrossFit | None,
    X: Any,
    y: Any,
    *,
    scale_draws: bool,
) -> MixtureCalibration | None:
    """Return the noise of several posteriors; `None` of one, or if there is none to calibrate.

    Args:
        posteriors: one for each network.
        frozen: the networks.
        likelihood: the likelihood of y in its own units.
        cross: the cross-fit that the networks are of, if they are.
        X: inputs of all examples.
        y: their targets.
        scale_draws: whether the variance of the draws is scaled by errors out of fold.
    """
    if cross is not None and frozen[0].chosen_on is not None:
        return calibration_out_of_fold(posteriors, X, y, cross, scale_draws=scale_draws)
    noise = frozen[0].noise
    if len(posteriors) == 1 or noise is None or not likelihood.needs_noise_estimate:
        return None
    return MixtureCalibration(shared_noise(posteriors, X, noise))


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
