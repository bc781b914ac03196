"""NeuroBayes' Bayesian network whose noise is a function of x."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions as dist
from numpyro import handlers

import nbcore
from nbcore.errors import OptionError
from nbcore_neurobayes.architectures import as_plain
from nbcore_neurobayes.arguments import noise_prior_of
from nbcore_neurobayes.models.bnn import BNN, as_observed
from nbcore_neurobayes.models.bnn_heteroskedastic import HeteroskedasticBNN
from nbcore_neurobayes.numpyro_model import SampledNetwork, noise_distribution

VarianceModel = Callable[[Any, dict[str, Any]], Any]
STARTS = 1000


class VarianceModelHeteroskedasticBNN(HeteroskedasticBNN):
    """A network whose noise is a function of x, with parameters that are sampled too.

    Unlike in NeuroBayes, which takes it for the standard deviation, what `variance_model` returns
    is the variance. It has to be positive, its parameters need not be.

    Args:
        architecture: the network of the mean.
        variance_model: `(X, parameters) -> variance`, `(n,)` or `(n, outputs)`; jittable.
        variance_model_prior: a function that samples each parameter with `numpyro.sample` and
            returns them by name, such as `priors.auto_normal_priors(...)`; or one that returns a
            prior for each name, or that dict.

    Raises:
        OptionError: the prior function samples nothing.

    Examples:
        >>> import jax.numpy as jnp, nbcore_neurobayes as nb
        >>> def variance(x, params):
        ...     return params["floor"] + params["slope"] * jnp.abs(x[:, 0])
        >>> def priors():
        ...     floor = nb.priors.place_lognormal_prior("floor", -2.0)
        ...     return {"floor": floor, "slope": nb.priors.place_normal_prior("slope")}
        >>> model = nb.VarianceModelHeteroskedasticBNN(nb.FlaxMLP([4], 1), variance, priors)
    """

    def __init__(
        self,
        architecture: Any,
        variance_model: VarianceModel,
        variance_model_prior: Callable[[], Mapping[str, Any]] | Mapping[str, Any],
    ) -> None:
        self.variance_model, self.variance_model_prior = variance_model, variance_model_prior
        self._priors = _priors_of(variance_model_prior)
        self._start: dict[str, float] = {}
        super().__init__(architecture)

    def _estimator(self, sigma: float) -> nbcore.PartialBNN:
        likelihood = nbcore.NoiseModel(
            self._noise, {k: noise_prior_of(p) for k, p in self._priors.items()}, start=self._start
        )
        return nbcore.BNN(as_plain(self.nn), likelihood=likelihood, prior=sigma)

    def _noise(self, x: Any, parameters: Mapping[str, Any]) -> Any:
        """Return the standard deviation; NaN if the variance is negative."""
        variance = jnp.asarray(self.variance_model(x, self._arguments(parameters)))
        positive = variance > 0
        return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), jnp.nan)

    def _arguments(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the prior function makes of the parameters that it samples."""
        given = self.variance_model_prior
        if not callable(given):
            return dict(parameters)
        # Blocked: inside a NumPyro model the parameters are sites already.
        with (
            handlers.block(),
            handlers.seed(rng_seed=0),
            handlers.substitute(data=dict(parameters)),
        ):
            made = dict(given())
        return {name: parameters.get(name, value) for name, value in made.items()}

    def _prepared(self, rows: Any, targets: Any, sigma: float | None) -> nbcore.PartialBNN:
        """Start at the prior medians, or else at the draw whose noise is most like y's spread."""
        keys = jax.random.split(jax.random.key(0), len(self._priors))
        drawn = {
            name: jnp.asarray(prior.sample(key, (STARTS,)))
            for key, (name, prior) in zip(keys, self._priors.items(), strict=True)
        }
        medians = {name: jnp.median(values) for name, values in drawn.items()}
        tried = {name: jnp.append(medians[name], values) for name, values in drawn.items()}
        noise = np.asarray(jax.vmap(lambda p: self._noise(jnp.asarray(rows), p))(tried))
        noise = noise.reshape(STARTS + 1, -1)
        distance = np.abs(np.log(noise) - np.log(np.std(targets) + 1e-12)).mean(axis=1)
        if not np.any(np.isfinite(distance)):
            raise OptionError(
                f"variance_model is not positive at all X for any of {STARTS} draws of its prior. "
                "Choose a prior under which it is, such as nb.priors.auto_lognormal_priors(...)."
            )
        best = 0 if np.isfinite(distance[0]) else int(np.nanargmin(distance))
        self._start = {} if best == 0 else {k: float(values[best]) for k, values in tried.items()}
        return super()._prepared(rows, targets, sigma)

    def _parameters(self, posterior: nbcore.NetworkPosterior) -> dict[str, np.ndarray]:
        found = posterior.constrained()["likelihood"]
        return {name: np.asarray(values) for name, values in found.items()}

    def _noise_of(self, samples: Any, rows: Any) -> np.ndarray | None:
        parameters = {name: jnp.asarray(samples[name]) for name in self._priors}
        noise = np.asarray(jax.vmap(lambda p: self._noise(jnp.asarray(rows), p))(parameters))
        return noise[..., None] if noise.ndim == 2 else noise

    model = BNN.model  # pyright: ignore[reportAssignmentType]  as in NeuroBayes

    def _observe(self, net: SampledNetwork, rows: Any, y: Any, sigma: float) -> None:
        outputs = net.outputs(rows, sigma)[:, :1]
        mu = numpyro.deterministic("mu", net.shift + net.scale * outputs)
        parameters = {
            name: numpyro.sample(name, noise_distribution(prior, 1.0, ()))
            for name, prior in self._priors.items()
        }
        noise = self._noise(rows, parameters)
        sig = numpyro.deterministic("sig", noise[:, None] if noise.ndim == 1 else noise)
        numpyro.sample("y", dist.Normal(mu, sig), obs=as_observed(y))


def _priors_of(given: Any) -> dict[str, Any]:
    """Return the prior of each parameter that a prior function samples, or that it returns."""
    if not callable(given):
        return dict(given)
    with handlers.seed(rng_seed=0), handlers.trace() as sites:
        returned: Any = given()
    found: dict[str, Any] = {
        name: site["fn"] for name, site in sites.items() if site["type"] == "sample"
    }
    found = found or {k: v for k, v in (returned or {}).items() if hasattr(v, "log_prob")}
    if not found:
        raise OptionError(
            "variance_model_prior samples no parameter. Type: nb.priors.auto_normal_priors(noise), "
            "or a function that calls numpyro.sample for each parameter and returns a dict."
        )
    return found
