"""Make part of a neural network Bayesian: a real MCMC posterior over chosen weights.

The public names are resolved when they are first used, so that `import nbcore` imports neither
jax nor optax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbcore import datasets as datasets
    from nbcore import errors as errors
    from nbcore import metrics as metrics
    from nbcore.backend import Backend as Backend
    from nbcore.backend import Kernel as Kernel
    from nbcore.backend import Stats as Stats
    from nbcore.backend import get_backend as get_backend
    from nbcore.backend import list_backends as list_backends
    from nbcore.bnn import BNN as BNN
    from nbcore.calibration import CrossFit as CrossFit
    from nbcore.calibration import cross_fit as cross_fit
    from nbcore.deterministic import DeterministicNN as DeterministicNN
    from nbcore.ensemble import EnsembleDeterministicNN as EnsembleDeterministicNN
    from nbcore.estimators import PartialBNN as PartialBNN
    from nbcore.expressiveness import ExpressivenessWarning as ExpressivenessWarning
    from nbcore.expressiveness import check_expressiveness as check_expressiveness
    from nbcore.hookspecs import Spec as Spec
    from nbcore.hookspecs import hookimpl as hookimpl
    from nbcore.inspection import print_layer_configs as print_layer_configs
    from nbcore.layers import Layer as Layer
    from nbcore.layers import Leaf as Leaf
    from nbcore.likelihoods import Bernoulli as Bernoulli
    from nbcore.likelihoods import Categorical as Categorical
    from nbcore.likelihoods import Gaussian as Gaussian
    from nbcore.likelihoods import Heteroskedastic as Heteroskedastic
    from nbcore.likelihoods import Likelihood as Likelihood
    from nbcore.likelihoods import NoiseModel as NoiseModel
    from nbcore.likelihoods import Poisson as Poisson
    from nbcore.likelihoods import StudentT as StudentT
    from nbcore.marginal import marginalize as marginalize
    from nbcore.network import Network as Network
    from nbcore.network import Padding as Padding
    from nbcore.network import as_network as as_network
    from nbcore.positive import HalfNormal as HalfNormal
    from nbcore.positive import LogNormal as LogNormal
    from nbcore.positive import PositivePrior as PositivePrior
    from nbcore.posterior import Posterior as Posterior
    from nbcore.prediction import Prediction as Prediction
    from nbcore.prior_scale import ScaleChoice as ScaleChoice
    from nbcore.priors import NormalPrior as NormalPrior
    from nbcore.priors import Prior as Prior
    from nbcore.priors import pretrained_priors as pretrained_priors
    from nbcore.recipe import SWA as SWA
    from nbcore.sampling import sample as sample
    from nbcore.selection import Selector as Selector
    from nbcore.selection import list_selectors as list_selectors
    from nbcore.selection import select_bayesian_components as select_bayesian_components
    from nbcore.split import ParameterSplit as ParameterSplit
    from nbcore.subset import ProbabilisticSubset as ProbabilisticSubset
    from nbcore.target import Target as Target

__version__ = "0.1.0"

_MODULES = ("datasets", "errors", "metrics")
_NAMES = {
    "backend": ("Backend", "Kernel", "Stats", "get_backend", "list_backends"),
    "bnn": ("BNN",),
    "calibration": ("CrossFit", "cross_fit"),
    "deterministic": ("DeterministicNN",),
    "ensemble": ("EnsembleDeterministicNN",),
    "estimators": ("PartialBNN",),
    "expressiveness": ("ExpressivenessWarning", "check_expressiveness"),
    "hookspecs": ("Spec", "hookimpl"),
    "inspection": ("print_layer_configs",),
    "layers": ("Layer", "Leaf"),
    "likelihoods": (
        "Bernoulli",
        "Categorical",
        "Gaussian",
        "Heteroskedastic",
        "Likelihood",
        "NoiseModel",
        "Poisson",
        "StudentT",
    ),
    "marginal": ("marginalize",),
    "network": ("Network", "Padding", "as_network"),
    "posterior": ("Posterior",),
    "prediction": ("Prediction",),
    "positive": ("HalfNormal", "LogNormal", "PositivePrior"),
    "prior_scale": ("ScaleChoice",),
    "priors": ("NormalPrior", "Prior", "pretrained_priors"),
    "sampling": ("sample",),
    "selection": ("Selector", "list_selectors", "select_bayesian_components"),
    "split": ("ParameterSplit",),
    "subset": ("ProbabilisticSubset",),
    "target": ("Target",),
    "recipe": ("SWA",),
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
