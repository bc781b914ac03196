"""Several moves of a sampler as one step of its chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from nbcore import Stats
from nbcore_blackjax.states import typed

T = TypeVar("T")

MAX_GRADIENTS = 1024
"""Most gradients of a step whose number of moves is not set, as of a trajectory of HMC or NUTS."""


def num_moves(wanted: jax.Array, num_gradients: Any) -> jax.Array:
    """Return how many moves make a step: the wanted number, in whole moves, up to a limit.

    Args:
        wanted: number of moves, not whole; NaN counts as 1.
        num_gradients: gradients of a move, on average.

    Examples:
        >>> [int(num_moves(jnp.asarray(x), 2)) for x in (0.1, 2.5, float("inf"), float("nan"))]
        [1, 3, 512, 1]
    """
    limit = jnp.floor(MAX_GRADIENTS / jnp.asarray(num_gradients, wanted.dtype))
    whole = jnp.ceil(jnp.where(jnp.isnan(wanted), 1, wanted))
    return jnp.clip(whole, 1, jnp.maximum(limit, 1)).astype(jnp.int32)


def repeated(
    move: Callable[[jax.Array, T], tuple[T, Stats]],
    key: jax.Array,
    state: T,
    count: int | jax.Array,
) -> tuple[T, Stats]:
    """Make `count` moves.

    Args:
        move: from a key and a state to the next state and its statistics.
        key: random key.
        state: the state before.
        count: moves, 1 or more; may be traced.

    Returns:
        The state after, and statistics: log density, step size and energy after the last move, the
        mean acceptance rate, whether any move diverged, and the gradients of all.

    Examples:
        >>> def move(key, state):
        ...     return state + 1, Stats(log_density=-state, acceptance_rate=state / 10)
        >>> state, stats = repeated(move, jax.random.key(0), jnp.asarray(0.0), jnp.asarray(4))
        >>> float(state), float(stats.log_density), int(stats.num_gradients)
        (4.0, -3.0, 4)
        >>> print(f"{stats.acceptance_rate:.2f}")
        0.15
    """
    if isinstance(count, int) and count == 1:
        return move(key, state)
    move = jax.jit(move)  # so that it is traced once, for shapes and for the loop
    first, begin = jax.eval_shape(move, key, state)
    start: Stats = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), begin)

    def more(i: jax.Array, carry: tuple[T, Stats]) -> tuple[T, Stats]:
        moved, stats = move(jax.random.fold_in(key, i), carry[0])
        total = stats._replace(
            acceptance_rate=carry[1].acceptance_rate + stats.acceptance_rate,
            is_divergent=carry[1].is_divergent | stats.is_divergent,
            num_gradients=carry[1].num_gradients + stats.num_gradients,
        )
        return typed(moved, first), typed(total, start)

    state, stats = jax.lax.fori_loop(0, count, more, (typed(state, first), start))
    return state, typed(stats._replace(acceptance_rate=stats.acceptance_rate / count), start)
