"""The trained networks whose weights stay frozen, the examples to sample, and the noise."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nbcore.distributions.likelihoods import Gaussian, Likelihood
from nbcore.errors import OptionError
from nbcore.estimators.options import CalibrationOptions, Validation
from nbcore.networks.inputs import check_data, num_examples
from nbcore.networks.names import Names
from nbcore.networks.network import Network, Params
from nbcore.networks.standardized import warn_of_far_inputs
from nbcore.posterior.scaler import Scaler
from nbcore.training.cross_fit import CalibrationWarning, CrossFit, warn_if_seen
from nbcore.training.deterministic import DeterministicNN
from nbcore.training.ensemble import EnsembleDeterministicNN
from nbcore.training.folds import take
from nbcore.training.outputs import network_outputs, root_mean_square

TRAINED_ELSEWHERE = (
    "A network that came trained is never changed: unless it standardizes X itself, train with "
    "nb.DeterministicNN(net, standardize_inputs=True)."
)


@dataclass(frozen=True, eq=False)
class Examples:
    """The data of a fit.

    Args:
        X: inputs, an array or a pytree of arrays `(N, ...)`.
        y: targets `(N,)` or `(N, outputs)`, in y's own units; labels `(N,)`.
        groups: group of each example `(N,)`, as integers from 0; `None` without groups.
    """

    X: Any
    y: Any
    groups: np.ndarray | None = None

    @property
    def count(self) -> int:
        """Number of examples N."""
        return num_examples(self.X)

    def take(self, chosen: np.ndarray) -> Examples:
        """Return some of the examples, by their indices."""
        return Examples(take(self.X, chosen), take(self.y, chosen), self.groups_of(chosen))

    def groups_of(self, chosen: np.ndarray) -> np.ndarray | None:
        """Return the groups of some of the examples, as integers from 0 without gaps."""
        if self.groups is None:
            return None
        return np.unique(self.groups[chosen], return_inverse=True)[1]


@dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """One trained network, and the examples that its stochastic weights are sampled on.

    Args:
        network: the network.
        params: its weights.
        scaler: units of y; `None` if the network was trained in y's own units.
        sampled: indices of the examples to sample.
        residuals: y minus prediction of unseen examples `(n, outputs)`, in y's own units; `None`
            if unknown.
        seen: whether the frozen weights were trained on the examples to sample; `None` if
            unknown.
        det: the trained `nb.DeterministicNN`; `None` for bare weights.
        ensemble: the networks at which chains start, one each; `None`: at the weights.
        estimates_noise: whether the noise is estimated from the residuals; examples that are
            sampled and were not trained on determine the noise by themselves.
        chosen_on: the network by which selectors choose weights; `None`: this one.
    """

    network: Network
    params: Params
    scaler: Scaler | None
    sampled: np.ndarray
    residuals: np.ndarray | None
    seen: bool | None
    det: DeterministicNN | None
    ensemble: EnsembleDeterministicNN | None = None
    estimates_noise: bool = True
    chosen_on: FrozenNetwork | None = None

    @staticmethod
    def of(
        det: DeterministicNN, sampled: np.ndarray, residuals: np.ndarray | None, seen: bool | None
    ) -> FrozenNetwork:
        """Return the frozen network of a trained one."""
        return FrozenNetwork(det.network, det.params, det.scaler, sampled, residuals, seen, det)

    def data(self, examples: Examples) -> tuple[Any, np.ndarray]:
        """Return inputs and targets of the examples to sample, in the units of the network."""
        chosen = examples.take(self.sampled)
        targets = np.asarray(chosen.y)
        return chosen.X, targets if self.scaler is None else self.scaler.standardize(targets)

    @property
    def noise(self) -> np.ndarray | None:
        """Root mean square residual of each output `(outputs,)`, in y's own units."""
        return None if self.residuals is None else root_mean_square(self.residuals)


