"""Normal and Student's t distributions of y."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nbcore.common.pytrees import register_pytree
from nbcore.distributions.distribution import Distribution, array_module, special_functions
from nbcore.metrics import crps_gaussian


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
        xp = array_module(y, self.mean, self.deviation)
        z = (y - self.mean) / self.deviation  # squares of either may under- or overflow
        return -0.5 * z**2 - xp.log(self.deviation) - 0.5 * xp.log(2 * np.pi)


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
        return array_module(self.log_deviation).exp(self.log_deviation)

    @property
    def variance(self) -> Any:
        """Squared standard deviation."""
        return array_module(self.log_deviation).exp(2 * self.log_deviation)

    def log_prob(self, y: Any) -> Any:
        """Return the normal log density."""
        xp = array_module(y, self.mean, self.log_deviation)
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
        xp = array_module(self.df, self.scale)
        df = xp.where(self.df > 2, self.df, np.inf)
        return xp.where(self.df > 2, self.scale**2 * self.df / (df - 2), np.inf)

    def log_prob(self, y: Any) -> Any:
        """Return the log density of t."""
        xp = array_module(y, self.df, self.mean, self.scale)
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


def _log_gamma_ratio(a: Any) -> Any:
    """Return log Gamma(a + 1/2) - log Gamma(a): by its series if the difference loses digits.

    Examples:
        >>> import jax.numpy as jnp
        >>> round(float(_log_gamma_ratio(jnp.array(0.5))), 5)  # -log(sqrt(pi))
        -0.57236
    """
    xp = array_module(a)
    gammaln = special_functions(xp).gammaln
    switch = 8.0 if a.dtype == np.float32 else 200.0
    large = xp.maximum(a, switch)
    inverse = 1 / large
    series = 0.5 * xp.log(large) - inverse / 8 + inverse**3 / 192 - inverse**5 / 640
    small = xp.minimum(a, switch)
    return xp.where(a > switch, series, gammaln(small + 0.5) - gammaln(small))
