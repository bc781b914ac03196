"""Cross-fitting: the noise of examples that a network has not seen, which calibrates a posterior.

The frozen part of a network has seen the examples that it was trained on, so that their residuals
are too small, and a noise level learned from them is too small as well, however well chains
converge.
"""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from nbcore.common.keys import as_key
from nbcore.common.progress import Progress, Report, progress_from
from nbcore.errors import OptionError
from nbcore.networks.inputs import num_examples
from nbcore.networks.length_buckets import RowBuffer
from nbcore.networks.network import as_network
from nbcore.posterior.prediction import Prediction
from nbcore.training.deterministic import DeterministicNN, predict_at
from nbcore.training.folds import fold_of_rows, group_codes, take
from nbcore.training.minibatches import BatchPlan

SEEN_RATIO = 0.8
NOISE_FLOOR = 0.25
WORKERS = 2


class CalibrationWarning(UserWarning):
    """The predictive uncertainty may be too small, or could not be checked."""


@dataclass(frozen=True)
class CrossFit:
    """A network trained on all examples, and one for each fold that has not seen the fold.

    Args:
        full: trained on all examples.
        members: one network for each fold, trained without it.
        fold: fold of each example `(N,)`.
        predictions: out-of-fold predictions `(N, outputs)` in y's own units; probabilities for
            classes.
        noise: root mean square out-of-fold error of each output `(outputs,)`; empty if the
            network predicts the noise itself, or there is none.
        training_noise: the same of `full` on the examples that it was trained on; as empty.
        residuals: out-of-fold residuals `(N, outputs)` in y's own units; as empty.
        variances: out-of-fold variances `(N, outputs)` that the networks predict; else empty.
    """

    full: DeterministicNN
    members: tuple[DeterministicNN, ...]
    fold: np.ndarray
    predictions: np.ndarray
    noise: np.ndarray
    training_noise: np.ndarray
    residuals: np.ndarray
    variances: np.ndarray

    def nlpd(self, y: Any) -> float:
        """Return the out-of-fold NLPD: with out-of-fold noise, or that of the networks."""
        draws = self.predictions[None]
        known = self.noise**2 if self.noise.size else self.variances
        variances = np.broadcast_to(known, draws.shape)
        prediction = Prediction(draws, variances, self.full.likelihood.kind)
        y = np.asarray(y)
        return prediction.nlpd(y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y)


