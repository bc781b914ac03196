"""Printed descriptions of a network: layer names, kinds, sizes, and what pairs index."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from nbcore.errors import NetworkError
from nbcore.networks.layers import Layer
from nbcore.networks.network import Network, as_network
from nbcore.networks.stacks import indexed_name


def layer_table(layers: tuple[Layer, ...]) -> str:
    """Return a table of layers: name, kind, number of weights, and the axes of its pairs.

    Layers that are stacked have one line, with the name of the last of them.
    """
    lines = [f"{'layer':<28} {'kind':<12} {'weights':>10}  pairs"]
    for layer in layers:
        parts = [
            f"{leaf.component + ' ' if leaf.component else ''}({', '.join(leaf.layer_axes)}) "
            f"{'x'.join(str(n) for n in leaf.layer_shape)}"
            for leaf in layer.weights
        ]
        pairs = "; ".join(parts)
        if layer.stacks:
            name = indexed_name(layer.name, layer.stacks, [s.size - 1 for s in layer.stacks])
            pairs += f"{' ' if pairs else ''}in each, the last is {name}"
        lines.append(f"{layer.name:<28} {layer.kind:<12} {layer.size:>10,}  {pairs}".rstrip())
    lines.append(f"{'total':<28} {'':<12} {sum(layer.size for layer in layers):>10,}")
    return "\n".join(lines)


def print_layer_configs(net: Any, example: Any = None) -> None:
    """Print the layers of a network: the names to give to `nb.ProbabilisticSubset.layers`.

    Args:
        net: a network, a model that `nb.as_network` knows, or a trained `nb.DeterministicNN`.
        example: a few inputs; needed if the network cannot make parameters without them.

    Raises:
        NetworkError: an example is needed and missing.

    Examples:
        >>> import nbcore as nb
        >>> from nbcore_flax import FlaxTransformer
        >>> net = FlaxTransformer(vocab_size=9, d_model=8, nhead=2, num_layers=1, dim_feedforward=8)
        >>> nb.print_layer_configs(net)  # doctest: +ELLIPSIS
        layer                        kind            weights  pairs
        TokenEmbed                   embedding            72  (token, feature) 9x8
        ...
    """
    print(layer_table(layers_of(net, example)))


def layers_of(net: Any, example: Any = None) -> tuple[Layer, ...]:
    """Return the layers of a network, in call order."""
    if hasattr(net, "params") and hasattr(net, "network"):
        return net.network.layers(net.params)
    if example is None:
        example = _own_example(net)
    network: Network = as_network(net, example=example)
    held = getattr(network, "params", None)  # of a module that already holds weights
    if held is not None:
        return network.layers(held)
    x = jax.tree.map(lambda a: jnp.asarray(a[:1]), example)  # pyright: ignore[reportUnknownLambdaType]
    return network.layers(jax.eval_shape(network.init, jax.random.key(0), x))


def _own_example(net: Any) -> Any:
    try:
        return net.example_input({})
    except Exception as error:  # a third-party module may raise anything
        raise NetworkError(
            f"{type(net).__name__} needs inputs to make its parameters. "
            "Type: nb.print_layer_configs(net, example=X[:1])"
        ) from error