def first_of(given: Any) -> Any:
    """Return the one network, or its parameters, that stands for all that was given as weights."""
    if isinstance(given, CrossFit):
        return given.full
    return given.members[0] if isinstance(given, EnsembleDeterministicNN) else given


def named_by(given: Any, model: Any) -> tuple[Names, tuple[Any, Params | None]]:
    """Return the names in the training of given weights, and the network that has the classes.

    Args:
        given: the weights that were given, or `None`.
        model: the network of bare parameters.
    """
    trained = first_of(given)
    if isinstance(trained, DeterministicNN):
        return trained.names, (trained.network, trained.params)
    return Names(), (model, trained)


def from_weights(
    given: DeterministicNN | Params,
    network: Network,
    examples: Examples,
    validation_data: Validation,
    likelihood: Likelihood,
    *,
    has_frozen_weights: bool,
) -> FrozenNetwork:
    """Return the frozen network of given weights; its noise is that of examples unseen by them.

    Args:
        given: a trained network, or its parameters.
        network: the network of bare parameters.
        examples: the examples to sample.
        validation_data: `(X, y)` that the weights have not seen.
        likelihood: meaning of the outputs for y.
        has_frozen_weights: whether some weights stay as they are given; if none does, the
            examples that are sampled determine the noise.
    """
    det = given if isinstance(given, DeterministicNN) else None
    params = given if det is None else det.params
    network = network if det is None else det.network
    scaler = None if det is None else det.scaler
    warn_of_far_inputs(network, examples.X, TRAINED_ELSEWHERE)
    residuals = None
    if has_frozen_weights and isinstance(likelihood.for_training(), Gaussian):
        if validation_data is not None:
            check_data(
                network, *validation_data, name="validation X", target="validation y",
                missing=likelihood.missing,
            )  # fmt: skip
            residuals = _residuals(network, params, scaler, *validation_data)
        elif det is not None:
            residuals = det.validation_residuals
        if residuals is not None:
            on_sampled = _residuals(network, params, scaler, examples.X, examples.y)
            remedy = "The noise is taken from the unseen examples instead."
            warn_if_seen(root_mean_square(on_sampled), root_mean_square(residuals), remedy)
        elif likelihood.needs_noise_estimate:
            _warn_unchecked("Give validation_data=(X, y) that they have not seen.")
    seen = None if has_frozen_weights else False
    return FrozenNetwork(network, params, scaler, np.arange(examples.count), residuals, seen, det)


def from_ensemble(
    ensemble: EnsembleDeterministicNN,
    examples: Examples,
    likelihood: Likelihood,
    *,
    is_everything: bool,
) -> list[FrozenNetwork]:
    """Return a frozen network for each member; for a network without frozen weights, one for all.

    Without frozen weights all members are starts of chains on one posterior. With frozen weights,
    each member has a posterior of its own, and predictions are the mixture.

    Args:
        ensemble: a trained ensemble.
        examples: the examples to sample.
        likelihood: meaning of the outputs for y.
        is_everything: whether all weights are sampled.
    """
    every, first = np.arange(examples.count), ensemble.members[0]
    warn_of_far_inputs(first.network, examples.X, TRAINED_ELSEWHERE)
    if is_everything:
        return [replace(FrozenNetwork.of(first, every, None, seen=False), ensemble=ensemble)]
    residuals = ensemble.member_residuals
    if residuals is None and likelihood.needs_noise_estimate:
        _warn_unchecked("Train with validation_data=(X, y), or bootstrap=True.")
    return [FrozenNetwork.of(member, every, residuals, seen=None) for member in ensemble.members]


def networks_to_sample(
    cross: CrossFit, examples: Examples, likelihood: Likelihood, calibration: CalibrationOptions
) -> list[FrozenNetwork]:
    """Return the networks of a cross-fit that are sampled, as the calibration says.

    Args:
        cross: a cross-fit of the examples.
        examples: all examples.
        likelihood: meaning of the outputs for y.
        calibration: its method, and whether there are several networks.

    Raises:
        OptionError: the cross-fit is of other examples, or its folds split a group.
    """
    is_mixture = calibration.method == "mixture"
    if is_mixture and cross.residuals.size and likelihood.needs_noise_estimate:
        return from_fold_networks(cross, examples)
    return from_cross_fit(cross, examples, ensemble=is_mixture or calibration.ensemble is True)


