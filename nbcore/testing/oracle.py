"""A target with a closed-form posterior: the last layer of a network with known noise.

With hidden activations h, design rows (1, h), noise s and a normal prior N(c, p^2) of bias and
kernel, the posterior of each output is normal, with precision D^T D / s^2 + I / p^2 and mean
c + covariance D^T (y - D c) / s^2.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from nbcore.common.pytrees import register_pytree
from nbcore.distributions.likelihoods import Gaussian, LikelihoodParameters
from nbcore.distributions.priors import NormalPrior
from nbcore.networks.network import Network
from nbcore.posterior.posterior import Posterior
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.targets.target import NetworkTarget, Target

ROWS = 288
INPUTS = 3
HIDDEN = 4
NOISE = (2.2, 3.8)
PRIOR_SCALE = 0.4

_Floats = NDArray[np.float64]


class Traces:
    """Counts how often a density was traced."""

    def __init__(self) -> None:
        self.count = 0


@register_pytree
@dataclass(frozen=True)
class CountingGaussian(Gaussian):
    """A Gaussian likelihood that counts its traces: compiled programs call no Python.

    Args:
        traces: the counter.
    """

    traces: Traces = field(default_factory=Traces, metadata={"static": True})

    def log_prob(
        self, outputs: jax.Array, y: jax.Array, parameters: LikelihoodParameters
    ) -> jax.Array:
        """Return the log probability, and count the call."""
        self.traces.count += 1
        return super().log_prob(outputs, y, parameters)


@dataclass(frozen=True)
class Oracle:
    """A target, and the mean and covariance of its posterior.

    Args:
        target: the log density of the 10 weights of the last layer; its prior says as much
            about them as the data do.
        mean: `(10,)`, ordered by output, bias first.
        covariance: `(10, 10)`.
        layer: path of the last layer.
    """

    target: NetworkTarget
    mean: _Floats
    covariance: _Floats
    layer: str = "Head"

    @property
    def traces(self) -> int:
        """How often the density was traced."""
        likelihood = self.target.likelihood
        return likelihood.traces.count if isinstance(likelihood, CountingGaussian) else 0

    @property
    def deviations(self) -> _Floats:
        """Marginal standard deviations of the posterior `(10,)`."""
        return np.sqrt(np.diagonal(self.covariance))

    def standardized(self, posterior: Posterior) -> _Floats:
        """Return 20 functions of the draws that have mean 0 and variance 1, `(chain, draw, 20)`.

        The first 10 are the weights in the order of `mean`; the other 10 are independent of each
        other, so that wrong correlations are seen too.
        """
        centered = flat_weights(posterior.draws["weights"], self.layer) - self.mean
        inverse = np.linalg.inv(np.linalg.cholesky(self.covariance))
        return np.concatenate([centered / self.deviations, centered @ inverse.T], axis=-1)


def flat_weights(weights: dict[str, Any], layer: str = "Head") -> _Floats:
    """Return the weights of the last layer, any leading axes, as `(..., outputs * inputs)`."""
    bias = np.asarray(weights[f"{layer}/bias"], np.float64)
    kernel = np.asarray(weights[f"{layer}/kernel"], np.float64)
    columns = np.concatenate([bias[..., None], np.swapaxes(kernel, -1, -2)], axis=-1)
    return columns.reshape(*columns.shape[:-2], -1)


def closed_form(
    hidden: _Floats, y: NDArray[Any], noise: tuple[float, ...], scale: float, centers: _Floats
) -> tuple[_Floats, _Floats]:
    """Return posterior mean `(d,)` and covariance `(d, d)`, ordered by output, bias first.

    Args:
        hidden: inputs of the last layer `(examples, features)`.
        y: targets `(examples, outputs)`.
        noise: standard deviation of the noise of each output.
        scale: standard deviation of the prior.
        centers: center of the prior `(d,)`.
    """
    design = np.concatenate([np.ones((len(hidden), 1)), hidden], axis=1)
    size, outputs = design.shape[1], len(noise)
    around = centers.reshape(outputs, size)
    mean, covariance = np.zeros((outputs, size)), np.zeros((outputs * size, outputs * size))
    for j, deviation in enumerate(noise):
        block = np.linalg.inv(design.T @ design / deviation**2 + np.eye(size) / scale**2)
        mean[j] = around[j] + block @ design.T @ (y[:, j] - design @ around[j]) / deviation**2
        at = slice(j * size, (j + 1) * size)
        covariance[at, at] = block
    return mean.ravel(), covariance


def init(key: jax.Array, x: jax.Array) -> dict[str, Any]:
    """Return weights of a network with one hidden layer and two outputs."""
    sizes = {"Hidden": (x.shape[1], HIDDEN), "Head": (HIDDEN, len(NOISE))}
    keys = jax.random.split(key, len(sizes))
    return {
        name: {"kernel": jax.random.normal(k, size) / size[0] ** 0.5, "bias": jnp.zeros(size[1])}
        for k, (name, size) in zip(keys, sizes.items(), strict=True)
    }


def apply(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """Return the outputs `(examples, 2)`."""
    hidden = jnp.tanh(x @ params["Hidden"]["kernel"] + params["Hidden"]["bias"])
    return hidden @ params["Head"]["kernel"] + params["Head"]["bias"]


@functools.cache
def oracle() -> Oracle:
    """Return the oracle, made once per process.

    Examples:
        >>> oracle().mean.shape, oracle().target.split.size
        ((10,), 10)
    """
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, INPUTS)).astype(np.float32)
    network = Network.from_functions(init, apply, example=X[:1])
    params = jax.tree.map(np.asarray, network.init(jax.random.key(1), X[:1]))
    hidden = np.tanh(X.astype(np.float64) @ params["Hidden"]["kernel"] + params["Hidden"]["bias"])
    design = np.concatenate([np.ones((ROWS, 1)), hidden], axis=1)
    y = design @ rng.normal(scale=1.5, size=(HIDDEN + 1, len(NOISE)))
    y = (y + rng.normal(size=y.shape) * NOISE).astype(np.float32)
    target = Target.build(
        network,
        params,
        ProbabilisticSubset.layers("Head"),
        X,
        y,
        likelihood=CountingGaussian(noise=NOISE),
        prior=NormalPrior(scale=PRIOR_SCALE),
    )
    centers = flat_weights(target.split.stochastic)
    return Oracle(target, *closed_form(hidden, y, NOISE, PRIOR_SCALE, centers))


def with_data(target: NetworkTarget, y: jax.Array) -> NetworkTarget:
    """Return the target with other y `(N, outputs)`; nothing is recompiled."""
    blocks = tuple(replace(block, y=y[block.indices]) for block in target.blocks)
    return replace(target, blocks=blocks)
