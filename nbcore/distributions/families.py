"""Distributions of y given the outputs of a network: densities, quantiles, samples.

One formula serves sampling and prediction: `log_prob`, `mean` and `variance` take JAX arrays, so
that samplers differentiate them, and NumPy arrays, so that predictions have double precision. What
only predictions need (`cdf`, `quantile`, `sample`, ...) is NumPy alone.

Parameters broadcast to `(examples, targets)`; predictions add a leading axis of draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.pytrees import register_pytree
from nbcore.errors import DataError, LabelError, OptionError, ShapeError
from nbcore.metrics import crps_gaussian


class Distribution:
    """Distribution of y given the outputs; a pytree of its parameters.

    Subclasses define `log_prob`, `mean` and `variance`, and what predictions ask of them; a
    question without an answer raises `OptionError`.
    """

    mean: Any
    """Mean of y; of labels, the probabilities of the classes."""
    variance: Any
    """Variance of y."""

    def log_prob(self, y: Any) -> Any:
        """Return log p(y) of each target, `(..., examples, targets)`; labels have one column."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Name in messages."""
        return type(self).__name__

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the mean: `(draws, examples, targets)` in predictions."""
        return np.broadcast_shapes(*(np.shape(leaf) for leaf in jax.tree.leaves(self)))

    def check(self, y: np.ndarray) -> np.ndarray:
        """Return y as the other methods read it, or raise what is wrong with it."""
        return as_matrix(y, self.shape[-2:])

    def log_density(self, y: np.ndarray) -> np.ndarray:
        """Return log p(y | draw), summed over targets, `(draws, examples)`."""
        return self.log_prob(y).sum(axis=-1)

    def cdf(self, y: np.ndarray) -> np.ndarray:
        """Return P(Y <= y | draw), `(draws, examples, targets)`."""
        raise NotImplementedError

    def quantile(self, level: float) -> np.ndarray:
        """Return the quantile of the equal mixture of the draws, `(examples, targets)`."""
        raise NotImplementedError

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Sample one y from each draw, `(draws, examples, targets)`; labels without targets."""
        raise NotImplementedError

    def crps(self, y: np.ndarray) -> float | None:
        """Return the continuous ranked probability score, or `None` without a closed form."""
        self.cdf(y)  # raises for labels, which have no order
        return None

    def entropy(self, p: np.ndarray) -> np.ndarray:
        """Return the entropy of labels with probabilities `(..., outputs)`, in nats."""
        raise OptionError(
            "Only labels have entropies (nb.Categorical, nb.Bernoulli). Use .variance, "
            ".aleatoric_variance and .epistemic_variance"
        )

    def labels(self, p: np.ndarray) -> np.ndarray:
        """Return the most probable label, given probabilities `(examples, outputs)`."""
        raise OptionError("Only predictions of classes have labels. Use .mean")

    def in_units(self, shift: np.ndarray, scale: np.ndarray) -> Distribution:
        """Return the distribution of shift + scale * y."""
        raise OptionError(f"{type(self).__name__} has no units, so y cannot be rescaled.")

    def with_variance(self, variance: np.ndarray) -> Distribution:
        """Return the distribution of the same form and mean with another variance of y."""
        raise OptionError(f"The variance of {type(self).__name__} follows from its mean.")

    def standard_form(self) -> Distribution:
        """Return the same distribution in the parameters that predictions keep."""
        return self

    def take(self, draws: np.ndarray | None = None, examples: slice = slice(None)) -> Self:
        """Return some examples, and some draws by their index, in double precision."""
        return jax.tree.map(lambda leaf: _taken(leaf, draws, examples), self)

    def followed_by(self, others: Sequence[Self]) -> Self:
        """Return the draws of this and of other distributions of the same examples."""
        parts = [self, *others]
        counts = [part.shape[0] for part in parts]
        return jax.tree.map(lambda *leaves: _concatenated(leaves, counts), *parts)


class Continuous(Distribution):
    """Distribution with quantiles in closed form; those of a mixture are bisected."""

    def icdf(self, level: float) -> np.ndarray:
        """Return the quantile of each draw."""
        raise NotImplementedError

    def quantile(self, level: float) -> np.ndarray:
        """Bisect between the lowest and the highest quantile of a draw."""
        each = self.icdf(level)
        return bisect(lambda y: self.cdf(y).mean(axis=0), level, each.min(axis=0), each.max(axis=0))


