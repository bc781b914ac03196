"""The options of `PartialBNN.fit`, grouped: how to train, how to sample, how to calibrate.

Each is a frozen dataclass: it can be printed, compared, reused in another fit, and changed with
`dataclasses.replace`. Values are checked on construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

from jax.sharding import Mesh

from nbcore.common.options import (
    check_at_least,
    check_choice,
    check_count,
    check_flag,
    check_positive,
    suggesting,
)
from nbcore.distributions.likelihoods import Likelihood
from nbcore.errors import OptionError
from nbcore.sampling.driver import CHAIN_METHODS, ChainMethod
from nbcore.sampling.restarts import check_acceptance_rate
from nbcore.sampling.starts import Start
from nbcore.targets.marginalize import Marginalize, check_marginalize
from nbcore.training.folds import Splitter
from nbcore.training.recipe import SWA, RateSchedule

Calibration = Literal["mixture", "crossfit", "holdout", "none"]
Criterion = Literal["nlpd", "marginal_likelihood"]
Validation = tuple[Any, Any] | None
Options = TypeVar("Options")
FOLDS = 5


@suggesting
@dataclass(frozen=True)
class TrainingOptions:
    """How `PartialBNN.fit` trains the networks whose weights it freezes.

    The other options of `nb.DeterministicNN` are chosen by the fit: the loss is the likelihood of
    the model, and y is standardized if the likelihood allows it.

    Args:
        epochs: passes over the data. `None` finds their number if networks are cross-fitted, by
            the error out of fold, see `nb.cross_fit`, and is 60 otherwise.
        learning_rate: peak learning rate.
        batch_size: examples of a minibatch.
        sigma: standard deviation of the Gaussian prior of the weights in training, which is part
            of the loss (MAP), with unit noise; with that out of fold once it is known, if
            `epochs` is to be found.
        weight_decay: decoupled weight decay (AdamW); 0 is Adam.
        schedule: `"constant"`, or `"cosine"` with a linear start over the first twentieth.
        swa: averaging of the last weights: an `nb.SWA`, a dict of its options, or `None`.
        standardize_inputs: whether features of X that are far from standardized are standardized
            inside the network, see `nb.DeterministicNN`.

    Raises:
        OptionError: an option is unknown or has an impossible value.

    Examples:
        >>> import nbcore as nb
        >>> short = nb.TrainingOptions(epochs=4, swa={"schedule": "linear"})
        >>> short.swa == nb.SWA("linear")
        True
        >>> nb.TrainingOptions(sgd_epochs=4)
        Traceback (most recent call last):
        nbcore.errors.OptionError: TrainingOptions has no option 'sgd_epochs'. Did you mean \
'epochs'? Possible: epochs, learning_rate, batch_size, sigma, weight_decay, schedule, swa, \
standardize_inputs.
    """

    epochs: int | None = None
    learning_rate: float = 6e-3
    batch_size: int = 32
    sigma: float = 1.0
    weight_decay: float = 0.01
    schedule: RateSchedule = "cosine"
    swa: SWA | dict[str, Any] | None = SWA(start_pct=0.9)  # noqa: RUF009  frozen
    standardize_inputs: bool = True

    def __post_init__(self) -> None:
        """Check the options, and make an `nb.SWA` of a dict."""
        if self.epochs is not None:
            check_count(1, epochs=self.epochs)
        check_count(1, batch_size=self.batch_size)
        check_positive(learning_rate=self.learning_rate, sigma=self.sigma)
        check_at_least(0, weight_decay=self.weight_decay)
        check_choice(get_args(RateSchedule), schedule=self.schedule)
        check_flag(standardize_inputs=self.standardize_inputs)
        object.__setattr__(self, "swa", SWA.of(self.swa))

    def network_options(self, likelihood: Likelihood) -> dict[str, Any]:
        """Return the options of the `nb.DeterministicNN` that is trained for a likelihood."""
        loss = likelihood.for_training()
        return {
            "loss": loss,
            "standardize": loss.can_standardize,
            "standardize_inputs": self.standardize_inputs,
            "learning_rate": self.learning_rate,
            "sigma": self.sigma,
            "weight_decay": self.weight_decay,
            "schedule": self.schedule,
            "swa": self.swa,
        }


@suggesting
@dataclass(frozen=True)
class SamplingOptions:
    """How `PartialBNN.fit` runs the chains.

    Args:
        thin: `num_samples` counts the steps of each chain after warmup, of which every `thin`-th is
            kept: `num_samples // thin` draws, as in Stan and NumPyro. `None` keeps all, with the
            own sampler of `nb.BNN` every 20th.
        chain_method: `"auto"`, `"vectorized"`, `"threads"` or `"sequential"`, see `nb.sample`.
        init: start of the chains: `"auto"`, `"trained"`, `"laplace"` or `"prior"`, see `nb.sample`;
            with `nb.BNN`, or an `nb.EnsembleDeterministicNN` whose weights are all sampled, the
            first two are one network for each chain.
        marginalize: whether weights that the outputs are linear in (those of the output layer)
            are integrated out while the others are sampled, and drawn afterwards, see
            `nb.marginalize`. The posterior is the same, and chains mix far better if the noise is
            small; a step costs more. `True` needs normal noise and a sampler without minibatches;
            `"auto"` integrates out if that is possible and fits into memory. `None` is `False`,
            with the own sampler of `nb.BNN` `"auto"`.
        max_num_restarts: how often to sample again, at most, while the mean acceptance rate is
            below `min_acceptance_rate`. The best run is kept: a choice by the draws, and so biased
            towards regions where steps are accepted easily.
        min_acceptance_rate: mean acceptance rate that is enough.
        checkpoint: a folder for the state and the draws of the chains, see `nb.sample`. Training
            is done again, which gives the same weights.
        mesh: devices for chains and examples, see `nb.sample`.

    Raises:
        OptionError: an option is unknown or has an impossible value.

    Examples:
        >>> import nbcore as nb
        >>> nb.SamplingOptions(thin=10, chain_method="sequential").thin
        10
        >>> nb.SamplingOptions(chain_method="parallel")
        Traceback (most recent call last):
        nbcore.errors.OptionError: chain_method is one of 'auto', 'vectorized', 'threads', \
