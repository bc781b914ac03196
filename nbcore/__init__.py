"""Make part of a neural network Bayesian: a real MCMC posterior over chosen weights.

The public names are resolved when they are first used, so that `import nbcore` imports neither
jax nor optax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbcore import compare as compare
    from nbcore import datasets as datasets
    from nbcore import errors as errors
    from nbcore import metrics as metrics
    from nbcore import references as references
    from nbcore.distributions.continuous import NormalDistribution as NormalDistribution
    from nbcore.distributions.continuous import StudentTDistribution as StudentTDistribution
    from nbcore.distributions.discrete import BernoulliDistribution as BernoulliDistribution
    from nbcore.distributions.discrete import CategoricalDistribution as CategoricalDistribution
    from nbcore.distributions.discrete import PoissonDistribution as PoissonDistribution
    from nbcore.distributions.distribution_prior import DistributionPrior as DistributionPrior
    from nbcore.distributions.likelihoods import Bernoulli as Bernoulli
    from nbcore.distributions.likelihoods import Categorical as Categorical
    from nbcore.distributions.likelihoods import Gaussian as Gaussian
    from nbcore.distributions.likelihoods import Heteroskedastic as Heteroskedastic
    from nbcore.distributions.likelihoods import Likelihood as Likelihood
    from nbcore.distributions.likelihoods import NoiseModel as NoiseModel
    from nbcore.distributions.likelihoods import Poisson as Poisson
    from nbcore.distributions.likelihoods import StudentT as StudentT
    from nbcore.distributions.positive import HalfNormal as HalfNormal
    from nbcore.distributions.positive import LogNormal as LogNormal
    from nbcore.distributions.positive import PositivePrior as PositivePrior
    from nbcore.distributions.priors import NormalPrior as NormalPrior
    from nbcore.distributions.priors import Prior as Prior
    from nbcore.distributions.priors import pretrained_priors as pretrained_priors
    from nbcore.estimators.bnn import BNN as BNN
    from nbcore.estimators.loading import load as load
    from nbcore.estimators.options import CalibrationOptions as CalibrationOptions
    from nbcore.estimators.options import PriorScaleSearch as PriorScaleSearch
    from nbcore.estimators.options import SamplingOptions as SamplingOptions
    from nbcore.estimators.options import TrainingOptions as TrainingOptions
    from nbcore.estimators.partial_bnn import PartialBNN as PartialBNN
    from nbcore.estimators.prior_scale import ScaleChoice as ScaleChoice
    from nbcore.estimators.ranking import RankingWarning as RankingWarning
    from nbcore.networks.describe import print_layer_configs as print_layer_configs
    from nbcore.networks.layers import Layer as Layer
    from nbcore.networks.layers import Leaf as Leaf
    from nbcore.networks.layers import Stack as Stack
    from nbcore.networks.network import Network as Network
    from nbcore.networks.network import Padding as Padding
    from nbcore.networks.network import as_network as as_network
    from nbcore.posterior.mixture import MixturePosterior as MixturePosterior
    from nbcore.posterior.posterior import NetworkPosterior as NetworkPosterior
    from nbcore.posterior.posterior import Posterior as Posterior
    from nbcore.posterior.prediction import Prediction as Prediction
    from nbcore.posterior.stats import Stats as Stats
    from nbcore.sampling.alarms import PosteriorWarning as PosteriorWarning
    from nbcore.sampling.backend import Backend as Backend
    from nbcore.sampling.backend import Kernel as Kernel
    from nbcore.sampling.backend import get_backend as get_backend
    from nbcore.sampling.backend import list_backends as list_backends
    from nbcore.sampling.driver import sample as sample
    from nbcore.selection.select import Selector as Selector
    from nbcore.selection.select import list_selectors as list_selectors
    from nbcore.selection.select import select_bayesian_components as select_bayesian_components
    from nbcore.subsets.expressiveness import ExpressivenessWarning as ExpressivenessWarning
    from nbcore.subsets.expressiveness import check_expressiveness as check_expressiveness
    from nbcore.subsets.split import ParameterSplit as ParameterSplit
    from nbcore.subsets.subset import ProbabilisticSubset as ProbabilisticSubset
    from nbcore.targets.marginalize import marginalize as marginalize
    from nbcore.targets.target import Target as Target
    from nbcore.training.cross_fit import CrossFit as CrossFit
    from nbcore.training.cross_fit import cross_fit as cross_fit
    from nbcore.training.deterministic import DeterministicNN as DeterministicNN
    from nbcore.training.ensemble import EnsembleDeterministicNN as EnsembleDeterministicNN
    from nbcore.training.recipe import SWA as SWA

__version__ = "0.1.0"

_MODULES = ("compare", "datasets", "errors", "metrics", "references")
_NAMES = {
    "sampling.backend": ("Backend", "Kernel", "get_backend", "list_backends"),
    "posterior.stats": ("Stats",),
    "estimators.bnn": ("BNN",),
    "estimators.loading": ("load",),
    "training.cross_fit": ("CrossFit", "cross_fit"),
    "training.deterministic": ("DeterministicNN",),
    "training.ensemble": ("EnsembleDeterministicNN",),
    "estimators.options": (
        "CalibrationOptions",
        "PriorScaleSearch",
        "SamplingOptions",
        "TrainingOptions",
    ),
    "estimators.partial_bnn": ("PartialBNN",),
    "estimators.ranking": ("RankingWarning",),
    "sampling.alarms": ("PosteriorWarning",),
    "subsets.expressiveness": ("ExpressivenessWarning", "check_expressiveness"),
    "networks.describe": ("print_layer_configs",),
    "networks.layers": ("Layer", "Leaf", "Stack"),
    "distributions.distribution_prior": ("DistributionPrior",),
    "distributions.continuous": ("NormalDistribution", "StudentTDistribution"),
    "distributions.discrete": (
        "BernoulliDistribution",
        "CategoricalDistribution",
        "PoissonDistribution",
    ),
    "distributions.likelihoods": (
        "Bernoulli",
        "Categorical",
        "Gaussian",
        "Heteroskedastic",
        "Likelihood",
        "NoiseModel",
        "Poisson",
        "StudentT",
    ),
    "targets.marginalize": ("marginalize",),
    "networks.network": ("Network", "Padding", "as_network"),
    "posterior.mixture": ("MixturePosterior",),
    "posterior.posterior": ("NetworkPosterior", "Posterior"),
    "posterior.prediction": ("Prediction",),
    "distributions.positive": ("HalfNormal", "LogNormal", "PositivePrior"),
    "estimators.prior_scale": ("ScaleChoice",),
    "distributions.priors": ("NormalPrior", "Prior", "pretrained_priors"),
    "sampling.driver": ("sample",),
    "selection.select": ("Selector", "list_selectors", "select_bayesian_components"),
    "subsets.split": ("ParameterSplit",),
    "subsets.subset": ("ProbabilisticSubset",),
    "targets.target": ("Target",),
    "training.recipe": ("SWA",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [*_MODULES, *sorted(_HOME)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"nbcore.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"nbcore.{_HOME[name]}"), name)
    from nbcore.errors import did_you_mean  # noqa: PLC0415  only when a name is wrong

    raise AttributeError(f"module 'nbcore' has no attribute {name!r}.{did_you_mean(name, __all__)}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
