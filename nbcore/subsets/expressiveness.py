"""A check of expressiveness: enough noise has to enter in the first layers."""

from __future__ import annotations

import warnings

import numpy as np

from nbcore.networks.layers import Layer, Leaf
from nbcore.networks.stacks import LayerSlice, in_turn
from nbcore.subsets.split import ParameterSplit


class ExpressivenessWarning(UserWarning):
    """The stochastic weights may not be able to express the predictive distribution."""


def check_expressiveness(split: ParameterSplit, num_outputs: int) -> bool:
    """Warn if fewer units of the first layer are stochastic than the network has outputs.

    With n stochastic biases in the first layer, n the dimension of y, and everything after it
    frozen, wide networks can approximate any distribution of y given x. With randomness in the
    last layers alone there is no such guarantee. A unit counts if its bias or any weight that
    enters it is stochastic; a feature of an embedding is a unit. A first layer with fewer units
    than outputs needs all of them. If the call order of the layers is not known, there is no
    warning. To silence the warning: `warnings.simplefilter("ignore", nb.ExpressivenessWarning)`.

    Args:
        split: the stochastic and the frozen weights.
        num_outputs: dimension of y.

    Returns:
        Whether there are enough.

    Examples:
        >>> import jax, jax.numpy as jnp, nbcore as nb
        >>> from nbcore_flax import FlaxMLP
        >>> network = nb.as_network(FlaxMLP(hidden_dims=(8,)), example=jnp.ones((1, 3)))
        >>> params = network.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> split = nb.ProbabilisticSubset.first_and_last().split(network, params)
        >>> nb.check_expressiveness(split, num_outputs=1)
        True

    References:
        Sharma, Farquhar, Nalisnick and Rainforth (2023), "Do Bayesian neural networks need to be
        fully stochastic?".
    """
    layers = [layer for layer in split.layers if layer.weights]
    if not layers or any(layer.order is None for layer in split.layers):
        return True
    first = in_turn(layers)[0]
    weights = first.layer.weights
    stochastic = sum(_stochastic_units(split, first, weight) for weight in weights)
    needed = min(num_outputs, sum(_num_units(first, weight) for weight in weights))
    if stochastic >= needed:
        return True
    warnings.warn(
        f"In the first layer, {first.name!r}, {stochastic} units are stochastic, and the network "
        f"has {num_outputs} output(s). With fewer than {needed} there is no guarantee that a wide "
        "network can express every predictive distribution. Add the first layer, "
        f"subset | nb.ProbabilisticSubset.layers({first.name!r}), or some of its pairs; see "
        "docs/choosing.md.",
        ExpressivenessWarning,
        stacklevel=2,
    )
    return False


def _bias_of(layer: Layer, weight: Leaf) -> Leaf | None:
    bias = layer.bias_of(weight)
    return bias if bias is not None and bias.fits(weight) else None


def _num_units(first: LayerSlice, weight: Leaf) -> int:
    """Return how many output units a weight leaf has; of an embedding, how many features."""
    bias = _bias_of(first.layer, weight)
    outs = weight.layer_shape[-1:] if bias is None else bias.layer_shape
    stacked = [s.size for s, n in zip(weight.stacks, first.of(weight), strict=True) if n is None]
    return int(np.prod([*stacked, *outs], dtype=np.int64))


def _stochastic_units(split: ParameterSplit, first: LayerSlice, weight: Leaf) -> int:
    """Return how many units have a stochastic bias, or a stochastic weight that enters them."""
    bias = _bias_of(first.layer, weight)
    outs = 1 if bias is None else len(bias.layer_axes)
    units = False
    for leaf in (weight, bias):
        if leaf is not None:
            numbers = tuple(slice(None) if n is None else n for n in first.of(leaf))
            chosen = leaf.by_pair(split.mask(leaf))[numbers].any(axis=-1)
            stacked = sum(n is None for n in first.of(leaf))
            inputs = tuple(range(stacked, chosen.ndim - outs))
            units = units | np.logical_or.reduce(chosen, axis=inputs)
    return int(np.sum(units))
