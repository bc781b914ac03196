"""The step that standardizes inputs which lie far from what networks learn from."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.networks.network import Inputs

BOUND = 10.0
"""Largest size of the values of a feature that is left as it is."""
LEAST_RANGE = 0.1
"""Least difference of two values of a feature that is left as it is, unless all are equal."""
LOST = 0.05
"""Rounding that loses the digits of a feature, over its standard deviation."""
SHOWN = 5


class InputsWarning(UserWarning):
    """Inputs from which networks learn little: far from standardized, or without digits."""


@dataclass(frozen=True)
class InputScaler:
    """The step from x to what a network reads: `x = shift + scale * standardized`, by feature.

    A feature is an index of the last axis of an array `(N, ..., features)`; an array `(N,)` is one
    feature. Features whose values lie within ±10 and differ by at least 0.1, such as standardized
    ones, fractions, one-hot codes and fingerprints, are left as they are; so are integers, such as
    token ids. Others get mean 0 and standard deviation 1; those that are all the same, mean 0 and
    their size as scale.

    Args:
        steps: path, shift and scale of each array that is changed.

    Examples:
        >>> x = np.stack([np.linspace(0, 1, 5), np.linspace(290, 310, 5)], axis=1)
        >>> scaler = InputScaler.fit(x)
        >>> scaler.standardize(x)[:, 1].round(2).tolist()
        [-1.41, -0.71, 0.0, 0.71, 1.41]
        >>> bool(np.allclose(scaler.restore(scaler.standardize(x)), x))
        True
    """

    steps: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]

    @staticmethod
    def fit(x: Inputs) -> InputScaler:
        """Return the scaler of some inputs, which changes what is far from standardized."""
        steps: list[tuple[str, tuple[float, ...], tuple[float, ...]]] = []
        for path, leaf in _named(x):
            columns, far = _features(leaf)
            if not far.any():
                continue
            deviation = _deviation(columns)
            # Rounded as the inputs will be, so that large offsets cancel without an error.
            mean = columns.mean(axis=0, dtype=np.float64).astype(np.float32).astype(np.float64)
            size = np.max(np.abs(columns), axis=0)
            scale = np.where(deviation > 0, deviation, np.where(size > 0, size, 1.0))
            shift, scale = np.where(far, mean, 0.0), np.where(far, scale, 1.0)
            steps.append((path, tuple(shift.tolist()), tuple(scale.tolist())))
        return InputScaler(tuple(steps))

    def standardize(self, x: Inputs) -> Inputs:
        """Return the inputs as the network reads them; jittable."""
        return self._changed(x, lambda a, shift, scale: (a - shift) / scale)

    def restore(self, x: Inputs) -> Inputs:
        """Return the inputs that `standardize` was given."""
        return self._changed(x, lambda a, shift, scale: shift + scale * a)

    def to_data(self) -> list[Any]:
        """Return the scaler as JSON data."""
        return [[path, list(shift), list(scale)] for path, shift, scale in self.steps]

    @staticmethod
    def from_data(data: list[Any]) -> InputScaler:
        """Return the scaler that `to_data` described."""
        return InputScaler(tuple((path, tuple(a), tuple(b)) for path, a, b in data))

    def _changed(self, x: Inputs, change: Callable[..., jax.Array]) -> Inputs:
        known = {path: (shift, scale) for path, shift, scale in self.steps}

        def one(path: str, leaf: Any) -> Any:
            if path not in known:
                return leaf
            dtype = jnp.promote_types(jnp.result_type(leaf), jnp.float32)
            return change(jnp.asarray(leaf, dtype), *(jnp.asarray(p, dtype) for p in known[path]))

        leaves = [one(path, leaf) for path, leaf in _named(x)]
        return jax.tree.unflatten(jax.tree.structure(x), leaves)


def far_features(x: Inputs) -> str:
    """Return in words which features of `x` are far from standardized; empty if none is."""
    found: list[str] = []
    for path, leaf in _named(x):
        columns, far = _features(leaf)
        for j in np.flatnonzero(far):
            place = f"{path}[..., {j}]" if path else f"X[..., {j}]"
            low, high = float(columns[:, j].min()), float(columns[:, j].max())
            found.append(f"{place} from {low:.6g} to {high:.6g}")
    return ", ".join(found[:SHOWN]) + (f", ... ({len(found)} in all)" if len(found) > SHOWN else "")


def warn_of_lost_digits(x: Inputs) -> None:
    """Warn of features whose values hardly differ in the precision in which networks compute.

    Examples:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warn_of_lost_digits(1e8 + np.linspace(0, 1, 5)[:, None])
        >>> len(caught)
        1
    """
    dtype = jnp.result_type(float)
    for path, leaf in _named(x):
        array = np.asarray(leaf)
        if array.dtype.kind not in "iuf" or array.dtype.itemsize <= dtype.itemsize // 2:
            continue
        columns = _columns(array)
        error = np.max(np.abs(columns - columns.astype(dtype)), axis=0)
        if not error.any():
            continue
        deviation = _deviation(columns)
        lost = np.flatnonzero((deviation > 0) & (error > LOST * deviation))
        if len(lost):
            j = int(lost[0])
            warnings.warn(
                f"{path or 'X'}[..., {j}] loses its digits in {dtype}, in which networks compute: "
                f"its values, up to {np.max(np.abs(columns[:, j])):.6g}, have a standard deviation "
                f"of {deviation[j]:.3g}, and rounding moves them by up to {error[j]:.3g}. Subtract "
                "an offset: X - X.mean(axis=0)",
                InputsWarning,
                stacklevel=4,
            )


def _named(x: Inputs) -> list[tuple[str, Any]]:
    """Return the arrays of inputs with their paths."""
    name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return [(name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(x)]


def _columns(array: np.ndarray) -> np.ndarray:
    """Return an array as `(values, features)`."""
    return array.reshape(-1, array.shape[-1] if array.ndim > 1 else 1)


def _features(leaf: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return an array as `(values, features)`, and which features are far from standardized."""
    array = np.asarray(leaf)
    if not jnp.issubdtype(array.dtype, jnp.floating) or not array.size:
        return array, np.zeros(0, bool)
    columns = _columns(array)
    low, high = (np.asarray(f(axis=0), np.float64) for f in (columns.min, columns.max))
    is_small = np.maximum(np.abs(low), np.abs(high)) <= BOUND
    return columns, ~(is_small & ((high == low) | (high - low >= LEAST_RANGE)))


def _deviation(columns: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each column, 0 where it is no more than rounding."""
    deviation = columns.std(axis=0, dtype=np.float64)
    size = np.max(np.abs(columns), axis=0).astype(np.float64)
    return np.where(deviation > 16 * np.finfo(np.float64).eps * size, deviation, 0.0)
