"""Layers of an architecture, before there are data: names, kinds, widths, and which are sampled."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import nbcore
import nbcore_flax
from nbcore.errors import OptionError
from nbcore_neurobayes.elsewhere import names_of
from nbcore_neurobayes.words import own_words

__getattr__ = names_of(__name__)

_KINDS = {"dense": "fc", "convolution": "conv", "norm": "layernorm"}
_WIDTHS = {"layer_name": 28, "layer_type": 12, "features": 10, "num_embeddings": 14}
_RENAMED = {"VarianceHead": "LogScaleHead"}


def extract_configs(
    net: Any,
    probabilistic_layers: Sequence[str] | None = None,
    num_probabilistic_layers: int | None = None,
) -> list[dict[str, Any]]:
    """Return a dict for each layer: its name, kind and width, and whether it is sampled.

    Args:
        net: one of the architectures of this package.
        probabilistic_layers: names or patterns of the layers to sample.
        num_probabilistic_layers: the last so many hidden layers, and the outputs; of a transformer
            so many layers, with its output and its norms, which are counted but not sampled.

    Raises:
        OptionError: neither or both are given.
        ArchitectureError: the layers are not known without inputs.

    Examples:
        >>> [each["layer_name"] for each in extract_configs(nbcore_flax.FlaxMLP((4,)), ["Dense1"])]
        ['Dense0', 'Dense1']
    """
    if (probabilistic_layers is None) == (num_probabilistic_layers is None):
        raise OptionError("Give probabilistic_layers or num_probabilistic_layers, one of them.")
    configs = [_config(layer) for layer in _layers(net)]
    if probabilistic_layers is None:
        probabilistic_layers = _last(net, configs, num_probabilistic_layers or 0)
    wanted = [own_name(name) for name in probabilistic_layers]
    for config in configs:
        name = config["layer_name"]
        config["is_probabilistic"] = any(fnmatch.fnmatchcase(name, w) for w in wanted)
    return configs


def get_configs(model: Any, pretty_print: bool = True) -> list[dict[str, Any]]:
    """Return name, kind and width of each layer, and print them as a table.

    Args:
        model: one of the architectures of this package.
        pretty_print: whether to print the table.

    Raises:
        ArchitectureError: the layers are not known without inputs.
    """
    configs = [_config(layer) for layer in _layers(model)]
    if pretty_print:
        print(f"{type(model).__name__}\n{_line({name: name for name in _WIDTHS})}")
        print("\n".join(_line(config) for config in configs))
        print(f"{len(configs)} layers")
    return configs


def print_layer_configs(model: Any) -> None:
    """Print the layers of an architecture, or of a trained `DeterministicNN`.

    Args:
        model: an architecture; or a trained network, of which the sizes of layers and what pairs
            index are known as well.

    Raises:
        ArchitectureError: an architecture of another package has no data.

    Examples:
        >>> print_layer_configs(nbcore_flax.FlaxMLP((4,), 1))
        FlaxMLP
        layer_name                  layer_type  features  num_embeddings
        Dense0                      fc          4         -
        Dense1                      fc          1         -
        2 layers
    """
    if isinstance(model, _KNOWN):
        get_configs(model)
        return
    with own_words():
        nbcore.print_layer_configs(getattr(model, "estimator", model))


def layer_names(net: Any, count: int) -> list[str] | None:
    """Return the names of the last layers of an architecture; `None` if it is of another package.

    Args:
        net: the architecture.
        count: how many, as `num_probabilistic_layers` of `extract_configs`.
    """
    if not isinstance(net, _KNOWN):
        return None
    return [
        config["layer_name"]
        for config in extract_configs(net, num_probabilistic_layers=count)
        if config["is_probabilistic"]
    ]


def own_name(name: str) -> str:
    """Return the name of a layer here; the head of the noise has another one."""
    return _RENAMED.get(name, name)


def with_pairs(configs: Sequence[dict[str, Any]], pairs: Mapping[str, Any] | None) -> Any:
    """Return configurations with the pairs of each layer that is sampled in part."""
    given = {own_name(name): value for name, value in (pairs or {}).items()}
    return [{**c, "probabilistic_neurons": given.get(c["layer_name"])} for c in configs]


_KNOWN = (nbcore_flax.FlaxMLP, nbcore_flax.FlaxConvNet, nbcore_flax.FlaxTransformer)


def _layers(net: Any) -> Sequence[Any]:
    """Return the layers that the architecture has for the smallest inputs."""
    if isinstance(net, nbcore_flax.FlaxTransformer):
        example: Any = net.example_input({})
    elif isinstance(net, nbcore_flax.FlaxConvNet):
        size = 2 ** len(net.conv_layers)
        example = jnp.zeros((1, *(size,) * net.input_dim, 1))
    else:
        example = jnp.zeros((1, 1))
    with own_words():
        network = nbcore.as_network(net, example=example)
        return network.layers(jax.eval_shape(network.init, jax.random.key(0), example))


def _config(layer: Any) -> dict[str, Any]:
    """Return name, kind and width of a layer."""
    weights = layer.weights[0] if layer.weights else layer.leaves[0]
    config = {
        "layer_name": layer.name,
        "layer_type": _KINDS.get(layer.kind, layer.kind),
        "features": int(weights.shape[-1]),
    }
    if layer.kind == "attention":
        config["features"] = int(weights.shape[0])
    if layer.kind == "embedding":
        config["num_embeddings"] = int(weights.shape[0])
    return config


def _last(net: Any, configs: Sequence[Mapping[str, Any]], count: int) -> list[str]:
    names = [config["layer_name"] for config in configs]
    if isinstance(net, nbcore_flax.FlaxTransformer):
        kinds = {config["layer_name"]: config["layer_type"] for config in configs}
        return [name for name in names[-max(count, 1) :] if kinds[name] != "layernorm"]
    heads = [name for name in names if name in ("MeanHead", "LogScaleHead")] or names[-1:]
    hidden = [name for name in names if name not in heads]
    return [*hidden[len(hidden) - min(count, len(hidden)) :], *heads]


def _line(config: Mapping[str, Any]) -> str:
    cells = (f"{config.get(name, '-'):<{width}}" for name, width in _WIDTHS.items())
    return "".join(cells).rstrip()
