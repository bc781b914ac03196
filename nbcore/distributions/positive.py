"""Priors over positive numbers, such as a noise level, and how samplers move on them.

An unknown positive number x is sampled as u = (log x - log median) / spread (median and spread of
its prior), so that samplers meet it on a scale of about 1. Its density has the Jacobian:
log p(u) = log p(x) + log x + log spread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.pytrees import register_pytree
from nbcore.errors import OptionError


class PositivePrior(Protocol):
    """A prior over one positive number, or over an array of independent ones; a pytree."""

    @property
    def median(self) -> Any:
        """The median, a sensible start."""
        ...

    @property
    def log_spread(self) -> Any:
        """How far log x spreads, about: samplers move on (log x - log median) / spread."""
        ...

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Return log p(value), elementwise."""
        ...

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draw positive numbers."""
        ...

    def times(self, factor: np.ndarray) -> PositivePrior:
        """Return the prior of the number in other units: of factor * x."""
        ...


@register_pytree
@dataclass(frozen=True)
class HalfNormal:
    """Half-normal prior of a positive number, p(x) = 2 N(x; 0, scale^2) for x > 0.

    Args:
        scale: scale, in the units of the number; a tuple gives one per output.

    Examples:
        >>> import jax.numpy as jnp
        >>> round(float(HalfNormal(1.0).log_prob(jnp.array(0.5))), 4)
        -0.3508
    """

    scale: Any = 1.0

    @property
    def median(self) -> Any:
        """The median, 0.6745 scale."""
        return 0.6744897501960817 * jnp.asarray(self.scale)

    @property
    def log_spread(self) -> float:
        """1: the spread of log x, about."""
        return 1.0

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Return log p(value), elementwise."""
        return jnp.log(2.0) + jax.scipy.stats.norm.logpdf(value, 0.0, jnp.asarray(self.scale))

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draw positive numbers."""
        return jnp.asarray(self.scale) * jnp.abs(jax.random.normal(key, shape))

    def times(self, factor: np.ndarray) -> HalfNormal:
        """Return the prior of factor * x."""
        return HalfNormal(_multiplied(self.scale, factor))


@register_pytree
@dataclass(frozen=True)
class LogNormal:
    """Log-normal prior of a positive number, log x ~ N(log median, spread^2).

    Args:
        median: the median, in the units of the number; a tuple gives one per output.
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
        """The standard deviation of log x."""
        return self.spread

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Return log p(value), elementwise."""
        center = jnp.log(jnp.asarray(self.median))
        return jax.scipy.stats.norm.logpdf(jnp.log(value), center, self.spread) - jnp.log(value)

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draw positive numbers."""
        return jnp.asarray(self.median) * jnp.exp(self.spread * jax.random.normal(key, shape))

    def times(self, factor: np.ndarray) -> LogNormal:
        """Return the prior of factor * x."""
        return LogNormal(_multiplied(self.median, factor), self.spread)


def _multiplied(value: Any, factor: np.ndarray) -> Any:
    product = np.asarray(value, np.float64) * factor
    return tuple(product.tolist()) if product.ndim else float(product)


def from_unconstrained(prior: PositivePrior, u: jax.Array) -> jax.Array:
    """Return the positive number x = median exp(spread u).

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
    """Draw u."""
    x = prior.sample(key, shape)
    return jnp.log(x / jnp.asarray(prior.median, x.dtype)) / jnp.asarray(prior.log_spread)


def check_prior(prior: PositivePrior, name: str) -> None:
    """Check that a prior has a positive median and a finite density there.

    Raises:
        OptionError: it has not.
    """
    median = np.asarray(prior.median)
    if not np.all((median > 0) & np.isfinite(median)):
        raise OptionError(f"{name}.median must be positive, got {median.tolist()}.")
    if not np.all(np.isfinite(prior.log_prob(jnp.asarray(median)))):
        raise OptionError(
            f"{name} has no finite density at its median: {prior}. Scales and spreads are positive."
        )


def in_other_units(prior: PositivePrior, factor: np.ndarray) -> PositivePrior:
    """Return the prior of factor * x.

    Raises:
        OptionError: the prior is somebody's own, without a method `times`.
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

    N residuals know log noise to 1 / sqrt(2 N); the prior is ten times as sure.

    Args:
        value: noise of each output `(outputs,)`, or one number, from rows that were not trained on.
        count: number of rows that the posterior is sampled on.
    """
    return LogNormal(_multiplied(value, np.ones(())), 0.1 / float(np.sqrt(2 * count)))
