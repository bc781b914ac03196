"""Architectures of this package as those of `nbcore_flax`, by which models are saved, and back."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import nbcore_flax
from nbcore_neurobayes.flax_nets.convnet import FlaxConvNet, FlaxConvNet2Head
from nbcore_neurobayes.flax_nets.mlp import FlaxMLP, FlaxMLP2Head
from nbcore_neurobayes.flax_nets.transformer import FlaxTransformer

_OWN: dict[type[Any], type[Any]] = {
    nbcore_flax.FlaxConvNet: FlaxConvNet,
    nbcore_flax.FlaxConvNet2Head: FlaxConvNet2Head,
    nbcore_flax.FlaxMLP: FlaxMLP,
    nbcore_flax.FlaxMLP2Head: FlaxMLP2Head,
    nbcore_flax.FlaxTransformer: FlaxTransformer,
}
_PLAIN = {own: plain for plain, own in _OWN.items()}


def as_plain(architecture: Any) -> Any:
    """Return the same network of `nbcore_flax`; one of another package as it is.

    Examples:
        >>> type(as_plain(FlaxMLP([4], 1))).__module__
        'nbcore_flax.mlp'
    """
    return _made(_PLAIN.get(type(architecture)), architecture)


def as_own(architecture: Any) -> Any:
    """Return the same network of this package; one of another package as it is."""
    return _made(_OWN.get(type(architecture)), architecture)


def _made(cls: Any, net: Any) -> Any:
    if cls is None:
        return net
    names = [f.name for f in fields(net) if f.name not in ("parent", "name")]
    return cls(**{name: getattr(net, name) for name in names})
