"""Flax for nbcore: any linen or nnx module as a network, and architectures ready-made.

Importing this package does not import flax; its classes come when they are asked for.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from nbcore.extend import Spec, hookimpl, lazy_names

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
    "FlaxConvNet": ".convnet",
    "FlaxConvNet2Head": ".convnet",
    "FlaxMLP": ".mlp",
    "FlaxMLP2Head": ".mlp",
    "FlaxTransformer": ".transformer",
    "FlaxTransformer2Head": ".transformer",
    "LinenNetwork": ".linen_adapter",
    "NnxNetwork": ".nnx_adapter",
}


__getattr__ = lazy_names(__name__, _HOMES, "flax")


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
        return __getattr__("LinenNetwork")(model, example)
    if isinstance(model, _module_class("flax.nnx")):
        return __getattr__("NnxNetwork").from_module(model, example)
    built = model.func if isinstance(model, functools.partial) else model
    if isinstance(built, type) and issubclass(built, _module_class("flax.nnx")):
        return __getattr__("NnxNetwork").from_builder(model, example)
    return None


def _module_class(library: str) -> Any:
    """Return the class `Module` of a library; no class at all while nobody has imported that."""
    return getattr(sys.modules.get(library), "Module", ())
