"""Distributions of other libraries: any object with `log_prob` and `sample`, as NumPyro has them.

Nothing is imported: an object that has the methods is a distribution. `log_prob(value)` gives one
number for each event, `sample(key, sample_shape)` draws of shape `sample_shape + batch_shape`; read
if present are `mean`, `variance`, `cdf`, `support`, `batch_shape`, `event_shape`, `is_discrete`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def is_distribution(value: Any) -> bool:
    """Say whether an object has the methods of a distribution.

    Examples:
        >>> is_distribution(1.0)
        False
    """
    return all(callable(getattr(value, name, None)) for name in ("log_prob", "sample"))


def log_prob_of(distribution: Any, value: jax.Array) -> jax.Array:
    """Return log p(value), -inf outside the support if the distribution declares one.

    NumPyro evaluates its formula wherever it is asked: `Uniform` has the same density everywhere.
    """
    each = distribution.log_prob(value)
    inside = _inside(distribution, value)
    return each if inside is None else jnp.where(inside, each, -jnp.inf)


def cdf_of(distribution: Any, value: jax.Array, mean: jax.Array) -> jax.Array:
    """Return P(Y <= value): 0 below the support, 1 above; of integers, at the largest one <= value.

    Args:
        distribution: distribution with a method `cdf`.
        value: values.
        mean: mean, which says on which side of the support a value is.
    """
    value = jnp.floor(value) if getattr(distribution, "is_discrete", False) else value
    found = distribution.cdf(value)
    inside = _inside(distribution, value)
    return found if inside is None else jnp.where(inside, found, jnp.where(value < mean, 0.0, 1.0))


def _inside(distribution: Any, value: jax.Array) -> Any:
    support = getattr(distribution, "support", None)
    return support(value) if callable(support) else None
