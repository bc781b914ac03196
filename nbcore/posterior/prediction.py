"""What a posterior says about new inputs: the mixture of the predictions of its draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from nbcore.common.keys import as_key
from nbcore.distributions.families import FAMILIES, Draws, Family, FamilyName
from nbcore.errors import DataError, OptionError, ShapeError, did_you_mean
from nbcore.metrics import crps

CRPS_DRAWS = 2000

SLICE = 2**22
"""Numbers that are worked on at a time, where numpy makes copies."""


@dataclass(frozen=True)
class Scaler:
    """Units of y: `y = shift + scale * standardized`, per output `(outputs,)`."""

    shift: np.ndarray
    scale: np.ndarray

    @staticmethod
    def fit(y: np.ndarray) -> Scaler:
        """Return the scaler that gives y `(N,)` or `(N, outputs)` mean 0 and deviation 1."""
        columns = np.asarray(y, np.float64).reshape(len(y), -1)
        deviation = columns.std(axis=0)
        return Scaler(columns.mean(axis=0), np.where(deviation > 0, deviation, 1.0))

    @staticmethod
    def identity(num_outputs: int) -> Scaler:
        """Return the scaler that changes nothing."""
        return Scaler(np.zeros(num_outputs), np.ones(num_outputs))

    def to_data(self) -> dict[str, list[float]]:
        """Return the scaler as JSON data."""
        return {"shift": self.shift.tolist(), "scale": self.scale.tolist()}

    @staticmethod
    def from_data(data: dict[str, list[float]]) -> Scaler:
        """Return the scaler that `to_data` described."""
        return Scaler(np.array(data["shift"]), np.array(data["scale"]))

    def standardize(self, y: np.ndarray) -> np.ndarray:
        """Return y in standardized units, in its own shape."""
        columns = np.asarray(y, np.float64).reshape(len(y), -1)
        return ((columns - self.shift) / self.scale).reshape(np.shape(y))


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
        draw_means: mean of each draw, `(draws, examples, outputs)`, in the units of y.
        draw_variances: variance of each draw, broadcastable to `draw_means`.
        kind: how y is distributed given a draw: `"normal"`, `"student-t"`, `"poisson"`,
            `"bernoulli"` or `"categorical"`.
        draw_df: degrees of freedom of Student's t, broadcastable to `draw_means`.

    Examples:
        >>> import numpy as np
        >>> prediction = Prediction(np.array([[[0.0]], [[2.0]]]), np.ones((2, 1, 1)), "normal")
        >>> prediction.mean, prediction.epistemic_variance, prediction.variance
        (array([1.]), array([1.]), array([2.]))

    References:
        Depeweg, Hernández-Lobato, Doshi-Velez & Udluft (2018), "Decomposition of uncertainty in
        Bayesian deep learning for efficient and risk-sensitive learning", equations 1 and 5.
    """

    draw_means: np.ndarray
    draw_variances: np.ndarray
    kind: FamilyName = "normal"
    draw_df: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check the kind."""
        if self.kind not in FAMILIES:
            raise OptionError(
                f"kind is {', '.join(FAMILIES)}, got {self.kind!r}."
                f"{did_you_mean(str(self.kind), FAMILIES)}"
            )

    @property
    def mean(self) -> np.ndarray:
        """Predictive mean; for classes the mean probabilities."""
        return self._shaped(self.draw_means.mean(axis=0, dtype=np.float64))

    @property
    def aleatoric_variance(self) -> np.ndarray:
        """Variance of y that remains when the weights are known."""
        average = self.draw_variances.mean(axis=0, dtype=np.float64)
        return self._shaped(np.broadcast_to(average, self.draw_means.shape[1:]).copy())

    @property
    def epistemic_variance(self) -> np.ndarray:
        """Variance of the mean over the posterior draws."""
        return self._shaped(self._in_slices(lambda draws: draws.mean.var(axis=0)))

    @property
    def variance(self) -> np.ndarray:
        """Aleatoric plus epistemic variance."""
        return self.aleatoric_variance + self.epistemic_variance

    @property
    def labels(self) -> np.ndarray:
        """Most probable label: the class `(examples,)`, or 0 and 1.

        Raises:
            OptionError: these are no predictions of classes.
        """
        return self._shaped(self._family.labels(self.draw_means.mean(axis=0, dtype=np.float64)))

    @property
    def total_entropy(self) -> np.ndarray:
        """Entropy of the mean probabilities, in nats; one number for each label.

        Raises:
            OptionError: these are no predictions of classes.
        """
        return self._shaped(self._family.entropy(self.draw_means.mean(axis=0, dtype=np.float64)))

    @property
    def expected_entropy(self) -> np.ndarray:
        """Mean entropy of the draws, in nats: what remains when the weights are known."""
        entropy = self._family.entropy
        return self._shaped(self._in_slices(lambda draws: entropy(draws.mean).mean(axis=0)))

    @property
    def mutual_information(self) -> np.ndarray:
        """What y would tell about the weights, in nats: total minus expected entropy."""
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
            raise OptionError(f"Quantiles are asked for between 0 and 1, got {q}.")
        quantile = self._family.quantile
        found = [
            self._shaped(self._in_slices(lambda draws, q=float(level): quantile(q, draws)))
            for level in levels
        ]
        return np.stack(found) if np.ndim(q) else found[0]

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Return the bounds of the central interval that holds `level` of the mixture.

        That of counts holds its bounds, and so at least `level`.
        """
        low, high = self.quantile([(1 - level) / 2, (1 + level) / 2])
        return low, high

    def cdf(self, y: np.ndarray) -> np.ndarray:
        """Return P(Y_i <= y_i) under the mixture; uniform over examples where it is calibrated.

        Args:
            y: values of the shape of `mean`.

        Raises:
            OptionError: classes have no order.
            ShapeError: y has not the shape of `mean`.

        Examples:
            >>> import numpy as np
            >>> Prediction(np.zeros((1, 1, 1)), np.ones((1, 1, 1)), "normal").cdf(np.zeros(1))
            array([0.5])
        """
        values = self._checked(y)
        cdf = self._family.cdf
        return self._shaped(self._in_slices(lambda draws, y: cdf(y, draws).mean(axis=0), values))

    def log_density(self, y: np.ndarray) -> np.ndarray:
        """Return log p(y_i) under the mixture `(examples,)`, summed over outputs within a draw.

        Of labels and counts it is a log probability.

        Raises:
            ShapeError: y has not the shape of `mean` (labels: `(examples,)`).
            LabelError, DataError: y is no label, or no count.
        """

        def of_mixture(draws: Draws, y: np.ndarray) -> np.ndarray:
            each = self._family.log_density(y, draws)
            peak = each.max(axis=0)
            finite = np.where(np.isfinite(peak), peak, 0.0)
            with np.errstate(divide="ignore"):  # where no draw can give y
                return finite + np.log(np.exp(each - finite).mean(axis=0))

        return self._in_slices(of_mixture, self._checked(y))

    def nlpd(self, y: np.ndarray) -> float:
        """Return the negative log predictive density of the mixture, averaged over examples."""
        return -float(np.mean(self.log_density(y)))

    def coverage(self, y: np.ndarray, level: float = 0.95) -> float:
        """Return the fraction of y inside the central interval of the mixture."""
        low, high = self.interval(level)
        if np.shape(y) != low.shape:
            raise ShapeError(f"y has shape {np.shape(y)}, and the prediction {low.shape}.")
        return float(np.mean((low <= y) & (y <= high)))

    def crps(self, y: np.ndarray) -> float:
        """Return the continuous ranked probability score, in the units of y.

        In closed form for a single normal, else from 2,000 draws of y.

        Raises:
            OptionError: classes have no order; use `nb.metrics.brier`.
        """
        known = self._family.crps(self._checked(y), self._draws())
        return crps(y, self.sample(CRPS_DRAWS)) if known is None else known

    def sample(self, num_samples: int, key: Any = None) -> np.ndarray:
        """Draw y: from each draw in turn, as often as it takes.

        Args:
            num_samples: how many.
            key: random key.

        Returns:
            `(num_samples, examples)` for one output and for classes, whose labels they are, else
            `(num_samples, examples, outputs)`.

        Raises:
            OptionError: fewer than one is asked for.
        """
        if num_samples < 1:
            raise OptionError(f"num_samples must be at least 1, got {num_samples}.")
        rng = np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))).tolist())
        total = len(self.draw_means)
        few = np.linspace(0, total - 1, min(num_samples, total)).round().astype(int)
        chosen = np.resize(few, num_samples)
        draws = Draws(*(part[np.minimum(chosen, len(part) - 1)] for part in self._draws()))
        drawn = self._family.sample(rng, draws)
        return drawn[..., 0] if drawn.ndim == 3 and drawn.shape[2] == 1 else drawn

    def in_units_of(self, scaler: Scaler) -> Prediction:
        """Return the prediction in the units of y that the scaler knows."""
        return replace(
            self,
            draw_means=(scaler.shift + scaler.scale * self.draw_means).astype(
                self.draw_means.dtype
            ),
            draw_variances=(scaler.scale**2 * self.draw_variances).astype(self.draw_means.dtype),
        )

    @staticmethod
    def mixture(predictions: Sequence[Prediction]) -> Prediction:
        """Return the equal mixture of predictions at the same inputs, such as of an ensemble.

        Raises:
            DataError: there is none, or they differ in kind, shape or number of draws.
        """
        forms = {(p.kind, p.draw_means.shape) for p in predictions}
        if len(forms) != 1:
            raise DataError(
                "A mixture is of predictions of one kind, at the same inputs, with as many draws "
                f"each; got {sorted(forms) or 'none'}."
            )
        means = np.concatenate([p.draw_means for p in predictions])
        variances = np.concatenate(
            [np.broadcast_to(p.draw_variances, p.draw_means.shape) for p in predictions]
        )
        given = [p.draw_df for p in predictions if p.draw_df is not None]
        counts = [len(p.draw_means) for p in predictions]
        df = None
        if given:
            df = np.concatenate(
                [np.broadcast_to(d, (n, *d.shape[1:])) for d, n in zip(given, counts, strict=True)]
            )
        return Prediction(means, variances, predictions[0].kind, df)

    @property
    def _family(self) -> Family:
        return FAMILIES[self.kind]

    def _draws(self, examples: slice = slice(None)) -> Draws:
        """Return what the draws predict at some examples, in double precision."""
        means = self.draw_means
        df = np.full((len(means), 1, 1), np.inf) if self.draw_df is None else self.draw_df
        variances = np.broadcast_to(self.draw_variances, means.shape)
        df = df[:, examples] if df.shape[1] > 1 else df
        return Draws(
            np.asarray(means[:, examples], np.float64),
            np.asarray(variances[:, examples], np.float64),
            np.asarray(df, np.float64),
        )

    def _in_slices(self, function: Callable[..., np.ndarray], *values: np.ndarray) -> np.ndarray:
        """Return `function(draws, *values)` of all examples, computed for some at a time.

        Args:
            function: returns one row for each example.
            values: arrays with a leading example axis.
        """
        draws, count, outputs = self.draw_means.shape
        size = max(1, SLICE // max(draws * outputs, 1))
        slices = [slice(first, first + size) for first in range(0, max(count, 1), size)]
        return np.concatenate([function(self._draws(s), *(v[s] for v in values)) for s in slices])

    def _checked(self, y: np.ndarray) -> np.ndarray:
        _, count, outputs = self.draw_means.shape
        return self._family.check(np.asarray(y), (count, outputs))

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        return values[:, 0] if values.shape[1] == 1 else values
