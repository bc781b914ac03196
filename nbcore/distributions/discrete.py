"""Distributions of counts and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.pytrees import register_pytree
from nbcore.distributions.distribution import Distribution, array_module, special_functions
from nbcore.errors import DataError, LabelError, OptionError, ShapeError


@register_pytree
@dataclass(frozen=True)
class PoissonDistribution(Distribution):
    """Poisson distribution of counts.

    Args:
        log_rate: logarithm of the rate, which is mean and variance.
    """

    log_rate: Any

    def check(self, y: np.ndarray) -> np.ndarray:
        """Return counts, or raise if there are others."""
        y = super().check(y)
        wrong = (y < 0) | (y != np.floor(y))
        if wrong.any():
            raise DataError(f"Counts are non-negative integers, got {y[wrong][0]}.")
        return y

    @property
    def mean(self) -> Any:
        """Rate."""
        return array_module(self.log_rate).exp(self.log_rate)

    @property
    def variance(self) -> Any:
        """Rate."""
        return self.mean

    def log_prob(self, y: Any) -> Any:
        """Return y log_rate - rate - log y!."""
        xp = array_module(y, self.log_rate)
        return y * self.log_rate - xp.exp(self.log_rate) - special_functions(xp).gammaln(y + 1)

    def cdf(self, y: np.ndarray) -> np.ndarray:
        """Return P(Y <= y), 0 below 0."""
        from scipy.special import pdtr  # noqa: PLC0415  scipy takes long to import

        return np.where(y < 0, 0.0, pdtr(np.floor(np.maximum(y, 0)), self.mean))

    def quantile(self, level: float) -> np.ndarray:
        """Return the smallest count whose distribution function reaches the level."""
        low, high = np.full(self.shape[1:], -1.0), np.ceil(1 + self.mean.max(axis=0))
        return bisect_integers(lambda y: self.cdf(y).mean(axis=0), level, low, high)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Sample counts."""
        return rng.poisson(self.mean).astype(np.float64)


class Labels(Distribution):
    """Labels, which have no order, so neither quantiles nor a distribution function."""

    def cdf(self, y: np.ndarray) -> np.ndarray:
        """Raise."""
        raise OptionError("Classes have no order. Use .mean for their probabilities.")

    def quantile(self, level: float) -> np.ndarray:
        """Raise."""
        raise OptionError("Classes have no quantiles. Use .mean for their probabilities.")


@register_pytree
@dataclass(frozen=True)
class BernoulliDistribution(Labels):
    """Independent labels 0 and 1.

    Args:
        logits: log odds of 1; the mean is p = sigmoid(logits), the variance p (1 - p).
    """

    logits: Any

    def check(self, y: np.ndarray) -> np.ndarray:
        """Return zeros and ones, or raise if there are others."""
        y = super().check(y)
        if not np.isin(y, (0, 1)).all():
            raise LabelError(f"Labels are 0 or 1, got {y[~np.isin(y, (0, 1))][0]}.")
        return y

    @property
    def mean(self) -> Any:
        """Probability of 1."""
        return special_functions(array_module(self.logits)).expit(self.logits)

    @property
    def variance(self) -> Any:
        """Probability of 1 times that of 0."""
        return self.mean * special_functions(array_module(self.logits)).expit(-self.logits)

    def log_prob(self, y: Any) -> Any:
        """Return the log probability of each label."""
        xp = array_module(y, self.logits)
        return -xp.logaddexp(-xp.where(y > 0, self.logits, -self.logits), 0)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Sample zeros and ones."""
        return (rng.random(self.shape) < self.mean).astype(np.float64)

    def entropy(self, p: np.ndarray) -> np.ndarray:
        """Return -p log p - (1 - p) log(1 - p) of each output."""
        from scipy.special import entr  # noqa: PLC0415  scipy takes long to import

        return entr(p) + entr(1 - p)

    def labels(self, p: np.ndarray) -> np.ndarray:
        """Return 1 if its probability is above a half, else 0."""
        return (p > 0.5).astype(int)


@register_pytree
@dataclass(frozen=True)
class CategoricalDistribution(Labels):
    """One label of several classes; y has shape `(examples,)`.

    Args:
        logits: unnormalized log probabilities of the classes, in the last axis; the mean are the
            probabilities p, the variance p (1 - p).
    """

    logits: Any

    def check(self, y: np.ndarray) -> np.ndarray:
        """Return labels from 0 to classes - 1, or raise if there are others."""
        count, classes = self.shape[-2:]
        if y.shape != (count,):
            raise ShapeError(f"Labels have shape {(count,)}, got {y.shape}.")
        wrong = (y < 0) | (y >= classes) | (y != np.floor(y))
        if wrong.any():
            raise LabelError(
                f"Labels are integers 0 to {classes - 1}, got {y[wrong][0]} in example "
                f"{np.flatnonzero(wrong)[0]}."
            )
        return y.astype(int)

    @property
    def mean(self) -> Any:
        """Probabilities of the classes."""
        if isinstance(self.logits, jax.Array):
            return jax.nn.softmax(self.logits)
        from scipy.special import softmax  # noqa: PLC0415  scipy takes long to import

        return softmax(self.logits, axis=-1)

    @property
    def variance(self) -> Any:
        """Variance of the indicator of each class."""
        p = self.mean
        return p * (1 - p)

    def log_prob(self, y: Any) -> Any:
        """Return the log probability of each label, in one column."""
        xp = array_module(self.logits)
        if xp is jnp:
            each = jax.nn.log_softmax(self.logits)
        else:
            from scipy.special import log_softmax  # noqa: PLC0415  scipy takes long to import

            each = log_softmax(self.logits, axis=-1)
        labels = xp.broadcast_to(y[..., None], (*each.shape[:-1], 1))
        return xp.take_along_axis(each, labels, axis=-1)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Sample labels `(draws, examples)`."""
        below = np.cumsum(self.mean, axis=-1)
        thrown = rng.random((*below.shape[:-1], 1)) * below[..., -1:]
        return (thrown >= below).sum(axis=-1)

    def entropy(self, p: np.ndarray) -> np.ndarray:
        """Return -sum_c p_c log p_c."""
        from scipy.special import entr  # noqa: PLC0415  scipy takes long to import

        return entr(p).sum(axis=-1, keepdims=True)

    def labels(self, p: np.ndarray) -> np.ndarray:
        """Return the most probable class."""
        return p.argmax(axis=1, keepdims=True)


def bisect_integers(
    cdf: Callable[[np.ndarray], np.ndarray], level: float, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Return the smallest integer whose distribution function reaches a level.

    Args:
        cdf: distribution function of integers.
        level: probability to reach.
        low: integers that are too small.
        high: integers; increased as long as they are too small.
    """
    while np.any(short := cdf(high) < level):
        high = np.where(short, 2 * high, high)
    while np.any(high - low > 1):
        middle = np.floor((low + high) / 2)
        below = cdf(middle) < level
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return high
