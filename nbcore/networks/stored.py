"""The form of a network's inputs as JSON data: containers, shapes and dtypes, without values."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.storage import pack_tree, unpack_tree
from nbcore.errors import OptionError
from nbcore.networks.network import Network


def form_of(network: Network) -> Any:
    """Return the form of the inputs that a network was made for, as JSON data.

    `None`: the network has no example, or one in containers that JSON data cannot describe.

    Examples:
        >>> import nbcore as nb
        >>> pair = (lambda key, x: {}, lambda params, x: x)
        >>> form_of(nb.as_network(pair, example=jnp.ones((1, 3))))
        {'containers': '0', 'arrays': {'0': {'shape': [1, 3], 'dtype': 'float32'}}}
    """
    example = getattr(network, "example", None)
    if example is None:
        return None
    try:
        containers, arrays = pack_tree(jax.tree.map(jnp.asarray, example))
    except OptionError:
        return None
    described = {k: {"shape": list(a.shape), "dtype": a.dtype.name} for k, a in arrays.items()}
    return {"containers": containers, "arrays": described}


def example_of(form: Any) -> Any:
    """Return inputs of a form that `form_of` described, all zero; `None` of `None`."""
    if form is None:
        return None
    arrays = {k: np.zeros(a["shape"], a["dtype"]) for k, a in form["arrays"].items()}
    return unpack_tree(form["containers"], arrays)