def from_cross_fit(cross: CrossFit, examples: Examples, *, ensemble: bool) -> list[FrozenNetwork]:
    """Return the full network of a cross-fit, or the networks of its folds.

    Args:
        cross: a cross-fit of the examples.
        examples: the examples to sample.
        ensemble: whether each network of a fold is sampled, on its fold alone.

    Raises:
        OptionError: the cross-fit is of other examples, or its folds split a group.
    """
    _check_folds(cross, examples)
    residuals = cross.residuals if cross.residuals.size else None
    if ensemble:
        folds = [np.flatnonzero(cross.fold == k) for k in range(len(cross.members))]
        pairs = zip(cross.members, folds, strict=True)
        return [FrozenNetwork.of(member, fold, residuals, seen=False) for member, fold in pairs]
    if residuals is None:
        warnings.warn(
            f"{type(cross.full.likelihood).__name__} has no noise to calibrate: all examples are "
            "sampled, which the frozen weights have seen. Type: calibration='mixture', "
            "or 'holdout'.",
            CalibrationWarning,
            stacklevel=3,
        )
    else:
        remedy = "The noise is taken from out-of-fold residuals instead."
        warn_if_seen(cross.training_noise, cross.noise, remedy)
    return [FrozenNetwork.of(cross.full, np.arange(examples.count), residuals, seen=True)]


def from_fold_networks(cross: CrossFit, examples: Examples) -> list[FrozenNetwork]:
    """Return the networks of the folds of a cross-fit, to be sampled on their own examples.

    All have the same stochastic weights, chosen on the network of all examples. Parts whose sizes
    differ by one example are cut to the smaller size, so that they share one compiled program.

    Args:
        cross: a cross-fit of the examples.
        examples: the examples to sample.

    Raises:
        OptionError: the cross-fit is of other examples, or its folds split a group.
    """
    _check_folds(cross, examples)
    sizes = [len(part) for part in cross.trained]
    size = min(sizes) if max(sizes) - min(sizes) <= 1 else max(sizes)
    full = FrozenNetwork.of(cross.full, np.arange(examples.count), None, seen=True)
    return [
        replace(FrozenNetwork.of(member, part[:size], None, seen=True), chosen_on=full)
        for member, part in zip(cross.members, cross.trained, strict=True)
    ]


def _check_folds(cross: CrossFit, examples: Examples) -> None:
    if len(cross.fold) != examples.count:
        raise OptionError(
            f"The cross-fit is of {len(cross.fold)} examples, and X has {examples.count}. Fit the "
            "examples that nb.cross_fit got."
        )
    if examples.groups is None:
        return
    pairs = np.unique(np.stack([examples.groups, cross.fold]), axis=1)
    if pairs.shape[1] > len(np.unique(examples.groups)):
        raise OptionError(
            "The folds of the cross-fit split a group of groups=. Give the groups to the cross-fit "
            "too: nb.cross_fit(..., groups=groups)"
        )


def _warn_unchecked(remedy: str) -> None:
    warnings.warn(
        "The noise could not be checked: these weights may have been trained on the examples that "
        f"are sampled, and then intervals come out too narrow. {remedy}",
        CalibrationWarning,
        stacklevel=4,
    )


def _residuals(
    network: Network, params: Params, scaler: Scaler | None, X: Any, y: Any
) -> np.ndarray:
    outputs = network_outputs(network, params, X)
    scaler = scaler or Scaler.identity(outputs.shape[1])
    means = scaler.shift + scaler.scale * outputs
    return np.asarray(y, np.float64).reshape(len(y), -1) - means
