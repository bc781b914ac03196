"""NeuroBayes' networks whose noise depends on x."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

import nbcore
from nbcore_neurobayes.arguments import (
    as_rows,
    noise_prior_of,
    on_device,
    subset_of,
    weights_of,
)
from nbcore_neurobayes.bayesian import BNN, PartialBNN


class HeteroskedasticBNN(BNN):
    """A network with a second head for the noise, of which every weight is sampled.

    Unlike in NeuroBayes, the second head is the logarithm of the standard deviation in training,
    sampling and prediction, and `priors_sigma` counts.

    Args:
        architecture: a network with two heads, such as `FlaxMLP2Head`.
        pretrained_priors: weights that the prior is centered at, instead of zero.
    """

    def __init__(self, architecture: Any, pretrained_priors: Any = None) -> None:
        self.num_classes = None
        likelihood = nbcore.Heteroskedastic()
        priors = weights_of(pretrained_priors)
        self._set_model(partial(nbcore.BNN, architecture, None, priors, likelihood=likelihood))

    def predict_noise(self, X_new: Any, device: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance over the draws of the standard deviation of the noise.

        Args:
            X_new: inputs.
            device: `"cpu"`, `"gpu"`, or `None`.

        Returns:
            `(n, outputs)` each.
        """
        with on_device(device):
            prediction = self.model.predict_distribution(as_rows(X_new))
        variances = np.broadcast_to(prediction.draw_variances, prediction.draw_means.shape)
        noise = np.sqrt(variances)
        return noise.mean(axis=0), noise.var(axis=0)


class HeteroskedasticPartialBNN(  # pyright: ignore[reportIncompatibleMethodOverride]
    PartialBNN, HeteroskedasticBNN
):
    """A network with a second head for the noise, of which some weights are sampled.

    Args:
        deterministic_nn: a network with two heads, such as `FlaxMLP2Head`.
        deterministic_weights: a trained `DeterministicNN`, or parameters; `None` trains.
        num_probabilistic_layers: the last so many hidden layers, and both heads.
        probabilistic_layer_names: layers to sample; `VarianceHead` is called `LogScaleHead` here.
    """

    def __init__(
        self,
        deterministic_nn: Any,
        deterministic_weights: Any = None,
        num_probabilistic_layers: int | None = None,
        probabilistic_layer_names: Sequence[str] | None = None,
    ) -> None:
        self.num_classes = None
        names = probabilistic_layer_names
        if names is not None:
            names = ["LogScaleHead" if name == "VarianceHead" else name for name in names]
        self._set_model(
            partial(
                nbcore.PartialBNN,
                deterministic_nn,
                weights_of(deterministic_weights),
                subset=subset_of(names, num_probabilistic_layers, None),
                likelihood=nbcore.Heteroskedastic(),
            )
        )


class VarianceModelHeteroskedasticBNN(HeteroskedasticBNN):
    """A network whose noise is a function of x, with parameters that are sampled too.

    Unlike in NeuroBayes, which takes it for the standard deviation, what `variance_model` returns
    is the variance. Its parameters are positive.

    Args:
        architecture: the network of the mean.
        variance_model: `(X, parameters) -> variance`, `(n,)` or `(n, outputs)`; jittable.
        variance_model_prior: a function that gives a prior for each parameter by name, such as
            `priors.auto_lognormal_priors(...)`, or the dict itself.

    Examples:
        >>> import jax.numpy as jnp, nbcore_neurobayes as nb
        >>> def variance(x, params):
        ...     return params["floor"] + params["slope"] * jnp.abs(x[:, 0])
        >>> priors = lambda: {
        ...     name: nb.priors.place_lognormal_prior(name, -2.0) for name in ("floor", "slope")
        ... }
        >>> model = nb.VarianceModelHeteroskedasticBNN(nb.FlaxMLP([4], 1), variance, priors)
    """

    def __init__(
        self,
        architecture: Any,
        variance_model: Callable[[Any, dict[str, Any]], Any],
        variance_model_prior: Callable[[], Mapping[str, Any]] | Mapping[str, Any],
    ) -> None:
        self.num_classes = None
        given = variance_model_prior() if callable(variance_model_prior) else variance_model_prior

        def noise(x: Any, parameters: dict[str, Any]) -> Any:
            return jnp.sqrt(variance_model(x, parameters))

        likelihood = nbcore.NoiseModel(noise, {k: noise_prior_of(p) for k, p in given.items()})
        self._set_model(partial(nbcore.BNN, architecture, likelihood=likelihood))
