"""Two heads: a mean and a log standard deviation for each target."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from nbcore.errors import OptionError


def two_heads(x: jax.Array, target_dim: int) -> jax.Array:
    """Return `(examples, 2 * target_dim)`: the means, then the log standard deviations.

    Called in the `__call__` of a linen module, whose layers `MeanHead` and `LogScaleHead` it
    makes. Both are linear: the log standard deviation is unconstrained.
    """
    mean = nn.Dense(target_dim, name="MeanHead")(x)
    log_scale = nn.Dense(target_dim, name="LogScaleHead")(x)
    return jnp.concatenate([mean, log_scale], axis=-1)


def refuse_classes(net: Any, sibling: str) -> None:
    """Raise OptionError if a network of two heads is asked for classes."""
    if net.classification:
        raise OptionError(
            f"{type(net).__name__} has a mean and a log standard deviation for each target, and "
            f"classes have neither. Type {sibling}(..., classification=True)."
        )
