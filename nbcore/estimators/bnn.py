"""A network of which every weight has a posterior."""

from __future__ import annotations

from typing import Any, ClassVar

from nbcore.distributions.likelihoods import Likelihood
from nbcore.estimators.frozen import FrozenNetwork
from nbcore.estimators.options import CalibrationOptions, TrainingOptions
from nbcore.estimators.partial_bnn import PartialBNN, PriorChoice
from nbcore.estimators.sampler import SamplerPreset
from nbcore.networks.network import Params
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.training.deterministic import DeterministicNN
from nbcore.training.ensemble import EnsembleDeterministicNN


class BNN(PartialBNN):
    """A network of which every weight is sampled; `fit` and `predict` are those of `PartialBNN`.

    No weight is frozen, so no weight has seen the examples: all of them are sampled, the prior is
    centered at zero, and the noise is learned with the weights. `fit` trains a network for each
    chain, from initial weights of its own, and the chain starts there: chains stay near modes of
    their own for long, so that more modes are worth more than longer chains. Judge them by what
    they predict, `model.posterior.diagnostics(X)`. With `pretrained_priors` nothing is trained: the
    prior is centered at those weights, and chains start there.

    Posteriors of all weights are wide and curved, so that chains need many cheap steps. If `fit`
    is given neither a backend, nor a number of steps, nor a thinning, it samples with
    `"blackjax-mclmc"` much as microcanonical Langevin ensembles do: 8 chains, 10,000 steps of
    tuning, in which the energy variance falls from 0.5 to 0.01, and 10,000 steps of which every
    20th is kept, with the output layer integrated out if that is possible; this takes minutes for a
    small network. Steps are long, and variances biased by 6 % at most. If `fit` is given any of
    them, the others are those of `PartialBNN`: steps that suit one sampler do not suit another.
    Training takes 500 epochs, which cost little beside 20,000 steps.

    Args:
        net: a network, or a model that `nb.as_network` knows.
        noise_prior: prior of the noise of the default Gaussian, in y's own units; by default it is
            as wide as y.
        pretrained_priors: weights that were trained elsewhere, such as on simulations: a trained
            `nb.DeterministicNN`, or parameters. A trained `nb.EnsembleDeterministicNN` only gives
            the starts of chains.
        num_classes: number of classes of a classification; `None` is a regression.
        likelihood: distribution of y given the outputs, as for `PartialBNN`.
        prior: prior of the weights, as for `PartialBNN`; a number is the standard deviation of a
            normal prior around zero, or around `pretrained_priors`.

    Examples:
        >>> import numpy as np, nbcore as nb
        >>> from nbcore_flax import FlaxMLP
        >>> x = np.linspace(-1, 1, 30, dtype=np.float32)[:, None]
        >>> y = x[:, 0] ** 2 + 0.1 * np.random.default_rng(0).normal(size=30)
        >>> model = nb.BNN(FlaxMLP(hidden_dims=(4,)))
        >>> short = nb.TrainingOptions(epochs=20)
        >>> _ = model.fit(x, y, 100, 100, num_chains=1, training=short, progress=False)
        >>> model.posterior.split.size == model.posterior.split.total_size == 13
        True

    References:
        Neal (1996), "Bayesian learning for neural networks". Sommer et al. (2025), "Microcanonical
        Langevin ensembles: advancing the sampling of Bayesian neural networks".
    """

    kind: ClassVar[str] = "bnn"
    default_calibration: ClassVar[CalibrationOptions] = CalibrationOptions("none")
    default_sampler: ClassVar[SamplerPreset] = SamplerPreset(
        "blackjax-mclmc",
        {
            "num_tune": 10_000,
            "initial_energy_var": 0.5,
            "desired_energy_var": 0.01,
            "whiten": False,
            "num_moves": 1,
        },
        num_warmup=0,
        num_samples=10_000,
        num_chains=8,
        thin=20,
        marginalize="auto",
    )
    default_training: ClassVar[TrainingOptions] = TrainingOptions(epochs=500)
    has_frozen_weights: ClassVar[bool] = False

    def __init__(
        self,
        net: Any,
        noise_prior: Any = None,
        pretrained_priors: DeterministicNN | EnsembleDeterministicNN | Params | None = None,
        *,
        num_classes: int | None = None,
        likelihood: Likelihood | None = None,
        prior: PriorChoice = 1.0,
    ) -> None:
        super().__init__(
            net,
            pretrained_priors,
            subset=ProbabilisticSubset.everything(),
            num_classes=num_classes,
            likelihood=likelihood,
            noise_prior=noise_prior,
            prior=prior,
        )

    def _center(self, frozen: FrozenNetwork) -> Any:
        return "zero" if self.given is None else super()._center(frozen)
