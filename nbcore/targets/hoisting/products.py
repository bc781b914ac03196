"""Matrix products of one example, in the form that compiles best for many."""

from __future__ import annotations

from typing import Any

import jax
from jax.extend import core as jex


def options_of(eqn: jex.JaxprEqn) -> dict[str, Any]:
    """Return the options of a `dot_general` equation, as `product` takes them."""
    names = ("dimension_numbers", "precision", "preferred_element_type")
    return {name: eqn.params[name] for name in names}


def product(x: jax.Array, kernel: jax.Array, *, dimension_numbers: Any, **options: Any) -> Any:
    """Return `jax.lax.dot_general`, computed without a leading axis of length 1 of x.

    One example has such an axis. With it, XLA transposes the terms that the gradient sums over
    examples; without it, their sum is one product.
    """
    (summed, others), batch = dimension_numbers
    if x.shape[:1] != (1,) or any(batch) or 0 in summed:
        return jax.lax.dot_general(x, kernel, dimension_numbers, **options)
    numbers = ((tuple(i - 1 for i in summed), others), batch)
    return jax.lax.dot_general(x[0], kernel, numbers, **options)[None]
