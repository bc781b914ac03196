"""Normal noise on the leaves of a pytree."""

from __future__ import annotations

from typing import Any

import jax

from nbcore.common.quick import QuickJit


@QuickJit
def with_noise(key: jax.Array, tree: Any, deviation: float) -> Any:
    """Return a pytree of arrays with independent normal noise added to every entry.

    Args:
        key: random key; each leaf gets its own key.
        tree: a pytree of floating-point arrays.
        deviation: standard deviation of the noise.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> moved = with_noise(jax.random.key(0), {"a": jnp.zeros(10_000)}, 0.5)
        >>> round(float(moved["a"].std()), 1)
        0.5
    """
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, max(len(leaves), 1))
    moved = [
        a + deviation * jax.random.normal(k, a.shape, a.dtype)
        for a, k in zip(leaves, keys, strict=False)
    ]
    return jax.tree.unflatten(structure, moved)
