"""Outputs and predictive distributions of many draws of a network's weights, in batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from nbcore.distributions.each_draw import each_draw
from nbcore.distributions.likelihoods import Likelihood
from nbcore.errors import OptionError
from nbcore.networks.evaluation import is_per_example
from nbcore.networks.inputs import check_inputs, num_examples
from nbcore.networks.length_buckets import ExampleBuffer, batches
from nbcore.networks.network import Network
from nbcore.posterior.prediction import Prediction
from nbcore.posterior.scaler import Scaler
from nbcore.subsets.split import ParameterSplit, Weights
from nbcore.targets.hoisting.forward import Forward
from nbcore.targets.target import NetworkTarget, Position, Target

EXAMPLES_AT_ONCE = 256
DRAWS_AT_ONCE = 16


def flattened(draws: Any, max_draws: int | None = None) -> Any:
    """Return draws `(chain, draw, ...)` with one leading axis, thinned evenly.

    Args:
        draws: a pytree of arrays with leading axes `(chain, draw)`.
        max_draws: how many draws are kept at most; `None` keeps all.

    Raises:
        OptionError: none would be kept.
    """

    def thin(array: Any) -> jax.Array:
        flat = np.reshape(array, (-1, *np.shape(array)[2:]))
        count = len(flat) if max_draws is None else min(max_draws, len(flat))
        kept = flat[np.linspace(0, len(flat) - 1, count).round().astype(int)]
        return jax.device_put(kept)  # compiles nothing

    if max_draws is not None and max_draws < 1:
        raise OptionError(f"max_draws must be at least 1, got {max_draws}.")
    return jax.tree.map(thin, draws)


def predict(
    network: Network,
    split: ParameterSplit,
    likelihood: Likelihood,
    scaler: Scaler | None,
    positions: Position,
    x: Any,
    linearized_at: Weights | None = None,
) -> Prediction:
    """Return the mixture of the predictive distributions of some positions.

    Args:
        network: the network.
        split: its stochastic and frozen weights.
        likelihood: the distribution of y given the outputs.
        scaler: units of y.
        positions: draws of the stochastic weights and of the parameters, with a leading draw axis.
        x: inputs.
        linearized_at: weights at which the network is linearized, if it is.
    """
    found = ExampleBuffer(num_examples(x))
    for indices, outputs in _in_batches(network, split, positions["weights"], x, linearized_at):
        found.put(indices, outputs)
    prediction = Prediction(each_draw(likelihood, found.array, positions["likelihood"]))
    return prediction if scaler is None else prediction.in_units_of(scaler)


def network_outputs(
    network: Network,
    split: ParameterSplit,
    likelihood: Likelihood,
    weights: Weights,
    x: Any,
    linearized_at: Weights | None = None,
) -> np.ndarray:
    """Return the network's own outputs for draws of its weights, `(draws, examples, outputs)`."""
    found = ExampleBuffer(num_examples(x))
    for indices, outputs in _in_batches(network, split, weights, x, linearized_at):
        found.put(indices, outputs[..., : likelihood.num_network_outputs(outputs.shape[2])])
    return found.array


def target_of(
    network: Network,
    split: ParameterSplit,
    likelihood: Likelihood,
    scaler: Scaler | None,
    x: Any,
    y: Any,
    linearized_at: Weights | None = None,
) -> NetworkTarget:
    """Return the log density of given data; y is in its own units.

    Raises:
        OptionError: X or y is missing.
    """
    if x is None or y is None:
        raise OptionError(
            "The log likelihood is that of inputs and targets, and a posterior that was loaded has "
            "none: the data of the fit are not stored. Type: posterior.log_likelihood(X, y)"
        )
    targets = y if scaler is None else scaler.standardize(np.asarray(y))
    target = Target.build(network, split.params, split, x, targets, likelihood=likelihood)
    return target if linearized_at is None else target.linearized({"weights": linearized_at})


def observed_targets(target: NetworkTarget, scaler: Scaler | None) -> np.ndarray:
    """Return the targets of a log density in the units of y, `(N,)` for one output."""
    found = target.targets()
    found = found if scaler is None else scaler.shift + scaler.scale * found
    return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found


def log_likelihoods(target: NetworkTarget, positions: Position) -> np.ndarray:
    """Return log p(y_i | position), `(draws, examples)`, for positions with a leading draw axis."""
    return np.asarray(_log_likelihoods(target, positions))


def _in_batches(
    network: Network,
    split: ParameterSplit,
    weights: Weights,
    x: Any,
    linearized_at: Weights | None,
) -> Iterator[tuple[np.ndarray, jax.Array]]:
    """Yield indices of examples, and their outputs `(draws, examples, outputs)`.

    Whatever does not depend on the draws is computed once. The last batch of a length may be
    filled up with further examples, beyond those that the indices name.
    """
    check_inputs(network, x)
    per_example = is_per_example(network, split.params, x)
    size = EXAMPLES_AT_ONCE if per_example else num_examples(x)
    padding = network.padding if per_example else None
    for indices, inputs in batches(x, padding, size, fills=per_example):
        forward = Forward.build(network, split, inputs, per_example=per_example)
        if linearized_at is not None:
            forward = forward.linearized(linearized_at)
        yield indices, _draw_outputs(forward, weights, forward.features(split, inputs))


@jax.jit
def _draw_outputs(forward: Forward, weights: Weights, features: Any) -> jax.Array:
    def one(drawn: Weights) -> jax.Array:
        return forward.outputs(drawn, features)

    return jax.lax.map(one, weights, batch_size=DRAWS_AT_ONCE)


@jax.jit
def _log_likelihoods(target: NetworkTarget, positions: Position) -> jax.Array:
    return jax.lax.map(target.log_likelihood, positions, batch_size=DRAWS_AT_ONCE)
