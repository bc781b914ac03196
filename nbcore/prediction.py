"""What a posterior says about new inputs: the mixture of the predictions of its draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from nbcore.errors import DataError, LabelError, OptionError, ShapeError


@dataclass(frozen=True)
class Scaler:
    """Units of y: `y = shift + scale * standardised`, per output `(outputs,)`."""

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

    def standardise(self, y: np.ndarray) -> np.ndarray:
        """Return y in standardised units, in its own shape."""
        columns = np.asarray(y, np.float64).reshape(len(y), -1)
        return ((columns - self.shift) / self.scale).reshape(np.shape(y))


@dataclass(frozen=True)
class Prediction:
    r"""The predictive distribution at some inputs, an equal mixture over draws.

    With draws s = 1..S of mean m_s and variance v_s:
    mean = E_s m_s, aleatoric variance = E_s v_s, epistemic variance = Var_s m_s,
    variance = aleatoric + epistemic (law of total variance).

    Arrays have shape `(examples,)` for one output, else `(examples, outputs)`; for classes,
    `(examples, classes)` with `mean` the class probabilities.

    Args:
        draw_means: mean of each draw, `(draws, examples, outputs)`, in the units of y.
        draw_variances: variance of each draw, broadcastable to `draw_means`.
        kind: `"normal"` (each draw predicts a normal) or `"categorical"`.

    Examples:
        >>> import numpy as np
        >>> prediction = Prediction(np.array([[[0.0]], [[2.0]]]), np.ones((2, 1, 1)), "normal")
        >>> prediction.mean, prediction.epistemic_variance, prediction.variance
        (array([1.]), array([1.]), array([2.]))
    """

    draw_means: np.ndarray
    draw_variances: np.ndarray
    kind: Literal["normal", "categorical"]

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
        return self._shaped(self.draw_means.var(axis=0, dtype=np.float64))

    @property
    def variance(self) -> np.ndarray:
        """Aleatoric plus epistemic variance."""
        return self.aleatoric_variance + self.epistemic_variance

    @property
    def labels(self) -> np.ndarray:
        """Most probable class of each example `(examples,)`."""
        if self.kind != "categorical":
            raise OptionError("Only predictions of classes have labels. Use .mean")
        return self.mean.argmax(axis=1)

    def quantile(self, q: float | Sequence[float]) -> np.ndarray:
        """Return quantiles of the mixture of normals, by bisection to 1e-6 of its spread.

        Args:
            q: one probability, or several; several give a leading axis.

        Raises:
            OptionError: classes have no quantiles, or q is not within (0, 1).
        """
        if self.kind != "normal":
            raise OptionError("Classes have no quantiles. Use .mean for their probabilities.")
        levels = np.atleast_1d(np.asarray(q, np.float64))
        if not np.all((levels > 0) & (levels < 1)):
            raise OptionError(f"Quantiles are asked for between 0 and 1, got {q}.")
        found = np.stack([self._quantile(float(level)) for level in levels])
        return found if np.ndim(q) else found[0]

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Return the bounds of the central interval that holds `level` of the mixture."""
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
        if self.kind != "normal":
            raise OptionError("Classes have no order. Use .mean for their probabilities.")
        y = np.asarray(y)
        if y.shape != self.mean.shape:
            raise ShapeError(f"y has shape {y.shape}, and the prediction {self.mean.shape}.")
        z = y.reshape(self.draw_means.shape[1:]) - self.draw_means
        return self._shaped(_normal_cdf(z / np.sqrt(self.draw_variances)).mean(axis=0))

    def log_density(self, y: np.ndarray) -> np.ndarray:
        """Return log p(y_i) under the mixture `(examples,)`, summed over outputs within a draw.

        Raises:
            ShapeError: y has not the shape of `mean` (labels: `(examples,)`).
        """
        y = np.asarray(y)
        if self.kind == "categorical":
            if y.shape != self.mean.shape[:1]:
                raise ShapeError(f"Labels have shape {self.mean.shape[:1]}, got {y.shape}.")
            wrong = (y < 0) | (y >= self.mean.shape[1]) | (y != np.floor(y))
            if wrong.any():
                raise LabelError(
                    f"Labels are integers 0 to {self.mean.shape[1] - 1}, got {y[wrong][0]} in row "
                    f"{np.flatnonzero(wrong)[0]}."
                )
            return np.log(self.mean[np.arange(len(y)), y.astype(int)])
        if y.shape != self.mean.shape:
            raise ShapeError(
                f"y has shape {y.shape}, and the prediction {self.mean.shape}. Reshape y."
            )
        residual = y.reshape(self.draw_means.shape[1:]) - self.draw_means
        variances = np.broadcast_to(self.draw_variances, self.draw_means.shape)
        each = -0.5 * (residual**2 / variances + np.log(2 * np.pi * variances))
        joint = each.sum(axis=2)
        peak = joint.max(axis=0)
        return peak + np.log(np.exp(joint - peak).mean(axis=0))

    def nlpd(self, y: np.ndarray) -> float:
        """Return the negative log predictive density of the mixture, averaged over examples."""
        return -float(np.mean(self.log_density(y)))

    def coverage(self, y: np.ndarray, level: float = 0.95) -> float:
        """Return the fraction of y inside the central interval of the mixture."""
        low, high = self.interval(level)
        if np.shape(y) != low.shape:
            raise ShapeError(f"y has shape {np.shape(y)}, and the prediction {low.shape}.")
        return float(np.mean((low <= y) & (y <= high)))

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
        return Prediction(means, variances, predictions[0].kind)

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        return values[:, 0] if values.shape[1] == 1 else values

    def _quantile(self, level: float) -> np.ndarray:
        deviations = np.sqrt(self.draw_variances)
        low = (self.draw_means - 8 * deviations).min(axis=0)
        high = (self.draw_means + 8 * deviations).max(axis=0)
        for _ in range(32):
            middle = (low + high) / 2
            below = _normal_cdf((middle - self.draw_means) / deviations).mean(axis=0) < level
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return self._shaped((low + high) / 2)


def _normal_cdf(z: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr  # noqa: PLC0415  scipy comes with jax, and takes long to import

    return ndtr(z)
