"""Predictions of a posterior at new inputs: the mixture of the predictions of its draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import jax
import numpy as np

from nbcore.common.keys import as_key
from nbcore.common.options import check_choice
from nbcore.distributions.continuous import NormalDistribution
from nbcore.distributions.distribution import Distribution, as_variances
from nbcore.errors import DataError, OptionError, ShapeError
from nbcore.metrics import crps
from nbcore.metrics.class_names import ClassNames, codes_of, names_of
from nbcore.networks.inputs import Missing
from nbcore.posterior.conformal import ConformalPrediction
from nbcore.posterior.missing import is_nan, known_values, observed_examples
from nbcore.posterior.scaler import Scaler

CRPS_DRAWS = 2000

IntervalMethod = Literal["central", "conformal"]

SLICE = 2**22
"""Values of draws that are worked on at a time, because NumPy makes copies."""


@dataclass(frozen=True)
class Prediction:
    r"""The predictive distribution at some inputs, an equal mixture over draws.

    With draws s = 1..S of mean m_s and variance v_s:
    mean = E_s m_s, aleatoric variance = E_s v_s, epistemic variance = Var_s m_s,
    variance = aleatoric + epistemic (law of total variance). Of labels, with p_s the
    probabilities: total entropy H(E_s p_s) = expected entropy E_s H(p_s) + mutual information.

    Arrays have shape `(examples,)` for one output, else `(examples, outputs)`; for classes,
    `(examples, classes)` with `mean` the class probabilities.

    Args:
        distribution: distribution of y for each draw, such as `nb.NormalDistribution(means,
            deviations)`; parameters broadcast to `(draws, examples, outputs)`, in the units of y.
        conformal: predictions of fold networks, for `interval(level, method="conformal")`; `None`
            if there are none.
        epistemic_limit: epistemic variance of each output `(outputs,)` beyond which an input is
            outside of what was learnt, see `is_outside`; `None` if unknown.
        classes: name of each class; `None`: classes are integers from 0.

    Examples:
        >>> import numpy as np
        >>> prediction = Prediction.normal(np.array([[[0.0]], [[2.0]]]), np.ones((2, 1, 1)))
        >>> prediction.mean, prediction.epistemic_variance, prediction.variance
        (array([1.]), array([1.]), array([2.]))

    References:
        Depeweg, Hernández-Lobato, Doshi-Velez & Udluft (2018), "Decomposition of uncertainty in
        Bayesian deep learning for efficient and risk-sensitive learning", equations 1 and 5.
    """

    distribution: Distribution
    conformal: ConformalPrediction | None = None
    epistemic_limit: np.ndarray | None = None
    classes: ClassNames | None = None

    def __post_init__(self) -> None:
        """Check that there are draws, examples and outputs."""
        if not isinstance(self.distribution, Distribution):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(
                "A prediction takes a distribution with a draw axis, got "
                f"{type(self.distribution).__name__}. Type: nb.Prediction.normal(means, "
                "variances), or nb.Prediction(nb.PoissonDistribution(log_rates))"
            )
        if len(self.distribution.shape) != 3:
            raise ShapeError(
                "A prediction has axes (draws, examples, outputs), got "
                f"{self.distribution.shape}. Type: means[None, :, None] for one draw of one output."
            )

    @staticmethod
    def normal(means: np.ndarray, variances: np.ndarray) -> Prediction:
        """Return the prediction of normal draws.

        Args:
            means: mean of each draw `(draws, examples, outputs)`.
            variances: variance of each draw, broadcastable to `means`.

        Examples:
            >>> import numpy as np
            >>> Prediction.normal(np.zeros((3, 2, 1)), np.ones((1, 1, 1))).mean.shape
            (2,)
        """
        means = np.asarray(means)
        variances = as_variances(variances, means.shape)
        return Prediction(NormalDistribution(means, np.sqrt(variances)))

    @property
    def draw_means(self) -> np.ndarray:
        """Mean of each draw, `(draws, examples, outputs)`."""
        return np.broadcast_to(self.distribution.mean, self.distribution.shape)

    @property
    def draw_variances(self) -> np.ndarray:
        """Variance of each draw, `(draws, examples, outputs)`."""
        return np.broadcast_to(self.distribution.variance, self.distribution.shape)

    @property
    def mean(self) -> np.ndarray:
        """Predictive mean; for classes the mean probabilities."""
        return self._shaped(self._mean)

    @property
    def aleatoric_variance(self) -> np.ndarray:
        """Variance of y that remains when the weights are known."""
        return self._shaped(self._in_slices(lambda draws: _average(draws.variance, draws)))

    @property
    def epistemic_variance(self) -> np.ndarray:
        """Variance of the mean over the posterior draws."""
        return self._shaped(
            self._in_slices(lambda draws: np.broadcast_to(draws.mean, draws.shape).var(axis=0))
        )

    @property
    def variance(self) -> np.ndarray:
        """Aleatoric plus epistemic variance."""
        return self.aleatoric_variance + self.epistemic_variance

    @property
    def labels(self) -> np.ndarray:
        """Most probable label: the class `(examples,)`, by its name, or 0 and 1 of each output.

        Raises:
            OptionError: the predictions are not of classes.
        """
        return self._named(self._shaped(self.distribution.labels(self._mean)))

    @property
    def total_entropy(self) -> np.ndarray:
        """Entropy of the mean probabilities, in nats; one value for each label or example.

        Raises:
            OptionError: the predictions are not of classes.
        """
        return self._shaped(self.distribution.entropy(self._mean))

    @property
    def expected_entropy(self) -> np.ndarray:
        """Mean entropy of the draws, in nats, which remains when the weights are known."""
        return self._shaped(self._in_slices(lambda draws: draws.entropy(draws.mean).mean(axis=0)))

    @property
    def mutual_information(self) -> np.ndarray:
        """Information of y about the weights, in nats: total minus expected entropy."""
        return np.maximum(self.total_entropy - self.expected_entropy, 0.0)

    def quantile(self, q: float | Sequence[float]) -> np.ndarray:
        """Return quantiles of the mixture; of counts, the smallest that reaches q.

        Args:
            q: one probability, or several; several give a leading axis.

        Raises:
            OptionError: classes have no quantiles, or q is not within (0, 1).
        """
        levels = np.atleast_1d(np.asarray(q, np.float64))
        if not np.all((levels > 0) & (levels < 1)):
            raise OptionError(f"Quantile levels must be between 0 and 1, got {q}.")
        found = [
            self._shaped(self._in_slices(lambda draws, q=float(level): draws.quantile(q)))
            for level in levels
        ]
        return np.stack(found) if np.ndim(q) else found[0]

    def interval(
        self, level: float = 0.95, *, method: IntervalMethod = "central"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the bounds of intervals that hold y with probability `level`.

        Args:
            level: probability inside the interval, between 0 and 1.
            method: `"central"`: the central interval of the mixture over draws, whose coverage is
                as good as the model; that of counts holds its bounds, and so at least `level`.
                `"conformal"`: CV+ intervals from out-of-fold errors, whose coverage of
                exchangeable examples is at least `conformal.out_of_fold.guaranteed(level)`
                whatever the model, and about `level` in practice; of a
                `PartialBNN.fit(calibration="mixture")`.

        Raises:
            OptionError: the method or the level is impossible, or there are no out-of-fold errors.

        References:
            Barber, Candès, Ramdas and Tibshirani (2021), "Predictive inference with the
            jackknife+", theorem 4.
        """
        check_choice(get_args(IntervalMethod), method=method)
        if method == "central":
            low, high = self.quantile([(1 - level) / 2, (1 + level) / 2])
            return low, high
        if self.conformal is None:
            raise OptionError(
                "Conformal intervals need errors on examples that the networks have not seen, and "
                'this prediction has none. Type: model.fit(X, y, calibration="mixture")'
            )
        low, high = self.conformal.interval(level)
        return self._shaped(low), self._shaped(high)

    def cdf(self, y: np.ndarray) -> np.ndarray:
        """Return P(Y_i <= y_i) under the mixture; uniform over examples if it is calibrated.

        Args:
            y: values of the shape of `mean`.

        Raises:
            OptionError: classes have no order.
            ShapeError: y does not have the shape of `mean`.

        Examples:
            >>> import numpy as np
            >>> Prediction.normal(np.zeros((1, 1, 1)), np.ones((1, 1, 1))).cdf(np.zeros(1))
            array([0.5])
        """
        values = self._checked(y)
        return self._shaped(self._in_slices(lambda draws, y: draws.cdf(y).mean(axis=0), values))

    def log_density(self, y: np.ndarray, *, missing: Missing = "error") -> np.ndarray:
        """Return log p(y_i) under the mixture `(examples,)`, summed over outputs within a draw.

        Of labels and counts it is a log probability.

        Raises:
            ShapeError: y does not have the shape of `mean` (labels: `(examples,)`).
            LabelError, DataError: y holds values that are no labels or counts.
        """

        def of_mixture(draws: Distribution, y: np.ndarray) -> np.ndarray:
            each = draws.log_density(y)
            peak = each.max(axis=0)
            finite = np.where(np.isfinite(peak), peak, 0.0)
            with np.errstate(divide="ignore"):  # no draw can give this y
                return finite + np.log(np.exp(each - finite).mean(axis=0))

        return self._in_slices(of_mixture, self._checked(known_values(y, missing)))

    def nlpd(self, y: np.ndarray, *, missing: Missing = "error") -> float:
        """Return the negative log predictive density, averaged over examples with a value."""
        return -float(np.mean(self.log_density(y, missing=missing)[observed_examples(y, missing)]))

    def coverage(self, y: np.ndarray, level: float = 0.95, *, missing: Missing = "error") -> float:
        """Return the fraction of y inside the central interval; `"mask"` leaves NaN in y out."""
        y = known_values(y, missing)
        low, high = self.interval(level)
        if np.shape(y) != low.shape:
            raise ShapeError(f"y has shape {np.shape(y)}, and the prediction {low.shape}.")
        return float(np.mean(((low <= y) & (y <= high))[~is_nan(y)]))

    def crps(self, y: np.ndarray, *, missing: Missing = "error") -> float:
        """Return the continuous ranked probability score, in the units of y.

        In closed form for a single normal, else from 2,000 draws of y; `"mask"` leaves NaN out.

        Raises:
            OptionError: classes have no order; use `nb.metrics.brier`.
        """
        absent = is_nan(known_values(y, missing))
        if absent.any():
            self._checked(np.where(absent, 0, y))  # the shape
            return crps(np.asarray(y)[~absent], self.sample(CRPS_DRAWS)[:, ~absent])
        known = self.distribution.take().crps(self._checked(y))
        return crps(y, self.sample(CRPS_DRAWS)) if known is None else known

    def sample(self, num_samples: int, key: Any = None) -> np.ndarray:
        """Draw y from the predictive distribution of each draw in turn.

        Args:
            num_samples: number of samples of y.
            key: random key.

        Returns:
            `(num_samples, examples)` for one output, and labels of that shape for classes; else
            `(num_samples, examples, outputs)`.

        Raises:
            OptionError: `num_samples` is less than 1.
        """
        if num_samples < 1:
            raise OptionError(f"num_samples must be at least 1, got {num_samples}.")
        rng = np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))).tolist())
        total = self.distribution.shape[0]
        few = np.linspace(0, total - 1, min(num_samples, total)).round().astype(int)
        chosen = np.resize(few, num_samples)
        drawn = self.distribution.take(chosen).sample(rng)
        return self._named(drawn[..., 0] if drawn.ndim == 3 and drawn.shape[2] == 1 else drawn)

    def in_units_of(self, scaler: Scaler) -> Prediction:
        """Return the prediction in the units of y that the scaler knows."""
        return Prediction(self.distribution.in_units(scaler.shift, scaler.scale))

    def with_variance(self, variance: np.ndarray) -> Prediction:
        """Return the prediction with another variance of y in each draw, of the same form.

        Args:
            variance: variance given the weights `(outputs,)`, in squared units of y.
        """
        given = as_variances(variance, self.distribution.shape)
        return Prediction(self.distribution.with_variance(given), classes=self.classes)

    def with_spread(self, scale: np.ndarray) -> Prediction:
        """Return the prediction with the epistemic variance scaled, about the same mean.

        Args:
            scale: factor of the variance of the mean over the draws `(outputs,)`.
        """
        means = self.draw_means
        shift = (np.sqrt(scale) - 1) * (means - means.mean(axis=0))
        moved = self.distribution.in_units(shift, np.ones(means.shape[-1]))
        return replace(self, distribution=moved)

    @property
    def epistemic_share(self) -> np.ndarray:
        """Share of the epistemic variance in the variance, between 0 and 1."""
        return self.epistemic_variance / self.variance

    @property
    def is_outside(self) -> np.ndarray:
        """Whether each input is outside of what was learnt `(examples,)`.

        The epistemic variance of an output is there larger than at 99 % of the examples, as
        networks predict them that have not seen them; of inputs like the examples, about 1 % are.

        Raises:
            OptionError: that variance is not known, as it is of `calibration="mixture"`.
        """
        if self.epistemic_limit is None:
            raise OptionError(
                "What epistemic variance is usual at examples that networks have not seen is known "
                'of the networks of folds. Type: model.fit(X, y, calibration="mixture")'
            )
        variance = self.epistemic_variance.reshape(self.distribution.shape[1:])
        return np.any(variance > self.epistemic_limit, axis=1)

    @staticmethod
    def mixture(predictions: Sequence[Prediction]) -> Prediction:
        """Return the equal mixture of predictions at the same inputs, such as of an ensemble.

        Raises:
            DataError: there is none, or they differ in distribution, shape or number of draws.
        """
        found = [p.distribution for p in predictions]
        if len({(jax.tree.structure(d), d.shape) for d in found}) != 1:
            forms = sorted({f"{d.name} {d.shape}" for d in found})
            raise DataError(
                "A mixture is of predictions with the same distribution, inputs and number of "
                f"draws; got {', '.join(forms) or 'none'}."
            )
        return Prediction(found[0].followed_by(found[1:]), classes=predictions[0].classes)

    @property
    def _mean(self) -> np.ndarray:
        return self._in_slices(lambda draws: _average(draws.mean, draws))

    def _in_slices(self, function: Callable[..., np.ndarray], *values: np.ndarray) -> np.ndarray:
        """Return `function(draws, *values)` of all examples, computed for some at a time.

        Args:
            function: returns an array with a leading example axis, given the distribution.
            values: arrays with a leading example axis.
        """
        draws, count, outputs = self.distribution.shape
        size = max(1, SLICE // max(draws * outputs, 1))
        slices = [slice(first, first + size) for first in range(0, max(count, 1), size)]
        return np.concatenate(
            [function(self.distribution.take(None, s), *(v[s] for v in values)) for s in slices]
        )

    def _checked(self, y: Any) -> np.ndarray:
        if self.classes is not None:
            y = codes_of(self.classes, y)
        return self.distribution.check(np.asarray(y))

    def _named(self, codes: np.ndarray) -> np.ndarray:
        return codes if self.classes is None else names_of(self.classes, codes)

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        return values[:, 0] if values.shape[1] == 1 else values


def _average(moment: np.ndarray, draws: Distribution) -> np.ndarray:
    """Return the average of a moment over draws, `(examples, outputs)`."""
    return np.broadcast_to(moment.mean(axis=0), draws.shape[1:]).copy()