'sequential', got 'parallel'.
    """

    thin: int | None = None
    chain_method: ChainMethod = "auto"
    init: Start = "auto"
    marginalize: Marginalize | None = None
    max_num_restarts: int = 0
    min_acceptance_rate: float = 0.55
    checkpoint: str | Path | None = None
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_count(1, optional=True, thin=self.thin)
        check_choice(CHAIN_METHODS, chain_method=self.chain_method)
        check_choice(get_args(Start), init=self.init)
        if self.marginalize is not None:
            check_marginalize(self.marginalize)
        check_count(0, max_num_restarts=self.max_num_restarts)
        check_acceptance_rate(self.min_acceptance_rate)
        if not isinstance(self.checkpoint, str | Path | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(f"checkpoint is a folder or None, got {self.checkpoint!r}.")
        if not isinstance(self.mesh, Mesh | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(
                f"mesh is a jax.sharding.Mesh or None, got {self.mesh!r}. Type: "
                'mesh=jax.make_mesh((c, d), ("chain", "data"))'
            )


@suggesting
@dataclass(frozen=True)
class CalibrationOptions:
    """Source of the noise, so that intervals are as wide as the errors on unseen examples.

    The frozen weights fit the examples that they were trained on better than others, so that the
    residuals there are too small.

    Args:
        method: `"mixture"`: one network is trained without each fold; each is sampled on the
            examples that it was trained on, and their mixture predicts, with a noise calibrated by
            the errors of the sampled networks out of fold. Each of them is sampled on its fold
            instead if the likelihood has no unknown noise that could be calibrated. `"crossfit"`:
            one network is trained on all examples and sampled on them, with the noise of
            out-of-fold residuals. `"holdout"`: a fifth of the examples is kept from training, and
            only this fifth is sampled. `"none"`: all examples are trained on and sampled; the
            noise comes out too small, unless all weights are sampled. If weights were given,
            nothing is trained; of those of a cross-fit the method says which networks are sampled,
            of others it does not matter.
        folds: number of folds of `"crossfit"` and `"mixture"`, or a cross-validator of scikit-learn
            that holds out each example once at most, such as `GroupKFold(5)` or
            `TimeSeriesSplit(5)`.
        ensemble: whether several networks predict together. `None`: as the method says. `False`
            is one network, with the method `"crossfit"` instead of `"mixture"`. `True` with
            `"crossfit"`: the networks of the folds are sampled, each on its fold alone.
        validation_data: `(X, y)` that the network has not seen: for early stopping with `"none"`,
            or to learn the noise of weights that were given.
        scale_draws: whether the variance between the draws of each network of a `"mixture"` is
            scaled, by the factor of at most 1 with which the sampled networks predict best out of
            fold.

    Raises:
        OptionError: an option is unknown or has an impossible value, or options contradict.

    Examples:
        >>> import nbcore as nb
        >>> nb.CalibrationOptions(folds=10)
        CalibrationOptions(method='mixture', folds=10, ensemble=None, scale_draws=True)
        >>> nb.CalibrationOptions(ensemble=False).method
        'crossfit'
        >>> nb.CalibrationOptions("cross-fit")
        Traceback (most recent call last):
        nbcore.errors.OptionError: method is one of 'mixture', 'crossfit', 'holdout', \
