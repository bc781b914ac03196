"""Outputs of a network: compiled once, counted, as columns, and whether examples mix."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.errors import ShapeError
from nbcore.networks.network import Inputs, Network, Outputs, Params


@dataclass(frozen=True, eq=False)
class HashableNetwork:
    """A network as a static argument: equal networks share what was compiled for one of them.

    A network that cannot be hashed equals only itself.
    """

    network: Network

    def __eq__(self, other: object) -> bool:
        """Whether the networks are equal."""
        return isinstance(other, HashableNetwork) and self._identity == other._identity

    def __hash__(self) -> int:
        """Return a hash of the network."""
        return hash(self._identity)

    @functools.cached_property
    def _identity(self) -> Any:
        try:
            hash(self.network)
        except TypeError:
            return id(self.network)
        return self.network


@functools.partial(jax.jit, static_argnums=0)
def _compiled_apply(static: HashableNetwork, params: Params, x: Inputs) -> Outputs:
    return static.network.apply(params, x)


def compiled_apply(network: Network, params: Params, x: Inputs) -> Outputs:
    """Return `network.apply(params, x)`, compiled once for each network and shape."""
    return _compiled_apply(HashableNetwork(network), params, x)


def count_outputs(network: Network, params: Params, x: Inputs) -> int:
    """Return the number of outputs of a network, without computing them.

    Args:
        network: the network.
        params: its parameters, or their shapes and dtypes.
        x: a few inputs.

    Examples:
        >>> import jax.numpy as jnp, nbcore as nb
        >>> network = nb.as_network((lambda key, x: {}, lambda params, x: x))
        >>> count_outputs(network, {}, jnp.ones((5, 3))), count_outputs(network, {}, jnp.ones(5))
        (3, 1)
    """
    shape = jax.eval_shape(network.apply, params, x).shape
    return int(shape[1]) if len(shape) > 1 else 1


def as_columns(outputs: jax.Array) -> jax.Array:
    """Return network outputs as `(examples, outputs)`.

    Raises:
        ShapeError: the outputs have more than two axes.
    """
    if outputs.ndim == 1:
        return outputs[:, None]
    if outputs.ndim != 2:
        raise ShapeError(
            f"A network returns (examples,) or (examples, outputs), got shape {outputs.shape}."
        )
    return outputs


def is_per_example(network: Network, params: Any, x: Any) -> bool:
    """Whether the outputs of a few rows are those of each row alone."""
    count = len(jax.tree.leaves(x)[0])
    rows = sorted({0, count // 2, count - 1})  # neighbors may well be copies of each other
    few = jax.tree.map(lambda a: jnp.asarray(a[np.array(rows)]), x)
    try:
        together = compiled_apply(network, params, few)
    except (TypeError, ValueError):  # some rows of an adjacency matrix are no graph
        jax.eval_shape(network.apply, params, x)  # if that fails too, it says why
        return False
    if jnp.ndim(together) not in (1, 2) or len(together) != len(jax.tree.leaves(few)[0]):
        return False
    single = [jax.tree.map(lambda a, i=i: a[i : i + 1], few) for i in range(len(rows))]  # pyright: ignore[reportUnknownLambdaType]
    alone = np.concatenate([np.asarray(compiled_apply(network, params, row)) for row in single])
    scale = float(jnp.max(jnp.abs(together)))
    return bool(np.allclose(np.asarray(together), alone, rtol=1e-3, atol=1e-4 * scale + 1e-6))
