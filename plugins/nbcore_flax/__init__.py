"""Flax for nbcore: any linen or nnx module as a network, a transformer and an MLP ready-made.

Importing this package does not import flax; its classes come when they are asked for.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from nbcore.errors import MissingExtraError
from nbcore.hookspecs import Spec, hookimpl

if TYPE_CHECKING:
    from nbcore_flax.linen_adapter import LinenNetwork
    from nbcore_flax.mlp import FlaxMLP
    from nbcore_flax.nnx_adapter import NnxNetwork
    from nbcore_flax.transformer import FlaxTransformer

__all__ = ["FlaxMLP", "FlaxTransformer", "LinenNetwork", "NnxNetwork"]

_HOMES = {
    "FlaxMLP": "mlp",
    "FlaxTransformer": "transformer",
    "LinenNetwork": "linen_adapter",
    "NnxNetwork": "nnx_adapter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _load(name)


def _load(name: str) -> Any:
    try:
        module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "flax":
            raise
        raise MissingExtraError(f"{__name__}.{name}", "flax", error.name) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


@hookimpl
def nbcore_register_networks() -> list[Spec]:
    """Offer the ready-made architectures."""
    return [
        Spec("transformer", "nbcore_flax.transformer:FlaxTransformer", "flax"),
        Spec("mlp", "nbcore_flax.mlp:FlaxMLP", "flax"),
    ]


@hookimpl
def nbcore_as_network(model: Any, example: Any) -> Any:
    """Make a network of a linen or nnx module; None for anything else."""
    if _is_instance(model, "flax.linen"):
        return _load("LinenNetwork")(model, example)
    if _is_instance(model, "flax.nnx"):
        return _load("NnxNetwork").from_module(model, example)
    return None


def _is_instance(model: Any, library: str) -> bool:
    """Tell whether a model is a `Module` of a library; not when nobody has imported that yet."""
    base = getattr(sys.modules.get(library), "Module", None)
    return base is not None and isinstance(model, base)
