"""Parameters as plain arrays in plain containers, which can be sampled, stored and loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp

from nbcore.common.keys import is_key
from nbcore.common.paths import leaf_paths
from nbcore.errors import NetworkError
from nbcore.networks.network import Network, Params


def plain_params(network: Network, params: Params) -> Params:
    """Return parameters as arrays in dicts, lists and tuples.

    A network may have a method `unboxed(params)`, which removes the wrappers of its framework:
    partitioning metadata, frozen dicts, states.

    Raises:
        NetworkError: there is another container, or a leaf that is not an array of numbers.

    Examples:
        >>> from nbcore.networks.network import as_network
        >>> network = as_network((lambda key, x: {}, lambda params, x: x))
        >>> plain_params(network, {"Dense0": {"bias": 1.0}})["Dense0"]["bias"].shape
        ()
    """
    unboxed: Callable[[Params], Params] | None = getattr(network, "unboxed", None)
    params = params if unboxed is None else unboxed(params)
    _check_containers(params, "")
    leaves, structure = jax.tree.flatten(params)
    arrays = [_array(*item) for item in zip(leaf_paths(params), leaves, strict=True)]
    return jax.tree.unflatten(structure, arrays)


def _check_containers(node: Any, path: str) -> None:
    """Raise unless every container can be stored unchanged."""
    if isinstance(node, dict):
        items = cast("Mapping[Any, Any]", node)
        odd = [key for key in items if not isinstance(key, str | int)]
        if odd:
            raise NetworkError(
                f"Parameters are stored as dicts with keys that are texts or integers; {path!r} "
                f"has the key {odd[0]!r}. Rename it in init and apply."
            )
    elif type(node) in (list, tuple):
        items = dict(enumerate(cast("list[Any]", node)))
    elif node is None or jax.tree_util.all_leaves([node]):
        return
    else:
        where = f"at {path!r}" if path else "as a whole"
        raise NetworkError(
            f"Parameters are stored as dicts, lists and tuples of arrays; {where} they are a "
            f"{type(node).__module__}.{type(node).__qualname__}. Give plain containers (of a "
            "NamedTuple node._asdict(), of boxes of flax flax.linen.meta.unbox(params)), and let "
            "apply make its own of them."
        )
    for key, value in items.items():
        _check_containers(value, f"{path}/{key}" if path else str(key))


def _array(path: str, leaf: Any) -> jax.Array:
    if is_key(leaf):
        raise NetworkError(
            f"{path!r} is a random key, which is not a parameter. Take keys out of the parameters: "
            "apply(params, x, train=..., key=...) gets one in training."
        )
    try:
        if hasattr(leaf, "dtype") or isinstance(leaf, int | float | complex):
            return jnp.asarray(leaf)
    except (TypeError, ValueError):  # an array of objects
        pass
    raise NetworkError(
        f"{path!r} is not an array of numbers, got {type(leaf).__name__} {leaf!r:.60}. Keep "
        "options out of the parameters."
    )
