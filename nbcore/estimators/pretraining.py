"""Training of the networks whose weights are frozen, if no weights were given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from nbcore.common.progress import Progress
from nbcore.distributions.likelihoods import Likelihood
from nbcore.errors import OptionError
from nbcore.estimators.frozen import Examples, FrozenNetwork
from nbcore.estimators.options import CalibrationOptions, TrainingOptions, Validation
from nbcore.networks.names import Names
from nbcore.training.cross_fit import CrossFit, cross_fit, warn_if_seen
from nbcore.training.deterministic import DeterministicNN
from nbcore.training.ensemble import EnsembleDeterministicNN
from nbcore.training.folds import fold_of_examples, warn_of_copies

HOLDOUT = 5
"""One fold of so many is kept from training by `"holdout"`."""
EPOCHS = 60
"""Of a network that is trained alone, whose error out of fold is unknown."""


def check_calibration(calibration: CalibrationOptions, given: Any) -> None:
    """Check that a way of calibrating fits the weights that were given, if any.

    Raises:
        OptionError: it does not.
    """
    if calibration.ensemble and not isinstance(given, CrossFit | None):
        raise OptionError(
            "ensemble=True keeps the networks of the folds: give no deterministic_weights, or "
            "those of nb.cross_fit(...)."
        )
    keeps_examples = given is None and calibration.method != "none"
    if calibration.validation_data is not None and (keeps_examples or isinstance(given, CrossFit)):
        raise OptionError(
            "Cross-fitting and 'holdout' keep examples from training by themselves, so there is "
            "nothing to do for validation_data. Leave it out, or type: "
            "nb.CalibrationOptions('none', validation_data=...)"
        )


@dataclass(frozen=True, eq=False)
class Pretraining:
    """How the frozen networks of one fit are trained.

    Args:
        model: the network, or a model that `nb.as_network` knows.
        likelihood: meaning of the outputs for y.
        training: how networks are trained.
        calibration: which examples are kept from training.
        key: random key for folds, weights, minibatches and dropout.
        progress: whether to report on standard error, or a function that takes a `Report`.
        has_frozen_weights: whether some weights stay as they are trained.
        names: names of features and classes, which the trained networks get.
        num_starts: number of networks that chains start at, if no weights are frozen.
    """

    model: Any
    likelihood: Likelihood
    training: TrainingOptions
    calibration: CalibrationOptions
    key: jax.Array
    progress: bool | Progress
    has_frozen_weights: bool
    names: Names
    num_starts: int = 1

    def cross_fit(self, examples: Examples) -> CrossFit:
        """Train one network on all examples, and one without each fold."""
        cross = cross_fit(
            self.model, examples.X, examples.y, self.calibration.folds,
            epochs=self.training.epochs, batch_size=self.training.batch_size,
            groups=examples.groups, key=self.key, progress=self.progress,
            **self.training.network_options(self.likelihood),
        )  # fmt: skip
        for det in (*cross.members, cross.full):
            det.names = self.names
        return cross

    def holdout(self, examples: Examples) -> FrozenNetwork:
        """Train without a fifth of the examples, and sample this fifth.

        Raises:
            OptionError: there are fewer groups than folds.
        """
        groups = examples.groups
        if groups is not None and groups.max() + 1 < HOLDOUT:
            raise OptionError(
                f"calibration='holdout' keeps a fifth of the groups from training, and groups has "
                f"{groups.max() + 1}. Give at least {HOLDOUT}, or use nb.CalibrationOptions("
                "'crossfit', folds=2)."
            )
        if groups is None:
            warn_of_copies(examples.X)
        fold = fold_of_examples(self.key, examples.count, HOLDOUT, groups)
        seen, unseen = np.flatnonzero(fold != 0), np.flatnonzero(fold == 0)
        det = self._train(examples.take(seen), None)
        residuals = None
        if det.is_squared_error:
            held_out = examples.take(unseen)
            residuals = det.residuals(held_out.X, held_out.y)
        return replace(FrozenNetwork.of(det, unseen, residuals, seen=False), estimates_noise=False)

    def uncalibrated(self, examples: Examples) -> FrozenNetwork:
        """Train on all examples, and sample all of them."""
        if self.num_starts > 1 and not self.has_frozen_weights:
            return self._starts(examples)
        det = self._train(examples, self.calibration.validation_data)
        if det.validation_noise is not None and self.has_frozen_weights:
            remedy = "With calibration='none' the noise comes out too small."
            on_sampled = det.residual_noise(examples.X, examples.y)
            warn_if_seen(on_sampled, det.validation_noise, remedy)
        every = np.arange(examples.count)
        return FrozenNetwork.of(det, every, None, seen=self.has_frozen_weights)

    def _starts(self, examples: Examples) -> FrozenNetwork:
        """Train networks for chains to start at, and sample all examples."""
        options = self.training.network_options(self.likelihood)
        ensemble = EnsembleDeterministicNN(self.model, num_models=self.num_starts, **options)
        ensemble.train(
            examples.X, examples.y, self.training.epochs or EPOCHS, self.training.batch_size,
            self.calibration.validation_data, key=self.key, estimate_noise=False,
            progress=self.progress,
        )  # fmt: skip
        first = ensemble.members[0]
        first.names = self.names
        every = np.arange(examples.count)
        return replace(FrozenNetwork.of(first, every, None, seen=False), ensemble=ensemble)

    def _train(self, examples: Examples, validation_data: Validation) -> DeterministicNN:
        det = DeterministicNN(self.model, **self.training.network_options(self.likelihood))
        det.train(
            examples.X, examples.y, self.training.epochs or EPOCHS, self.training.batch_size,
            validation_data, key=self.key, progress=self.progress,
        )  # fmt: skip
        det.names = self.names
        return det
