"""Metrics and helpers under the names and with the argument order of NeuroBayes.

Columns `(n, 1)` and vectors `(n,)` are aligned; other shapes that differ raise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from nbcore import metrics


def _vector(values: Any) -> np.ndarray:
    array = np.asarray(values)
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def mse(y_pred: Any, y_true: Any) -> float:
    """Return the mean squared error.

    Examples:
        >>> mse([[1.0], [2.0]], [1.0, 4.0])
        2.0
    """
    return metrics.rmse(_vector(y_true), _vector(y_pred)) ** 2


def rmse(y_pred: Any, y_true: Any) -> float:
    """Return the root mean squared error."""
    return metrics.rmse(_vector(y_true), _vector(y_pred))


def mae(y_pred: Any, y_true: Any) -> float:
    """Return the mean absolute error."""
    return metrics.mae(_vector(y_true), _vector(y_pred))


def nlpd(y: Any, mu: Any, sigma_squared: Any, eps: float = 1e-6) -> float:
    """Return the negative log predictive density of normals; `eps` is added to the variance."""
    return metrics.nlpd(_vector(y), _vector(mu), _vector(sigma_squared) + eps)


def confidence_interval(mean: Any, var: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return mean minus and plus 1.96 standard deviations."""
    half = 1.96 * np.sqrt(_vector(var))
    return _vector(mean) - half, _vector(mean) + half


def coverage(y_true: Any, y_pred_mean: Any, y_pred_var: Any) -> float:
    """Return the fraction of y within 95 % intervals of normals."""
    return metrics.coverage(_vector(y_true), _vector(y_pred_mean), _vector(y_pred_var))


def get_rhats(model: Any) -> np.ndarray:
    """Return R-hat of every weight of a fitted model."""
    table = model.posterior.summary().columns
    return table["r_hat"][[layer != "likelihood" for layer in table["layer"]]]


def split_in_batches(array: Any, batch_size: int = 200) -> list[Any]:
    """Return consecutive parts of at most `batch_size` examples."""
    return [array[i : i + batch_size] for i in range(0, len(array), batch_size)]


def calculate_sigma(X: Any) -> float:
    """Return the root mean square of all features."""
    return float(np.sqrt(np.mean(np.asarray(X, np.float64) ** 2)))


def set_fn(func: Callable[..., Any]) -> Callable[[Any, dict[str, Any]], Any]:
    """Return a function of x and a dict of parameters, from one with named parameters.

    Examples:
        >>> set_fn(lambda x, slope: slope * x)(2.0, {"slope": 3.0})
        6.0
    """
    names = list(inspect.signature(func).parameters)[1:]
    return lambda x, params: func(x, **{name: params[name] for name in names})
