"""Where the frozen weights, the rows to sample and the noise come from: one stage a network."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import jax
import numpy as np

from nbcore.common.progress import Progress
from nbcore.distributions.likelihoods import Gaussian, Likelihood
from nbcore.errors import OptionError, did_you_mean
from nbcore.networks.inputs import check_data, num_examples
from nbcore.networks.network import Network, Params
from nbcore.posterior.prediction import Scaler
from nbcore.training.cross_fit import (
    CalibrationWarning,
    CrossFit,
    cross_fit,
    fold_of_rows,
    take,
    warn_if_seen,
)
from nbcore.training.deterministic import DeterministicNN, network_outputs
from nbcore.training.ensemble import EnsembleDeterministicNN

Calibration = Literal["crossfit", "holdout", "none"]
Validation = tuple[Any, Any] | None
HOLDOUT = 5


@dataclass(frozen=True)
class FrozenNetwork:
    """One frozen network and the rows that its stochastic weights are sampled on.

    Args:
        network: the network.
        params: its weights.
        scaler: units of y; `None` where the network was trained in y's own.
        rows: rows to sample on.
        residuals: y minus prediction of unseen rows `(rows, outputs)`, in y's own units; `None`
            if unknown.
        seen: whether the frozen weights were trained on the rows to sample; `None` if unknown.
        det: what trained the network; `None` for bare weights.
        ensemble: where chains start, one at each member; `None`: at the weights.
        estimates_noise: whether the noise is estimated from the residuals; examples that are
            sampled and were not trained on tell it by themselves.
    """

    network: Network
    params: Params
    scaler: Scaler | None
    rows: np.ndarray
    residuals: np.ndarray | None
    seen: bool | None
    det: DeterministicNN | None
    ensemble: EnsembleDeterministicNN | None = None
    estimates_noise: bool = True

    def data(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        """Return inputs and targets of the rows to sample, in the units of the network."""
        targets = np.asarray(take(y, self.rows))
        if self.scaler is not None:
            targets = self.scaler.standardize(targets)
        return take(X, self.rows), targets

    @property
    def noise(self) -> np.ndarray | None:
        """Root mean square residual of each output `(outputs,)`, in y's own units."""
        residuals = self.residuals
        return None if residuals is None else np.sqrt(np.mean(residuals**2, axis=0))


@dataclass(frozen=True)
class Training:
    """How the deterministic networks are trained, and which rows are kept from them."""

    likelihood: Likelihood
    recipe: dict[str, Any]
    epochs: int
    batch_size: int
    folds: int
    key: jax.Array
    progress: bool | Progress
    has_frozen_weights: bool = True

    @property
    def _options(self) -> dict[str, Any]:
        standardize = self.likelihood.can_standardize
        return {**self.recipe, "loss": self.likelihood, "standardize": standardize}

    def cross(self, model: Any, X: Any, y: Any) -> CrossFit:
        """Train on all rows, and without each fold."""
        return cross_fit(
            model, X, y, self.folds, epochs=self.epochs, batch_size=self.batch_size,
            key=self.key, progress=self.progress, **self._options,
        )  # fmt: skip

    def one(self, model: Any, X: Any, y: Any, validation_data: Validation) -> DeterministicNN:
        """Train one network."""
        det = DeterministicNN(model, **self._options)
        return det.train(
            X, y, self.epochs, self.batch_size, validation_data,
            key=self.key, progress=self.progress,
        )  # fmt: skip

    def stages(
        self,
        model: Any,
        X: Any,
        y: Any,
        calibration: Calibration,
        *,
        validation_data: Validation,
    ) -> list[FrozenNetwork]:
        """Train one network, on all rows or without a fifth, which is then what is sampled."""
        count = num_examples(X)
        if calibration == "holdout":
            fold = fold_of_rows(self.key, count, HOLDOUT)
            seen, unseen = np.flatnonzero(fold != 0), np.flatnonzero(fold == 0)
            det = self.one(model, take(X, seen), take(y, seen), None)
            residuals = None
            if det.is_squared_error:
                residuals = det.residuals(take(X, unseen), take(y, unseen))
            return [replace(_stage(det, unseen, residuals, seen=False), estimates_noise=False)]
        det = self.one(model, X, y, validation_data)
        if det.validation_noise is not None and self.has_frozen_weights:
            remedy = "With calibration='none' the noise comes out too small."
            warn_if_seen(det.residual_noise(X, y), det.validation_noise, remedy)
        return [_stage(det, np.arange(count), None, seen=self.has_frozen_weights)]


