"""Likelihoods: the distribution of the targets given the outputs of a network."""

from nbcore.distributions.likelihoods.base import Likelihood as Likelihood
from nbcore.distributions.likelihoods.base import LikelihoodParameters as LikelihoodParameters
from nbcore.distributions.likelihoods.base import check_trainable as check_trainable
from nbcore.distributions.likelihoods.base import log_prob_of_each as log_prob_of_each
from nbcore.distributions.likelihoods.classes import Bernoulli as Bernoulli
from nbcore.distributions.likelihoods.classes import Categorical as Categorical
from nbcore.distributions.likelihoods.gaussian import Gaussian as Gaussian
from nbcore.distributions.likelihoods.heteroskedastic import Heteroskedastic as Heteroskedastic
from nbcore.distributions.likelihoods.noise_model import NoiseModel as NoiseModel
from nbcore.distributions.likelihoods.poisson import Poisson as Poisson
from nbcore.distributions.likelihoods.stored import from_data as from_data
from nbcore.distributions.likelihoods.stored import to_data as to_data
from nbcore.distributions.likelihoods.student_t import StudentT as StudentT
