"""Outputs and predictions of a network with one set of weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbcore.distributions.each_draw import each_draw
from nbcore.distributions.likelihoods import Likelihood
from nbcore.networks.evaluation import as_columns, compiled_apply, is_per_example
from nbcore.networks.inputs import num_examples
from nbcore.networks.length_buckets import ExampleBuffer, batches
from nbcore.networks.network import Network, Params
from nbcore.posterior.prediction import Prediction
from nbcore.posterior.scaler import Scaler

EXAMPLES_AT_ONCE = 512


def predict_at(
    network: Network, params: Params, likelihood: Likelihood, scaler: Scaler | None, X: Any
) -> Prediction:
    """Return the prediction of one set of weights; the likelihood has no parameters."""
    outputs = network_outputs(network, params, X)
    prediction = Prediction(each_draw(likelihood, outputs[None], {}))
    return prediction if scaler is None else prediction.in_units_of(scaler)


def root_mean_square(residuals: np.ndarray) -> np.ndarray:
    """Return the root mean square of each column; missing values are left out."""
    return np.sqrt(np.nanmean(residuals**2, axis=0))


def mean_where(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Return the mean of the values of each column that count; NaN if none does.

    Args:
        values: `(n, outputs)`.
        counted: which of them count, of the same shape.

    Examples:
        >>> mean_where(np.array([[1.0], [np.nan], [3.0]]), np.array([[True], [False], [True]]))
        array([2.])
    """
    with np.errstate(invalid="ignore"):
        return np.sum(values, axis=0, where=counted) / np.sum(counted, axis=0)


def network_outputs(network: Network, params: Params, X: Any) -> np.ndarray:
    """Return the outputs of a network `(N, outputs)`, in batches of similar length."""
    found = ExampleBuffer(num_examples(X), axis=0)
    fills = is_per_example(network, params, X)
    for indices, inputs in batches(X, network.padding, EXAMPLES_AT_ONCE, fills=fills):
        outputs = compiled_apply(network, params, inputs)
        found.put(indices, as_columns(outputs, num_examples(inputs)))
    return found.array
