"""Outputs of a network: compiled once, counted, as columns, and whether examples mix."""

from __future__ import annotations

import functools
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.paths import leaves_by_path
from nbcore.common.quick import QuickJit
from nbcore.errors import NbcoreError, ShapeError
from nbcore.networks.inputs import num_examples, other_inputs
from nbcore.networks.network import Inputs, Network, Outputs, Params


@dataclass(frozen=True, eq=False)
class HashableNetwork:
    """A network as a static argument; equal networks share compiled programs.

    A network that cannot be hashed equals only itself.
    """

    network: Network

    def __eq__(self, other: object) -> bool:
        """Whether the networks are equal."""
        return isinstance(other, HashableNetwork) and self._identity == other._identity

    def __hash__(self) -> int:
        """Return a hash of the network."""
        return hash(self._identity)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the network alone, since an address identifies nothing in another process."""
        return HashableNetwork, (self.network,)

    @functools.cached_property
    def _identity(self) -> Any:
        try:
            hash(self.network)
        except TypeError:
            return id(self.network)
        return self.network


def _apply(static: HashableNetwork, params: Params, x: Inputs) -> Outputs:
    return static.network.apply(params, x)


_compiled_apply = QuickJit(_apply, num_static=1)


@contextmanager
def own_error(network: Network, x: Inputs) -> Generator[None]:
    """Turn a framework's error about inputs of another shape into a ShapeError with both shapes."""
    try:
        yield
    except NbcoreError:
        raise
    except Exception as error:
        message = other_inputs(network, x)
        if not message:
            raise
        raise ShapeError(message) from error


def compiled_apply(network: Network, params: Params, x: Inputs) -> Outputs:
    """Return `network.apply(params, x)`, compiled once for each network and shape.

    Raises:
        ShapeError: the network cannot take these inputs, and was made for others.
    """
    with own_error(network, x):
        return _compiled_apply(HashableNetwork(network), params, x)


def count_outputs(network: Network, params: Params, x: Inputs) -> int:
    """Return the number of outputs of a network, without computing them.

    Args:
        network: the network.
        params: its parameters, or their shapes and dtypes.
        x: a few inputs.

    Raises:
        ShapeError: the outputs are not `(examples,)` or `(examples, outputs)`.

    Examples:
        >>> import jax.numpy as jnp, nbcore as nb
        >>> network = nb.as_network((lambda key, x: {}, lambda params, x: x))
        >>> count_outputs(network, {}, jnp.ones((5, 3))), count_outputs(network, {}, jnp.ones(5))
        (3, 1)
    """
    with own_error(network, x):
        outputs = _compiled_apply.eval_shape(HashableNetwork(network), params, x)
    shape = _checked(outputs, num_examples(x)).shape
    return int(shape[1]) if len(shape) > 1 else 1


def as_columns(outputs: Outputs, count: int) -> jax.Array:
    """Return network outputs as `(examples, outputs)`, in single precision at least.

    Args:
        outputs: what the network returned.
        count: number of examples in its inputs.

    Raises:
        ShapeError: the outputs are not `(examples,)` or `(examples, outputs)`.
    """
    columns = _checked(outputs, count)
    columns = columns.astype(jnp.promote_types(columns.dtype, jnp.float32))
    return columns[:, None] if columns.ndim == 1 else columns


def _checked(outputs: Any, count: int) -> Any:
    """Return outputs, or their shape and dtype, if they are one array of floats."""
    if not (hasattr(outputs, "shape") and hasattr(outputs, "dtype")):
        found = ", ".join(f"{path or 'it'}: {np.shape(a)}" for path, a in _by_path(outputs))
        raise ShapeError(
            "A network returns one array, (examples,) or (examples, outputs); this one returns a "
            f"{type(outputs).__name__} ({found}). Return the one that predicts y, or join them as "
            "columns, in the order of the columns of y: jnp.concatenate([a, b], axis=1)"
        )
    shape = outputs.shape
    if not shape or shape[0] != count:
        raise ShapeError(
            f"The network was given {count} examples, and its outputs have the shape {shape}: "
            f"{shape[0] if shape else 'no'} output(s) along the first axis; expected "
            "one for each example. One example alone is given as X[None]; a network that computes "
            "one example at a time is mapped over them: jax.vmap(network)"
        )
    if len(shape) > 2:
        width = int(np.prod(shape[1:]))
        raise ShapeError(
            f"A network returns (examples,) or (examples, outputs), and this one returns {shape}. "
            f"Make columns of the {width} outputs of an example in the network, "
            "outputs.reshape(len(outputs), -1), and of y alike, y.reshape(len(y), -1)."
        )
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise ShapeError(
            f"A network returns floating-point numbers, and this one returns {outputs.dtype}. "
            "Return real numbers: of complex ones the parts that y is compared with, such as "
            "jnp.concatenate([outputs.real, outputs.imag], axis=1)"
        )
    return outputs


def _by_path(outputs: Any) -> list[tuple[str, Any]]:
    return list(leaves_by_path(outputs).items())


def is_per_example(network: Network, params: Any, x: Any) -> bool:
    """Whether the outputs of a few examples are those of each example alone.

    Raises:
        ShapeError: the outputs are not `(examples,)` or `(examples, outputs)`.
    """
    count = num_examples(x)
    indices = sorted({0, count // 2, count - 1})  # neighbors may well be copies of each other
    few = jax.tree.map(lambda a: np.asarray(a[np.array(indices)]), x)
    try:
        together = as_columns(compiled_apply(network, params, few), len(indices))
        single = [jax.tree.map(lambda a, i=i: a[i : i + 1], few) for i in range(len(indices))]  # pyright: ignore[reportUnknownLambdaType]
        alone = [as_columns(compiled_apply(network, params, row), 1) for row in single]
    except Exception:  # some rows of an adjacency matrix are no graph; frameworks have many errors
        count_outputs(network, params, x)  # if that fails too, it says why
        return False
    outputs = np.asarray(together)
    tolerance = 1e-4 * float(np.max(np.abs(outputs))) + 1e-6
    return bool(np.allclose(outputs, np.concatenate(alone), rtol=1e-3, atol=tolerance))
