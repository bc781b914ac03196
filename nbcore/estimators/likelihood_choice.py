"""The likelihood that an estimator samples with, and its noise, estimated on unseen examples."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from nbcore.distributions.likelihoods import Categorical, Gaussian, Likelihood
from nbcore.distributions.positive import PositivePrior
from nbcore.errors import OptionError
from nbcore.estimators.frozen import FrozenNetwork, first_of
from nbcore.networks.evaluation import count_outputs
from nbcore.networks.network import Network
from nbcore.training.deterministic import DeterministicNN


def chosen_likelihood(
    given: Any,
    likelihood: Likelihood | None,
    num_classes: int | None,
    noise_prior: PositivePrior | None,
) -> Likelihood:
    """Return the likelihood in y's own units, before anything is learned about its noise.

    Args:
        given: the weights that were given, or `None`.
        likelihood: the likelihood that was given, or `None`.
        num_classes: number of classes of a classification.
        noise_prior: prior of the noise of the default Gaussian.

    Raises:
        OptionError: the given weights were trained for another meaning of the outputs.
    """
    trained = first_of(given)
    trained = trained if isinstance(trained, DeterministicNN) else None
    if likelihood is not None:
        chosen = likelihood
    elif num_classes is not None:
        chosen = Categorical()
    elif trained is not None and not trained.is_squared_error:
        chosen = trained.likelihood
    else:
        chosen = Gaussian(noise_prior=noise_prior)
    if trained is not None and type(trained.likelihood) is not type(chosen.for_training()):
        name, other = type(chosen).__name__, type(trained.likelihood).__name__
        raise OptionError(
            f"The given weights were trained with {other}, whose outputs do not mean what those of "
            f"{name} mean. Train with nb.DeterministicNN(net, loss=nb.{name}())"
        )
    return chosen


def frozen_likelihood(likelihood: Likelihood, frozen: FrozenNetwork, count: int) -> Likelihood:
    """Return the likelihood of a frozen network, in the units of the network.

    If the examples that are sampled were not trained on, they determine the noise by themselves.
    The members of an ensemble, which have few of them, take the noise from those of all folds.

    Args:
        likelihood: the likelihood of y in its own units.
        frozen: the frozen network.
        count: number of examples that are sampled.
    """
    if frozen.residuals is not None and frozen.estimates_noise:
        likelihood = likelihood.with_estimated_noise(frozen.residuals, count)
    return likelihood if frozen.scaler is None else likelihood.rescaled(frozen.scaler.scale)


def check_classes(num_classes: int | None, given: Any, network: Network, X: Any) -> None:
    """Check that the network has an output for each class.

    Raises:
        OptionError: the number of outputs is another one.
    """
    if num_classes is None:
        return
    first = jax.tree.map(lambda a: jnp.asarray(a[:1]), X)  # pyright: ignore[reportUnknownLambdaType]
    trained = first_of(given)
    params = trained.params if isinstance(trained, DeterministicNN) else trained
    if params is None:
        params = jax.eval_shape(network.init, jax.random.key(0), first)
    outputs = count_outputs(network, params, first)
    if outputs != num_classes:
        raise OptionError(
            f"num_classes={num_classes}, and the network has {outputs} output(s). Give the network "
            f"one output for each class: {num_classes}."
        )
