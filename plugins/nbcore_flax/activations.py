"""The activation functions that the ready-made networks know by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
from flax import linen as nn

from nbcore.errors import OptionError, did_you_mean

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": nn.gelu,
    "relu": nn.relu,
    "silu": nn.silu,
    "tanh": nn.tanh,
}


def check_activation(name: str) -> None:
    """Raise OptionError, with the nearest name, unless an activation function is known."""
    if name not in ACTIVATIONS:
        raise OptionError(
            f"Got activation={name!r}.{did_you_mean(str(name), ACTIVATIONS)} "
            f"Possible: {', '.join(map(repr, ACTIVATIONS))}."
        )
