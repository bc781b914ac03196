"""Random keys: typed keys, and the seeds and old keys that are accepted in their place."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.errors import OptionError


def is_key(leaf: Any) -> bool:
    """Whether an array holds typed random keys."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def as_key(key: Any) -> jax.Array:
    """Return a typed key of a typed key, an old uint32 key `(2,)`, or an integer seed.

    `None` gives `jax.random.key(0)`, so that the same call gives the same results.

    Examples:
        >>> import jax
        >>> bool(as_key(None) == jax.random.key(0)) and bool(
        ...     as_key(jax.random.PRNGKey(0)) == as_key(0)
        ... )
        True
    """
    if key is None or isinstance(key, int | np.integer):
        return jax.random.key(0 if key is None else int(key))
    if is_key(key) and key.ndim == 0:
        return key
    if getattr(key, "dtype", None) == jnp.uint32 and key.shape == (2,):
        return jax.random.wrap_key_data(jnp.asarray(key))
    raise OptionError(
        f"A random key is jax.random.key(seed), an old uint32 key or an integer; got {key!r}."
    )


def shuffled(key: jax.Array, values: np.ndarray) -> np.ndarray:
    """Return an array in random order, that of `jax.random.permutation`, sorted on the host.

    There are 256, 512, ... random numbers, so that arrays of similar length share a program.

    Args:
        key: random key.
        values: the array `(n,)`.

    Examples:
        >>> shuffled(as_key(0), np.arange(5)).tolist()
        [0, 1, 4, 3, 2]
    """
    count = len(values)
    rounds = int(np.ceil(3 * np.log(max(1, count)) / np.log(np.iinfo(np.uint32).max)))
    for _ in range(rounds):
        key, own = jax.random.split(key)
        bits = np.asarray(jax.random.bits(own, (2 ** max(8, (count - 1).bit_length()),)))[:count]
        values = values[np.argsort(bits, kind="stable")]
    return values
