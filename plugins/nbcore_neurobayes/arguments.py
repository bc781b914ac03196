"""Arguments of NeuroBayes in the words of nbcore."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import jax
import numpy as np

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
    name = type(prior).__name__
    if name == "HalfNormal":
        return nbcore.HalfNormal(float(prior.scale))
    if name == "LogNormal":
        return nbcore.LogNormal(float(np.exp(prior.loc)), float(prior.scale))
    return prior


def weights_of(weights: Any) -> Any:
    """Return weights as nbcore reads them; those saved by NeuroBayes lose their inner modules.

    Args:
        weights: a trained network of this package, its parameters, parameters of a NeuroBayes
            network, or `None`.

    Raises:
        OptionError: they are of a NeuroBayes network with two heads.
    """
    trained = getattr(weights, "model", None)
    if isinstance(trained, nbcore.DeterministicNN):
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


def subset_of(
    names: Any, count: int | None, pairs: Mapping[str, Any] | None
) -> nbcore.ProbabilisticSubset | None:
    """Return the weights that NeuroBayes' three options choose together.

    Layers that are named are sampled as a whole, or, if they have pairs, in these alone.

    Raises:
        OptionError: names and a count are given, or pairs of a layer that is not named.
    """
    if names is not None and count is not None:
        raise OptionError(
            "Give probabilistic_layer_names or num_probabilistic_layers, not both of them."
        )
    if count is not None:
        if pairs:
            raise OptionError(
                "probabilistic_neurons says which layers are sampled in part; name the others "
                "with probabilistic_layer_names instead of num_probabilistic_layers."
            )
        return nbcore.ProbabilisticSubset.last(count)
    if pairs is None:
        return None if names is None else nbcore.ProbabilisticSubset.layers(*names)
    chosen = nbcore.ProbabilisticSubset.pairs(pairs)
    if names is None:
        return chosen
    unnamed = [name for name in pairs if name not in names]
    if unnamed:
        raise OptionError(
            f"probabilistic_neurons has pairs of {', '.join(unnamed)}, not among "
            f"probabilistic_layer_names={list(names)}. Add it there, or drop its pairs."
        )
    whole = [name for name in names if name not in pairs]
    return chosen | nbcore.ProbabilisticSubset.layers(*whole) if whole else chosen


@contextmanager
def on_device(device: str | None) -> Generator[None]:
    """Compute on a device such as `"cpu"` or `"gpu"`; `None` is JAX's default.

    Raises:
        OptionError: there is no such device.
    """
    if device is None:
        yield
        return
    try:
        chosen = jax.devices(device)[0]
    except RuntimeError as error:
        here = sorted({d.platform for d in jax.devices()} | {"cpu"})
        raise OptionError(
            f"There is no device {device!r} here. Possible: {', '.join(here)}, or None."
        ) from error
    with jax.default_device(chosen):
        yield
