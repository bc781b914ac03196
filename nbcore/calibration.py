"""Noise from rows that the network has not seen: what keeps a partial posterior calibrated.

The frozen part of a network has seen the rows that it was trained on, so that their residuals are
too small, and a noise level learnt from them is too small as well, however well chains converge.
"""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from nbcore.checks import num_examples
from nbcore.deterministic import DeterministicNN
from nbcore.errors import OptionError
from nbcore.keys import as_key
from nbcore.likelihoods import Categorical, Gaussian, Likelihood
from nbcore.minibatches import BatchPlan
from nbcore.network import as_network
from nbcore.prediction import Prediction
from nbcore.priors import HalfNormal, LogNormal
from nbcore.progress import Progress, Report, progress_from

SEEN_RATIO = 0.8
NOISE_FLOOR = 0.25
WORKERS = 2


class CalibrationWarning(UserWarning):
    """The predictive uncertainty may be too small, or could not be checked."""


@dataclass(frozen=True)
class CrossFit:
    """A network trained on all rows, and one for each fold that has not seen the fold.

    Args:
        full: trained on all rows.
        members: one network for each fold, trained without it.
        fold: fold of each row `(N,)`.
        predictions: out-of-fold predictions `(N, outputs)` in y's own units; probabilities for
            classes.
        noise: root mean square out-of-fold error of each output `(outputs,)`; for classes empty.
    """

    full: DeterministicNN
    members: tuple[DeterministicNN, ...]
    fold: np.ndarray
    predictions: np.ndarray
    noise: np.ndarray

    def nlpd(self, y: Any) -> float:
        """Return the out-of-fold NLPD: with out-of-fold noise, or of the class probabilities."""
        draws = self.predictions[None]
        if not self.noise.size:
            return Prediction(draws, np.zeros((1, 1, 1)), "categorical").nlpd(np.asarray(y))
        prediction = Prediction(draws, np.broadcast_to(self.noise**2, draws.shape), "normal")
        return prediction.nlpd(np.asarray(y, np.float64).reshape(prediction.mean.shape))


def cross_fit(
    network: Any,
    X: Any,
    y: Any,
    folds: int = 5,
    *,
    epochs: int = 60,
    batch_size: int = 32,
    key: Any = None,
    progress: bool | Progress = True,
    **options: Any,
) -> CrossFit:
    """Train a network on all rows, and once for each fold without that fold.

    The networks are trained side by side in threads; each depends on its own key alone.

    Args:
        network: a network, or a model that `nb.as_network` knows.
        X: inputs `(N, ...)`.
        y: targets `(N,)` or `(N, outputs)`; labels `(N,)`.
        folds: number of folds.
        epochs: passes over the data.
        batch_size: rows of a minibatch.
        key: random key for folds, weights, minibatches and dropout.
        progress: whether to report on standard error, or a function that takes a `Report`.
        options: options of `nb.DeterministicNN`, such as `learning_rate`.

    Raises:
        OptionError: fewer than 2 folds, or more than rows.

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
        raise OptionError(f"folds must be 2 to the number of rows ({count}), got {folds}.")
    key = as_key(key)
    # One network for all, so that its training step compiles once.
    network = as_network(network, example=take(X, np.arange(1)))
    fold = fold_of_rows(jax.random.fold_in(key, folds + 1), count, folds)
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
    predictions = np.empty((count, full.num_outputs))
    for k, member in enumerate(members):
        rows = np.flatnonzero(fold == k)
        predictions[rows] = np.reshape(member.predict(take(X, rows)), (len(rows), -1))
    noise = np.zeros(0)
    if full.loss == "homoskedastic":
        residual = np.asarray(y, np.float64).reshape(count, -1) - predictions
        noise = np.sqrt(np.mean(residual**2, axis=0))
    return CrossFit(full, members, fold, predictions, noise)


def fold_of_rows(key: jax.Array, count: int, folds: int) -> np.ndarray:
    """Return a random fold for each row `(count,)`; sizes differ by one at most."""
    return np.asarray(jax.random.permutation(key, np.arange(count) % folds))


def take(x: Any, rows: np.ndarray) -> Any:
    """Return some rows of an array or of a pytree of arrays."""
    return jax.tree.map(lambda a: np.asarray(a)[rows], x)


def tight_noise_prior(noise: np.ndarray, count: int) -> LogNormal:
    """Return a noise prior so tight around `noise` that `count` residuals do not move it.

    N residuals know log noise to 1 / sqrt(2 N); the prior is ten times as sure.

    Args:
        noise: noise of each output `(outputs,)`, from rows that were not trained on.
        count: number of rows that the posterior is sampled on.
    """
    return LogNormal(tuple(float(s) for s in noise), 0.1 / float(np.sqrt(2 * count)))


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


def standardised(likelihood: Likelihood, scale: np.ndarray) -> Likelihood:
    """Return the likelihood of y in units of `scale` `(outputs,)`, given that of y itself.

    Raises:
        OptionError: it is not known how the likelihood, or its noise prior, changes with units.
    """
    if isinstance(likelihood, Categorical):
        return likelihood
    if type(likelihood) is Gaussian:
        prior = likelihood.noise_prior
        if likelihood.noise is not None:
            return Gaussian(noise=_divided(likelihood.noise, scale))
        if isinstance(prior, LogNormal):
            return Gaussian(noise_prior=LogNormal(_divided(prior.median, scale), prior.spread))
        if isinstance(prior, HalfNormal) and len(scale) == 1:
            return Gaussian(noise_prior=HalfNormal(prior.scale / float(scale[0])))
    raise OptionError(
        "y is standardised for training, and it is not known how to standardise "
        f"{likelihood}. Give a Gaussian with noise= or a LogNormal noise_prior, or "
        "deterministic_weights that were trained with standardize=False."
    )


def _divided(value: Any, scale: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in np.broadcast_to(np.asarray(value) / scale, scale.shape))


def warn_if_seen(training_noise: np.ndarray, unseen_noise: np.ndarray, remedy: str) -> None:
    """Warn where the residuals on the rows to sample are much smaller than on unseen rows."""
    ratio = float(np.min(training_noise / np.maximum(unseen_noise, 1e-12)))
    if ratio < SEEN_RATIO:
        warnings.warn(
            f"On the rows that are sampled the error is {ratio:.2f} of that on unseen rows: the "
            f"frozen weights have seen them. {remedy}",
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
