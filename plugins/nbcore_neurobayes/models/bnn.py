"""NeuroBayes' Bayesian network, of which every weight is sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions as dist

import nbcore
from nbcore.errors import OptionError
from nbcore_neurobayes.architectures import as_plain
from nbcore_neurobayes.arguments import (
    as_columns,
    as_rows,
    noise_prior_of,
    on_device,
    sampling_of,
    weights_of,
)
from nbcore_neurobayes.chains import Chains
from nbcore_neurobayes.errors import NotFittedError
from nbcore_neurobayes.numpyro_model import SampledNetwork, noise_distribution
from nbcore_neurobayes.sites import site_names, with_draws
from nbcore_neurobayes.utils.diagnostics import MCMCDiagnostics
from nbcore_neurobayes.words import own_words


class BNN:
    """A network of which every weight is sampled; `estimator` is the `nbcore.BNN` of it.

    Unlike in NeuroBayes, chains start at weights that are trained first, and the default noise
    prior is as wide as y.

    Args:
        architecture: a linen module, or any model that `nbcore.as_network` knows.
        num_classes: number of classes; `None` is a regression.
        noise_prior: a distribution of NumPyro, or a prior of nbcore.
        pretrained_priors: weights that the prior is centered at, instead of zero.

    Raises:
        ArchitectureError: the architecture is no network.
        OptionError: there are fewer than 2 classes.

    Examples:
        >>> import numpy as np, nbcore_neurobayes as nb
        >>> x = np.linspace(-1, 1, 16, dtype=np.float32)[:, None]
        >>> model = nb.BNN(nb.FlaxMLP([4], 1))
        >>> model.fit(x, x[:, 0] ** 2, 20, 20, progress_bar=False)
        >>> [part.shape for part in model.predict(x)]
        [(16, 1), (16, 1)]
    """

    is_whole_network = True
    diagnostic_results: dict[str, Any] | None = None

    def __init__(
        self,
        architecture: Any,
        num_classes: int | None = None,
        noise_prior: Any = None,
        pretrained_priors: Any = None,
    ) -> None:
        self.pretrained_priors = pretrained_priors
        self._begin(architecture, num_classes, noise_prior)

    def _begin(self, architecture: Any, num_classes: int | None, noise_prior: Any) -> None:
        """Keep and check what makes the model."""
        if num_classes is not None and num_classes < 2:
            raise OptionError(
                f"num_classes is at least 2, or None for a regression; got {num_classes}."
            )
        self.nn, self.num_classes = architecture, num_classes
        self.noise_prior = noise_prior if num_classes is None else None
        self._rows: Any = None
        self._draws: dict[str, np.ndarray] | None = None
        with own_words():
            nbcore.as_network(architecture)
            self.estimator = self._estimator(1.0)

    def _estimator(self, sigma: float) -> nbcore.PartialBNN:
        """Return the model of nbcore with a standard deviation of the prior."""
        return nbcore.BNN(
            as_plain(self.nn), noise_prior_of(self.noise_prior), weights_of(self.pretrained_priors),
            num_classes=self.num_classes, prior=sigma,
        )  # fmt: skip

    @property
    def is_regression(self) -> bool:
        """Whether targets are numbers, not classes."""
        return self.num_classes is None

    @property
    def posterior(self) -> nbcore.NetworkPosterior:
        """The `nbcore.NetworkPosterior`.

        Raises:
            NotFittedError: the model is not fitted.
            OptionError: there is one for each member of an ensemble.
        """
        if not self.estimator.posteriors:
            raise NotFittedError("The model is not fitted yet. Type: model.fit(X, y)")
        found = self.estimator.posterior
        if isinstance(found, nbcore.MixturePosterior):
            raise OptionError(
                "An ensemble has a posterior for each member. Read model.estimator.posteriors"
            )
        return found

    @property
    def mcmc(self) -> Chains:
        """Draws and statistics, under the names of NumPyro's `MCMC`."""
        return Chains(self.posterior, self._all_draws)

    def fit(
        self,
        X: Any,
        y: Any,
        num_warmup: int = 2000,
        num_samples: int = 2000,
        num_chains: int = 1,
        chain_method: str = "sequential",
        priors_sigma: float | None = 1.0,
        progress_bar: bool = True,
        device: str | None = None,
        rng_key: Any = None,
        extra_fields: Sequence[str] = (),
        max_num_restarts: int = 1,
        min_accept_prob: float = 0.55,
        run_diagnostics: bool = False,
        *,
        backend: str | nbcore.Backend = "numpyro-nuts",
    ) -> None:
        """Sample the weights; a second call uses its own data alone.

        Args:
            X: inputs.
            y: targets `(n,)` or `(n, outputs)`; labels.
            num_warmup: warmup steps.
            num_samples: steps after warmup.
            num_chains: number of chains.
            chain_method: `"sequential"`, `"parallel"` or `"vectorized"`.
            priors_sigma: standard deviation of the prior.
            progress_bar: whether to report progress.
            device: `"cpu"`, `"gpu"`, or `None`.
            rng_key: random key.
            extra_fields: not needed: all statistics are kept, see `mcmc.get_extra_fields()`.
            max_num_restarts: how many runs to make at most while the mean acceptance is too low,
                for any number of chains.
            min_accept_prob: mean acceptance that is enough.
            run_diagnostics: whether to print R-hat of each layer.
            backend: sampler, see `nbcore.list_backends`.
        """
        del extra_fields
        rows, targets = self.set_data(X, y)
        with on_device(device), own_words():
            self.estimator = self._prepared(rows, targets, priors_sigma)
            self._sample(
                rows, targets, (num_warmup, num_samples, num_chains), run_diagnostics,
                backend=backend, key=rng_key, progress=progress_bar,
                sampling=sampling_of(chain_method, max_num_restarts, min_accept_prob),
            )  # fmt: skip

    def _prepared(self, rows: Any, targets: Any, sigma: float | None) -> nbcore.PartialBNN:
        """Return the model of nbcore for given data."""
        del rows, targets
        return self._estimator(1.0 if sigma is None else sigma)

    def _sample(
        self, rows: Any, targets: Any, steps: tuple[int, int, int], diagnose: bool, **options: Any
    ) -> None:
        self.estimator.fit(rows, targets, *steps, **options)
        self._rows, self._draws, self.diagnostic_results = rows, None, None
        if diagnose:
            weights = self._weights(self.posterior)
            self.diagnostic_results = MCMCDiagnostics().run_diagnostics(weights)

    def get_samples(self, chain_dim: bool = False) -> dict[str, np.ndarray]:
        """Return draws of the weights by name, the noise `"sig"`, and what follows from them.

        The names of weights are those of `nbcore_neurobayes.sites.site_names`. `"sig"` is
        `(draws,)`, or one for each output if there are several. `"mu"` (or `"probs"` of classes)
        are the outputs `(draws, n, outputs)` at the inputs of the fit.

        Args:
            chain_dim: whether chains are an axis of their own, before the draws.
        """
        return self.mcmc.get_samples(group_by_chain=chain_dim)

    def _all_draws(self) -> dict[str, np.ndarray]:
        if self._draws is None:
            posterior = self.posterior
            prediction = posterior.predict(self._rows)
            counts = (posterior.num_chains, posterior.num_draws)
            sites = self._sites(prediction)
            self._draws = self._weights(posterior) | self._parameters(posterior)
            for name, values in sites.items():
                self._draws.setdefault(name, values.reshape(*counts, *values.shape[1:]))
        return self._draws

    def _weights(self, posterior: nbcore.NetworkPosterior) -> dict[str, np.ndarray]:
        """Return draws `(chains, draws, ...)` of the weights by name."""
        names = site_names(posterior.split, is_whole_network=self.is_whole_network)
        return {names[path]: np.asarray(w) for path, w in posterior.draws["weights"].items()}

    def _parameters(self, posterior: nbcore.NetworkPosterior) -> dict[str, np.ndarray]:
        """Return draws `(chains, draws, ...)` of the parameters of the likelihood by name."""
        noise = posterior.constrained()["likelihood"].get("noise")
        if noise is None:
            return {}
        noise = np.asarray(noise, np.float64)
        noise = noise if posterior.scaler is None else noise * posterior.scaler.scale
        return {"sig": noise.reshape(*noise.shape[:2], *self._noise_shape(noise.shape[2]))}

    def _noise_shape(self, num_outputs: int) -> tuple[int, ...]:
        """Return the shape of the noise: that of its prior, or one for each output."""
        given = tuple(getattr(self.noise_prior, "batch_shape", ()))
        return given if num_outputs == 1 else (num_outputs,)

    def _sites(self, prediction: nbcore.Prediction) -> dict[str, np.ndarray]:
        """Return means and noise of y `(draws, n, outputs)`, or probabilities, of each draw."""
        if not self.is_regression:
            return {"probs": prediction.draw_means}
        means = prediction.draw_means
        return {
            "mu": means,
            "sig": np.sqrt(np.broadcast_to(prediction.draw_variances, means.shape)),
        }

    def predict(
        self, X_new: Any, samples: Any = None, device: str | None = None, rng_key: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of y; for classes mean probabilities and total entropy.

        Args:
            X_new: inputs.
            samples: draws from `get_samples()`, such as a part of them; all by default.
            device: `"cpu"`, `"gpu"`, or `None`.
            rng_key: not needed: moments are computed, not drawn.

        Returns:
            Regression: `(n, outputs)` and `(n, outputs)`. Classes: `(n, classes)` and `(n,)`.

        Raises:
            NotFittedError: the model is not fitted.
        """
        del rng_key
        with on_device(device), own_words():
            prediction = self._prediction(X_new, samples)
        if self.is_regression:
            return as_columns(prediction.mean), as_columns(prediction.variance)
        return prediction.mean, prediction.total_entropy

    def predict_classes(
        self, X_new: Any, samples: Any = None, device: str | None = None, rng_key: Any = None
    ) -> np.ndarray:
        """Return the most probable class of each example.

        Raises:
            OptionError: this is a regression.
        """
        if self.is_regression:
            raise OptionError("A regression has no classes. Type: BNN(net, num_classes=...)")
        return BNN.predict(self, X_new, samples, device, rng_key)[0].argmax(axis=1)

    def sample_from_posterior(
        self, rng_key: Any, X_new: Any, samples: Any, return_sites: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Return for each draw `(draws, n, outputs)`: means, noises, y, or probabilities.

        Args:
            rng_key: random key of y.
            X_new: inputs.
            samples: draws from `get_samples()`.
            return_sites: of `"mu"`, `"sig"` and `"y"`, or `"probs"` and `"y"`; all by default.
        """
        with own_words():
            sites = self._sites(self._prediction(X_new, samples))
        if self.is_regression:
            normal = np.asarray(jax.random.normal(rng_key, sites["mu"].shape))
            sites["y"] = sites["mu"] + sites["sig"] * normal
        else:
            logits = jnp.log(jnp.asarray(sites["probs"]))
            sites["y"] = np.asarray(jax.random.categorical(rng_key, logits))
        unknown = [name for name in return_sites or () if name not in sites]
        if unknown:
            raise OptionError(f"return_sites are of {', '.join(sites)}, got {unknown[0]!r}.")
        return {name: sites[name] for name in return_sites or sites}

    def set_data(self, X: Any, y: Any = None) -> Any:
        """Return inputs with two axes or more, and targets as columns, or labels as a vector."""
        if y is None:
            return as_rows(X)
        y = np.asarray(y)
        return as_rows(X), as_columns(y) if self.is_regression else y.reshape(-1)

    def _prediction(self, X: Any, samples: Any) -> nbcore.Prediction:
        rows = as_rows(X)
        if samples is None:
            if not self.estimator.posteriors:
                raise NotFittedError("The model is not fitted yet. Type: model.fit(X, y)")
            return self.estimator.predict_distribution(rows)
        posterior = self.posterior
        names = site_names(posterior.split, is_whole_network=self.is_whole_network)
        given = with_draws(posterior, samples, names, list(self._parameters(posterior)))
        prediction = given.predict(rows)
        if not self.is_regression:
            return prediction
        noise = self._noise_of(samples, rows)
        if noise is None:
            return prediction
        return nbcore.Prediction.normal(prediction.draw_means, noise**2)

    def _noise_of(self, samples: Mapping[str, Any], rows: Any) -> np.ndarray | None:
        """Return the noise `(draws, n or 1, outputs or 1)`; `None` if it follows from weights."""
        del rows
        noise = np.asarray(samples["sig"], np.float64)
        return noise.reshape(len(noise), 1, -1)

    def model(self, X: Any, y: Any = None, priors_sigma: float = 1.0, **kwargs: Any) -> None:
        """State the model in NumPyro, for `numpyro.infer.Predictive` and its samplers.

        Sites are named as in `get_samples()`. After `fit` the noise prior is the one that was used.

        Args:
            X: inputs.
            y: targets, or labels; `None` leaves them open.
            priors_sigma: standard deviation of the prior of the weights.
            kwargs: not used.

        Raises:
            NotFittedError: the weights that stay fixed are not trained yet.
        """
        del kwargs
        rows = jnp.asarray(X)
        rows = rows[:, None] if rows.ndim == 1 else rows
        self._observe(self._sampled_network(rows), rows, y, priors_sigma)

    def _observe(self, net: SampledNetwork, rows: Any, y: Any, sigma: float) -> None:
        """State the outputs and y."""
        outputs = net.outputs(rows, sigma)
        if not self.is_regression:
            numpyro.deterministic("probs", jax.nn.softmax(outputs))
            labels: Any = dist.Categorical(logits=outputs)
            numpyro.sample("y", labels, obs=y)
            return
        mu = numpyro.deterministic("mu", net.shift + net.scale * outputs)
        shape = self._noise_shape(outputs.shape[1])
        prior, scale = self.noise_prior, 1.0
        if self.estimator.posteriors:
            likelihood: Any = self.posterior.likelihood
            prior, scale = likelihood.noise_prior, net.scale
        prior = dist.HalfNormal(1.0) if prior is None else prior
        sig = numpyro.sample("sig", noise_distribution(prior, scale, shape))
        numpyro.sample("y", dist.Normal(mu, sig), obs=as_observed(y))

    def _sampled_network(self, rows: Any) -> SampledNetwork:
        """Return the network with the sites of its weights."""
        if self.estimator.posteriors:
            return self._as_sites(
                self.posterior.network, self.posterior.split, self.posterior.scaler
            )
        network = nbcore.as_network(as_plain(self.nn), example=rows[:1])
        weights = weights_of(self.pretrained_priors)
        params = getattr(weights, "params", weights)
        params = network.init(jax.random.key(0), rows[:1]) if params is None else params
        split = nbcore.ProbabilisticSubset.everything().split(network, params)
        return self._as_sites(network, split, getattr(weights, "scaler", None))

    def _as_sites(self, network: Any, split: Any, scaler: Any) -> SampledNetwork:
        return SampledNetwork.of(
            network, split, scaler, is_whole_network=self.is_whole_network,
            around_zero=self.is_whole_network and self.pretrained_priors is None,
        )  # fmt: skip


def as_observed(y: Any) -> Any:
    """Return targets as columns; `None` stays open."""
    if y is None:
        return None
    y = jnp.asarray(y)
    return y[:, None] if y.ndim == 1 else y