'none' for CalibrationOptions, got 'cross-fit'. Did you mean 'crossfit'?

    References:
        Stone (1974), "Cross-validatory choice and assessment of statistical predictions".
    """

    method: Calibration = "mixture"
    folds: int | Splitter = FOLDS
    ensemble: bool | None = None
    validation_data: Validation = field(default=None, repr=False, compare=False)
    scale_draws: bool = True

    def __post_init__(self) -> None:
        """Check the options; a mixture of one network is a cross-fit."""
        check_choice(get_args(Calibration), owner="CalibrationOptions", method=self.method)
        if isinstance(self.folds, str) or not hasattr(self.folds, "split"):
            check_count(2, folds=self.folds)
        if self.ensemble is not None:
            check_flag(ensemble=self.ensemble)
        check_flag(scale_draws=self.scale_draws)
        if self.ensemble and self.method not in ("crossfit", "mixture"):
            raise OptionError(
                f"ensemble=True keeps the networks of the folds, and {self.method!r} has none. "
                "Type: nb.CalibrationOptions('mixture')"
            )
        if self.ensemble is False and self.method == "mixture":
            object.__setattr__(self, "method", "crossfit")
        if self.validation_data is not None and len(self.validation_data) != 2:
            raise OptionError(
                "validation_data is a pair (X, y) of examples that the network has not seen, got "
                f"{len(self.validation_data)} objects."
            )


@suggesting
@dataclass(frozen=True)
class PriorScaleSearch:
    """A search for the scale of the normal prior of the stochastic weights.

    Each candidate is scored with a Laplace approximation of the posterior. The scores are kept in
    `model.scale_choice`.

    Args:
        scales: candidate standard deviations; of equal scores the smaller wins.
        criterion: `"nlpd"`: the negative log predictive density of examples that the network has
            not seen: out of fold with `"crossfit"`, in folds of the examples of `"holdout"`, or
            of `validation_data`. `"marginal_likelihood"`: the evidence of the examples that are
            sampled, refused if the frozen weights were trained on them.

    Raises:
        OptionError: an option is unknown or has an impossible value.

    Examples:
        >>> import nbcore as nb
        >>> nb.PriorScaleSearch(scales=[1.0, 0.1])
        PriorScaleSearch(scales=(0.1, 1.0), criterion='nlpd')

    References:
        MacKay (1992), "A practical Bayesian framework for backpropagation networks", equation 8;
        Immer et al. (2021), "Scalable marginal likelihood estimation for model selection in deep
        learning".
    """

    scales: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    criterion: Criterion = "nlpd"

    def __post_init__(self) -> None:
        """Check the options, and sort the candidates."""
        check_choice(get_args(Criterion), criterion=self.criterion)
        if isinstance(self.scales, str) or not len(self.scales):
            raise OptionError(
                f"scales is a list of standard deviations, such as (0.1, 1.0); got {self.scales!r}."
            )
        for scale in self.scales:
            check_positive(scales=scale)
        object.__setattr__(self, "scales", tuple(sorted(map(float, self.scales))))


def as_options(name: str, given: Any, default: Options) -> Options:
    """Return grouped options that were given, or the default.

    Args:
        name: the argument of `fit`.
        given: an instance of the class of `default`, or `None`.
        default: the options of the estimator.

    Raises:
        OptionError: something else was given.
    """
    if given is None:
        return default
    if not isinstance(given, type(default)):
        cls = type(default).__name__
        raise OptionError(
            f"{name} is an nb.{cls}, got {type(given).__name__}. Type: {name}=nb.{cls}(...)"
        )
    return given


def as_calibration(given: Any, default: CalibrationOptions) -> CalibrationOptions:
    """Return how to calibrate, of a method or of options.

    Raises:
        OptionError: the method is unknown, or something else was given.
    """
    if isinstance(given, str):
        check_choice(get_args(Calibration), calibration=given)
        return CalibrationOptions(cast(Calibration, given))
    return as_options("calibration", given, default)
