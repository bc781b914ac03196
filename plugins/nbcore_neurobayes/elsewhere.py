"""Names of NeuroBayes that are not offered, and what to use instead."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ClassVar

from nbcore.errors import did_you_mean
from nbcore_neurobayes.errors import NotOfferedError

_GP = "sklearn.gaussian_process.GaussianProcessRegressor, or the package gpax"
_KERNEL = "sklearn.gaussian_process.kernels.{}, with a GaussianProcessRegressor"
_DKL = (
    "PartialBNN with num_probabilistic_layers=0, a Bayesian last layer on learned features, or the "
    "package gpax ({})"
)
_CONFIGS = "nb.flax_nets.extract_configs(net, names), for every architecture"
_SPLIT = "nb.PartialBNN(net, params, ...): networks are sampled as they are, and not taken apart"
_PAIRS = "probabilistic_neurons of nb.PartialBNN: pairs are put into the network as it is"
_SELECT = "nb.select_bayesian_components(det, layer_names, method)"
_CURVE = "numpy.piecewise, or any function of numpy"
_FIELD = "any function of numpy on a numpy.meshgrid"
_FILE = "numpy.load of a file of yours"
_NESTED = "the parameters as they are: dicts by layer, as flax has them"

INSTEAD: dict[str, dict[str, str]] = {
    "flax_nets.configs": {
        "extract_mlp_configs": _CONFIGS,
        "extract_mlp2head_configs": _CONFIGS,
        "extract_convnet_configs": _CONFIGS,
        "extract_convnet2head_configs": _CONFIGS,
        "extract_transformer_configs": _CONFIGS,
    },
    "flax_nets.convnet": {
        "ConvLayerModule": "flax.linen.Conv",
        "get_conv_and_pool_ops": "flax.linen.Conv and flax.linen.max_pool",
    },
    "flax_nets.deterministic_nn": {"TrainState": "flax.training.train_state.TrainState"},
    "flax_nets.mlp": {"MLPLayerModule": "flax.linen.Dense"},
    "flax_nets.parameter_selection": {
        "select_bayesian_weights": _SELECT,
        "select_bayesian_weights_conv": _SELECT,
        "select_bayesian_attention_weights": _SELECT,
    },
    "flax_nets.splitter": {
        "split_mlp": _SPLIT,
        "split_mlp2head": _SPLIT,
        "split_convnet": _SPLIT,
        "split_convnet2head": _SPLIT,
    },
    "flax_nets.train_utils": {"create_swa_schedule": "swa_config of nb.DeterministicNN"},
    "flax_nets.transformer": {
        "EmbedModule": "flax.linen.Embed",
        "LayerNormModule": "flax.linen.LayerNorm",
        "TransformerAttentionModule": "flax.linen.MultiHeadDotProductAttention",
        "TransformerMLPModule": "flax.linen.Dense",
        "TransformerBlock": "nb.FlaxTransformer(..., num_layers=1)",
    },
    "models.dkl": {"DKL": _DKL.format("DKL")},
    "models.gp": {"GP": _GP},
    "models.hybrid_layers": {
        "partial_bayesian_attention": _PAIRS,
        "partial_bayesian_conv": _PAIRS,
        "partial_bayesian_dense": _PAIRS,
        "partial_bayesian_embed": _PAIRS,
    },
    "models.kernels": {
        "RBFKernel": _KERNEL.format("RBF"),
        "MaternKernel": _KERNEL.format("Matern"),
        "square_scaled_distance": "scipy.spatial.distance.cdist(X / scale, Z / scale) ** 2",
    },
    "models.vidkl": {"VIDKL": _DKL.format("viDKL")},
    "models.vigp": {"VIGP": "the package gpax (viGP), or GPyTorch"},
    "utils.genfunc": {
        "piecewise1": _CURVE,
        "piecewise2": _CURVE,
        "piecewise3": _CURVE,
        "nonstationary1": _CURVE,
        "nonstationary2": _CURVE,
        "nonstationary3": _CURVE,
        "rays2d": _FIELD,
        "phases2d": _FIELD,
        "get_ising_data": _FILE,
        "ising_mag": _FILE,
        "ising_heat": _FILE,
    },
    "utils.priors": {"GPPriors": _GP},
    "utils.utils": {
        "flatten_transformer_params_dict": _NESTED,
        "get_init_vals_dict": "pretrained_priors: chains start there",
        "monitor_dnn_loss": "det.estimator.fit_result.losses, the loss of every epoch",
        "promote_to_x64": 'jax.config.update("jax_enable_x64", True)',
    },
}
"""By module: what each name that is not offered says to use."""

METHODS = {
    "train_step": "det.train(X, y, epochs, batch_size)",
    "total_loss": "nbcore.DeterministicNN, whose loss is in its documentation",
    "gaussian_prior": "map=True and sigma= of nb.DeterministicNN",
    "mse_loss": "nb.utils.mse(det.predict(X), y)",
    "heteroskedastic_loss": "nb.utils.nlpd(y, *det.predict(X))",
    "cross_entropy_loss": "nbcore.metrics.nlpd of classes, or sklearn.metrics.log_loss",
}
"""Methods of `DeterministicNN` that are inner parts of its training."""

NOT_KEPT = {
    "params_history": "Snapshots are summed up as they come, and not kept. Their moments: "
    "det.estimator.trajectory.mean, det.estimator.trajectory.variance",
    "grad_history": "Gradients are summed up as they come, and not kept. Their mean: "
    "det.average_grads",
}
"""Attributes of `DeterministicNN` that are not kept."""


class Elsewhere:
    """A name that says what to use when it is called."""

    instead: ClassVar[str]

    def __init__(self, *args: Any, **options: Any) -> None:
        del args, options
        raise NotOfferedError(not_offered(type(self).__name__, self.instead))


def not_offered(name: str, instead: str) -> str:
    """Return the message of a name that is not offered."""
    return f"{name} of NeuroBayes is not offered: nbcore has no use for it. Use {instead}."


def names_of(package: str, *modules: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module: names that are not offered say what to use.

    Args:
        package: the module, `__name__`.
        modules: modules whose names it has as well; itself by default.
    """
    own = package.removeprefix("nbcore_neurobayes.")
    missing = {k: v for module in modules or (own,) for k, v in INSTEAD.get(module, {}).items()}

    def missing_name(name: str) -> Any:
        if name in missing:
            return type(name, (Elsewhere,), {"instead": missing[name], "__module__": package})
        here = [*missing, *(n for n in vars(sys.modules[package]) if n[0] != "_")]
        raise AttributeError(
            f"module {package!r} has no attribute {name!r}.{did_you_mean(name, here)} "
            "docs/migrating.md of nbcore lists the names."
        )

    return missing_name
