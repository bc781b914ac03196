"""Names that a plugin may import in addition to `nbcore`; `docs/extending.md` shows their use.

The names are stable, and few: what is not here may change at any time. Like the names of `nbcore`,
they are resolved when they are first used, so that a module of hooks imports nothing heavy. The
public modules `nbcore.errors`, `nbcore.metrics` and `nbcore.datasets` may be imported as well, and
by the tests of a plugin `nbcore.testing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbcore.common.lazy import lazy_names

if TYPE_CHECKING:
    from nbcore.common.hookspecs import Spec as Spec
    from nbcore.common.hookspecs import hookimpl as hookimpl
    from nbcore.common.lazy import lazy_names as lazy_names
    from nbcore.common.matrices import eigh as eigh
    from nbcore.common.options import check_at_least as check_at_least
    from nbcore.common.options import check_choice as check_choice
    from nbcore.common.options import check_count as check_count
    from nbcore.common.options import check_flag as check_flag
    from nbcore.common.options import check_fraction as check_fraction
    from nbcore.common.options import check_positive as check_positive
    from nbcore.common.paths import leaves_by_path as leaves_by_path
    from nbcore.common.pytrees import register_pytree as register_pytree
    from nbcore.networks.adapters import check_inputs as check_inputs
    from nbcore.networks.adapters import example_for as example_for
    from nbcore.networks.adapters import has_its_weights as has_its_weights
    from nbcore.networks.adapters import padding_of as padding_of
    from nbcore.networks.adapters import warn_of_statistics as warn_of_statistics
    from nbcore.networks.call_order import in_call_order as in_call_order
    from nbcore.networks.call_order import ordered as ordered
    from nbcore.networks.inference import infer_layers as infer_layers
    from nbcore.networks.layers import LayerKind as LayerKind
    from nbcore.networks.network import Inputs as Inputs
    from nbcore.networks.network import Key as Key
    from nbcore.networks.network import Outputs as Outputs
    from nbcore.networks.network import Params as Params
    from nbcore.networks.signatures import check_reads_one_input as check_reads_one_input
    from nbcore.networks.signatures import mode_flags as mode_flags
    from nbcore.networks.stack_axes import stack_axes as stack_axes
    from nbcore.networks.stacks import StackAxes as StackAxes
    from nbcore.networks.stacks import axes_beyond as axes_beyond
    from nbcore.networks.stacks import known_axes as known_axes
    from nbcore.networks.stacks import stacked_layers as stacked_layers
    from nbcore.networks.tracing import Traced as Traced
    from nbcore.sampling.adaptation import AdaptiveWhitening as AdaptiveWhitening
    from nbcore.sampling.adaptation import DualAveraging as DualAveraging
    from nbcore.sampling.adaptation import warmup_windows as warmup_windows
    from nbcore.sampling.metropolis import metropolis as metropolis
    from nbcore.selection.selector import ChoosingSelector as ChoosingSelector
    from nbcore.selection.selector import RestrictingSelector as RestrictingSelector
    from nbcore.selection.selector import ScoringSelector as ScoringSelector
    from nbcore.selection.selector import SelectionContext as SelectionContext
    from nbcore.selection.selector import get_selector as get_selector
    from nbcore.selection.selector import required as required
    from nbcore.selection.selector import weights_in as weights_in
    from nbcore.targets.curvature import DENSE_LIMIT as DENSE_LIMIT
    from nbcore.targets.curvature import NormalApproximation as NormalApproximation
    from nbcore.targets.curvature import Structure as Structure
    from nbcore.targets.curvature import approximate as approximate
    from nbcore.targets.curvature import curvature_at as curvature_at
    from nbcore.targets.curvature import curvature_product as curvature_product
    from nbcore.targets.curvature import inverse_root as inverse_root
    from nbcore.targets.curvature import largest_curvature as largest_curvature
    from nbcore.targets.curvature import mode_near as mode_near
    from nbcore.targets.curvature import whiten as whiten
    from nbcore.targets.curvature import whitened_density as whitened_density
    from nbcore.targets.curvature_rows import curvature_rows as curvature_rows
    from nbcore.targets.curvature_rows import prior_deviations as prior_deviations
    from nbcore.targets.fisher import LikelihoodCurvature as LikelihoodCurvature
    from nbcore.targets.whitening import Whitening as Whitening

SURFACE = {
    "common.hookspecs": {
        "Spec": "what a plugin offers under a name, without importing it",
        "hookimpl": "the decorator of a hook: without it a function is not found",
    },
    "common.lazy": {
        "lazy_names": "the `__getattr__` of a package whose classes are imported when first used",
    },
    "common.matrices": {
        "eigh": "eigenvalues and eigenvectors, safe in chains that run at the same time",
    },
    "common.options": {
        "check_at_least": "raise unless options are finite numbers of at least a value",
        "check_choice": "raise unless options are one of some words",
        "check_count": "raise unless options are integers in a range",
        "check_flag": "raise unless options are true or false",
        "check_fraction": "raise unless options are within (0, 1)",
        "check_positive": "raise unless options are finite positive numbers",
    },
    "sampling.adaptation": {
        "AdaptiveWhitening": "a whitening by the positions and gradients that warmup meets",
        "DualAveraging": "a step size that moves to a wanted acceptance rate in warmup",
        "warmup_windows": "Stan's windows: when a whitening is estimated anew",
    },
    "sampling.metropolis": {
        "metropolis": "accept or reject a proposal, with the rate at which that is done",
    },
    "targets.curvature": {
        "DENSE_LIMIT": "number of weights up to which a curvature is a whole matrix",
        "NormalApproximation": "type of what `approximate` returns",
        "Structure": "type of what is kept of a covariance",
        "approximate": "the normal density with the mode and the curvature of a log density",
        "whiten": "the whitening by the curvature at the mode near a position",
        "whitened_density": "the log density as a function of whitened coordinates",
        "mode_near": "the mode near a position",
        "curvature_at": "the negative Hessian at a position, made positive definite",
        "curvature_product": "products of the negative Hessian with vectors",
        "largest_curvature": "the largest curvature at the mode in whitened coordinates",
        "inverse_root": "a factor of the inverse of a curvature",
    },
    "targets.whitening": {
        "Whitening": "an affine map to coordinates of about unit curvature",
    },
    "targets.curvature_rows": {
        "curvature_rows": "the curvature of the log likelihood, from some of the examples",
        "prior_deviations": "the scale of every number of a position under the prior",
    },
    "common.pytrees": {
        "register_pytree": "the decorator of a dataclass that is a pytree, such as a likelihood",
    },
    "common.paths": {
        "leaves_by_path": "the leaves of a pytree by their path",
    },
    "networks.network": {
        "Inputs": "type of X: an array, or a pytree of arrays, with examples in the first axis",
        "Key": "type of a random key",
        "Outputs": "type of what a network returns",
        "Params": "type of a parameter pytree",
    },
    "networks.layers": {
        "LayerKind": 'type of what a layer computes, such as `"dense"`',
    },
    "networks.inference": {
        "infer_layers": "the layers of a parameter pytree, by names and shapes",
    },
    "networks.call_order": {
        "in_call_order": "layers in the order in which a network calls them",
        "ordered": "the same, of a network that was traced",
    },
    "networks.tracing": {
        "Traced": "the computation of a network on an example",
    },
    "networks.stack_axes": {
        "stack_axes": "which axes of the parameters are stacks of layers, of a traced network",
    },
    "networks.stacks": {
        "StackAxes": "type of the stack axes of leaves, by path",
        "axes_beyond": "stack axes of a leaf of which one layer has fewer axes",
        "known_axes": "stack axes of which a framework knows some itself",
        "stacked_layers": "the layers of parameters of which some are stacked",
    },
    "networks.adapters": {
        "check_inputs": "let a model look at concrete inputs",
        "example_for": "inputs to trace: those that were given, else those of the model",
        "has_its_weights": "the error of a model that cannot draw other weights",
        "padding_of": "how the inputs of a model are padded",
        "warn_of_statistics": "warn that running statistics stay as they are",
    },
    "networks.signatures": {
        "check_reads_one_input": "raise unless a call reads its inputs as one argument",
        "mode_flags": "the keyword arguments that switch a call to training or evaluation",
    },
    "selection.selector": {
        "SelectionContext": "what a selector sees of a trained network",
        "ScoringSelector": "protocol of a selector with `score`",
        "ChoosingSelector": "protocol of a selector with `choose`",
        "RestrictingSelector": "protocol of a selector with `restrict`",
        "get_selector": "a selector by name, for selectors that build on another one",
        "required": "what a selector reads from its context, or an error that names it",
        "weights_in": "the weights of a layer, by path, out of a pytree like the parameters",
    },
    "targets.fisher": {
        "LikelihoodCurvature": "type of `context.curvature`: Fisher and Gauss-Newton matrices",
    },
}
"""Every name with a line about it, by the module that defines it."""

_HOMES = {name: f"nbcore.{module}" for module, names in SURFACE.items() for name in names}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return [*__all__, "SURFACE"]
