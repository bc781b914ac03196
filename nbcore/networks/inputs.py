"""Checks of X and y that every entry point shares; they run on concrete arrays, outside jit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from nbcore.errors import DataError, ShapeError
from nbcore.networks.network import Network


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
        raise ShapeError("X holds no example. Give at least one row.")
    return count


def check_inputs(network: Network, x: Any, *, name: str = "X") -> None:
    """Check inputs: a shared example axis, finite numbers, and what the network itself asks.

    Raises:
        ShapeError, DataError, TokenError: what is wrong, with the rows.
    """
    num_examples(x)
    for leaf in jax.tree.leaves(x):
        _check_finite(np.asarray(leaf), name)
    own: Callable[[Any], None] | None = getattr(network, "check_inputs", None)
    if own is not None:
        own(x)


def check_data(network: Network, x: Any, y: Any, *, name: str = "X", target: str = "y") -> None:
    """Check inputs and targets together.

    Raises:
        ShapeError, DataError, TokenError: what is wrong, with the rows.
    """
    check_inputs(network, x, name=name)
    if np.ndim(y) == 0 or len(y) != num_examples(x):
        got = "no axis" if np.ndim(y) == 0 else f"{len(y)} rows"
        raise ShapeError(
            f"{name} has {num_examples(x)} rows and {target} has {got}. "
            "Give one target for each row."
        )
    _check_finite(np.asarray(y), target)


def _check_finite(array: np.ndarray, name: str) -> None:
    if not np.issubdtype(array.dtype, np.number):
        if array.dtype == bool:
            return
        raise DataError(f"{name} must hold numbers, got dtype {array.dtype}.")
    if np.issubdtype(array.dtype, np.integer):
        return
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    if bad.any():
        rows = np.flatnonzero(bad)
        shown = ", ".join(str(r) for r in rows[:5]) + (", ..." if len(rows) > 5 else "")
        raise DataError(
            f"{name} is not finite in {len(rows)} of {len(array)} rows: {shown}. "
            f"Drop them: keep = np.isfinite({name}.reshape(len({name}), -1)).all(axis=1)"
        )
