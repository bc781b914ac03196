"""NeuroBayes' Bayesian network with a second head for the noise."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions as dist

import nbcore
from nbcore_neurobayes.architectures import as_plain
from nbcore_neurobayes.arguments import as_rows, on_device, weights_of
from nbcore_neurobayes.models.bnn import BNN, as_observed
from nbcore_neurobayes.numpyro_model import SampledNetwork
from nbcore_neurobayes.words import own_words


class HeteroskedasticBNN(BNN):
    """A network with a second head for the noise, of which every weight is sampled.

    Unlike in NeuroBayes, the second head is the logarithm of the standard deviation in training,
    sampling and prediction, and `priors_sigma` counts.

    Args:
        architecture: a network with two heads, such as `FlaxMLP2Head`.
        pretrained_priors: weights that the prior is centered at, instead of zero.
    """

    def __init__(self, architecture: Any, pretrained_priors: Any = None) -> None:
        super().__init__(architecture, pretrained_priors=pretrained_priors)

    def _estimator(self, sigma: float) -> nbcore.PartialBNN:
        weights = weights_of(self.pretrained_priors)
        likelihood = nbcore.Heteroskedastic()
        return nbcore.BNN(as_plain(self.nn), None, weights, likelihood=likelihood, prior=sigma)

    def _noise_of(self, samples: Any, rows: Any) -> np.ndarray | None:
        del samples, rows
        return None

    def model(  # pyright: ignore[reportIncompatibleMethodOverride]  as in NeuroBayes
        self,
        X: Any,
        y: Any = None,
        pretrained_priors: Any = None,
        priors_sigma: float = 1.0,
        **kwargs: Any,
    ) -> None:
        """State the model in NumPyro, see `BNN.model`; `pretrained_priors` is not used."""
        del pretrained_priors
        super().model(X, y, priors_sigma, **kwargs)

    def _observe(self, net: SampledNetwork, rows: Any, y: Any, sigma: float) -> None:
        means, log_deviations = jnp.split(net.outputs(rows, sigma), 2, axis=1)
        mu = numpyro.deterministic("mu", net.shift + net.scale * means)
        sig = numpyro.deterministic("sig", net.scale * jnp.exp(log_deviations))
        numpyro.sample("y", dist.Normal(mu, sig), obs=as_observed(y))

    def predict_noise(self, X_new: Any, device: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance over the draws of the standard deviation of the noise.

        Args:
            X_new: inputs.
            device: `"cpu"`, `"gpu"`, or `None`.

        Returns:
            `(n, outputs)` each.

        Raises:
            NotFittedError: the model is not fitted.
        """
        with on_device(device), own_words():
            noise = self._sites(self._prediction(as_rows(X_new), None))["sig"]
        return noise.mean(axis=0), noise.var(axis=0)
