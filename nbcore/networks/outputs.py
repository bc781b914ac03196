"""The form of a network's outputs, found by evaluating the network on a few inputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from nbcore.errors import NetworkError
from nbcore.networks.evaluation import compiled_apply, count_outputs, is_per_example
from nbcore.networks.length_buckets import Group, lengths, on_grid
from nbcore.networks.network import Inputs, Network, Params


class OutputForm(NamedTuple):
    """The form of a network's outputs.

    Args:
        num_outputs: number of outputs of each example.
        per_example: whether each output depends on its own example alone.
    """

    num_outputs: int
    per_example: bool


def output_form(network: Network, params: Params, x: Inputs) -> OutputForm:
    """Return the form of the outputs at `x`, after checking the padding that a network declares.

    Args:
        network: the network.
        params: its parameters.
        x: inputs, of which a few examples are evaluated.

    Raises:
        ShapeError: the outputs are not `(examples,)` or `(examples, outputs)`.
        NetworkError: the outputs change when padding is trimmed.

    Examples:
        >>> import nbcore as nb
        >>> network = nb.as_network((lambda key, x: {}, lambda params, x: x - x.mean(axis=0)))
        >>> output_form(network, {}, np.eye(3, 2))
        OutputForm(num_outputs=2, per_example=False)
    """
    count = count_outputs(network, params, x)
    _check_padding(network, params, x)
    return OutputForm(count, is_per_example(network, params, x))


def _check_padding(network: Network, params: Params, x: Any) -> None:
    """Check on the shortest examples that outputs do not change when the padding is trimmed.

    Raises:
        NetworkError: it does not, so the network reads its padding.
    """
    padding = network.padding
    if padding is None:
        return
    longest = np.shape(x)[padding.axis]
    each = on_grid(lengths(np.asarray(x), padding), longest)
    shortest = np.argsort(each, kind="stable")[:3]
    shortest = shortest[each[shortest] < longest]
    if not len(shortest):
        return
    few = Group(np.sort(shortest), int(each[shortest].max()))
    full = np.asarray(compiled_apply(network, params, jnp.asarray(np.asarray(x)[few.indices])))
    trimmed = np.asarray(compiled_apply(network, params, jnp.asarray(few.take(x, padding))))
    scale = float(np.max(np.abs(full))) + 1e-6
    if not np.allclose(full, trimmed, rtol=1e-3, atol=1e-3 * scale):
        raise NetworkError(
            f"The network declares {padding}, but its outputs change when padding is trimmed. "
            "Mask the padding in the network (attention and pooling), or declare padding=None."
        )
