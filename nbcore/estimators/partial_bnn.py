"""Fit and predict: a network of which some weights have a posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from nbcore.common.keys import as_key
from nbcore.common.progress import Progress, progress_from
from nbcore.distributions.likelihoods import Bernoulli, Categorical, Likelihood
from nbcore.distributions.priors import NormalPrior, Prior
from nbcore.errors import OptionError, TrainingError
from nbcore.estimators.choice import Choice
from nbcore.estimators.likelihood_choice import check_classes, chosen_likelihood, stage_likelihood
from nbcore.estimators.mixtures import predict_together, shared_noise
from nbcore.estimators.prior_scale import (
    Criterion,
    ScaleChoice,
    asked_scale,
    check_criterion,
    choose_scale,
    scale_folds,
)
from nbcore.estimators.run import Run
from nbcore.estimators.stages import (
    Calibration,
    FrozenNetwork,
    Training,
    Validation,
    check_calibration,
    cross_stages,
    ensemble_stages,
    first_of,
    given_stage,
)
from nbcore.networks.inputs import network_for
from nbcore.networks.network import Network, Params
from nbcore.posterior.posterior import Posterior
from nbcore.posterior.prediction import Prediction
from nbcore.sampling.backend import Backend
from nbcore.sampling.driver import ChainMethod
from nbcore.sampling.restarts import sample_with_restarts
from nbcore.selection.select import arguments_on, select_bayesian_components
from nbcore.subsets.expressiveness import check_expressiveness
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.targets import marginal
from nbcore.targets.marginal import Marginalize
from nbcore.targets.target import NetworkTarget, Target
from nbcore.training.cross_fit import CrossFit, take
from nbcore.training.deterministic import DeterministicNN
from nbcore.training.ensemble import EnsembleDeterministicNN
from nbcore.training.recipe import SWA

FOLDS = 5
RECIPE: dict[str, Any] = {"learning_rate": 6e-3, "weight_decay": 0.01, "schedule": "cosine"}
EPOCHS = 60
BATCH_SIZE = 32


class PartialBNN:
    """A network of which some weights get an MCMC posterior, and the rest stays frozen.

    With weights given, `fit` samples around them. Without, it trains the network first, in a way
    that keeps the predictions calibrated (see `calibration` in `fit`). At most one way of
    choosing weights is used; none means the first and the output layers.

    Args:
        net: a network, or a model that `nb.as_network` knows.
        deterministic_weights: a trained `nb.DeterministicNN`, its parameters, or what
            `nb.cross_fit` returned; `None` trains. With a trained `nb.EnsembleDeterministicNN`
            each member gets a posterior of its own, predictions are their mixture; where all
            weights are sampled, its members are where the chains of one posterior start.
        subset: which weights are stochastic.
        probabilistic_layer_names: layer names or patterns, each as a whole.
        num_probabilistic_layers: the last so many hidden layers, and the outputs.
        probabilistic_neurons: index pairs by layer, see `nb.ProbabilisticSubset.pairs`.
        num_classes: number of classes of a classification; `None` is a regression.
        likelihood: what outputs say about y, in y's own units: `nb.Gaussian`, `nb.StudentT`,
            `nb.Heteroskedastic`, `nb.NoiseModel`, `nb.Bernoulli`, `nb.Categorical` or
            `nb.Poisson`; by default that of the given `nb.DeterministicNN`, else Gaussian, or
            Categorical for classes. A noise that it leaves open comes from unseen rows.
        noise_prior: prior of the noise of the default Gaussian, in y's own units; by default it
            comes from rows that the network has not seen.

    Raises:
        OptionError: more than one way of choosing weights, or options that contradict.

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
        ...     sgd_epochs=40,
        ...     calibration="holdout",
        ...     progress=False,
        ... )
        >>> mean, variance = model.predict(x)
        >>> mean.shape, bool(np.all(variance > 0))
        ((60,), True)

    References:
        Sharma et al. (2023), "Do Bayesian neural networks need to be fully stochastic?".
    """

    default_calibration: ClassVar[Calibration] = "crossfit"
    default_run: ClassVar[Run] = Run()
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
        num_classes: int | None = None,
        likelihood: Likelihood | None = None,
        noise_prior: Any = None,
    ) -> None:
        self.choice = Choice(
            subset, probabilistic_layer_names, num_probabilistic_layers, probabilistic_neurons
        )
        if likelihood is not None and (noise_prior is not None or num_classes is not None):
            raise OptionError(
                "likelihood= says all about y. Leave noise_prior and num_classes out, or give "
                "them instead of it."
            )
        self.model = net
        self.given = deterministic_weights
        self.num_classes = num_classes
        self.likelihood = likelihood
        self.noise_prior = noise_prior
        self.cross: CrossFit | None = None
        self.det: DeterministicNN | None = None
        self.posteriors: tuple[Posterior, ...] = ()
        self.noise: np.ndarray | None = None
        self.scale_choice: ScaleChoice | None = None
        self.ensemble_noise: np.ndarray | None = None

    def fit(
        self,
        X: Any,
        y: Any,
        num_warmup: int | None = None,
        num_samples: int | None = None,
        num_chains: int = 4,
        chain_method: ChainMethod = "auto",
        *,
        backend: str | Backend | None = None,
        backend_options: Mapping[str, Any] | None = None,
        thin: int | None = None,
        calibration: Calibration | None = None,
        ensemble: bool = False,
        folds: int = FOLDS,
        validation_data: tuple[Any, Any] | None = None,
        sgd_epochs: int | None = None,
        sgd_lr: float | None = None,
        sgd_batch_size: int | None = None,
        swa_config: SWA | dict[str, Any] | None = None,
        map_sigma: float = 1.0,
        priors_sigma: float | None = None,
        prior_scale: float | Literal["auto"] | None = None,
        scale_criterion: Criterion = "nlpd",
        prior: Prior | None = None,
        marginalize: Marginalize | None = None,
        select_neurons_config: Mapping[str, Any] | None = None,
        max_num_restarts: int = 0,
        min_accept_prob: float = 0.55,
        key: Any = None,
        progress: bool | Progress = True,
        checkpoint: str | Path | None = None,
        mesh: Mesh | None = None,
    ) -> PartialBNN:
        """Train the network if no weights were given, then sample the chosen weights.

        A second fit trains anew what it trained itself, and keeps weights that were given.

        Args:
            X: inputs `(N, ...)`.
            y: targets `(N,)` or `(N, outputs)`; labels `(N,)`.
            num_warmup: warmup steps of each chain; 1,000 by default.
            num_samples: steps of each chain after warmup; 1,000 by default.
            num_chains: number of chains.
            chain_method: see `nb.sample`.
            backend: a sampler from `nb.list_backends()`, or an instance; `"numpyro-nuts"` by
                default. `nb.BNN` has a sampler and steps of its own where none of these is given.
            backend_options: options of a sampler that was given by name.
            thin: keep every `thin`-th step; all by default.
            calibration: where the noise comes from when the network is trained here.
                `"crossfit"`, the default: from out-of-fold residuals, then all rows are sampled.
                `"holdout"`: a fifth of the rows is kept from training, and only it is sampled.
                `"none"`: all rows are trained on and sampled; the noise comes out too small.
            ensemble: keep the fold networks, sample each on its own held-out fold, and predict
                with their mixture.
            folds: number of folds of the cross-fit.
            validation_data: `(X, y)` that the network has not seen: for early stopping
                (with `"none"`), or to learn the noise of weights that were given.
            sgd_epochs: epochs of training; 60 by default.
            sgd_lr: peak learning rate; 6e-3 by default.
            sgd_batch_size: rows of a minibatch; 32 by default.
            swa_config: averaging of the last weights; over the last tenth by default.
            map_sigma: standard deviation of the prior in training.
            priors_sigma: standard deviation of the prior of the stochastic weights, around the
                trained values; around zero where an ensemble only starts the chains. 1 by default.
            prior_scale: the same, or `"auto"`: the best of 0.01 to 3 on rows that have not been
                seen, remembered as `scale_choice`.
            scale_criterion: what `"auto"` goes by. `"nlpd"`: the out-of-fold negative log
                predictive density, with the fold networks of `"crossfit"` or in folds of the rows
                of `"holdout"`. `"marginal_likelihood"`: the evidence of the rows that are sampled,
                refused where the frozen weights were trained on them.
            prior: prior of the stochastic weights, instead of their scale.
            marginalize: whether weights that the outputs are linear in (those of the output layer)
                are integrated out while the others are sampled, and drawn afterwards; see
                `nb.marginalize`. The posterior is the same, and chains mix far better where the
                noise is small; a step costs more. For normal noise, all rows at once; `"auto"` is
                where it can be and fits. Not by default, but in the run of `nb.BNN`.
            select_neurons_config: choose pairs after training: arguments of
                `nb.select_bayesian_components`, such as method, layer_names and
                num_pairs_per_layer; selectors that look at data get the rows to sample.
            max_num_restarts: how often to sample again, at most, while the mean acceptance is below
                `min_accept_prob`. The best run is kept, which is a choice by the draws, and so
                biased towards regions where steps are accepted easily.
            min_accept_prob: mean acceptance that is enough.
            key: random key.
            progress: whether to report on standard error, or a function that takes a `Report`.
            checkpoint: a folder for what sampling has come to, see `nb.sample`; training is done
                again, which gives the same weights.
            mesh: devices for chains and examples, see `nb.sample`.

        Returns:
            Itself.

        Raises:
            OptionError: options contradict each other or are unknown.
            ShapeError, DataError, TokenError, LabelError: X and y do not fit.
            SubsetError: nothing, or too much by default, would be sampled.
            TargetError: nothing can be integrated out.
        """
        calibration = calibration or self.default_calibration
        check_calibration(calibration, ensemble, self.given)
        self._check_selection(select_neurons_config)
        scale = asked_scale(priors_sigma, prior_scale, prior)
        check_criterion(scale_criterion)
        base = chosen_likelihood(self.given, self.likelihood, self.num_classes, self.noise_prior)
        run = self.default_run.unless(
            backend=backend, backend_options=backend_options or None, num_warmup=num_warmup,
            num_samples=num_samples, thin=thin,
        )  # fmt: skip
        chosen = run.sampler()
        marginalize = run.marginalize if marginalize is None else marginalize
        marginal.check_asked(marginalize, base, chosen.capabilities)
        network = network_for(self.model, X, y)
        check_classes(self.num_classes, self.given, network, X)
        train_key, sample_key = jax.random.split(as_key(key))
        recipe = {
            **RECIPE,
            **({} if sgd_lr is None else {"learning_rate": sgd_lr}),
            "sigma": map_sigma,
            "swa_config": SWA(start_pct=0.9) if swa_config is None else swa_config,
        }
        epochs = EPOCHS if sgd_epochs is None else sgd_epochs
        batch_size = BATCH_SIZE if sgd_batch_size is None else sgd_batch_size
        training = Training(
            base.for_training(), recipe, epochs, batch_size, folds, train_key, progress,
            has_frozen_weights=self.has_frozen_weights,
        )  # fmt: skip
        stages = self._stages(
            training, base, network, X, y, calibration, ensemble, validation_data,
            select_neurons_config,
        )  # fmt: skip
        center = self._center(stages[0])

        def build(stage: FrozenNetwork, prior: Prior | None = None) -> NetworkTarget:
            return self._target(stage, base, X, y, select_neurons_config, prior)

        self.scale_choice = None
        if scale == "auto":
            whole = self.cross if len(stages) == 1 else None
            parts = scale_folds(stages, whole, X, y, validation_data, scale_criterion, build)
            scale_key = jax.random.fold_in(sample_key, 2**31 - 1)
            self.scale_choice = choose_scale(
                parts, center, scale_key, scale_criterion, progress=progress_from(progress)
            )
            scale = self.scale_choice.scale
        posteriors: list[Posterior] = []
        for k, stage in enumerate(stages):
            target = build(stage, prior or NormalPrior(scale, center))
            if k == 0 and not isinstance(base, Categorical | Bernoulli):
                # Labels need no early noise.
                check_expressiveness(target.split, 1 if np.ndim(y) == 1 else np.shape(y)[1])
            posterior = sample_with_restarts(
                marginal.as_asked(target, marginalize, chosen.capabilities), chosen,
                key=jax.random.fold_in(sample_key, k),
                max_num_restarts=max_num_restarts, min_accept_prob=min_accept_prob,
                num_warmup=run.num_warmup, num_samples=run.num_samples, thin=run.thin,
                num_chains=num_chains, init=stage.ensemble or "trained",
                chain_method=chain_method, progress=progress,
                checkpoint=None if checkpoint is None else Path(checkpoint, f"member-{k}"),
                mesh=mesh,
            )  # fmt: skip
            posteriors.append(posterior.in_units_of(stage.scaler) if stage.scaler else posterior)
        self.posteriors = tuple(posteriors)
        self.noise = stages[0].noise
        self.ensemble_noise = None
        if len(stages) > 1 and self.noise is not None and base.needs_noise_estimate:
            self.ensemble_noise = shared_noise(self.posteriors, X, self.noise)
        return self

    @property
    def posterior(self) -> Posterior:
        """The posterior; of an ensemble, `posteriors` holds one for each member."""
        if not self.posteriors:
            raise TrainingError("The model is not fitted yet. Type: model.fit(X, y)")
        first, *others = self.posteriors
        if others:
            raise OptionError("An ensemble has a posterior for each member. Read model.posteriors")
        return first

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
        if not self.posteriors:
            raise TrainingError("The model is not fitted yet. Type: model.fit(X, y)")
        return predict_together(self.posteriors, X, self.ensemble_noise)

    def _check_selection(self, config: Any) -> None:
        if config is not None and self.choice.given():
            raise OptionError(
                f"Got 2 ways of choosing weights at once: {self.choice.given()[0]} and "
                "select_neurons_config. Give one."
            )
        trained = DeterministicNN | CrossFit | EnsembleDeterministicNN
        bare = self.given is not None and not isinstance(self.given, trained)
        if config is not None and bare:
            raise OptionError(
                "select_neurons_config needs a trained nb.DeterministicNN, and bare parameters "
                "were given. Type: deterministic_weights=det"
            )

    def _center(self, stage: FrozenNetwork) -> Any:
        """Return where the prior is centered by default."""
        return "params" if stage.ensemble is None else "zero"

    def _stages(
        self,
        training: Training,
        base: Likelihood,
        network: Network,
        X: Any,
        y: Any,
        calibration: Calibration,
        ensemble: bool,
        validation_data: Validation,
        config: Mapping[str, Any] | None,
    ) -> list[FrozenNetwork]:
        """Train what was not given; remember it as `det` and `cross`."""
        given = self.given
        self.cross = given if isinstance(given, CrossFit) else None
        if given is None and calibration == "crossfit":
            self.cross = training.cross(self.model, X, y)
        if self.cross is not None:
            self.det = self.cross.full
            return cross_stages(self.cross, X, y, ensemble=ensemble)
        if given is None:
            stages = training.stages(self.model, X, y, calibration, validation_data=validation_data)
        elif isinstance(given, EnsembleDeterministicNN):
            first = first_of(given)
            everything = config is None and self.choice.is_everything(given.network, first.params)
            stages = ensemble_stages(given, X, is_everything=everything, likelihood=base)
        else:
            stages = [
                given_stage(
                    given, network, X, y, validation_data, base,
                    has_frozen_weights=self.has_frozen_weights,
                )
            ]  # fmt: skip
        self.det = stages[0].det
        return stages

    def _target(
        self,
        stage: FrozenNetwork,
        base: Likelihood,
        X: Any,
        y: Any,
        config: Mapping[str, Any] | None,
        prior: Prior | None,
    ) -> NetworkTarget:
        if config is not None and stage.det is not None:
            data = take(X, stage.rows), take(y, stage.rows)
            subset = select_bayesian_components(stage.det, **arguments_on(config, *data))
        else:
            subset = self.choice.resolve(stage.network, stage.params)
        inputs, targets = stage.data(X, y)
        return Target.build(
            stage.network,
            stage.params,
            subset,
            inputs,
            targets,
            likelihood=stage_likelihood(base, stage, len(targets)),
            prior=prior,
        )
