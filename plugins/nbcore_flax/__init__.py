"""Flax for nbcore: any linen or nnx module as a network, and architectures ready-made.

Importing this package does not import flax; its classes come when they are asked for.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import TYPE_CHECKING, Any

from nbcore.errors import MissingExtraError
from nbcore.hookspecs import Spec, hookimpl

if TYPE_CHECKING:
    from nbcore_flax.convnet import FlaxConvNet, FlaxConvNet2Head
    from nbcore_flax.linen_adapter import LinenNetwork
    from nbcore_flax.mlp import FlaxMLP, FlaxMLP2Head
    from nbcore_flax.nnx_adapter import NnxNetwork
    from nbcore_flax.transformer import FlaxTransformer, FlaxTransformer2Head

__all__ = [
    "FlaxConvNet",
    "FlaxConvNet2Head",
    "FlaxMLP",
    "FlaxMLP2Head",
    "FlaxTransformer",
    "FlaxTransformer2Head",
    "LinenNetwork",
    "NnxNetwork",
]

_HOMES = {
    "FlaxConvNet": "convnet",
    "FlaxConvNet2Head": "convnet",
    "FlaxMLP": "mlp",
    "FlaxMLP2Head": "mlp",
    "FlaxTransformer": "transformer",
    "FlaxTransformer2Head": "transformer",
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
        Spec("transformer-2head", "nbcore_flax.transformer:FlaxTransformer2Head", "flax"),
        Spec("mlp", "nbcore_flax.mlp:FlaxMLP", "flax"),
        Spec("mlp-2head", "nbcore_flax.mlp:FlaxMLP2Head", "flax"),
        Spec("convnet", "nbcore_flax.convnet:FlaxConvNet", "flax"),
        Spec("convnet-2head", "nbcore_flax.convnet:FlaxConvNet2Head", "flax"),
    ]


@hookimpl
def nbcore_as_network(model: Any, example: Any) -> Any:
    """Make a network of a linen or nnx module, or of an nnx class; None for anything else."""
    if isinstance(model, _module_class("flax.linen")):
        return _load("LinenNetwork")(model, example)
    if isinstance(model, _module_class("flax.nnx")):
        return _load("NnxNetwork").from_module(model, example)
    built = model.func if isinstance(model, functools.partial) else model
    if isinstance(built, type) and issubclass(built, _module_class("flax.nnx")):
        return _load("NnxNetwork").from_builder(model, example)
    return None


def _module_class(library: str) -> Any:
    """Return the class `Module` of a library; no class at all while nobody has imported that."""
    return getattr(sys.modules.get(library), "Module", ())