class _Normal(Continuous):
    """What normals share, whatever their scale is given as."""

    deviation: Any

    @property
    def variance(self) -> Any:
        return self.deviation**2

    def cdf(self, y: np.ndarray) -> np.ndarray:
        from scipy.special import ndtr  # noqa: PLC0415  scipy takes long to import

        return ndtr((y - self.mean) / self.deviation)

    def icdf(self, level: float) -> np.ndarray:
        from scipy.special import ndtri  # noqa: PLC0415  scipy takes long to import

        return self.mean + self.deviation * ndtri(level)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        return self.mean + self.deviation * rng.standard_normal(self.shape)

    def crps(self, y: np.ndarray) -> float | None:
        draws, *shape = self.shape
        if draws > 1:
            return None
        return crps_gaussian(y, *(np.broadcast_to(a[0], shape) for a in (self.mean, self.variance)))

    def in_units(self, shift: np.ndarray, scale: np.ndarray) -> NormalDistribution:
        return NormalDistribution(shift + scale * self.mean, scale * self.deviation)

    def with_variance(self, variance: np.ndarray) -> NormalDistribution:
        return NormalDistribution(self.mean, np.sqrt(variance))


@register_pytree
@dataclass(frozen=True)
class NormalDistribution(_Normal):
    """Normal distribution N(mean, deviation^2).

    Args:
        mean: mean.
        deviation: standard deviation.

    Examples:
        >>> import jax.numpy as jnp
        >>> round(
        ...     float(NormalDistribution(jnp.zeros(()), jnp.ones(())).log_prob(jnp.array(0.0))), 4
        ... )
        -0.9189
    """

    mean: Any
    deviation: Any

    def log_prob(self, y: Any) -> Any:
        """Return the normal log density."""
        xp = _array_module(y, self.mean, self.deviation)
        squared = xp.square(self.deviation)
        return (xp.log(2 * np.pi * squared) + xp.square(y - self.mean) / squared) / -2


@register_pytree
@dataclass(frozen=True)
class LogScaleNormal(_Normal):
    """Normal distribution N(mean, exp(2 log_deviation)), for deviations that may underflow.

    Args:
        mean: mean.
        log_deviation: logarithm of the standard deviation.
    """

    mean: Any
    log_deviation: Any

    @property
    def deviation(self) -> Any:
        """Standard deviation."""
        return _array_module(self.log_deviation).exp(self.log_deviation)

    @property
    def variance(self) -> Any:
        """Squared standard deviation."""
        return _array_module(self.log_deviation).exp(2 * self.log_deviation)

    def log_prob(self, y: Any) -> Any:
        """Return the normal log density."""
        xp = _array_module(y, self.mean, self.log_deviation)
        z = (y - self.mean) * xp.exp(-self.log_deviation)
        return -0.5 * z**2 - self.log_deviation - 0.5 * xp.log(2 * np.pi)

    def standard_form(self) -> NormalDistribution:
        """Return it with the standard deviation itself."""
        log_deviation = np.asarray(self.log_deviation, np.float64)
        return NormalDistribution(self.mean, np.exp(log_deviation))


