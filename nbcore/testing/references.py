"""Posteriors of nonlinear networks with known moments of their predictions.

No closed form is known here: the moments are those of long NUTS and HMC runs that agree, made by
`tests/benchmarks/make_references.py` and stored in `references.npz` together with data and trained
weights. The draws of a sampler are compared in prediction space, since weights of a network have
symmetries and predictions have none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from nbcore.distributions.likelihoods import Categorical, Gaussian, Likelihood
from nbcore.distributions.priors import HalfNormal, NormalPrior
from nbcore.networks.network import Network, Params
from nbcore.posterior.posterior import NetworkPosterior
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.targets.target import NetworkTarget, Target
from nbcore.testing import example

_Floats = NDArray[np.float64]

PATH = Path(__file__).with_name("references.npz")
PRIOR_SCALE = 0.5
NUM_PROBES = 8
"""Inputs at which predictions are compared: examples, moved away from where data were seen."""


def mlp(params: Params, x: jax.Array) -> jax.Array:
    """Return the outputs `(examples, 1)` of a perceptron with two hidden layers."""
    for name in ("First", "Middle"):
        x = jnp.tanh(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params["Output"]["kernel"] + params["Output"]["bias"]


def convolution(params: Params, x: jax.Array) -> jax.Array:
    """Return logits `(examples, 10)` of sequences `(examples, length, channels)`."""
    kernel = params["Convolution"]["kernel"]
    h = jax.lax.conv_general_dilated(
        x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    h = jnp.tanh(h + params["Convolution"]["bias"])
    h = h.reshape(h.shape[0], 4, -1, h.shape[2]).mean(axis=2).reshape(h.shape[0], -1)
    h = jnp.tanh(h @ params["Middle"]["kernel"] + params["Middle"]["bias"])
    return h @ params["Head"]["kernel"] + params["Head"]["bias"]


@dataclass(frozen=True)
class Problem:
    """What a reference is the posterior of, apart from its data and weights.

    Args:
        apply: the network, in plain JAX.
        shapes: shapes of its parameters.
        subset: the stochastic weights.
        likelihood: distribution of y given the outputs.
    """

    apply: Callable[[Params, Any], jax.Array]
    shapes: Mapping[str, Any]
    subset: ProbabilisticSubset
    likelihood: Likelihood

    def target(self, params: Params, X: Any, y: Any) -> NetworkTarget:
        """Return the log density of the stochastic weights, given data."""
        network = Network.from_functions(lambda key, x: params, self.apply, example=X[:1])
        prior = NormalPrior(scale=PRIOR_SCALE)
        return Target.build(
            network, params, self.subset, X, y, likelihood=self.likelihood, prior=prior
        )

    def predictions(self, posterior: NetworkPosterior, probes: Any) -> _Floats:
        """Return what draws predict, `(chain, draw, functions)`.

        Outputs of regressions, and the logarithm of an unknown noise; probabilities of classes.
        """
        outputs = np.asarray(posterior.outputs(probes), np.float64)
        if isinstance(self.likelihood, Categorical):
            outputs = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
            outputs = outputs / outputs.sum(axis=-1, keepdims=True)
        size = (posterior.num_chains, posterior.num_draws, -1)
        parameters = posterior.constrained()["likelihood"]
        unknown = [np.log(np.asarray(a, np.float64)) for a in jax.tree.leaves(parameters)]
        parts = [outputs.reshape(size), *(a.reshape(size) for a in unknown)]
        return np.concatenate(parts, axis=-1)


def _dense(inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {"kernel": (inputs, outputs), "bias": (outputs,)}


_MLP = {"First": _dense(3, 8), "Middle": _dense(8, 6), "Output": _dense(6, 1)}
_CONVOLUTION = {
    "Convolution": {"kernel": (3, 2, 4), "bias": (4,)},
    "Middle": _dense(16, 8),
    "Head": _dense(8, 10),
}
_TRIPLES = {
    "query": [(0, 0, 1), (1, 0, 2), (2, 1, 0), (3, 1, 1)],
    "key": [(0, 1, 2), (1, 1, 0), (2, 0, 1), (3, 0, 0)],
    "value": [(0, 0, 0), (1, 1, 1), (2, 0, 2), (3, 1, 2)],
}

PROBLEMS: Mapping[str, Problem] = {
    "mlp": Problem(
        mlp, _MLP, ProbabilisticSubset.layers("First", "Output"), Gaussian(noise=0.15)
    ),
    "mlp_unknown_noise": Problem(
        mlp, _MLP, ProbabilisticSubset.layers("First", "Output"),
        Gaussian(noise_prior=HalfNormal(0.5)),
    ),
    "convolution": Problem(
        convolution, _CONVOLUTION, ProbabilisticSubset.layers("Convolution", "Head"), Categorical()
    ),
    "attention": Problem(
        example.apply, example.SHAPES, ProbabilisticSubset.pairs({"Attention": _TRIPLES}),
        Gaussian(noise=0.2),
    ),
}  # fmt: skip
"""The problems, by name."""


@dataclass(frozen=True)
class Reference:
    """A posterior, and the moments of its predictions.

    Args:
        problem: network, subset and likelihood.
        target: the log density.
        probes: inputs of the predictions.
        mean: means of the predictions `(functions,)`.
        deviation: their standard deviations.
        mean_error: Monte Carlo standard errors of the means.
        deviation_error: Monte Carlo standard errors of the deviations.
    """

    problem: Problem
    target: NetworkTarget
    probes: Any
    mean: _Floats
    deviation: _Floats
    mean_error: _Floats
    deviation_error: _Floats

    def predictions(self, posterior: NetworkPosterior) -> _Floats:
        """Return what draws predict at the probes, `(chain, draw, functions)`."""
        return self.problem.predictions(posterior, self.probes)


@functools.cache
def reference(name: str) -> Reference:
    """Return a reference, read once per process.

    Args:
        name: one of `PROBLEMS`.

    Examples:
        >>> found = reference("attention")
        >>> found.mean.shape == found.deviation.shape
        True
    """
    with np.load(PATH) as stored:
        parts = {
            k.removeprefix(f"{name}/"): v for k, v in stored.items() if k.startswith(f"{name}/")
        }
    problem = PROBLEMS[name]
    params = unflat(problem.shapes, parts["params"])
    moments = (parts[m] for m in ("mean", "deviation", "mean_error", "deviation_error"))
    return Reference(
        problem, problem.target(params, parts["X"], parts["y"]), parts["probes"], *moments
    )


def unflat(shapes: Mapping[str, Any], values: NDArray[np.float32]) -> Params:
    """Return parameters of some shapes out of one vector."""
    leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda s: isinstance(s, tuple))
    ends = np.cumsum([int(np.prod(shape)) for shape in leaves])
    parts = np.split(values, ends[:-1])
    return jax.tree.unflatten(
        structure, [part.reshape(shape) for part, shape in zip(parts, leaves, strict=True)]
    )
