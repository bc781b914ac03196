"""Cross-fitting, which estimates the noise on examples that a network has not seen.

The frozen part of a network has seen the examples that it was trained on, so that their residuals
are too small, and a noise level learned from them is too small as well, however well chains
converge.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import jax
import numpy as np

from nbcore.common.keys import as_key
from nbcore.common.progress import Progress, progress_from
from nbcore.networks.input_scaling import warn_of_lost_digits
from nbcore.networks.inputs import num_examples
from nbcore.networks.names import Names, names_in
from nbcore.networks.network import Network, Params, as_network
from nbcore.networks.standardized import input_scaler, standardizing
from nbcore.posterior.missing import observed_examples
from nbcore.posterior.prediction import Prediction
from nbcore.training.deterministic import DeterministicNN
from nbcore.training.fold_training import FoldTraining, Together
from nbcore.training.folds import (
    CalibrationWarning,
    Splitter,
    group_codes,
    make_folds,
    take,
)
from nbcore.training.minibatches import BatchPlan
from nbcore.training.outputs import predict_at, root_mean_square
from nbcore.training.recipe import Recipe
from nbcore.training.saving import Saved

SEEN_RATIO = 0.8
NOISE_FLOOR = 0.25
NONE = np.zeros(0)
FIRST_ROUND = 20
"""Epochs of the first round of a training that ends by itself."""
MAX_ROUNDS = 6
LEAST_GAIN = 0.01
"""A fall of the NLPD out of fold that is worth a round twice as long."""
LEAST_NOISE = 1e-3
"""In deviations of y."""


@dataclass(frozen=True)
class CrossFit(Saved):
    """A network trained on all examples, and one for each fold that has not seen the fold.

    Args:
        full: trained on all examples.
        members: one network for each fold, trained without it.
        fold: network that each example is held out from `(N,)`; -1: from none, as the first
            examples of a time series.
        trained: indices of the examples that each member is trained on.
        predictions: out-of-fold predictions `(N, outputs)` in y's own units; probabilities for
            classes; NaN for examples that no network is tested on.
        noise: root mean square out-of-fold error of each output `(outputs,)`; empty if the
            network predicts the noise itself, or there is none.
        training_noise: root mean square error of `full` on its training examples `(outputs,)`;
            empty if `noise` is.
        residuals: out-of-fold residuals `(tested, outputs)` in y's own units; empty if `noise` is.
        held_out: prediction of each fold by the network that has not seen it, if the networks
            predict a distribution; else empty.
        scores: NLPD out of fold after so many epochs, if their number was to be found; else empty.
    """

    kind: ClassVar[str] = "cross-fit"

    full: DeterministicNN
    members: tuple[DeterministicNN, ...]
    fold: np.ndarray
    trained: tuple[np.ndarray, ...]
    predictions: np.ndarray
    noise: np.ndarray
    training_noise: np.ndarray
    residuals: np.ndarray
    held_out: tuple[Prediction, ...]
    scores: Mapping[int, float] = field(default_factory=dict[int, float])

    @property
    def names(self) -> Names:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Names of features and classes."""
        return self.full.names

    @property
    def stored_network(self) -> tuple[Network, Params]:
        """The network, and the weights that were trained on all examples."""
        return self.full.stored_network

    def to_stored(self) -> dict[str, Any]:
        """Return the networks, the folds, and what was found out of fold."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        members = [member.to_stored(moments=False) for member in self.members]
        return {**found, "full": self.full.to_stored(), "members": members}

    @classmethod
    def from_stored(
        cls, network: Network, stored: Mapping[str, Any], posteriors: Sequence[Any] = ()
    ) -> Self:
        """Return the cross-fit that `to_stored` described."""
        del posteriors
        full = DeterministicNN.from_stored(network, stored["full"])
        members = tuple(DeterministicNN.from_stored(network, m) for m in stored["members"])
        found: dict[str, Any] = {**stored, "full": full, "members": members}
        return cls(**found)

    @property
    def known_noise(self) -> np.ndarray | None:
        """The noise; `None` if the network predicts it itself, or there is none."""
        return self.noise if self.noise.size else None

    def nlpd(self, y: Any) -> float:
        """Return the out-of-fold NLPD: with out-of-fold noise, or that of the networks."""
        return self.nlpd_of_codes(self.names.targets(y))

    def nlpd_of_codes(self, y: np.ndarray) -> float:
        """Return the out-of-fold NLPD; classes are integers from 0, whatever their names."""
        missing = self.full.likelihood.missing
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        if self.noise.size:
            tested = self.fold >= 0
            prediction = Prediction.normal(self.predictions[None, tested], self.noise**2)
            return prediction.nlpd(y[tested], missing=missing)
        each = [
            p.log_density(y[self.fold == k], missing=missing) for k, p in enumerate(self.held_out)
        ]
        counted = [observed_examples(y[self.fold == k], missing) for k in range(len(each))]
        return -float(np.mean(np.concatenate(each)[np.concatenate(counted)]))


def cross_fit(
    network: Any,
    X: Any,
    y: Any,
    folds: int | Splitter = 5,
    *,
    epochs: int | None = None,
    batch_size: int = 32,
    groups: Any = None,
    key: Any = None,
    progress: bool | Progress = True,
    **options: Any,
) -> CrossFit:
    """Train a network on all examples, and once for each fold without that fold.

    The networks are trained concurrently in threads; each depends only on its own key.

    Args:
        network: a network, or a model that `nb.as_network` knows.
        X: inputs `(N, ...)`.
        y: targets `(N,)` or `(N, outputs)`; labels `(N,)`.
        folds: number of folds, or a cross-validator of scikit-learn that holds out each example
            once at most, such as `GroupKFold(5)` or `TimeSeriesSplit(5)`.
        epochs: passes over the data; `None` trains in rounds of 20, 40, 80, ... epochs, 1,260 in
            all at most, each from the weights of the one before, until a round lowers the NLPD out
            of fold by less than 0.01, and keeps the round with the lowest.
        batch_size: examples of a minibatch.
        groups: a label for each example `(N,)`; examples of one group are in one fold. `None`:
            each example is a group of its own.
        key: random key for folds, weights, minibatches and dropout.
        progress: whether to report on standard error, or a function that takes a `Report`.
        options: options of `nb.DeterministicNN`, such as `learning_rate`.

    Raises:
        OptionError: fewer than 2 folds, or more than examples or groups; or a splitter that holds
            out an example twice.
        ShapeError, DataError: groups, X and y do not fit.

    Examples:
        >>> import numpy as np, nbcore as nb
        >>> from nbcore_flax import FlaxMLP
        >>> x = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
        >>> fitted = nb.cross_fit(
        ...     FlaxMLP(hidden_dims=(8,)), x, x[:, 0], folds=2, epochs=2, progress=False
        ... )
        >>> fitted.predictions.shape, len(fitted.members)
        ((40, 1), 2)

    References:
        Stone (1974), "Cross-validatory choice and assessment of statistical predictions".
    """
    names = names_in(X, y, DeterministicNN(network, **options).likelihood.labels, network)
    inputs, targets = names.data(X, y)
    count, key = num_examples(inputs), as_key(key)
    number = folds if isinstance(folds, int) else 0
    fold_key = jax.random.fold_in(key, number + 1)
    split = make_folds(fold_key, inputs, targets, folds, group_codes(groups, count))
    # One network for all, so that its training step compiles once.
    network = as_network(network, example=take(inputs, np.arange(1)))
    if options.get("standardize_inputs") and input_scaler(network) is None:  # one step for all
        warn_of_lost_digits(inputs)
        network = standardizing(network, inputs)
    training = FoldTraining(
        network, options, inputs, targets, split, BatchPlan.of(inputs, network.padding, batch_size),
        key, Together(progress_from(progress), split.count + 1), names,
    )  # fmt: skip
    if epochs is not None:
        return _measured(training.advanced(epochs), training)
    return _until_done(training)


def _until_done(training: FoldTraining) -> CrossFit:
    """Train in rounds, each twice as long as the one before, while the NLPD out of fold falls."""
    rounds: list[CrossFit] = []
    scores: dict[int, float] = {}
    networks, options = None, training.options
    for n in range(MAX_ROUNDS):
        networks = training.advanced(FIRST_ROUND * 2**n, networks, options)
        rounds.append(_measured(networks, training))
        scores[FIRST_ROUND * (2 ** (n + 1) - 1)] = rounds[-1].nlpd_of_codes(training.y)
        *before, last = scores.values()
        if before and last > min(before) - LEAST_GAIN:
            break
        options = _in_units_of_noise(training.options, rounds[-1])
    epochs = min(scores, key=lambda number: scores[number])
    found = ", ".join(f"{number}: {score:.3f}" for number, score in scores.items())
    training.report.remark(f"Trained for {epochs} epochs; NLPD out of fold after {found}")
    return replace(rounds[list(scores).index(epochs)], scores=scores)


def _in_units_of_noise(options: Mapping[str, Any], cross: CrossFit) -> Mapping[str, Any]:
    """Return the options of training squared errors whose noise is known by now.

    The mode of squared errors with noise s and a prior of deviation sigma is that of squared errors
    with unit noise, as they are trained with, and a prior of deviation sigma / s.
    """
    if not cross.noise.size:
        return options
    scale = 1.0 if cross.full.scaler is None else cross.full.scaler.scale
    noise = float(root_mean_square(cross.noise / scale))
    return {**options, "sigma": options.get("sigma", Recipe.sigma) / max(noise, LEAST_NOISE)}


def _measured(networks: Sequence[DeterministicNN], training: FoldTraining) -> CrossFit:
    """Return the networks of the folds and, last, of all examples, with their errors."""
    *members, full = networks
    X, y, split = training.X, training.y, training.split
    count = len(y)
    unseen = [split.held_out(k) for k in range(split.count)]
    *parts, seen = (
        predict_at(det.network, det.params, det.likelihood, det.scaler, take(X, indices))
        for det, indices in zip(networks, [*unseen, np.arange(count)], strict=True)
    )
    predictions = _assembled(count, unseen, [part.draw_means[0] for part in parts])
    found = CrossFit(
        full, tuple(members), split.fold, split.trained,
        predictions, NONE, NONE, NONE, tuple(parts),
    )  # fmt: skip
    if not full.is_squared_error:
        return found
    measured, tested = y.astype(np.float64).reshape(count, -1), split.fold >= 0
    residuals = (measured - predictions)[tested]
    noise, training_noise = (
        root_mean_square(errors) for errors in (residuals, measured - seen.draw_means[0])
    )
    return replace(
        found, noise=noise, training_noise=training_noise, residuals=residuals, held_out=()
    )


def _assembled(count: int, indices: list[np.ndarray], parts: list[np.ndarray]) -> np.ndarray:
    """Return parts as one array in double precision, NaN for examples in no part."""
    array = np.full((count, *parts[0].shape[1:]), np.nan)
    for some, part in zip(indices, parts, strict=True):
        array[some] = part
    return array


def mixture_noise(
    squared: np.ndarray, between: np.ndarray, epistemic: np.ndarray | float = 0.0
) -> np.ndarray:
    """Return the noise of a mixture of networks that does not count their spread twice.

    A member's squared error is, on average over members, that of their mean plus the variance
    between them (Krogh & Vedelsby 1995, equation 6). The mixture has the variance noise^2 +
    between + epistemic, which equals the squared error of its mean if noise^2 = squared -
    2 between - epistemic, averaged over examples; at least a quarter of `squared` is kept.

    Args:
        squared: squared error of a member on unseen examples `(outputs,)`.
        between: variance between members `(outputs,)`.
        epistemic: mean variance within members `(outputs,)`.
    """
    return np.sqrt(np.maximum(squared - 2 * between - epistemic, NOISE_FLOOR * squared))


def warn_if_seen(training_noise: np.ndarray, unseen_noise: np.ndarray, remedy: str) -> None:
    """Warn if the residuals on the examples to sample are much smaller than on unseen ones."""
    ratios = np.divide(
        training_noise, unseen_noise, out=np.ones_like(unseen_noise), where=unseen_noise > 0
    )
    ratio = float(np.min(ratios))
    if ratio < SEEN_RATIO:
        warnings.warn(
            f"On the examples that are sampled the error is {ratio:.2f} of that on unseen "
            f"examples: the frozen weights have seen them. {remedy}",
            CalibrationWarning,
            stacklevel=3,
        )


def warn_of_training_noise() -> None:
    """Warn that the noise was estimated on training examples."""
    warnings.warn(
        "The noise is that of the training residuals, and so too small: no example was kept from "
        "training. Give validation_data=(X, y), or type bootstrap=True",
        CalibrationWarning,
        stacklevel=4,
    )
