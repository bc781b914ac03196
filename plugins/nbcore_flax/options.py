"""Checks of the options of the ready-made networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from nbcore.errors import OptionError, did_you_mean

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": nn.gelu,
    "relu": nn.relu,
    "silu": nn.silu,
    "tanh": nn.tanh,
}


def check_choice(net: Any, name: str, possible: Sequence[str] | Mapping[str, Any]) -> None:
    """Raise OptionError, with the nearest name, unless an option is one of the possible names."""
    value = getattr(net, name)
    if value not in possible:
        raise OptionError(
            f"Got {name}={value!r}.{did_you_mean(str(value), possible)} "
            f"Possible: {', '.join(map(repr, possible))}."
        )


def check_counts(net: Any, *names: str) -> None:
    """Raise OptionError unless options are at least 1, or `None` if that is their default."""
    for name in names:
        value = getattr(net, name)
        if value is not None and value < 1:
            raise OptionError(f"Got {name}={value}; it must be at least 1.")


def check_widths(net: Any, name: str) -> None:
    """Make a tuple of a list of widths, which could not be hashed, and check that each is one."""
    given = getattr(net, name)
    widths = (given,) if isinstance(given, int) else tuple(given)
    object.__setattr__(net, name, widths)
    if any(width < 1 for width in widths):
        raise OptionError(
            f"Got {name}={widths}; widths must be at least 1, such as {name}=(64, 32)."
        )


def check_rates(net: Any, *names: str) -> None:
    """Raise OptionError unless options are rates of dropout."""
    for name in names:
        value = getattr(net, name)
        if not 0 <= value < 1:
            raise OptionError(f"Got {name}={value}; it must be in [0, 1).")
