"""Metrics and helpers under the names and with the argument order of NeuroBayes.

Columns `(n, 1)` and vectors `(n,)` are aligned; other shapes that differ raise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from nbcore import metrics
from nbcore.errors import MissingExtraError
from nbcore_neurobayes.arguments import device_of, weights_of
from nbcore_neurobayes.elsewhere import names_of

__all__ = [
    "calculate_sigma",
    "confidence_interval",
    "coverage",
    "flatten_params_dict",
    "get_flax_compatible_dict",
    "get_prior_means_from_samples",
    "get_rhats",
    "infer_device",
    "mae",
    "mse",
    "nlpd",
    "plot_rhats",
    "put_on_device",
    "rmse",
    "set_fn",
    "split_dict",
    "split_in_batches",
]

__getattr__ = names_of(__name__)


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


def infer_device(device_preference: str | None = None) -> Any:
    """Return the device of a name such as `"cpu"`, by default the first one.

    Raises:
        OptionError: there is no such device.
    """
    return device_of(device_preference) if device_preference else jax.devices()[0]


def put_on_device(device: str | None = None, *data_items: Any) -> tuple[Any, ...]:
    """Return data, put on a device of this name; as they are without one."""
    if device is None:
        return data_items
    return tuple(jax.device_put(item, device_of(device)) for item in data_items)


def split_dict(data: Mapping[str, Any], chunk_size: int) -> list[dict[str, Any]]:
    """Return a dict of arrays in consecutive parts of at most `chunk_size`.

    Examples:
        >>> split_dict({"a": [1, 2, 3]}, 2)
        [{'a': [1, 2]}, {'a': [3]}]
    """
    count = len(next(iter(data.values())))
    starts = range(0, count, chunk_size)
    return [{name: array[i : i + chunk_size] for name, array in data.items()} for i in starts]


def plot_rhats(model: Any) -> None:
    """Plot a histogram of R-hat of every weight.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot as plt  # noqa: PLC0415  only plots need it
    except ModuleNotFoundError as error:
        raise MissingExtraError("plot_rhats", "report", error.name) from error
    plt.hist(get_rhats(model), bins=20)
    plt.xlabel("R-hat")
    plt.ylabel("weights")


def flatten_params_dict(params_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters by layer; those saved by NeuroBayes lose their inner modules."""
    weights = weights_of(dict(params_dict))
    return dict(weights.get("params", weights))


def get_flax_compatible_dict(params_numpyro: Mapping[str, Any]) -> dict[str, Any]:
    """Return draws of a `BNN` by layer, as flax has its parameters, and others by their name.

    Args:
        params_numpyro: draws by name, `model.get_samples()`.

    Examples:
        >>> get_flax_compatible_dict({"nn/Dense0.bias": 1.0, "sig": 2.0})
        {'Dense0': {'bias': 1.0}, 'sig': 2.0}
    """
    found: dict[str, Any] = {}
    for name, draws in params_numpyro.items():
        module, slash, path = name.partition("/")
        *layers, leaf = path.split(".") if slash and module == "nn" else [name]
        place = found
        for layer in layers:
            place = place.setdefault(layer, {})
        place[leaf] = draws
    return found


def get_prior_means_from_samples(params_numpyro: Mapping[str, Any]) -> dict[str, Any]:
    """Return the means of the weights of a `BNN` by layer, such as for `pretrained_priors`.

    Args:
        params_numpyro: draws by name, `model.get_samples()`.
    """
    means = {k: np.mean(v, axis=0) for k, v in params_numpyro.items() if k.startswith("nn/")}
    return get_flax_compatible_dict(means)
