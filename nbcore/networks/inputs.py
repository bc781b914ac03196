"""Checks of X and y, shared by every entry point, on concrete arrays outside jit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from jax import core

from nbcore.common.paths import leaves_by_path
from nbcore.errors import DataError, OptionError, ShapeError
from nbcore.networks.input_scaling import warn_of_lost_digits
from nbcore.networks.network import Network, as_network
from nbcore.networks.standardized import input_scaler, standardizing

Missing = Literal["error", "mask"]
"""What NaN in y means: an error, or a value that is left out."""


def num_examples(x: Any) -> int:
    """Return the length of the leading axis that all arrays of `x` share.

    Raises:
        ShapeError: there is none, or the arrays differ in it.
    """
    counts = {np.shape(leaf)[0] if np.ndim(leaf) else -1 for leaf in jax.tree.leaves(x)}
    if len(counts) != 1 or counts == {-1}:
        raise ShapeError(
            f"X must be an array, or a pytree of arrays, with a shared leading example axis; got "
            f"lengths {sorted(counts)} (-1: no axis at all)."
        )
    count = counts.pop()
    if count == 0:
        raise ShapeError("X holds no example. Give at least one.")
    return count


def other_inputs(network: Network, x: Any, *, name: str = "X") -> str:
    """Return how inputs differ from those that a network was made for; empty if they do not.

    The number of examples is ignored. A network without an example has nothing to compare with.
    """
    example = getattr(network, "example", None)
    if example is None:
        return ""
    if jax.tree.structure(x) != jax.tree.structure(example):
        return (
            f"{name} is a pytree {jax.tree.structure(x)}, and the network was made for "
            f"{jax.tree.structure(example)}. Give the same arrays in the same containers."
        )
    known = leaves_by_path(example)
    for path, array in leaves_by_path(x).items():
        got, made_for = np.shape(array), np.shape(known[path])
        if got[1:] == made_for[1:]:
            continue
        shown = ", ".join(["examples", *map(str, made_for[1:])])
        which = f"{name}[{path!r}]" if path else name
        message = f"{which} has shape {got}, and the network was made for ({shown})"
        if len(got) == len(made_for) == 2:
            return f"{message}: {got[1]} columns instead of {made_for[1]}. Give the same columns."
        one = " One example alone is given as X[None]." if len(got) == len(made_for) - 1 else ""
        return f"{message}.{one}"
    return ""


def _check_width(network: Network, x: Any, name: str) -> None:
    """Check the columns of a table, which might fit by broadcasting, and the number of axes."""
    example: Any = getattr(network, "example", None)
    arrays = [*jax.tree.leaves(x), *jax.tree.leaves(example)]
    if example is None or len(arrays) != 2:
        return
    is_table = np.ndim(example) == 2 and np.issubdtype(np.asarray(example).dtype, np.floating)
    if np.ndim(x) != np.ndim(example) or (is_table and network.padding is None):
        message = other_inputs(network, x, name=name)
        if message:
            raise ShapeError(message)


def check_inputs(network: Network, x: Any, *, name: str = "X") -> None:
    """Check inputs: a shared example axis, finite numbers, and the checks of the network itself.

    The columns of a table of floats must be as many as those that the network was made for. The
    other axes of other inputs may have any length that the network can take.

    Raises:
        ShapeError, DataError, TokenError: what is wrong, with the indices of the examples.
        OptionError: the inputs are traced; names the pure functions.
    """
    num_examples(x)
    _check_concrete(x, name)
    _check_width(network, x, name)
    for leaf in jax.tree.leaves(x):
        _check_finite(np.asarray(leaf), name)
        _check_range(np.asarray(leaf), name)
    own: Callable[[Any], None] | None = getattr(network, "check_inputs", None)
    if own is not None:
        own(x)


def _check_concrete(x: Any, name: str) -> None:
    if any(isinstance(leaf, core.Tracer) for leaf in jax.tree.leaves(x)):
        raise OptionError(
            f"{name} is traced by jax.jit, jax.grad or jax.vmap, and predictions are NumPy arrays "
            "in double precision. A pure function of x: model.posterior.moments(x), with mean and "
            "variance as JAX arrays; of one network "
            "det.network.apply(det.params, x)"
        )


def check_data(
    network: Network,
    x: Any,
    y: Any,
    name: str = "X",
    target: str = "y",
    *,
    missing: Missing = "error",
) -> None:
    """Check inputs and targets together; `missing="mask"` allows NaN in the targets.

    Raises:
        ShapeError, DataError, TokenError: what is wrong, with the indices of the examples.
    """
    check_inputs(network, x, name=name)
    if np.ndim(y) == 0 or len(y) != num_examples(x):
        got = "no axis" if np.ndim(y) == 0 else f"{len(y)} examples"
        raise ShapeError(
            f"{name} has {num_examples(x)} examples and {target} has {got}. "
            "Give one target for each example."
        )
    targets = np.asarray(y)
    if missing == "mask" and np.issubdtype(targets.dtype, np.floating):
        targets = np.where(np.isnan(targets), 0, targets)
    remedy = ""
    if targets.ndim == 2 and targets.shape[1] > 1:
        remedy = (
            ". To leave missing values alone out: likelihood=nb.Gaussian(missing='mask'), "
            "nb.StudentT or nb.Heteroskedastic alike"
        )
    _check_finite(targets, target, remedy)


def network_for(
    model: Any,
    x: Any,
    y: Any,
    *,
    standardize_inputs: bool = False,
    missing: Missing = "error",
) -> Network:
    """Return the network of a model, traced on an example of checked data.

    Args:
        model: a network, or a model that `nb.as_network` knows.
        x: inputs.
        y: targets.
        standardize_inputs: whether the network gets a step that standardizes `x`, if it needs one.
        missing: whether NaN in the targets is an error.

    Raises:
        ShapeError, DataError, TokenError: what is wrong with the data, with the indices of the
            examples.
        NetworkError, PluginError: see `nb.as_network`.
    """
    num_examples(x)  # refuses other objects than arrays before they are indexed
    network = as_network(model, example=jax.tree.map(lambda a: a[:1], x))  # pyright: ignore[reportUnknownLambdaType]
    check_data(network, x, y, missing=missing)
    if input_scaler(network) is None:  # whoever made it has looked
        warn_of_lost_digits(x)
        network = standardizing(network, x) if standardize_inputs else network
    return network


def _check_range(array: np.ndarray, name: str) -> None:
    """Check that JAX can hold the numbers, whose default types are half as wide as those of NumPy.

    Raises:
        DataError: it would make infinity of large floats, and other numbers of large integers; or
            it has no such type.
    """
    if array.dtype == np.longdouble and array.dtype.itemsize > 8:
        raise DataError(f"{name} has dtype {array.dtype}. Type: {name}.astype(np.float64)")
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype == array.dtype or array.dtype.kind not in "iuf":
        return
    limits = np.finfo(dtype) if array.dtype.kind == "f" else np.iinfo(dtype)
    outside = (array < limits.min) | (array > limits.max)
    if outside.any():
        indices = np.flatnonzero(outside.reshape(len(array), -1).any(axis=1))
        raise DataError(
            f"{name} holds numbers such as {array[outside].flat[0]}, beyond {dtype}, in which "
            f"networks compute, in {len(indices)} of {len(array)} examples: "
            f"{', '.join(map(str, indices[:5]))}. Change the units of {name}, or subtract an "
            "offset in double precision."
        )


def _check_finite(array: np.ndarray, name: str, remedy: str = "") -> None:
    if not np.issubdtype(array.dtype, np.number):
        if array.dtype == bool:
            return
        raise DataError(f"{name} must hold numbers, got dtype {array.dtype}.")
    if np.issubdtype(array.dtype, np.integer):
        return
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    if bad.any():
        indices = np.flatnonzero(bad)
        shown = ", ".join(str(r) for r in indices[:5]) + (", ..." if len(indices) > 5 else "")
        raise DataError(
            f"{name} is not finite in {len(indices)} of {len(array)} examples: {shown}. "
            f"Drop them: keep = np.isfinite({name}.reshape(len({name}), -1)).all(axis=1){remedy}"
        )
