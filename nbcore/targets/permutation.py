"""A keyed pseudo-random permutation, evaluated at single places in constant memory."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

ROUNDS = 6


def permuted(key: jax.Array, places: jax.Array, count: int) -> jax.Array:
    """Return the elements at `places` of a random permutation of 0 .. count - 1.

    A Feistel network over the smallest even number of bits that holds `count`, followed until
    it lands below `count` (cycle walking): a bijection for every key, in O(places) time and
    memory whatever the count.

    Args:
        key: random key; each key gives a permutation.
        places: places to read, integers in 0 .. count - 1, any shape.
        count: size of the permutation, static.

    Returns:
        int32, the shape of `places`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> sorted(permuted(jax.random.key(0), jnp.arange(5), 5).tolist())
        [0, 1, 2, 3, 4]

    References:
        Black & Rogaway (2002), "Ciphers with arbitrary finite domains", section 3 (cycle walking).
    """
    half = max(1, ((max(count, 2) - 1).bit_length() + 1) // 2)
    return _permuted(key, places, jnp.uint32(count), half)


@functools.partial(jax.jit, static_argnums=3)
def _permuted(key: jax.Array, places: jax.Array, count: jax.Array, half: int) -> jax.Array:
    round_keys = jax.random.bits(key, (ROUNDS,), jnp.uint32)
    mask = jnp.uint32((1 << half) - 1)

    def once(x: jax.Array) -> jax.Array:
        left, right = x >> half, x & mask
        for r in range(ROUNDS):
            left, right = right, left ^ (_mix(right ^ round_keys[r]) & mask)
        return (left << half) | right

    def walk(x: jax.Array) -> jax.Array:
        return jnp.where(x < count, x, once(x))

    start = once(places.astype(jnp.uint32))
    done = jax.lax.while_loop(lambda x: jnp.any(x >= count), walk, start)
    return done.astype(jnp.int32)


def _mix(x: jax.Array) -> jax.Array:
    """Scramble 32 bits (the finalizer of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
