"""Properties that models of any framework may declare, as adapters read them.

Every hint is optional on the model: an attribute `padding` (an `nb.Padding`), a method
`check_inputs(x)` that raises on bad inputs, and a method `example_input(params)` that returns
inputs to trace for the call order.
"""

from __future__ import annotations

import warnings
from typing import Any

from nbcore.errors import NetworkError
from nbcore.networks.network import Inputs, Padding


def padding_of(model: Any) -> Padding | None:
    """Return how inputs are padded (a convolution's `padding="SAME"` is something else)."""
    padding = getattr(model, "padding", None)
    return padding if isinstance(padding, Padding) else None


def check_inputs(model: Any, x: Inputs) -> None:
    """Let the model check concrete inputs, if it has a method for that."""
    check = getattr(model, "check_inputs", None)
    if callable(check):
        check(x)


def example_for(model: Any, example: Inputs | None, weights: Any) -> Inputs | None:
    """Return inputs to trace: those that were given, else those that the model suggests."""
    suggest = getattr(model, "example_input", None)
    return suggest(weights) if example is None and callable(suggest) else example


def has_its_weights(module: Any, source: str) -> NetworkError:
    """Return the error for a module that is already built and is asked for other weights.

    Args:
        module: the module.
        source: the argument that its weights were drawn from.
    """
    name = type(module).__name__
    return NetworkError(
        f"This {name} got its weights when it was built, and has no others for another "
        f"key. To train it, pass what builds it: functools.partial({name}, ...) without "
        f"{source}. To keep its weights, pass them as well: network = nb.as_network(module), "
        "deterministic_weights=network.params"
    )


def warn_of_statistics(name: str) -> None:
    """Warn that a layer keeps its running statistics while the network is trained."""
    warnings.warn(
        f"{name} is trained with the running statistics that it has: an output depends on its own "
        "example only, so no statistics of a batch are used or collected. In a fresh network they "
        "are mean 0 and variance 1, and it normalizes nothing. Use LayerNorm or GroupNorm, or "
        "train the network in its own framework and pass its parameters.",
        stacklevel=2,
    )
