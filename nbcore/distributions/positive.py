"""Priors of positive parameters, such as a noise level, and the coordinates they are sampled in.

An unknown positive parameter x is sampled as u = (log x - log median) / spread (median and spread
of its prior), so that samplers meet it on a scale of about 1. Its density has the Jacobian:
log p(u) = log p(x) + log x + log spread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.pytrees import register_pytree
from nbcore.common.quick import QuickJit
from nbcore.distributions.foreign import Independent, check_scalar, is_distribution
from nbcore.errors import OptionError


class PositivePrior(Protocol):
    """Prior of one positive parameter, or of an array of independent ones; a pytree."""

    @property
    def median(self) -> Any:
        """Median: where chains start."""
        ...

    @property
    def log_spread(self) -> Any:
        """Spread of log x, about: samplers move on (log x - log median) / spread."""
        ...

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Return log p(value), elementwise."""
        ...

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Sample an array of this shape."""
        ...

    def times(self, factor: np.ndarray) -> PositivePrior:
        """Return the prior in other units: of factor * x."""
        ...


@register_pytree
@dataclass(frozen=True)
class HalfNormal:
    """Half-normal prior of a positive parameter, p(x) = 2 N(x; 0, scale^2) for x > 0.

    Args:
        scale: scale, in the units of the parameter; a tuple gives one per output.

    Examples:
        >>> import jax.numpy as jnp
        >>> round(float(HalfNormal(1.0).log_prob(jnp.array(0.5))), 4)
        -0.3508
    """

    scale: Any = 1.0

    @property
    def median(self) -> Any:
        """Median, 0.6745 scale."""
        return 0.6744897501960817 * jnp.asarray(self.scale)

    @property
    def log_spread(self) -> float:
        """Spread of log x, about 1."""
        return 1.0

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Return log p(value), elementwise."""
        log_scale = jnp.log(jnp.asarray(self.scale))
        # In logarithms: XLA multiplies out (value / scale)^2, which under- or overflows.
        squared = jnp.exp(2 * (jnp.log(value) - log_scale))
        return 0.5 * jnp.log(2 / jnp.pi) - log_scale - 0.5 * squared

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Sample an array of this shape."""
        return jnp.asarray(self.scale) * jnp.abs(jax.random.normal(key, shape))

    def times(self, factor: np.ndarray) -> HalfNormal:
        """Return the prior of factor * x."""
        return HalfNormal(_multiplied(self.scale, factor))


@register_pytree
@dataclass(frozen=True)
class LogNormal:
    """Log-normal prior of a positive parameter, log x ~ N(log median, spread^2).

    Args:
        median: median, in the units of the parameter; a tuple gives one per output.
        spread: standard deviation of log x, no units.

    Examples:
        >>> import jax.numpy as jnp
        >>> round(float(LogNormal(1.0, 1.0).log_prob(jnp.array(1.0))), 4)
        -0.9189
    """

    median: Any = 1.0
    spread: float = field(default=0.5)

    @property
    def log_spread(self) -> float:
        """Standard deviation of log x."""
        return self.spread

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Return log p(value), elementwise."""
        center = jnp.log(jnp.asarray(self.median))
        return jax.scipy.stats.norm.logpdf(jnp.log(value), center, self.spread) - jnp.log(value)

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Sample an array of this shape."""
        return jnp.asarray(self.median) * jnp.exp(self.spread * jax.random.normal(key, shape))

    def times(self, factor: np.ndarray) -> LogNormal:
        """Return the prior of factor * x."""
        return LogNormal(_multiplied(self.median, factor), self.spread)


@register_pytree
@dataclass(frozen=True)
class PositiveDistribution:
    """Prior of a positive parameter that is a distribution of another library.

    Median and spread come from samples. They only choose the coordinates that samplers move in, so
    the posterior does not depend on them.

    Args:
        values: the distribution, and its units.
        median: median.
        log_spread: half the distance of the 16th and the 84th percentile of log x.
    """

    values: Independent
    median: Any
    log_spread: Any

    @staticmethod
    def of(distribution: Any, name: str) -> PositiveDistribution:
        """Return the prior that a distribution with `log_prob` and `sample` is.

        Args:
            distribution: distribution over positive numbers, such as
                `numpyro.distributions.HalfCauchy(1.0)`.
            name: the argument that it was given as.

        Raises:
            OptionError: it is none, or not over positive numbers.
        """
        drawn = check_scalar(distribution, name)
        if not np.all(drawn > 0):
            raise OptionError(
                f"{name} is a prior of a positive parameter, and {type(distribution).__name__} "
                f"gives {drawn.min():.4g}. Give one such as numpyro.distributions.HalfCauchy(1.0)."
            )
        low, high = np.percentile(np.log(drawn), [16, 84], axis=0)
        median = np.median(drawn, axis=0)
        return PositiveDistribution(
            Independent(distribution), _plain(median), _plain(np.maximum((high - low) / 2, 1e-3))
        )

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Return log p(value), elementwise."""
        return self.values.log_prob(value)

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Sample an array of this shape."""
        return self.values.sample(key, shape)

    def times(self, factor: np.ndarray) -> PositiveDistribution:
        """Return the prior of factor * x, with density p(x / factor) / factor."""
        values = Independent(self.values.distribution, _multiplied(self.values.unit, factor))
        return PositiveDistribution(values, _multiplied(self.median, factor), self.log_spread)


def as_positive(prior: Any, name: str) -> Any:
    """Return the positive prior that a distribution of another library is; others as they are."""
    if hasattr(prior, "log_spread") or not is_distribution(prior):
        return prior
    return PositiveDistribution.of(prior, name)


def _multiplied(value: Any, factor: np.ndarray) -> Any:
    return _plain(np.asarray(value, np.float64) * factor)


def _plain(value: np.ndarray) -> Any:
    return tuple(value.tolist()) if value.ndim else float(value)


def from_unconstrained(prior: PositivePrior, u: jax.Array) -> jax.Array:
    """Return the positive parameter x = median exp(spread u).

    Examples:
        >>> import jax.numpy as jnp
        >>> float(from_unconstrained(LogNormal(2.0, 0.5), jnp.zeros(())))
        2.0
    """
    median = jnp.asarray(prior.median, jnp.result_type(float))
    return median * jnp.exp(jnp.asarray(prior.log_spread) * u)


def unconstrained_log_prob(prior: PositivePrior, u: jax.Array) -> jax.Array:
    """Return the log density of u, summed: log p(x) + log x + log spread."""
    x = from_unconstrained(prior, u)
    return jnp.sum(prior.log_prob(x) + jnp.log(x) + jnp.log(jnp.asarray(prior.log_spread)))


def unconstrained_sample(prior: PositivePrior, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Sample u."""
    x = prior.sample(key, shape)
    return jnp.log(x / jnp.asarray(prior.median, x.dtype)) / jnp.asarray(prior.log_spread)


