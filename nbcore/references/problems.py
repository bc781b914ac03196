"""Problems of the references: networks, stochastic weights, priors and likelihoods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from nbcore.distributions.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    Likelihood,
    StudentT,
)
from nbcore.distributions.positive import HalfNormal, LogNormal
from nbcore.distributions.priors import NormalPrior, Prior
from nbcore.networks.network import Network, Params
from nbcore.references import networks
from nbcore.references.networks import Shapes
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.targets.target import NetworkTarget, Target

HALF = NormalPrior(scale=0.5)
NUM_PROBES = 8
"""Inputs at which predictions are compared: examples, moved away from where data were seen."""
VOCABULARY, LENGTH = 16, 16
"""Of the molecules: tokens, padding included, and the longest string."""


@dataclass(frozen=True)
class Problem:
    """What a reference is the posterior of, apart from its data and weights.

    Args:
        description: what it is and what makes it easy or hard, in a sentence.
        apply: the network, in plain JAX.
        shapes: shapes of its parameters.
        subset: the stochastic weights.
        likelihood: distribution of y given the outputs.
        prior: distribution of the stochastic weights.
        data: which data it has, as in `tests/benchmarks/make_references.py`.
    """

    description: str
    apply: Callable[[Params, Any], jax.Array]
    shapes: Shapes
    subset: ProbabilisticSubset
    likelihood: Likelihood
    data: str
    prior: Prior = HALF

    def target(self, params: Params, X: Any, y: Any) -> NetworkTarget:
        """Return the log density of the stochastic weights, given data."""
        network = Network.from_functions(lambda key, x: params, self.apply, example=X[:1])
        return Target.build(
            network, params, self.subset, X, y, likelihood=self.likelihood, prior=self.prior
        )


_MLP = networks.perceptron(3, 8, 6, 1)
_ENDS = ProbabilisticSubset.layers("Layer0", "Layer2")
_CONVOLUTION: Shapes = {
    "Convolution": {"kernel": (3, 2, 4), "bias": (4,)},
    "Middle": networks.dense(16, 8),
    "Head": networks.dense(8, 10),
}
_CHANNELS = [(i, o) for i in range(2) for o in range(4)]
_TRIPLES = {
    "query": [(0, 0, 1), (1, 0, 2), (2, 1, 0), (3, 1, 1)],
    "key": [(0, 1, 2), (1, 1, 0), (2, 0, 1), (3, 0, 0)],
    "value": [(0, 0, 0), (1, 1, 1), (2, 0, 2), (3, 1, 2)],
}
_TRANSFORMER = networks.transformer_shapes(VOCABULARY, LENGTH)


def _molecules(description: str, subset: ProbabilisticSubset) -> Problem:
    likelihood = Gaussian(noise=0.4)
    return Problem(description, networks.transformer, _TRANSFORMER, subset, likelihood, "molecules")


PROBLEMS: Mapping[str, Problem] = {
    "linear": Problem(
        "The output layer of a perceptron, with known noise: a normal posterior in closed form.",
        networks.mlp, _MLP, ProbabilisticSubset.layers("Layer2"), Gaussian(noise=0.15),
        "waves",
    ),
    "logistic": Problem(
        "The output layer of a perceptron for two classes: log-concave, skewed.",
        networks.mlp, _MLP, ProbabilisticSubset.layers("Layer2"), Bernoulli(), "halves",
        NormalPrior(scale=2.0),
    ),
    "funnel": Problem(
        "The output layer, its noise, and the scale of its prior: a funnel at small scales.",
        networks.mlp, _MLP, ProbabilisticSubset.layers("Layer2"),
        Gaussian(noise_prior=HalfNormal(0.5)), "waves", NormalPrior(scale=LogNormal(0.3, 1.0)),
    ),
    "mlp-ends": Problem(
        "First and output layer of a perceptron, with known noise.",
        networks.mlp, _MLP, _ENDS, Gaussian(noise=0.15), "waves",
    ),
    "mlp-ends-noise": Problem(
        "First and output layer of a perceptron, and the noise.",
        networks.mlp, _MLP, _ENDS, Gaussian(noise_prior=HalfNormal(0.5)), "waves",
    ),
    "mlp-ends-student-t": Problem(
        "First and output layer of a perceptron, scale and tails of Student's t noise.",
        networks.mlp, _MLP, _ENDS, StudentT(), "outliers",
    ),
    "mlp-permutations": Problem(
        "All weights of a perceptron with three hidden units: copies of the posterior by "
        "permutation and sign, some of them joined.",
        networks.mlp, networks.perceptron(1, 3, 1), ProbabilisticSubset.everything(),
        Gaussian(noise=0.2), "bump", NormalPrior(scale=1.5),
    ),
    "mlp-molecules": Problem(
        "All weights of a perceptron, and the noise, on counts of atoms and rings of molecules.",
        networks.mlp, networks.perceptron(4, 4, 1), ProbabilisticSubset.everything(), Gaussian(),
        "counts", NormalPrior(scale=1.0),
    ),
    "convolution-channels": Problem(
        "All channels of a convolution, not its head, on ten classes.",
        networks.convolution, _CONVOLUTION,
        ProbabilisticSubset.pairs({"Convolution": _CHANNELS}), Categorical(), "frequencies",
    ),
    "convolution-head": Problem(
        "A convolution and its head, on ten classes.",
        networks.convolution, _CONVOLUTION, ProbabilisticSubset.layers("Convolution", "Head"),
        Categorical(), "frequencies",
    ),
    "attention": Problem(
        "Triples of query, key and value of an attention layer, below a convolution.",
        networks.tokens, networks.TOKENS, ProbabilisticSubset.pairs({"Attention": _TRIPLES}),
        Gaussian(noise=0.2), "tokens",
    ),
    "transformer-head": _molecules(
        "The output layer of a transformer that reads molecules.",
        ProbabilisticSubset.layers("FinalDense2"),
    ),
    "transformer-pairs": _molecules(
        "100 pairs of the layer before the output layer of that transformer.",
        ProbabilisticSubset.pairs(
            {"FinalDense1": [(i, j) for i in range(8) for j in range(16)][:100]}
        ),
    ),
    "transformer-tokens": _molecules(
        "30 pairs of the embedding of its tokens.",
        ProbabilisticSubset.pairs(
            {"TokenEmbed": [(t, (3 * t + j) % 8) for t in range(1, VOCABULARY) for j in (0, 1)]}
        ),
    ),
}  # fmt: skip
"""The problems by name, roughly from easy to hard within a network."""
