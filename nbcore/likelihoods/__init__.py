"""Likelihoods: what the outputs of a network say about the targets."""

from nbcore.likelihoods.base import Likelihood as Likelihood
from nbcore.likelihoods.base import Unknowns as Unknowns
from nbcore.likelihoods.base import as_columns as as_columns
from nbcore.likelihoods.classes import Bernoulli as Bernoulli
from nbcore.likelihoods.classes import Categorical as Categorical
from nbcore.likelihoods.gaussian import Gaussian as Gaussian
from nbcore.likelihoods.heteroskedastic import Heteroskedastic as Heteroskedastic
from nbcore.likelihoods.noise_model import NoiseModel as NoiseModel
from nbcore.likelihoods.poisson import Poisson as Poisson
from nbcore.likelihoods.stored import from_data as from_data
from nbcore.likelihoods.stored import to_data as to_data
from nbcore.likelihoods.student_t import StudentT as StudentT
