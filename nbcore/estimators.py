"""Fit and predict: a network of which some weights have a posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.backend import Backend, get_backend
from nbcore.calibration import (
    CrossFit,
    mixture_noise,
    standardised,
    take,
    tight_noise_prior,
)
from nbcore.checks import check_data
from nbcore.choice import Choice
from nbcore.deterministic import DeterministicNN, Loss
from nbcore.ensemble import EnsembleDeterministicNN
from nbcore.errors import OptionError, TrainingError, did_you_mean
from nbcore.expressiveness import check_expressiveness
from nbcore.keys import as_key
from nbcore.likelihoods import Categorical, Gaussian, Likelihood
from nbcore.network import Network, Params, as_network, count_outputs
from nbcore.posterior import Posterior
from nbcore.prediction import Prediction
from nbcore.priors import HalfNormal, NormalPrior, Prior
from nbcore.progress import Progress
from nbcore.recipe import SWA
from nbcore.restarts import sample_with_restarts
from nbcore.sampling import ChainMethod
from nbcore.selection import arguments_on, select_bayesian_components
from nbcore.stages import (
    Calibration,
    Stage,
    Training,
    Validation,
    cross_stages,
    ensemble_stages,
    first_of,
    given_stage,
)
from nbcore.subset import ProbabilisticSubset
from nbcore.target import NetworkTarget, Target

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
        likelihood: what outputs say about y, in y's own units; by default Gaussian, or
            Categorical for classes.
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
        self.ensemble_noise: np.ndarray | None = None

    def fit(
        self,
        X: Any,
        y: Any,
        num_warmup: int = 1000,
        num_samples: int = 1000,
        num_chains: int = 4,
        chain_method: ChainMethod = "auto",
        *,
        backend: str | Backend = "numpyro-nuts",
        backend_options: Mapping[str, Any] | None = None,
        thin: int = 1,
        calibration: Calibration = "crossfit",
        ensemble: bool = False,
        folds: int = FOLDS,
        validation_data: tuple[Any, Any] | None = None,
        sgd_epochs: int | None = None,
        sgd_lr: float | None = None,
        sgd_batch_size: int | None = None,
        swa_config: SWA | dict[str, Any] | None = None,
        map_sigma: float = 1.0,
        priors_sigma: float = 1.0,
        prior: Prior | None = None,
        select_neurons_config: Mapping[str, Any] | None = None,
        max_num_restarts: int = 0,
        min_accept_prob: float = 0.55,
        key: Any = None,
        progress: bool | Progress = True,
    ) -> PartialBNN:
        """Train the network if no weights were given, then sample the chosen weights.

        A second fit trains anew what it trained itself, and keeps weights that were given.

        Args:
            X: inputs `(N, ...)`.
            y: targets `(N,)` or `(N, outputs)`; labels `(N,)`.
            num_warmup: warmup steps of each chain.
            num_samples: steps of each chain after warmup.
            num_chains: number of chains.
            chain_method: see `nb.sample`.
            backend: a sampler from `nb.list_backends()`, or an instance.
            backend_options: options of a sampler that was given by name.
            thin: keep every `thin`-th step.
            calibration: where the noise comes from when the network is trained here.
                `"crossfit"`: from out-of-fold residuals, then all rows are sampled.
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
                trained values; around zero where an ensemble only starts the chains.
            prior: prior of the stochastic weights, instead of `priors_sigma`.
            select_neurons_config: choose pairs after training: arguments of
                `nb.select_bayesian_components`, such as method, layer_names and
                num_pairs_per_layer; selectors that look at data get the rows to sample.
            max_num_restarts: how often to sample again, at most, while the mean acceptance is below
                `min_accept_prob`. The best run is kept, which is a choice by the draws, and so
                biased towards regions where steps are accepted easily.
            min_accept_prob: mean acceptance that is enough.
            key: random key.
            progress: whether to report on standard error, or a function that takes a `Report`.

        Returns:
            Itself.

        Raises:
            OptionError: options contradict each other or are unknown.
            ShapeError, DataError, TokenError, LabelError: X and y do not fit.
            SubsetError: nothing, or too much by default, would be sampled.
        """
        self._check_options(calibration, ensemble, select_neurons_config)
        chosen = get_backend(backend, **dict(backend_options or {}))
        network = as_network(self.model, example=jax.tree.map(lambda a: a[:1], X))  # pyright: ignore[reportUnknownLambdaType]
        check_data(network, X, y)
        self._check_classes(network, X)
        train_key, sample_key = jax.random.split(as_key(key))
        recipe = {
            **RECIPE,
            **({} if sgd_lr is None else {"learning_rate": sgd_lr}),
            "sigma": map_sigma,
            "swa_config": SWA(start_pct=0.9) if swa_config is None else swa_config,
        }
        epochs = EPOCHS if sgd_epochs is None else sgd_epochs
        batch_size = BATCH_SIZE if sgd_batch_size is None else sgd_batch_size
        training = Training(self._loss(), recipe, epochs, batch_size, folds, train_key, progress)
        stages = self._stages(
            training, network, X, y, calibration, ensemble, validation_data, select_neurons_config
        )
        posteriors: list[Posterior] = []
        for k, stage in enumerate(stages):
            target = self._target(stage, X, y, select_neurons_config, priors_sigma, prior)
            if k == 0 and self._loss() != "classification":  # classes need no early noise
                check_expressiveness(target.split, 1 if np.ndim(y) == 1 else np.shape(y)[1])
            posterior = sample_with_restarts(
                target, chosen, key=jax.random.fold_in(sample_key, k),
                max_num_restarts=max_num_restarts, min_accept_prob=min_accept_prob,
                num_warmup=num_warmup, num_samples=num_samples, num_chains=num_chains, thin=thin,
                init=stage.ensemble or "trained", chain_method=chain_method, progress=progress,
            )  # fmt: skip
            posteriors.append(posterior.in_units_of(stage.scaler) if stage.scaler else posterior)
        self.posteriors = tuple(posteriors)
        self.noise = stages[0].noise
        self.ensemble_noise = self._shared_noise(X, stages) if len(stages) > 1 else None
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

    def _check_options(self, calibration: str, ensemble: bool, config: Any) -> None:
        if calibration not in get_args(Calibration):
            raise OptionError(
                f"calibration is {', '.join(get_args(Calibration))}, got {calibration!r}."
                f"{did_you_mean(calibration, get_args(Calibration))}"
            )
        fitted = self.given is None or isinstance(self.given, CrossFit)
        if ensemble and (calibration != "crossfit" or not fitted):
            raise OptionError(
                "ensemble=True keeps the fold networks of calibration='crossfit': give no "
                "deterministic_weights, or those of nb.cross_fit(...)."
            )
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

    def _check_classes(self, network: Network, X: Any) -> None:
        if self.num_classes is None:
            return
        first = jax.tree.map(lambda a: jnp.asarray(a[:1]), X)  # pyright: ignore[reportUnknownLambdaType]
        given = first_of(self.given)
        params = given.params if isinstance(given, DeterministicNN) else given
        if params is None:
            params = jax.eval_shape(network.init, jax.random.key(0), first)
        outputs = count_outputs(network, params, first)
        if outputs != self.num_classes:
            raise OptionError(
                f"num_classes={self.num_classes}, and the network has {outputs} output(s), one for "
                f"each class. Give the network {self.num_classes} outputs."
            )

    def _loss(self) -> Loss:
        given = first_of(self.given)
        trained = isinstance(given, DeterministicNN) and given.loss == "classification"
        classes = self.num_classes is not None or isinstance(self.likelihood, Categorical)
        return "classification" if trained or classes else "homoskedastic"

    def _stages(
        self,
        training: Training,
        network: Network,
        X: Any,
        y: Any,
        calibration: Calibration,
        ensemble: bool,
        validation_data: Validation,
        config: Mapping[str, Any] | None,
    ) -> list[Stage]:
        """Train what was not given; remember it as `det` and `cross`."""
        given = self.given
        self.cross = given if isinstance(given, CrossFit) else None
        if given is None and calibration == "crossfit":
            self.cross = training.cross(self.model, X, y)
        if self.cross is not None:
            self.det = self.cross.full
            return cross_stages(self.cross, X, y, ensemble=ensemble)
        has_noise = self.likelihood is not None or self.noise_prior is not None
        if given is None:
            stages = training.stages(self.model, X, y, calibration, validation_data=validation_data)
        elif isinstance(given, EnsembleDeterministicNN):
            first = first_of(given)
            everything = config is None and self.choice.is_everything(given.network, first.params)
            stages = ensemble_stages(given, X, is_everything=everything, has_noise=has_noise)
        else:
            is_regression = self._loss() == "homoskedastic"
            stages = [
                given_stage(
                    given, network, X, y, validation_data,
                    is_regression=is_regression, has_noise=has_noise,
                )
            ]  # fmt: skip
        self.det = stages[0].det
        return stages

    def _target(
        self,
        stage: Stage,
        X: Any,
        y: Any,
        config: Mapping[str, Any] | None,
        priors_sigma: float,
        prior: Prior | None,
    ) -> NetworkTarget:
        if config is not None and stage.det is not None:
            data = take(X, stage.rows), take(y, stage.rows)
            subset = select_bayesian_components(stage.det, **arguments_on(config, *data))
        else:
            subset = self.choice.resolve(stage.network, stage.params)
        center = "params" if stage.ensemble is None else "zero"
        targets = np.asarray(take(y, stage.rows))
        if stage.scaler is not None:
            targets = stage.scaler.standardise(targets)
        return Target.build(
            stage.network,
            stage.params,
            subset,
            take(X, stage.rows),
            targets,
            likelihood=self._likelihood(stage, targets),
            prior=prior if prior is not None else NormalPrior(priors_sigma, center),
        )

    def _likelihood(self, stage: Stage, targets: np.ndarray) -> Likelihood:
        if self._loss() == "classification":
            return self.likelihood or Categorical()
        own = self.likelihood or (self.noise_prior and Gaussian(noise_prior=self.noise_prior))
        if own is not None:
            return own if stage.scaler is None else standardised(own, stage.scaler.scale)
        if stage.noise is None:
            return Gaussian(noise_prior=HalfNormal(float(np.std(targets)) or 1.0))
        scale = 1.0 if stage.scaler is None else stage.scaler.scale
        return Gaussian(noise_prior=tight_noise_prior(stage.noise / scale, len(targets)))

    def _shared_noise(self, X: Any, stages: Sequence[Stage]) -> np.ndarray | None:
        """Return the noise of a mixture, whose members' spread is not counted twice."""
        if stages[0].noise is None or self.likelihood is not None or self.noise_prior is not None:
            return None
        predictions = [posterior.predict(X, max_draws=200) for posterior in self.posteriors]
        members = np.stack([p.draw_means.mean(axis=0) for p in predictions])
        between = members.var(axis=0).mean(axis=0)
        epistemic = np.mean([p.draw_means.var(axis=0).mean(axis=0) for p in predictions], axis=0)
        return mixture_noise(stages[0].noise ** 2, between, epistemic)


def predict_together(
    posteriors: Sequence[Posterior], X: Any, noise: np.ndarray | None = None
) -> Prediction:
    """Return the mixture of posteriors; `noise` `(outputs,)` replaces theirs where it is given."""
    mixture = Prediction.mixture([posterior.predict(X) for posterior in posteriors])
    if noise is None:
        return mixture
    return Prediction(mixture.draw_means, noise[None, None, :] ** 2, mixture.kind)