def cross_fit(
    network: Any,
    X: Any,
    y: Any,
    folds: int = 5,
    *,
    epochs: int = 60,
    batch_size: int = 32,
    groups: Any = None,
    key: Any = None,
    progress: bool | Progress = True,
    **options: Any,
) -> CrossFit:
    """Train a network on all examples, and once for each fold without that fold.

    The networks are trained side by side in threads; each depends on its own key alone.

    Args:
        network: a network, or a model that `nb.as_network` knows.
        X: inputs `(N, ...)`.
        y: targets `(N,)` or `(N, outputs)`; labels `(N,)`.
        folds: number of folds.
        epochs: passes over the data.
        batch_size: examples of a minibatch.
        groups: a label for each example `(N,)`; examples of one group are in one fold. `None`:
            each example is a group of its own.
        key: random key for folds, weights, minibatches and dropout.
        progress: whether to report on standard error, or a function that takes a `Report`.
        options: options of `nb.DeterministicNN`, such as `learning_rate`.

    Raises:
        OptionError: fewer than 2 folds, or more than examples or groups.
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
    count = num_examples(X)
    if not 2 <= folds <= count:
        raise OptionError(f"folds must be 2 to the number of examples ({count}), got {folds}.")
    key = as_key(key)
    # One network for all, so that its training step compiles once.
    network = as_network(network, example=take(X, np.arange(1)))
    fold_key = jax.random.fold_in(key, folds + 1)
    fold = fold_of_rows(fold_key, count, folds, group_codes(groups, count))
    plan = BatchPlan.of(X, network.padding, batch_size)
    networks = [DeterministicNN(network, **options) for _ in range(folds + 1)]
    report = _Together(progress_from(progress), folds + 1)

    def fit(k: int) -> None:
        if k != folds:
            report.compiled.wait()
        rows = np.flatnonzero(fold != k)
        try:
            networks[k].train(
                take(X, rows), take(y, rows), epochs, plan=plan,
                key=jax.random.fold_in(key, k), progress=report.of(k),
            )  # fmt: skip
        finally:
            report.compiled.set()

    with ThreadPoolExecutor(WORKERS) as pool:
        for future in [pool.submit(fit, k) for k in reversed(range(folds + 1))]:
            future.result()
    full, members = networks[folds], tuple(networks[:folds])
    unseen = [np.flatnonzero(fold == k) for k in range(folds)]
    *parts, seen = (
        predict_at(det.network, det.params, det.likelihood, det.scaler, take(X, rows))
        for det, rows in zip(networks, [*unseen, np.arange(count)], strict=True)
    )
    means, spreads = RowBuffer(count, axis=0), RowBuffer(count, axis=0)
    for rows, part in zip(unseen, parts, strict=True):
        means.put(rows, part.draw_means[0].astype(np.float64))
        spreads.put(rows, part.draw_variances[0].astype(np.float64))
    predictions, variances = means.array, spreads.array
    none = np.zeros(0)
    if not full.is_squared_error:
        return CrossFit(full, members, fold, predictions, none, none, none, variances)
    targets = np.asarray(y, np.float64).reshape(count, -1)
    residuals = targets - predictions
    noise, training_noise = (
        np.sqrt(np.mean(errors**2, axis=0)) for errors in (residuals, targets - seen.draw_means[0])
    )
    return CrossFit(full, members, fold, predictions, noise, training_noise, residuals, none)


def mixture_noise(
    squared: np.ndarray, between: np.ndarray, epistemic: np.ndarray | float = 0.0
) -> np.ndarray:
    """Return the noise of a mixture of networks, so that their spread is not counted twice.

    A member's squared error is, on average over members, that of their mean plus the variance
    between them (Krogh & Vedelsby 1995, equation 6). So the mixture, whose variance is noise^2 +
    between + epistemic, is as wide as its mean errs with noise^2 = squared - 2 between -
    epistemic, averaged over rows; at least a quarter of `squared` is kept.

    Args:
        squared: squared error of a member on unseen rows `(outputs,)`.
        between: variance between members `(outputs,)`.
        epistemic: mean variance within members `(outputs,)`.
    """
    return np.sqrt(np.maximum(squared - 2 * between - epistemic, NOISE_FLOOR * squared))


def warn_if_seen(training_noise: np.ndarray, unseen_noise: np.ndarray, remedy: str) -> None:
    """Warn if the residuals on the examples to sample are much smaller than on unseen ones."""
    ratio = float(np.min(training_noise / np.maximum(unseen_noise, 1e-12)))
    if ratio < SEEN_RATIO:
        warnings.warn(
            f"On the examples that are sampled the error is {ratio:.2f} of that on unseen "
            f"examples: the frozen weights have seen them. {remedy}",
            CalibrationWarning,
            stacklevel=3,
        )


def warn_of_training_noise() -> None:
    """Warn that the noise is that of rows which were trained on."""
    warnings.warn(
        "The noise is that of the training residuals, and so too small: no row was kept from "
        "training. Give validation_data=(X, y), or type bootstrap=True",
        CalibrationWarning,
        stacklevel=4,
    )


class _Together:
    """Several trainings as one report: epochs done, over all of them.

    `compiled` is set after the first epoch of the first, so that the others find its programs.
    """

    def __init__(self, report: Progress, count: int) -> None:
        self.report, self.count = report, count
        self.done: dict[int, int] = {}
        self.compiled = threading.Event()

    def of(self, k: int) -> Progress:
        def note(report: Report) -> None:
            self.compiled.set()
            self.done[k] = report.done
            total = self.count * report.total
            networks = f"{self.count} networks, {report.note}"
            self.report(report._replace(done=sum(self.done.values()), total=total, note=networks))

        return note