def given_stage(
    given: DeterministicNN | Params,
    network: Network,
    X: Any,
    y: Any,
    validation_data: Validation,
    likelihood: Likelihood,
    *,
    has_frozen_weights: bool = True,
) -> FrozenNetwork:
    """Return the stage of weights that were given; the noise is that of rows they have not seen.

    Args:
        given: a trained network, or its parameters.
        network: the network of bare parameters.
        X: inputs to sample on.
        y: targets to sample on.
        validation_data: `(X, y)` that the weights have not seen.
        likelihood: what outputs say about y.
        has_frozen_weights: whether some weights stay as they are given; where none does, the rows
            that are sampled tell the noise.
    """
    det = given if isinstance(given, DeterministicNN) else None
    params = given if det is None else det.params
    network = network if det is None else det.network
    scaler = None if det is None else det.scaler
    residuals = None
    if has_frozen_weights and isinstance(likelihood.for_training(), Gaussian):
        if validation_data is not None:
            check_data(network, *validation_data, name="validation X", target="validation y")
            residuals = _residuals(network, params, scaler, *validation_data)
        elif det is not None:
            residuals = det.validation_residuals
        if residuals is not None:
            seen = _root_mean_square(_residuals(network, params, scaler, X, y))
            remedy = "The noise is taken from the unseen rows instead."
            warn_if_seen(seen, _root_mean_square(residuals), remedy)
        elif likelihood.needs_noise_estimate:
            _warn_unchecked("Give validation_data=(X, y) that they have not seen.")
    seen = None if has_frozen_weights else False
    return FrozenNetwork(network, params, scaler, np.arange(num_examples(X)), residuals, seen, det)


def check_calibration(calibration: str, ensemble: bool, given: Any) -> None:
    """Check that a way of calibrating is known, and that it fits what was given as weights.

    Raises:
        OptionError: it is not, or does not.
    """
    if calibration not in get_args(Calibration):
        raise OptionError(
            f"calibration is {', '.join(get_args(Calibration))}, got {calibration!r}."
            f"{did_you_mean(calibration, get_args(Calibration))}"
        )
    if ensemble and (calibration != "crossfit" or not isinstance(given, CrossFit | None)):
        raise OptionError(
            "ensemble=True keeps the fold networks of calibration='crossfit': give no "
            "deterministic_weights, or those of nb.cross_fit(...)."
        )


def first_of(given: Any) -> Any:
    """Return the one network, or parameters, that stand for all that was given."""
    if isinstance(given, CrossFit):
        return given.full
    return given.members[0] if isinstance(given, EnsembleDeterministicNN) else given


def ensemble_stages(
    ensemble: EnsembleDeterministicNN, X: Any, *, is_everything: bool, likelihood: Likelihood
) -> list[FrozenNetwork]:
    """Return the stage of each member; of a network without frozen weights, one for all.

    Without frozen weights all members are starts of chains on one posterior; with them, each
    member has a posterior of its own, and predictions are the mixture.

    Args:
        ensemble: a trained ensemble.
        X: inputs to sample on.
        is_everything: whether all weights are sampled.
        likelihood: what outputs say about y.
    """
    rows, first = np.arange(num_examples(X)), ensemble.members[0]
    if is_everything:
        return [replace(_stage(first, rows, None, seen=False), ensemble=ensemble)]
    residuals = ensemble.member_residuals
    if residuals is None and likelihood.needs_noise_estimate:
        _warn_unchecked("Train with validation_data=(X, y), or bootstrap=True.")
    return [_stage(member, rows, residuals, seen=None) for member in ensemble.members]


def cross_stages(cross: CrossFit, X: Any, y: Any, *, ensemble: bool) -> list[FrozenNetwork]:
    """Return the stage of a cross-fit's full network, or of each of its fold networks."""
    if len(cross.fold) != num_examples(X):
        raise OptionError(
            f"The cross-fit is of {len(cross.fold)} rows, and X has {num_examples(X)}. Fit "
            "the rows that nb.cross_fit got."
        )
    residuals = cross.residuals if cross.residuals.size else None
    if ensemble:
        folds = [np.flatnonzero(cross.fold == k) for k in range(len(cross.members))]
        pairs = zip(cross.members, folds, strict=True)
        return [_stage(member, rows, residuals, seen=False) for member, rows in pairs]
    if residuals is None:
        warnings.warn(
            f"{type(cross.full.likelihood).__name__} has no noise to calibrate: all rows are "
            "sampled, which the frozen weights have seen. Use calibration='holdout', or "
            "ensemble=True.",
            CalibrationWarning,
            stacklevel=3,
        )
    else:
        remedy = "The noise is taken from out-of-fold residuals instead."
        warn_if_seen(cross.full.residual_noise(X, y), cross.noise, remedy)
    return [_stage(cross.full, np.arange(len(cross.fold)), residuals, seen=True)]


def _warn_unchecked(remedy: str) -> None:
    warnings.warn(
        "The noise could not be checked: these weights may have been trained on the rows that are "
        f"sampled, and then intervals come out too narrow. {remedy}",
        CalibrationWarning,
        stacklevel=4,
    )


def _stage(
    det: DeterministicNN, rows: np.ndarray, residuals: np.ndarray | None, *, seen: bool | None
) -> FrozenNetwork:
    return FrozenNetwork(det.network, det.params, det.scaler, rows, residuals, seen, det)


def _residuals(
    network: Network, params: Params, scaler: Scaler | None, X: Any, y: Any
) -> np.ndarray:
    outputs = network_outputs(network, params, X)
    scaler = scaler or Scaler.identity(outputs.shape[1])
    means = scaler.shift + scaler.scale * outputs
    return np.asarray(y, np.float64).reshape(len(y), -1) - means


def _root_mean_square(residuals: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(residuals**2, axis=0))
