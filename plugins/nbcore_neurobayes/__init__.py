"""Scripts written for NeuroBayes, on nbcore: `import nbcore_neurobayes as nb`.

Names, positional arguments and shapes of what is returned are those of NeuroBayes 0.0.14; sampling,
training and predictions are those of nbcore. If a figure was wrong there, it is right here;
`docs/migrating.md` lists every name, and every difference.
"""

from __future__ import annotations

from nbcore_flax import FlaxConvNet as FlaxConvNet
from nbcore_flax import FlaxConvNet2Head as FlaxConvNet2Head
from nbcore_flax import FlaxMLP as FlaxMLP
from nbcore_flax import FlaxMLP2Head as FlaxMLP2Head
from nbcore_flax import FlaxTransformer as FlaxTransformer
from nbcore_neurobayes import priors as priors
from nbcore_neurobayes import utils as utils
from nbcore_neurobayes.bayesian import BNN as BNN
from nbcore_neurobayes.bayesian import PartialBayesianConvNet as PartialBayesianConvNet
from nbcore_neurobayes.bayesian import PartialBayesianMLP as PartialBayesianMLP
from nbcore_neurobayes.bayesian import PartialBayesianTransformer as PartialBayesianTransformer
from nbcore_neurobayes.bayesian import PartialBNN as PartialBNN
from nbcore_neurobayes.deterministic import DeterministicNN as DeterministicNN
from nbcore_neurobayes.deterministic import EnsembleDeterministicNN as EnsembleDeterministicNN
from nbcore_neurobayes.elsewhere import DKL as DKL
from nbcore_neurobayes.elsewhere import GP as GP
from nbcore_neurobayes.elsewhere import VIDKL as VIDKL
from nbcore_neurobayes.elsewhere import VIGP as VIGP
from nbcore_neurobayes.heteroskedastic import HeteroskedasticBNN as HeteroskedasticBNN
from nbcore_neurobayes.heteroskedastic import HeteroskedasticPartialBNN as HeteroskedasticPartialBNN
from nbcore_neurobayes.heteroskedastic import (
    VarianceModelHeteroskedasticBNN as VarianceModelHeteroskedasticBNN,
)
from nbcore_neurobayes.selection import print_layer_configs as print_layer_configs
from nbcore_neurobayes.selection import select_bayesian_components as select_bayesian_components
