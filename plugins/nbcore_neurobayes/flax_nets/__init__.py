"""Networks and their training, by the modules of NeuroBayes."""

from __future__ import annotations

from nbcore_neurobayes.elsewhere import names_of
from nbcore_neurobayes.flax_nets.config_utils import extract_configs as extract_configs
from nbcore_neurobayes.flax_nets.config_utils import get_configs as get_configs
from nbcore_neurobayes.flax_nets.config_utils import print_layer_configs as print_layer_configs
from nbcore_neurobayes.flax_nets.convnet import FlaxConvNet as FlaxConvNet
from nbcore_neurobayes.flax_nets.convnet import FlaxConvNet2Head as FlaxConvNet2Head
from nbcore_neurobayes.flax_nets.deterministic_nn import DeterministicNN as DeterministicNN
from nbcore_neurobayes.flax_nets.ensemble import EnsembleDeterministicNN as EnsembleDeterministicNN
from nbcore_neurobayes.flax_nets.mlp import FlaxMLP as FlaxMLP
from nbcore_neurobayes.flax_nets.mlp import FlaxMLP2Head as FlaxMLP2Head
from nbcore_neurobayes.flax_nets.parameter_selection import (
    select_bayesian_components as select_bayesian_components,
)
from nbcore_neurobayes.flax_nets.transformer import FlaxTransformer as FlaxTransformer
from nbcore_neurobayes.utils.utils import split_in_batches as split_in_batches

__getattr__ = names_of(
    __name__,
    "flax_nets.configs",
    "flax_nets.convnet",
    "flax_nets.deterministic_nn",
    "flax_nets.mlp",
    "flax_nets.splitter",
    "flax_nets.train_utils",
    "flax_nets.transformer",
)
