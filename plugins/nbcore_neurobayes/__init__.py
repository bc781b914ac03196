"""Scripts written for NeuroBayes, on nbcore: `import nbcore_neurobayes as nb`.

Names, sub-modules, positional arguments and shapes of what is returned are those of NeuroBayes
0.0.14; sampling, training and predictions are those of nbcore. If a figure was wrong there, it is
right here; `docs/migrating.md` lists every name, and every difference.
"""

from __future__ import annotations

from nbcore.errors import MissingExtraError

try:
    import numpyro as numpyro
except ModuleNotFoundError as error:
    raise MissingExtraError("nbcore_neurobayes", "numpyro", error.name) from error

from nbcore_neurobayes import flax_nets as flax_nets
from nbcore_neurobayes import models as models
from nbcore_neurobayes.elsewhere import names_of
from nbcore_neurobayes.flax_nets import DeterministicNN as DeterministicNN
from nbcore_neurobayes.flax_nets import EnsembleDeterministicNN as EnsembleDeterministicNN
from nbcore_neurobayes.flax_nets import FlaxConvNet as FlaxConvNet
from nbcore_neurobayes.flax_nets import FlaxConvNet2Head as FlaxConvNet2Head
from nbcore_neurobayes.flax_nets import FlaxMLP as FlaxMLP
from nbcore_neurobayes.flax_nets import FlaxMLP2Head as FlaxMLP2Head
from nbcore_neurobayes.flax_nets import FlaxTransformer as FlaxTransformer
from nbcore_neurobayes.flax_nets import print_layer_configs as print_layer_configs
from nbcore_neurobayes.flax_nets import select_bayesian_components as select_bayesian_components
from nbcore_neurobayes.models import kernels as kernels
from nbcore_neurobayes.models.bnn import BNN as BNN
from nbcore_neurobayes.models.bnn_heteroskedastic import HeteroskedasticBNN as HeteroskedasticBNN
from nbcore_neurobayes.models.bnn_heteroskedastic_model import (
    VarianceModelHeteroskedasticBNN as VarianceModelHeteroskedasticBNN,
)
from nbcore_neurobayes.models.partial_bnn import PartialBNN as PartialBNN
from nbcore_neurobayes.models.partial_bnn_conv import (
    PartialBayesianConvNet as PartialBayesianConvNet,
)
from nbcore_neurobayes.models.partial_bnn_heteroskedastic import (
    HeteroskedasticPartialBNN as HeteroskedasticPartialBNN,
)
from nbcore_neurobayes.models.partial_bnn_mlp import PartialBayesianMLP as PartialBayesianMLP
from nbcore_neurobayes.models.partial_bnn_transformer import (
    PartialBayesianTransformer as PartialBayesianTransformer,
)
from nbcore_neurobayes.utils import genfunc as genfunc
from nbcore_neurobayes.utils import priors as priors
from nbcore_neurobayes.utils import utils as utils

__getattr__ = names_of(__name__, "models.dkl", "models.gp", "models.vidkl", "models.vigp")
