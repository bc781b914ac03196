"""A network of which every weight has a posterior."""

from __future__ import annotations

from typing import Any, ClassVar

from nbcore.distributions.likelihoods import Likelihood
from nbcore.estimators.partial_bnn import PartialBNN
from nbcore.estimators.run import Run
from nbcore.estimators.stages import Calibration, FrozenNetwork
from nbcore.networks.network import Params
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.training.deterministic import DeterministicNN
from nbcore.training.ensemble import EnsembleDeterministicNN


class BNN(PartialBNN):
    """A network of which every weight is sampled; `fit` and `predict` are those of `PartialBNN`.

    Nothing is frozen, so nothing has seen the rows: all of them are sampled, the prior is centered
    at zero, and the noise is learned with the weights. Chains start at weights that are trained
    first. With `pretrained_priors` nothing is trained: the prior is centered at those weights, and
    chains start there.

    Posteriors of all weights are wide and bend, so that chains need many cheap steps. Where `fit`
    is given no backend, no steps and no thinning, it samples with `"blackjax-mclmc"`: 1,000 steps
    of warmup, 10,000 of tuning, 20,000 of which every 20th is kept, with the output layer
    integrated out where y is normal; minutes for a small network. Where it is given any of them,
    the rest is as for `PartialBNN`.

    Args:
        net: a network, or a model that `nb.as_network` knows.
        noise_prior: prior of the noise of the default Gaussian, in y's own units; by default it is
            as wide as y.
        pretrained_priors: weights that were trained elsewhere, such as on simulations: a trained
            `nb.DeterministicNN`, or parameters. A trained `nb.EnsembleDeterministicNN` only gives
            the starts of chains.
        num_classes: number of classes of a classification; `None` is a regression.
        likelihood: what outputs say about y, as for `PartialBNN`.

    Examples:
        >>> import numpy as np, nbcore as nb
        >>> from nbcore_flax import FlaxMLP
        >>> x = np.linspace(-1, 1, 30, dtype=np.float32)[:, None]
        >>> y = x[:, 0] ** 2 + 0.1 * np.random.default_rng(0).normal(size=30)
        >>> model = nb.BNN(FlaxMLP(hidden_dims=(4,)))
        >>> _ = model.fit(
        ...     x, y, num_warmup=100, num_samples=100, num_chains=1, sgd_epochs=20, progress=False
        ... )
        >>> model.posterior.split.size == model.posterior.split.total_size == 13
        True

    References:
        Neal (1996), "Bayesian learning for neural networks". Sommer et al. (2025), "Microcanonical
        Langevin ensembles: advancing the sampling of Bayesian neural networks".
    """

    default_calibration: ClassVar[Calibration] = "none"
    default_run: ClassVar[Run] = Run(
        "blackjax-mclmc", {"num_tune": 10_000}, num_samples=20_000, thin=20, marginalize="auto"
    )
    has_frozen_weights: ClassVar[bool] = False

    def __init__(
        self,
        net: Any,
        noise_prior: Any = None,
        pretrained_priors: DeterministicNN | EnsembleDeterministicNN | Params | None = None,
        *,
        num_classes: int | None = None,
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__(
            net,
            pretrained_priors,
            subset=ProbabilisticSubset.everything(),
            num_classes=num_classes,
            likelihood=likelihood,
            noise_prior=noise_prior,
        )

    def _center(self, stage: FrozenNetwork) -> Any:
        return "zero" if self.given is None else super()._center(stage)
