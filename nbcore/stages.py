"""Where the frozen weights, the rows to sample and the noise come from: one stage a network."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from nbcore.calibration import (
    CalibrationWarning,
    CrossFit,
    cross_fit,
    fold_of_rows,
    take,
    warn_if_seen,
)
from nbcore.checks import check_data, num_examples
from nbcore.deterministic import DeterministicNN, Loss, network_outputs
from nbcore.ensemble import EnsembleDeterministicNN
from nbcore.errors import OptionError
from nbcore.network import Network, Params
from nbcore.prediction import Scaler
from nbcore.progress import Progress

Calibration = Literal["crossfit", "holdout", "none"]
Validation = tuple[Any, Any] | None
HOLDOUT = 5


@dataclass(frozen=True)
class Stage:
    """One frozen network and the rows that its stochastic weights are sampled on.

    Args:
        network: the network.
        params: its weights.
        scaler: units of y; `None` where the network was trained in y's own.
        rows: rows to sample on.
        noise: noise of each output from unseen rows, in y's own units; `None` if unknown.
        det: what trained the network; `None` for bare weights.
        ensemble: where chains start, one at each member; `None`: at the weights.
    """

    network: Network
    params: Params
    scaler: Scaler | None
    rows: np.ndarray
    noise: np.ndarray | None
    det: DeterministicNN | None
    ensemble: EnsembleDeterministicNN | None = None


@dataclass(frozen=True)
class Training:
    """How the deterministic networks are trained, and which rows are kept from them."""

    loss: Loss
    recipe: dict[str, Any]
    epochs: int
    batch_size: int
    folds: int
    key: jax.Array
    progress: bool | Progress

    @property
    def _options(self) -> dict[str, Any]:
        return {**self.recipe, "loss": self.loss, "standardize": self.loss == "homoskedastic"}

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
    ) -> list[Stage]:
        """Train one network, on all rows or without a fifth, which is then what is sampled."""
        count = num_examples(X)
        if calibration == "holdout":
            fold = fold_of_rows(self.key, count, HOLDOUT)
            seen, unseen = np.flatnonzero(fold != 0), np.flatnonzero(fold == 0)
            det = self.one(model, take(X, seen), take(y, seen), None)
            noise = None
            if self.loss == "homoskedastic":
                noise = det.residual_noise(take(X, unseen), take(y, unseen))
            return [_stage(det, unseen, noise)]
        det = self.one(model, X, y, validation_data)
        if det.validation_noise is not None:
            remedy = "With calibration='none' the noise comes out too small."
            warn_if_seen(det.residual_noise(X, y), det.validation_noise, remedy)
        return [_stage(det, np.arange(count), None)]


def given_stage(
    given: DeterministicNN | Params,
    network: Network,
    X: Any,
    y: Any,
    validation_data: Validation,
    *,
    is_regression: bool,
    has_noise: bool,
) -> Stage:
    """Return the stage of weights that were given; the noise is that of rows they have not seen.

    Args:
        given: a trained network, or its parameters.
        network: the network of bare parameters.
        X: inputs to sample on.
        y: targets to sample on.
        validation_data: `(X, y)` that the weights have not seen.
        is_regression: whether there is a noise.
        has_noise: whether the user said what the noise is.
    """
    det = given if isinstance(given, DeterministicNN) else None
    params = given if det is None else det.params
    network = network if det is None else det.network
    scaler = None if det is None else det.scaler
    noise = None
    if is_regression:
        if validation_data is not None:
            check_data(network, *validation_data, name="validation X", target="validation y")
            noise = _residual_noise(network, params, scaler, *validation_data)
        elif det is not None:
            noise = det.validation_noise
        if noise is not None:
            seen = _residual_noise(network, params, scaler, X, y)
            warn_if_seen(seen, noise, "The noise is taken from the unseen rows instead.")
        elif not has_noise:
            _warn_unchecked("Give validation_data=(X, y) that they have not seen.")
    return Stage(network, params, scaler, np.arange(num_examples(X)), noise, det)


def first_of(given: Any) -> Any:
    """Return the one network, or parameters, that stand for all that was given."""
    if isinstance(given, CrossFit):
        return given.full
    return given.members[0] if isinstance(given, EnsembleDeterministicNN) else given


def ensemble_stages(
    ensemble: EnsembleDeterministicNN, X: Any, *, is_everything: bool, has_noise: bool
) -> list[Stage]:
    """Return the stage of each member; of a network without frozen weights, one for all.

    Without frozen weights all members are starts of chains on one posterior; with them, each
    member has a posterior of its own, and predictions are the mixture.

    Args:
        ensemble: a trained ensemble.
        X: inputs to sample on.
        is_everything: whether all weights are sampled.
        has_noise: whether the user said what the noise is.
    """
    rows, first = np.arange(num_examples(X)), ensemble.members[0]
    if is_everything:
        return [Stage(first.network, first.params, first.scaler, rows, None, first, ensemble)]
    noise = ensemble.member_noise
    if noise is None and first.loss == "homoskedastic" and not has_noise:
        _warn_unchecked("Train with validation_data=(X, y), or bootstrap=True.")
    return [_stage(member, rows, noise) for member in ensemble.members]


def cross_stages(cross: CrossFit, X: Any, y: Any, *, ensemble: bool) -> list[Stage]:
    """Return the stage of a cross-fit's full network, or of each of its fold networks."""
    if len(cross.fold) != num_examples(X):
        raise OptionError(
            f"The cross-fit is of {len(cross.fold)} rows, and X has {num_examples(X)}. Fit "
            "the rows that nb.cross_fit got."
        )
    noise = cross.noise if cross.noise.size else None
    if ensemble:
        folds = [np.flatnonzero(cross.fold == k) for k in range(len(cross.members))]
        pairs = zip(cross.members, folds, strict=True)
        return [_stage(member, rows, noise) for member, rows in pairs]
    if noise is None:
        warnings.warn(
            "Classes have no noise to calibrate: all rows are sampled, which the frozen "
            "weights have seen. Use calibration='holdout', or ensemble=True.",
            CalibrationWarning,
            stacklevel=3,
        )
    else:
        remedy = "The noise is taken from out-of-fold residuals instead."
        warn_if_seen(cross.full.residual_noise(X, y), noise, remedy)
    return [_stage(cross.full, np.arange(len(cross.fold)), noise)]


def _warn_unchecked(remedy: str) -> None:
    warnings.warn(
        "The noise could not be checked: these weights may have been trained on the rows that are "
        f"sampled, and then intervals come out too narrow. {remedy}",
        CalibrationWarning,
        stacklevel=4,
    )


def _stage(det: DeterministicNN, rows: np.ndarray, noise: np.ndarray | None) -> Stage:
    return Stage(det.network, det.params, det.scaler, rows, noise, det)


def _residual_noise(
    network: Network, params: Params, scaler: Scaler | None, X: Any, y: Any
) -> np.ndarray:
    outputs = network_outputs(network, params, X)
    scaler = scaler or Scaler.identity(outputs.shape[1])
    means = scaler.shift + scaler.scale * outputs
    residual = np.asarray(y, np.float64).reshape(len(y), -1) - means
    return np.sqrt(np.mean(residual**2, axis=0))
