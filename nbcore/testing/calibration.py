"""Simulation-based calibration: ranks of parameters drawn from the prior among their draws."""

from __future__ import annotations

import functools
import math

import jax
import numpy as np
from numpy.typing import NDArray

from nbcore.distributions.likelihoods import Gaussian
from nbcore.distributions.priors import LogNormal, NormalPrior
from nbcore.networks.network import Network
from nbcore.posterior.posterior import Posterior
from nbcore.sampling.backend import Backend
from nbcore.sampling.driver import sample
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.targets.target import NetworkTarget, Position, Target
from nbcore.testing.oracle import apply, init, with_data

DATA_SETS = 160
DRAWS = 63
LEAST_THIN = 8
GRADIENTS_PER_DRAW = 256
"""Ranks are uniform only among draws that are nearly independent: cheap steps need more of them."""

BINS = 8
LEAST_P = 1e-3


@functools.cache
def _target() -> NetworkTarget:
    """Return a small network: some weights of the hidden layer, the last layer, the noise."""
    X = np.random.default_rng(5).normal(size=(20, 3)).astype(np.float32)
    network = Network.from_functions(init, apply, example=X[:1])
    params = network.init(jax.random.key(6), X[:1])
    some = ProbabilisticSubset.pairs({"Hidden": [(0, 0), (1, 2), (2, 1)]})
    return Target.build(
        network,
        params,
        some | ProbabilisticSubset.layers("Head"),
        X,
        np.zeros((20, 2), np.float32),
        likelihood=Gaussian(noise_prior=LogNormal(0.5, 0.3)),
        prior=NormalPrior(scale=0.5),
    )


def rank_p_values(backend: Backend) -> NDArray[np.float64]:
    """Return the p-value of the uniformity of ranks for each unknown.

    A position is drawn from the prior and data from the position; its rank among posterior draws
    given those data is uniform on 0 .. draws, if sampler and density are right.

    Args:
        backend: the sampler.

    References:
        Talts, Betancourt, Simpson, Vehtari and Gelman (2018), "Validating Bayesian inference
        algorithms with simulation-based calibration", algorithm 1.
    """
    ranks = np.stack([_ranks(backend, n) for n in range(DATA_SETS)])
    counts = np.stack([np.bincount(r * BINS // (DRAWS + 1), minlength=BINS) for r in ranks.T])
    expected = DATA_SETS / BINS
    statistic = np.sum((counts - expected) ** 2, axis=1) / expected
    return np.asarray(jax.scipy.special.gammaincc((BINS - 1) / 2, statistic / 2), np.float64)


def _ranks(backend: Backend, n: int) -> NDArray[np.int64]:
    target = _target()
    key = jax.random.fold_in(jax.random.key(7), n)
    for_truth, for_noise, for_chain = jax.random.split(key, 3)
    truth, y = _simulated(target, for_truth, for_noise)
    gradients = getattr(backend, "expected_gradients", 1)
    thin = max(LEAST_THIN, math.ceil(GRADIENTS_PER_DRAW / gradients))
    posterior = sample(
        with_data(target, y),
        backend,
        key=for_chain,
        num_warmup=500,
        num_samples=DRAWS * thin,
        thin=thin,
        num_chains=1,
        chunk_size=500,
        progress=False,
    )
    return (_numbers(posterior) < _flat(truth)).sum(axis=0)


@jax.jit
def _simulated(
    target: NetworkTarget, for_truth: jax.Array, for_noise: jax.Array
) -> tuple[Position, jax.Array]:
    truth = target.prior_position(for_truth)
    mean = target.outputs(truth["weights"])
    noise = target.likelihood.constrain(truth["likelihood"])["noise"]
    return truth, mean + noise * jax.random.normal(for_noise, mean.shape)


def _numbers(posterior: Posterior) -> NDArray[np.float64]:
    return np.concatenate(
        [a[0].reshape(a.shape[1], -1) for a in jax.tree.leaves(posterior.draws)], axis=1
    )


def _flat(position: object) -> NDArray[np.float64]:
    return np.concatenate([np.ravel(a) for a in jax.tree.leaves(position)])
