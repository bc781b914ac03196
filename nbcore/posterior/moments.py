"""Predictive mean and variance as a pure function of the inputs, for gradients and optimizers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.distributions.likelihoods import Likelihood
from nbcore.errors import OptionError
from nbcore.networks.evaluation import HashableNetwork, as_columns
from nbcore.networks.inputs import num_examples
from nbcore.posterior.scaler import Scaler
from nbcore.subsets.split import ParameterSplit, Weights
from nbcore.targets.target import Position

DRAWS_AT_ONCE = 16
MOST_OFFSET = 1e4
"""Size of y over its spread from which single precision keeps fewer than three digits."""


class PredictiveMoments(NamedTuple):
    """Moments of a predictive distribution, in single precision: `posterior.moments(x)`.

    They are those of `posterior.predict(x)`, as JAX arrays `(examples, targets)`: `jax.jit`,
    `jax.vmap` and `jax.grad` take the function. All examples are computed at once, and `x` is an
    array (or a pytree of arrays) that is not checked. `max_draws` uses at most so many draws;
    `standardized=True` gives moments of (y - scaler.shift) / scaler.scale, with the `scaler` of the
    posterior, if single precision cannot hold those of y.

    Attributes:
        mean: mean of y.
        epistemic_variance: variance of the mean over the draws.
        aleatoric_variance: variance of y given the weights, averaged over the draws.
    """

    mean: jax.Array
    epistemic_variance: jax.Array
    aleatoric_variance: jax.Array

    @property
    def variance(self) -> jax.Array:
        """Variance of y."""
        return self.epistemic_variance + self.aleatoric_variance


def moments(
    network: Any,
    split: ParameterSplit,
    likelihood: Likelihood,
    scaler: Scaler | None,
    positions: Position,
    x: Any,
    linearized_at: Weights | None = None,
) -> PredictiveMoments:
    """Return the moments of the mixture of some positions; pure, and jittable in `x`.

    Args:
        network: the network.
        split: its stochastic and frozen weights.
        likelihood: the distribution of y given the outputs.
        scaler: units of y; `None` keeps those of the network.
        positions: draws of the stochastic weights and of the parameters, with a leading draw axis.
        x: inputs.
        linearized_at: weights at which the network is linearized, if it is.

    Raises:
        OptionError: single precision cannot hold the moments in the units of y.
    """
    dtype = jnp.result_type(float)
    if scaler is not None:
        _check_units(scaler, dtype)
    shift, scale = (
        (jnp.zeros(()), jnp.ones(()))
        if scaler is None
        else (jnp.asarray(a, dtype) for a in (scaler.shift, scaler.scale))
    )
    found = _moments(HashableNetwork(network), split, likelihood, positions, x, linearized_at)
    mean, epistemic, aleatoric = found
    return PredictiveMoments(shift + scale * mean, scale**2 * epistemic, scale**2 * aleatoric)


def of_mixture(
    each: Sequence[PredictiveMoments],
    noise: np.ndarray | None = None,
    scale: np.ndarray | None = None,
) -> PredictiveMoments:
    """Return the moments of the equal mixture of several.

    Args:
        each: moments of each.
        noise: replaces the noise of each `(targets,)`.
        scale: factor of the epistemic variance of each `(targets,)`.
    """
    means, epistemic, aleatoric = (jnp.stack(parts) for parts in zip(*each, strict=True))
    if scale is not None:
        epistemic = epistemic * jnp.asarray(scale, epistemic.dtype)
    spread = epistemic.mean(axis=0) + means.var(axis=0)
    within = aleatoric.mean(axis=0)
    if noise is not None:
        within = jnp.broadcast_to(jnp.asarray(noise, within.dtype) ** 2, within.shape)
    return PredictiveMoments(means.mean(axis=0), spread, within)


@functools.partial(jax.jit, static_argnums=0)
def _moments(
    static: HashableNetwork,
    split: ParameterSplit,
    likelihood: Likelihood,
    positions: Position,
    x: Any,
    linearized_at: Weights | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    def outputs(weights: Weights) -> jax.Array:
        return as_columns(static.network.apply(split.merge(weights), x), num_examples(x))

    def one(position: Position) -> tuple[jax.Array, jax.Array]:
        weights = position["weights"]
        if linearized_at is None:
            found = outputs(weights)
        else:
            move = jax.tree.map(jnp.subtract, weights, linearized_at)
            there, change = jax.jvp(outputs, (linearized_at,), (move,))
            found = there + change
        return likelihood.moments(found, position["likelihood"])

    means, variances = jax.lax.map(one, positions, batch_size=DRAWS_AT_ONCE)
    return means.mean(axis=0), means.var(axis=0), variances.mean(axis=0)


def _check_units(scaler: Scaler, dtype: Any) -> None:
    limits, squared = jnp.finfo(dtype), scaler.scale**2
    is_small = np.abs(scaler.shift) <= MOST_OFFSET * scaler.scale
    if np.all(
        is_small & (squared > limits.tiny / limits.eps) & (squared < limits.max * limits.eps)
    ):
        return
    raise OptionError(
        f"{dtype} cannot hold these moments in the units of y, which is about {scaler.shift} with "
        f"a spread of {scaler.scale}. Type standardized=True, for moments of (y - scaler.shift) / "
        "scaler.scale."
    )
