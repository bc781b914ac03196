"""Moments of the gradients of minibatches at given parameters."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from nbcore.common.moments import Moments
from nbcore.distributions.likelihoods import Likelihood
from nbcore.networks.evaluation import HashableNetwork
from nbcore.networks.network import Network, Params
from nbcore.subsets.split import ParameterSplit
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.training.minibatches import Batches, BatchPlan, Data, Minibatch, batch_loss


def batch_gradients(
    network: Network,
    likelihood: Likelihood,
    params: Params,
    data: Data,
    *,
    batch_size: int,
    key: jax.Array,
) -> Moments:
    """Return the moments of the per-batch gradients of the likelihood at given parameters."""
    split = ProbabilisticSubset.everything().split(network, params)
    batches = Batches(network, data, BatchPlan.of(data.X, network.padding, batch_size))
    moments = Moments.empty(split.position)
    for batch in batches.epoch(key):
        moments = _add_gradient(HashableNetwork(network), likelihood, split, moments, batch)
    return merged_moments(split, moments)


@functools.partial(jax.jit, static_argnums=0)
def _add_gradient(
    static: HashableNetwork,
    likelihood: Likelihood,
    split: ParameterSplit,
    moments: Moments,
    batch: Minibatch,
) -> Moments:
    def loss(weights: Any) -> jax.Array:
        return batch_loss(static.network, likelihood, split.merge(weights), batch, None)

    return moments.update(jax.grad(loss)(split.position))


def merged_moments(split: ParameterSplit, moments: Moments) -> Moments:
    """Return the moments as pytrees like the parameters; state has variance 0."""
    # Squares of small numbers have no room in half precision.
    zeros = jax.tree.map(
        lambda a: jnp.zeros(a.shape, jnp.promote_types(a.dtype, "float32")), split.params
    )
    spread = ParameterSplit(zeros, split.indices, split.whole, split.layers, split.subset)
    recent = None if moments.recent is None else jax.vmap(spread.merge)(moments.recent)
    return Moments(
        moments.count, spread.merge(moments.mean), spread.merge(moments.sum_of_squares), recent
    )
