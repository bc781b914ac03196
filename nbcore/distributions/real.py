"""Priors of parameters of any sign, and the coordinates in which parameters are sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.pytrees import register_pytree
from nbcore.distributions.foreign import Independent, check_scalar, in_support, is_distribution
from nbcore.distributions.positive import (
    PositivePrior,
    as_positive,
    check_prior,
    from_unconstrained,
    unconstrained_log_prob,
    unconstrained_sample,
)
from nbcore.errors import OptionError


@register_pytree
@dataclass(frozen=True)
class RealDistribution:
    """Prior of one number of any sign that is a distribution of another library.

    Median and spread come from samples. They only choose the coordinates that samplers move in,
    u = (x - median) / spread, so the posterior does not depend on them.

    Args:
        values: the distribution.
        median: median.
        spread: half the distance of the 16th and the 84th percentile.
    """

    values: Independent
    median: Any
    spread: Any

    @staticmethod
    def of(distribution: Any, drawn: np.ndarray) -> RealDistribution:
        """Return the prior that a distribution is, of which samples `(samples,)` were drawn."""
        low, median, high = np.percentile(drawn, [16, 50, 84])
        spread = max(float(high - low) / 2, 1e-6)
        return RealDistribution(Independent(distribution), float(median), spread)


ParameterPrior = PositivePrior | RealDistribution


def as_parameter_prior(prior: Any, name: str) -> Any:
    """Return a prior of a parameter: of another library one of any sign, if it has both signs.

    Args:
        prior: a positive prior, or a distribution with `log_prob` and `sample`.
        name: the argument that it was given as.

    Examples:
        >>> import jax.numpy as jnp, nbcore as nb
        >>> normal = nb.NormalDistribution(jnp.zeros(()), jnp.ones(()))
        >>> type(as_parameter_prior(nb.LogNormal(1.0), "slope")).__name__
        'LogNormal'
    """
    if isinstance(prior, RealDistribution) or hasattr(prior, "log_spread"):
        return prior
    if not is_distribution(prior):
        return prior
    drawn = check_scalar(prior, name)
    below = -1e-3 * jnp.abs(jnp.asarray(np.median(drawn, axis=0)))
    if np.all(drawn > 0) and not in_support(prior, below):
        return as_positive(prior, name)
    if drawn.ndim > 1:
        raise OptionError(
            f"{name} is a prior of one number, and {type(prior).__name__} has batch_shape "
            f"{drawn.shape[1:]}."
        )
    return RealDistribution.of(prior, drawn)


def check_parameter_prior(prior: Any, name: str) -> None:
    """Check that a prior has a finite density at its median.

    Raises:
        OptionError: it has not, or is no prior of a parameter.
    """
    if not isinstance(prior, RealDistribution):
        check_prior(prior, name)
    elif not np.isfinite(prior.values.log_prob(jnp.asarray(prior.median))):
        raise OptionError(f"{name} has no finite density at its median, {prior.median:.4g}.")


def from_coordinate(prior: ParameterPrior, u: jax.Array) -> jax.Array:
    """Return the parameter: median exp(spread u) if it is positive, median + spread u if not."""
    if isinstance(prior, RealDistribution):
        return jnp.asarray(prior.median, u.dtype) + jnp.asarray(prior.spread, u.dtype) * u
    return from_unconstrained(prior, u)


def to_coordinate(prior: ParameterPrior, value: Any) -> jax.Array:
    """Return u, the inverse of `from_coordinate`.

    Examples:
        >>> import nbcore as nb
        >>> float(to_coordinate(nb.LogNormal(2.0, 0.5), 2.0))
        0.0
    """
    x = jnp.asarray(value, jnp.result_type(float))
    if isinstance(prior, RealDistribution):
        return (x - prior.median) / prior.spread
    return jnp.log(x / jnp.asarray(prior.median, x.dtype)) / jnp.asarray(prior.log_spread)


def coordinate_log_prob(prior: ParameterPrior, u: jax.Array) -> jax.Array:
    """Return the log density of u, summed: log p(x) and the logarithm of the Jacobian."""
    if isinstance(prior, RealDistribution):
        return jnp.sum(prior.values.log_prob(from_coordinate(prior, u)) + jnp.log(prior.spread))
    return unconstrained_log_prob(prior, u)


def coordinate_sample(prior: ParameterPrior, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Sample u."""
    if isinstance(prior, RealDistribution):
        return to_coordinate(prior, prior.values.sample(key, shape))
    return unconstrained_sample(prior, key, shape)
