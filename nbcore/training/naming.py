"""Names that are found in the data of a fit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from nbcore.distributions.likelihoods import Bernoulli, Categorical, Likelihood
from nbcore.metrics.class_names import classes_of
from nbcore.networks.evaluation import count_outputs
from nbcore.networks.inputs import num_examples
from nbcore.networks.network import Params, as_network
from nbcore.networks.tables import as_arrays, column_names
from nbcore.posterior.names import Names


def names_in(
    X: Any, y: Any, likelihood: Likelihood, model: Any, params: Params | None = None
) -> Names:
    """Return the names of features and classes in some data, as they were given.

    Args:
        X: inputs.
        y: targets.
        likelihood: meaning of the outputs for y.
        model: the network, or a model that `nb.as_network` knows.
        params: its parameters, if it cannot make any.

    Raises:
        LabelError, DataError, ShapeError: see `nbcore.metrics.class_names.classes_of`.
    """
    features = column_names(X)
    if not isinstance(likelihood, Categorical | Bernoulli):
        return Names(features)
    count = num_outputs(model, as_arrays(X), params)
    if isinstance(likelihood, Categorical):
        return Names(features, classes_of(y, count) if count > 1 else None)
    return Names(features, classes_of(y, 2) if count == 1 else None)


def num_outputs(model: Any, X: Any, params: Params | None = None) -> int:
    """Return the number of outputs of a network, without computing them.

    Args:
        model: the network, or a model that `nb.as_network` knows.
        X: inputs.
        params: its parameters; `None` reads their shapes off the network.
    """
    num_examples(X)
    first = jax.tree.map(lambda a: jnp.asarray(a[:1]), X)  # pyright: ignore[reportUnknownLambdaType]
    network = as_network(model, example=first)
    if params is None:
        params = jax.eval_shape(network.init, jax.random.key(0), first)
    return count_outputs(network, params, first)
