"""Fit and predict: a network of which some weights have a posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from nbcore.common.keys import as_key
from nbcore.common.progress import Progress, progress_from
from nbcore.distributions.likelihoods import Bernoulli, Categorical, Likelihood
from nbcore.distributions.priors import NormalPrior, Prior
from nbcore.errors import OptionError, TrainingError
from nbcore.estimators.choice import Choice
from nbcore.estimators.frozen import (
    Examples,
    FrozenNetwork,
    first_of,
    from_ensemble,
    from_weights,
    named_by,
    networks_to_sample,
)
from nbcore.estimators.likelihood_choice import (
    check_classes,
    chosen_likelihood,
    frozen_likelihood,
)
from nbcore.estimators.mixtures import calibration_of_mixture
from nbcore.estimators.options import (
    Calibration,
    CalibrationOptions,
    PriorScaleSearch,
    SamplingOptions,
    TrainingOptions,
    as_calibration,
    as_options,
)
from nbcore.estimators.pretraining import Pretraining, check_calibration
from nbcore.estimators.prior_scale import ScaleChoice, checked_prior, choose_scale, scale_folds
from nbcore.estimators.ranking import warn_if_alike
from nbcore.estimators.sampler import FEW_GRADIENTS, Sampler, SamplerPreset
from nbcore.estimators.stored_fit import SavedFit, check_complete
from nbcore.networks.inputs import num_examples
from nbcore.networks.names import Names, named_network
from nbcore.networks.network import Network, Params, as_network
from nbcore.posterior.mixture import MixtureCalibration, MixturePosterior
from nbcore.posterior.posterior import NetworkPosterior
from nbcore.posterior.prediction import Prediction
from nbcore.sampling.backend import Backend
from nbcore.subsets.expressiveness import check_expressiveness
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.targets.target import NetworkTarget, Target
from nbcore.training.cross_fit import CrossFit
from nbcore.training.deterministic import DeterministicNN
from nbcore.training.ensemble import EnsembleDeterministicNN
from nbcore.training.folds import group_codes

PriorChoice = Prior | float | Literal["auto"] | PriorScaleSearch
PRIOR_KEY = 2**31 - 1  # a number that no frozen network has


class PartialBNN(SavedFit):
    """A network of which some weights get an MCMC posterior, while the rest stays frozen.

    If weights are given, `fit` samples around them. Otherwise `fit` trains the network first, in
    a way that keeps the predictions calibrated, see `nb.CalibrationOptions`. At most one way of
    choosing weights is used; without any, the first and the output layers are sampled. The defaults
    of `fit` are the class attributes `default_sampler`, `default_sampling`, `default_training` and
    `default_calibration`, which a subclass may replace as `nb.BNN` does.

    Args:
        net: a network, or a model that `nb.as_network` knows.
        deterministic_weights: a trained `nb.DeterministicNN`, its parameters, or the result of
            `nb.cross_fit`; `None` trains. With a trained `nb.EnsembleDeterministicNN` each member
            gets a posterior of its own, and predictions are their mixture; if all weights are
            sampled, the members are where the chains of one posterior start.
        subset: the stochastic weights.
        probabilistic_layer_names: layer names or patterns; layers are sampled as a whole.
        num_probabilistic_layers: the last so many hidden layers, and the outputs.
        probabilistic_neurons: index pairs by layer, see `nb.ProbabilisticSubset.pairs`.
        selection: pairs chosen after training: arguments of `nb.select_bayesian_components`, such
            as method, layer_names and num_pairs_per_layer. Selectors that look at data get the
            examples to sample.
        num_classes: number of classes of a classification; `None` is a regression.
        likelihood: distribution of y given the outputs, in y's own units: `nb.Gaussian`,
            `nb.StudentT`, `nb.Heteroskedastic`, `nb.NoiseModel`, `nb.Bernoulli`, `nb.Categorical`
            or `nb.Poisson`; by default that of the given `nb.DeterministicNN`, else Gaussian, or
            Categorical for classes. An unknown noise is estimated on unseen examples.
        noise_prior: prior of the noise of the default Gaussian, in y's own units; by default it
            comes from examples that the network has not seen.
        prior: prior of the stochastic weights: an `nb.Prior` such as `nb.NormalPrior`; a number,
            the standard deviation of a normal prior around the trained values (around zero if an
            ensemble only starts the chains); or the best standard deviation by an
            `nb.PriorScaleSearch`, `"auto"` for its defaults.

    Raises:
        OptionError: more than one way of choosing weights, or options that contradict.
        UnknownSelectorError: `selection` names no selector.

    Examples:
        >>> import numpy as np, nbcore as nb
        >>> from nbcore_flax import FlaxMLP
        >>> x = np.linspace(-1, 1, 60, dtype=np.float32)[:, None]
        >>> y = x[:, 0] ** 2 + 0.1 * np.random.default_rng(0).normal(size=60)
        >>> model = nb.PartialBNN(FlaxMLP(hidden_dims=(8,)), probabilistic_layer_names=["Dense1"])
        >>> _ = model.fit(
        ...     x,
        ...     y,
        ...     num_warmup=200,
        ...     num_samples=200,
        ...     num_chains=2,
        ...     training=nb.TrainingOptions(epochs=40),
        ...     calibration="holdout",
        ...     progress=False,
        ... )
        >>> mean, variance = model.predict(x)
        >>> mean.shape, bool(np.all(variance > 0))
        ((60,), True)

    References:
        Sharma et al. (2023), "Do Bayesian neural networks need to be fully stochastic?".
    """

    kind: ClassVar[str] = "partial-bnn"
    default_sampler: ClassVar[SamplerPreset] = SamplerPreset()
    default_mixture_sampler: ClassVar[SamplerPreset] = SamplerPreset(
        "blackjax-mclmc", {"num_moves": 1}, num_warmup=500, num_samples=2000, num_chains=2, thin=10
    )
    default_sampling: ClassVar[SamplingOptions] = SamplingOptions()
    default_training: ClassVar[TrainingOptions] = TrainingOptions()
    default_calibration: ClassVar[CalibrationOptions] = CalibrationOptions()
    has_frozen_weights: ClassVar[bool] = True

    def __init__(
        self,
        net: Any,
        deterministic_weights: DeterministicNN
        | CrossFit
        | EnsembleDeterministicNN
        | Params
        | None = None,
        *,
        subset: ProbabilisticSubset | None = None,
        probabilistic_layer_names: Sequence[str] | None = None,
        num_probabilistic_layers: int | None = None,
        probabilistic_neurons: Mapping[str, Any] | None = None,
        selection: Mapping[str, Any] | None = None,
        num_classes: int | None = None,
        likelihood: Likelihood | None = None,
        noise_prior: Any = None,
        prior: PriorChoice = 1.0,
    ) -> None:
        self.choice = Choice(
            subset,
            probabilistic_layer_names,
            num_probabilistic_layers,
            probabilistic_neurons,
            selection,
        )
        trained = DeterministicNN | CrossFit | EnsembleDeterministicNN | None
        if selection is not None and not isinstance(deterministic_weights, trained):
            raise OptionError(
                "selection needs a trained nb.DeterministicNN, and bare parameters were given. "
                "Type: deterministic_weights=det"
            )
        if likelihood is not None and (noise_prior is not None or num_classes is not None):
            raise OptionError(
                "likelihood= is the whole distribution of y. Leave noise_prior and num_classes "
                "out, or give them instead of it."
            )
        self.model = net
        self.given = deterministic_weights
        self.num_classes = num_classes
        self.likelihood = likelihood
        self.noise_prior = noise_prior
        self.prior = checked_prior(prior)
        self.cross: CrossFit | None = None
        self.det: DeterministicNN | None = None
        self.names = Names()
        self.posteriors = ()
        self.noise: np.ndarray | None = None
        self.scale_choice: ScaleChoice | None = None
        self.mixture_calibration: MixtureCalibration | None = None

    def fit(
        self,
        X: Any,
        y: Any,
        num_warmup: int | None = None,
        num_samples: int | None = None,
        num_chains: int | None = None,
        *,
        backend: str | Backend | None = None,
        groups: Any = None,
        sampling: SamplingOptions | None = None,
        training: TrainingOptions | None = None,
        calibration: Calibration | CalibrationOptions | None = None,
        key: Any = None,
        progress: bool | Progress = True,
    ) -> PartialBNN:
        """Train the network if no weights were given, then sample the chosen weights.

        A second fit trains anew what it trained itself, and keeps weights that were given.

        Args:
            X: inputs `(N, ...)`.
            y: targets `(N,)` or `(N, outputs)`; labels `(N,)`.
            num_warmup: warmup steps of each chain, none of which is kept; 1,000 by default.
            num_samples: steps of each chain after warmup, of which every `thin`-th is kept:
                `num_samples // thin` draws, as in Stan and NumPyro; 1,000 by default.
            num_chains: number of chains, of each network if there are several; 4 by default, 8 of
                `nb.BNN`.
            backend: a sampler from `nb.list_backends()`, or an instance with options, such as
                `nb.get_backend("sgld", momentum=0.5)`; by default `"blackjax-mclmc"` for a mixture
                and `nb.BNN`, with steps of their own, if neither steps nor a thinning are given,
                else `"numpyro-nuts"`.
            groups: a label for each example `(N,)`, such as the molecule that was measured twice.
                Examples of one group are never split between training and validation. `None`:
                each example is a group of its own.
            sampling: how the chains are run: thinning, starts, restarts, checkpoints, devices.
            training: how the network is trained if no weights were given: epochs, learning rate,
                weight averaging.
            calibration: which networks are sampled and where the noise comes from: `"mixture"`,
                the default, `"crossfit"`, `"holdout"`, `"none"`, or `nb.CalibrationOptions`.
            key: random key, typed or old, or an integer; `None` is `jax.random.key(0)`.
            progress: whether to report on standard error, or a function that takes a `Report`.

        Returns:
            Itself.

        Raises:
            OptionError: options contradict each other or are unknown.
            ShapeError, DataError, TokenError, LabelError: X, y and groups do not fit.
            SubsetError: nothing, or too much by default, would be sampled.
            TargetError: nothing can be integrated out.
        """
        check_complete(self.unstored)
        likelihood = chosen_likelihood(
            self.given, self.likelihood, self.num_classes, self.noise_prior
        )
        calibration = as_calibration(calibration, self.default_calibration)
        check_calibration(calibration, self.given)
        training = as_options("training", training, self.default_training)
        sampling = as_options("sampling", sampling, self.default_sampling)
        keeps_folds = isinstance(self.given, CrossFit | None) and calibration.method == "mixture"
        preset = self.default_mixture_sampler if keeps_folds else self.default_sampler
        sampler = Sampler.of(preset, backend, num_warmup, num_samples, num_chains, sampling)
        sampler.check(likelihood)
        trains_on_standardized = training.standardize_inputs and self.given is None
        network, examples = self._read(X, y, groups, likelihood, trains_on_standardized)
        calibration = replace(
            calibration, validation_data=self.names.validation(calibration.validation_data)
        )
        train_key, sample_key = jax.random.split(as_key(key))

        pretraining = Pretraining(
            network, likelihood, training, calibration, train_key, progress,
            self.has_frozen_weights, self.names, sampler.num_starts,
        )  # fmt: skip
        frozen = self._frozen_networks(examples, likelihood, pretraining)
        self.network = frozen[0].network
        prior = self._chosen_prior(
            frozen, examples, likelihood, calibration, sample_key, progress_from(progress)
        )
        targets = [
            self._target(each, examples, likelihood, prior, sampler.num_gradients)
            for each in frozen
        ]
        if not isinstance(likelihood, Categorical | Bernoulli):  # labels need no early noise
            columns = 1 if np.ndim(examples.y) == 1 else np.shape(examples.y)[1]
            check_expressiveness(targets[0].split, columns)

        posteriors: list[NetworkPosterior] = []
        for k, (each, target) in enumerate(zip(frozen, targets, strict=True)):
            chain_key = jax.random.fold_in(sample_key, k)
            posterior = sampler.sample(target, k, each.ensemble, chain_key, progress)
            posteriors.append(replace(posterior, scaler=each.scaler, names=self.names))
        self.posteriors = tuple(posteriors)
        self.noise = frozen[0].noise if self.cross is None else self.cross.known_noise
        self.mixture_calibration = calibration_of_mixture(
            self.posteriors, frozen, likelihood, self.cross, examples.X, examples.y,
            scale_draws=calibration.scale_draws,
        )  # fmt: skip
        warn_if_alike(self.posterior, examples.X)
        return self

    @property
    def posterior(self) -> NetworkPosterior | MixturePosterior:
        """The posterior; of several networks their mixture, whose members are `posteriors`."""
        if not self.posteriors:
            raise TrainingError("The model is not fitted yet. Type: model.fit(X, y)")
        first, *others = self.posteriors
        return MixturePosterior((first, *others), self.mixture_calibration) if others else first

    def predict(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return predictive mean and variance at new inputs, in the units of y.

        Args:
            X: inputs, as for fitting.

        Returns:
            Mean and variance, `(N,)` for one output, else `(N, outputs)`; for classes the
            probabilities `(N, classes)` and their variance.
        """
        prediction = self.predict_distribution(X)
        return prediction.mean, prediction.variance

    def predict_distribution(self, X: Any) -> Prediction:
        """Return the whole predictive distribution: quantiles, intervals, log density."""
        return self.posterior.predict(X)

    def _read(
        self, X: Any, y: Any, groups: Any, likelihood: Likelihood, standardize_inputs: bool
    ) -> tuple[Network, Examples]:
        """Return network and examples, checked before anything is trained; remember the names."""
        self.names, network, inputs, targets = named_network(
            self.model, X, y, likelihood.labels, *named_by(self.given, self.model),
            standardize_inputs=standardize_inputs, missing=likelihood.missing,
        )  # fmt: skip
        check_classes(self.num_classes, self.given, network, inputs)
        return network, Examples(inputs, targets, group_codes(groups, num_examples(inputs)))

    def _frozen_networks(
        self, examples: Examples, likelihood: Likelihood, pretraining: Pretraining
    ) -> list[FrozenNetwork]:
        """Train what was not given; remember it as `det` and `cross`."""
        given, calibration = self.given, pretraining.calibration
        self.cross = given if isinstance(given, CrossFit) else None
        if given is None and calibration.method in ("crossfit", "mixture"):
            self.cross = pretraining.cross_fit(examples)
        if self.cross is not None:
            self.det = self.cross.full
            return networks_to_sample(self.cross, examples, likelihood, calibration)
        if given is None:
            holds_out = calibration.method == "holdout"
            train = pretraining.holdout if holds_out else pretraining.uncalibrated
            frozen = [train(examples)]
        elif isinstance(given, EnsembleDeterministicNN):
            everything = self.choice.is_everything(given.network, first_of(given).params)
            frozen = from_ensemble(given, examples, likelihood, is_everything=everything)
        else:
            network = as_network(self.model, example=examples.take(np.arange(1)).X)
            frozen = [
                from_weights(
                    given, network, examples, calibration.validation_data, likelihood,
                    has_frozen_weights=self.has_frozen_weights,
                )
            ]  # fmt: skip
        self.det = frozen[0].det
        return frozen

    def _chosen_prior(
        self,
        frozen: Sequence[FrozenNetwork],
        examples: Examples,
        likelihood: Likelihood,
        calibration: CalibrationOptions,
        key: jax.Array,
        progress: Progress,
    ) -> Prior:
        """Return the prior of the stochastic weights; remember a search as `scale_choice`."""
        self.scale_choice = None
        center, prior = self._center(frozen[0]), self.prior
        if isinstance(prior, PriorScaleSearch):
            folds = scale_folds(
                frozen,
                self.cross if len(frozen) == 1 or frozen[0].chosen_on else None,
                examples,
                calibration.validation_data,
                prior.criterion,
                lambda each: self._target(each, examples, likelihood, None, FEW_GRADIENTS),
            )
            self.scale_choice = choose_scale(
                folds, center, jax.random.fold_in(key, PRIOR_KEY), prior, progress
            )
            prior = self.scale_choice.scale
        return NormalPrior(prior, center) if isinstance(prior, int | float) else prior

    def _center(self, frozen: FrozenNetwork) -> Any:
        """Return the center of a normal prior of which only the scale is known."""
        return "params" if frozen.ensemble is None else "zero"

    def _target(
        self,
        frozen: FrozenNetwork,
        examples: Examples,
        likelihood: Likelihood,
        prior: Prior | None,
        num_gradients: float,
    ) -> NetworkTarget:
        inputs, targets = frozen.data(examples)
        return Target.build(
            frozen.network, frozen.params, self.choice.resolve(frozen, examples), inputs, targets,
            likelihood=frozen_likelihood(likelihood, frozen, len(targets)),
            prior=prior, num_gradients=num_gradients,
        )  # fmt: skip
