"""Arguments of NeuroBayes in the words of nbcore."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import jax
import numpy as np
from numpyro import distributions as dist

import nbcore
from nbcore.errors import OptionError, did_you_mean

ChainMethod = Literal["sequential", "threads", "vectorized"]
CHAIN_METHODS: dict[str, ChainMethod] = {
    "sequential": "sequential",
    "parallel": "threads",
    "vectorized": "vectorized",
}
SGD_EPOCHS = 500
NESTED = re.compile(
    r"(MLPLayer|ConvLayer|Embed|LayerNorm|TransformerAttention|TransformerMLP)Module_\d+$"
    r"|TransformerBlock_\d+$"
)


def as_rows(X: Any) -> Any:
    """Return inputs with an example axis and at least one more."""
    rows = np.asarray(X)
    return rows[:, None] if rows.ndim == 1 else rows


def as_columns(values: np.ndarray) -> np.ndarray:
    """Return values `(examples,)` as `(examples, 1)`."""
    return values[:, None] if values.ndim == 1 else values


def chain_method_of(name: str) -> ChainMethod:
    """Return what nbcore calls a way of running chains.

    Raises:
        OptionError: there is no such way.
    """
    if name not in CHAIN_METHODS:
        raise OptionError(
            f"chain_method is {', '.join(CHAIN_METHODS)}, got {name!r}."
            f"{did_you_mean(name, CHAIN_METHODS)}"
        )
    return CHAIN_METHODS[name]


def sampling_of(
    chain_method: str, max_num_restarts: int, min_accept_prob: float
) -> nbcore.SamplingOptions:
    """Return how chains are run; NeuroBayes counts the first run among its restarts.

    Raises:
        OptionError: an option has an impossible value.
    """
    return nbcore.SamplingOptions(
        chain_method=chain_method_of(chain_method),
        max_num_restarts=max(max_num_restarts - 1, 0),
        min_acceptance_rate=min_accept_prob,
    )


def training_of(
    epochs: int | None,
    learning_rate: float | None,
    batch_size: int,
    swa_config: Mapping[str, Any] | None,
    sigma: float,
) -> nbcore.TrainingOptions:
    """Return how the network is trained.

    Raises:
        OptionError: an option has an impossible value.
    """
    options: dict[str, Any] = {
        "epochs": SGD_EPOCHS if epochs is None else epochs,
        "batch_size": batch_size,
        "sigma": sigma,
    }
    if learning_rate is not None:
        options["learning_rate"] = learning_rate
    if swa_config is not None:
        options["swa"] = dict(swa_config)
    return nbcore.TrainingOptions(**options)


def noise_prior_of(prior: Any) -> Any:
    """Return nbcore's prior of a positive parameter for a distribution of NumPyro.

    Args:
        prior: a distribution of NumPyro, a prior of nbcore, or `None`. A `HalfNormal` or a
            `LogNormal` becomes that of nbcore, so that posteriors can be saved with it.

    Examples:
        >>> from numpyro import distributions as dist
        >>> noise_prior_of(dist.HalfNormal(0.5))
        HalfNormal(scale=0.5)
    """
    if prior is None or hasattr(prior, "log_spread"):
        return prior
    if type(prior) is dist.HalfNormal:
        return nbcore.HalfNormal(_plain(prior.scale))
    if type(prior) is dist.LogNormal and np.size(prior.scale) == 1:
        return nbcore.LogNormal(_plain(np.exp(prior.loc)), float(np.ravel(prior.scale)[0]))
    return prior


def _plain(numbers: Any) -> Any:
    """Return one number, or a tuple of one for each output."""
    values = np.ravel(np.asarray(numbers, np.float64)).tolist()
    return values[0] if len(values) == 1 else tuple(values)


class Weights(dict[str, Any]):
    """Weights by layer that know the network that they were trained as.

    A `PartialBNN` that trains its network does so in standardized units. The weights are dicts, as
    flax has them, in those units; given to another model they count with their units.

    Args:
        trained: the network.
    """

    def __init__(self, trained: nbcore.DeterministicNN) -> None:
        super().__init__(bare(trained.params))
        self.trained = trained


def _unflattened(keys: tuple[str, ...], values: Any) -> Any:
    """Return a plain dict: what was changed are no longer the weights of the network."""
    return dict(zip(keys, values, strict=True))


jax.tree_util.register_pytree_with_keys(
    Weights,
    lambda w: ([(jax.tree_util.DictKey(k), w[k]) for k in sorted(w)], tuple(sorted(w))),
    _unflattened,
)


def weights_of(weights: Any) -> Any:
    """Return weights as nbcore reads them; those saved by NeuroBayes lose their inner modules.

    Args:
        weights: a trained network of this package, or its parameters; parameters of a NeuroBayes
            network; or `None`.

    Raises:
        OptionError: they are of a NeuroBayes network with two heads.
    """
    if isinstance(weights, Weights):
        return weights.trained
    trained = getattr(weights, "estimator", None)
    if isinstance(trained, nbcore.DeterministicNN | nbcore.EnsembleDeterministicNN):
        return trained
    if not isinstance(weights, Mapping):
        return weights
    inner = weights.get("params", weights)
    if not any(NESTED.match(str(name)) for name in inner):
        return weights
    layers = dict(_layers(inner))
    if "VarianceHead" in layers:
        raise OptionError(
            "These weights have a VarianceHead, whose softplus NeuroBayes trains as a variance and "
            "samples as a standard deviation. Train the network anew: its second head is the "
            "logarithm of the standard deviation here."
        )
    return layers


def _layers(modules: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, inner in modules.items():
        if NESTED.match(name):
            yield from _layers(inner)
        else:
            yield name, inner


def bare(params: Any) -> Any:
    """Return the collection `"params"` of flax variables, if there is no other."""
    return params["params"] if list(params) == ["params"] else params


def device_of(device: str) -> Any:
    """Return the first device of a name such as `"cpu"` or `"gpu"`.

    Raises:
        OptionError: there is no such device.
    """
    try:
        return jax.devices(device.lower())[0]
    except RuntimeError as error:
        here = sorted({d.platform for d in jax.devices()} | {"cpu"})
        raise OptionError(
            f"There is no device {device!r} here. Possible: {', '.join(here)}, or None."
        ) from error


@contextmanager
def on_device(device: str | None) -> Generator[None]:
    """Compute on a device such as `"cpu"` or `"gpu"`; `None` is JAX's default.

    Raises:
        OptionError: there is no such device.
    """
    if device is None:
        yield
        return
    with jax.default_device(device_of(device)):
        yield
