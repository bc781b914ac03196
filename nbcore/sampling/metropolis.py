"""The accept-reject step of Metropolis and Hastings."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


def metropolis(
    key: jax.Array, log_ratio: jax.Array, proposed: T, current: T
) -> tuple[T, jax.Array]:
    """Return the proposed or the current state, and the acceptance rate.

    The proposal is accepted with probability a = min(1, exp(log_ratio)). A ratio of NaN, as of a
    density that is not finite there, is a rejection with a = 0.

    Args:
        key: random key.
        log_ratio: log of p(y) q(y -> x) / (p(x) q(x -> y)), for a proposal y from x.
        proposed: a pytree.
        current: a pytree of the same structure, shapes and dtypes.

    Returns:
        One of the two, and a.

    Examples:
        >>> key = jax.random.key(0)
        >>> state, rate = metropolis(key, jnp.asarray(0.3), jnp.ones(2), jnp.zeros(2))
        >>> state.tolist(), float(rate)
        ([1.0, 1.0], 1.0)

    References:
        Hastings (1970), "Monte Carlo sampling methods using Markov chains and their applications",
        equation 8.
    """
    rate = jnp.nan_to_num(jnp.exp(jnp.minimum(log_ratio, 0.0)))
    accepted = jax.random.uniform(key) < rate
    return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), proposed, current), rate