def check_prior(prior: PositivePrior, name: str) -> None:
    """Check that a prior has a positive median and a finite density there.

    Raises:
        OptionError: it has not, or is no prior of a positive parameter.
    """
    missing = [n for n in ("median", "log_spread", "log_prob", "sample") if not hasattr(prior, n)]
    if missing:
        raise OptionError(
            f"{name} is nb.HalfNormal, nb.LogNormal, a distribution with log_prob and sample such "
            "as numpyro.distributions.HalfCauchy(1.0), or an object of your own with median, "
            f"log_spread, log_prob and sample; {prior!r} has no {', '.join(missing)}."
        )
    median = np.asarray(prior.median)
    if not np.all((median > 0) & np.isfinite(median)):
        raise OptionError(f"{name}.median must be positive, got {median.tolist()}.")
    is_own = isinstance(prior, HalfNormal | LogNormal)
    density = _density_at_median(prior) if is_own else prior.log_prob(jnp.asarray(median))
    if not np.all(np.isfinite(density)):
        raise OptionError(
            f"{name} has no finite density at its median: {prior}. Scales and spreads are positive."
        )


@QuickJit  # one program instead of one for each operation
def _density_at_median(prior: HalfNormal | LogNormal) -> jax.Array:
    return prior.log_prob(jnp.asarray(prior.median))


def in_other_units(prior: PositivePrior, factor: np.ndarray) -> PositivePrior:
    """Return the prior of factor * x.

    Raises:
        OptionError: the prior is of a user's own class and has no method `times`.
    """
    times = getattr(prior, "times", None)
    if times is None:
        raise OptionError(
            "y is standardized for training, and it is not known how the prior "
            f"{prior} changes with units. Give it a method times(factor), the prior of factor * x, "
            "or give deterministic_weights that were trained with standardize=False."
        )
    return times(factor)


def tight_prior(value: Any, count: int) -> LogNormal:
    """Return a prior so tight around a noise that `count` residuals do not move it.

    N residuals determine log noise to 1 / sqrt(2 N); the prior is ten times as tight.

    Args:
        value: noise of each output `(outputs,)`, or one number, from unseen examples.
        count: number of examples that the posterior is sampled on.
    """
    return LogNormal(_multiplied(value, np.ones(())), 0.1 / float(np.sqrt(2 * count)))