@register_pytree
@dataclass(frozen=True)
class StudentTDistribution(Continuous):
    """Student's t distribution with location and scale, mean + scale * t.

    Args:
        df: degrees of freedom; the variance is finite above 2.
        mean: location.
        scale: scale; the variance is scale^2 df / (df - 2).

    Examples:
        >>> import numpy as np
        >>> float(StudentTDistribution(np.array(4.0), np.zeros(()), np.ones(())).variance)
        2.0
    """

    df: Any
    mean: Any
    scale: Any

    @property
    def variance(self) -> Any:
        """Variance of y; infinite for df <= 2."""
        xp = _array_module(self.df, self.scale)
        df = xp.where(self.df > 2, self.df, np.inf)
        return xp.where(self.df > 2, self.scale**2 * self.df / (df - 2), np.inf)

    def log_prob(self, y: Any) -> Any:
        """Return the log density of t."""
        xp = _array_module(y, self.df, self.mean, self.scale)
        constant = _log_gamma_ratio(self.df / 2) - 0.5 * xp.log(self.df * np.pi)
        z = (y - self.mean) / self.scale
        return constant - xp.log(self.scale) - (self.df + 1) / 2 * xp.log1p(z**2 / self.df)

    def cdf(self, y: np.ndarray) -> np.ndarray:
        """Return the distribution function of t."""
        from scipy.special import stdtr  # noqa: PLC0415  scipy takes long to import

        return stdtr(self.df, (y - self.mean) / self.scale)

    def icdf(self, level: float) -> np.ndarray:
        """Return mean + scale times the quantile of t."""
        from scipy.special import stdtrit  # noqa: PLC0415  scipy takes long to import

        return self.mean + self.scale * stdtrit(self.df, level)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Sample t."""
        return self.mean + self.scale * rng.standard_t(np.broadcast_to(self.df, self.shape))

    def in_units(self, shift: np.ndarray, scale: np.ndarray) -> StudentTDistribution:
        """Return the distribution of shift + scale * y."""
        return replace(self, mean=shift + scale * self.mean, scale=scale * self.scale)

    def with_variance(self, variance: np.ndarray) -> StudentTDistribution:
        """Return the distribution with another variance and the same degrees of freedom."""
        return replace(self, scale=np.sqrt(variance * (self.df - 2) / self.df))


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
            raise DataError(f"Counts are whole numbers from 0 on, got {y[wrong][0]}.")
        return y

    @property
    def mean(self) -> Any:
        """Rate."""
        return _array_module(self.log_rate).exp(self.log_rate)

    @property
    def variance(self) -> Any:
        """Rate."""
        return self.mean

    def log_prob(self, y: Any) -> Any:
        """Return y log_rate - rate - log y!."""
        xp = _array_module(y, self.log_rate)
        return y * self.log_rate - xp.exp(self.log_rate) - _special(xp).gammaln(y + 1)

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
        return _special(_array_module(self.logits)).expit(self.logits)

    @property
    def variance(self) -> Any:
        """Probability of 1 times that of 0."""
        return self.mean * _special(_array_module(self.logits)).expit(-self.logits)

    def log_prob(self, y: Any) -> Any:
        """Return the log probability of each label."""
        xp = _array_module(y, self.logits)
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
        xp = _array_module(self.logits)
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


def as_matrix(y: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return y as `(examples, targets)`, given as that, or as `(examples,)` for one target.

    Raises:
        ShapeError: y has another shape.
    """
    wanted = shape[:1] if shape[1] == 1 else shape
    if y.shape != wanted:
        raise ShapeError(f"y has shape {y.shape}, and the prediction {wanted}. Reshape y.")
    return np.asarray(y, np.float64).reshape(shape)


def bisect(
    cdf: Callable[[np.ndarray], np.ndarray],
    level: float,
    low: np.ndarray,
    high: np.ndarray,
    *,
    halvings: int = 40,
) -> np.ndarray:
    """Return where a continuous distribution function reaches a level, within given bounds."""
    for _ in range(halvings):
        middle = (low + high) / 2
        below = cdf(middle) < level
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


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


def _array_module(*values: Any) -> Any:
    """Return `jax.numpy` if a value is an array of JAX, else `numpy`."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def _special(xp: Any) -> Any:
    if xp is jnp:
        return jax.scipy.special
    import scipy.special  # noqa: PLC0415  scipy takes long to import

    return scipy.special


def _log_gamma_ratio(a: Any) -> Any:
    """Return log Gamma(a + 1/2) - log Gamma(a): by its series if the difference loses digits.

    Examples:
        >>> import jax.numpy as jnp
        >>> round(float(_log_gamma_ratio(jnp.array(0.5))), 5)  # -log(sqrt(pi))
        -0.57236
    """
    xp = _array_module(a)
    gammaln = _special(xp).gammaln
    switch = 8.0 if a.dtype == np.float32 else 200.0
    large = xp.maximum(a, switch)
    inverse = 1 / large
    series = 0.5 * xp.log(large) - inverse / 8 + inverse**3 / 192 - inverse**5 / 640
    small = xp.minimum(a, switch)
    return xp.where(a > switch, series, gammaln(small + 0.5) - gammaln(small))


def _taken(leaf: Any, draws: np.ndarray | None, examples: slice) -> np.ndarray:
    """Return some draws and examples; an axis of length one stands for all."""
    leaf = leaf if draws is None else leaf[np.minimum(draws, len(leaf) - 1)]
    leaf = leaf[:, examples] if leaf.shape[1] > 1 else leaf
    return np.asarray(leaf, np.float64 if np.issubdtype(leaf.dtype, np.floating) else leaf.dtype)


def _concatenated(leaves: Sequence[Any], counts: Sequence[int]) -> np.ndarray:
    """Concatenate along draws; an axis of length one is repeated as often as the others need."""
    rest = np.broadcast_shapes(*(leaf.shape[1:] for leaf in leaves))
    pairs = zip(leaves, counts, strict=True)
    return np.concatenate([np.broadcast_to(leaf, (count, *rest)) for leaf, count in pairs])
