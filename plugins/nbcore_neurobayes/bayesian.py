"""NeuroBayes' Bayesian and partially Bayesian networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

import nbcore
from nbcore.errors import OptionError
from nbcore_neurobayes.arguments import (
    as_columns,
    as_rows,
    noise_prior_of,
    on_device,
    sampling_of,
    subset_of,
    training_of,
    weights_of,
)
from nbcore_neurobayes.chains import Chains, diagnostics_of


class BNN:
    """A network of which every weight is sampled; `model` is the `nbcore.BNN` of it.

    Unlike in NeuroBayes, chains start at weights that are trained first, and the default noise
    prior is as wide as y.

    Args:
        architecture: a linen module, or any model that `nbcore.as_network` knows.
        num_classes: number of classes; `None` is a regression.
        noise_prior: a NumPyro `HalfNormal` or `LogNormal`, or a prior of nbcore.
        pretrained_priors: weights that the prior is centered at, instead of zero.

    Examples:
        >>> import numpy as np, nbcore_neurobayes as nb
        >>> x = np.linspace(-1, 1, 16, dtype=np.float32)[:, None]
        >>> model = nb.BNN(nb.FlaxMLP([4], 1))
        >>> model.fit(x, x[:, 0] ** 2, 20, 20, progress_bar=False)
        >>> [part.shape for part in model.predict(x)]
        [(16, 1), (16, 1)]
    """

    def __init__(
        self,
        architecture: Any,
        num_classes: int | None = None,
        noise_prior: Any = None,
        pretrained_priors: Any = None,
    ) -> None:
        self.num_classes = num_classes
        self._set_model(
            partial(
                nbcore.BNN,
                architecture,
                None if num_classes else noise_prior_of(noise_prior),
                weights_of(pretrained_priors),
                num_classes=num_classes,
            )
        )

    def _set_model(self, build: Callable[..., nbcore.PartialBNN]) -> None:
        """Keep what makes the model: `fit` says its prior and its selection."""
        self._build = build
        self.model = build()
        self.diagnostic_results: dict[str, Any] | None = None

    @property
    def is_regression(self) -> bool:
        """Whether targets are numbers, not classes."""
        return self.num_classes is None

    @property
    def posterior(self) -> nbcore.NetworkPosterior:
        """The `nbcore.NetworkPosterior`.

        Raises:
            OptionError: there is one for each member of an ensemble.
        """
        found = self.model.posterior
        if isinstance(found, nbcore.MixturePosterior):
            raise OptionError(
                "An ensemble has a posterior for each member. Read model.model.posteriors"
            )
        return found

    @property
    def mcmc(self) -> Chains:
        """Draws and statistics, under the names of NumPyro's `MCMC`."""
        return Chains(self.posterior)

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
            run_diagnostics: whether to print R-hat and ESS of each layer.
            backend: sampler, see `nbcore.list_backends`.
        """
        del extra_fields
        self.model = self._build(prior=1.0 if priors_sigma is None else priors_sigma)
        self._fit(
            X, y, (num_warmup, num_samples, num_chains), device, run_diagnostics, backend=backend,
            sampling=sampling_of(chain_method, max_num_restarts, min_accept_prob), key=rng_key,
            progress=progress_bar,
        )  # fmt: skip

    def _fit(
        self,
        X: Any,
        y: Any,
        steps: tuple[int, int, int],
        device: str | None,
        run_diagnostics: bool,
        **options: Any,
    ) -> None:
        with on_device(device):
            rows, targets = self.set_data(X, y)
            self.model.fit(rows, targets, *steps, **options)
        self.diagnostic_results = diagnostics_of(self.posterior) if run_diagnostics else None

    def get_samples(self, chain_dim: bool = False) -> dict[str, np.ndarray]:
        """Return draws by leaf path, and the noise as `"sig"`, see `Chains.get_samples`."""
        return self.mcmc.get_samples(group_by_chain=chain_dim)

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
        """
        del rng_key
        with on_device(device):
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
        return self.predict(X_new, samples, device, rng_key)[0].argmax(axis=1)

    def sample_from_posterior(
        self, rng_key: Any, X_new: Any, samples: Any, return_sites: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Return for each draw `(draws, n, outputs)`: means, noises, y, or probabilities.

        Args:
            rng_key: random key of y.
            X_new: inputs.
            samples: draws from `get_samples()`.
            return_sites: of `"mu"`, `"sig"` and `"y"`, or `"probs"`; all by default.
        """
        prediction = self._prediction(X_new, samples)
        means = prediction.draw_means
        if not self.is_regression:
            sites = {"probs": means}
        else:
            noise = np.broadcast_to(np.sqrt(prediction.draw_variances), means.shape)
            normal = np.asarray(jax.random.normal(rng_key, means.shape))
            sites = {"mu": means, "sig": noise, "y": means + noise * normal}
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
        if samples is None:
            return self.model.predict_distribution(as_rows(X))
        return _thinned(self.posterior, samples).predict(as_rows(X))


def _thinned(
    posterior: nbcore.NetworkPosterior, samples: Mapping[str, Any]
) -> nbcore.NetworkPosterior:
    """Return the posterior with given draws `(draws, ...)` as those of one chain."""
    flat = posterior.flat_draws()
    missing = [name for name in flat if name not in samples]
    if missing:
        raise OptionError(
            f"samples has no {missing[0]!r}. Start from get_samples(), and keep all of its names."
        )
    drawn = {name: np.asarray(samples[name])[None] for name in flat}
    count = len(next(iter(drawn.values()))[0])
    if any(len(values[0]) != count for values in drawn.values()):
        raise OptionError("samples must hold as many draws of every number.")
    draws: dict[str, Any] = {}
    for part in ("weights", "likelihood", "prior"):
        prefix = "" if part == "weights" else f"{part}/"
        draws[part] = {name: drawn[prefix + name] for name in posterior.draws[part]}
    stats = jax.tree.map(lambda a: np.zeros((1, count), np.asarray(a).dtype), posterior.stats)
    return dataclasses.replace(posterior, draws=draws, stats=stats)


class PartialBNN(BNN):
    """A network of which some weights are sampled; `model` is the `nbcore.PartialBNN` of it.

    Layers that are named are sampled as a whole, or in their pairs alone, if they have some.
    Unlike in NeuroBayes, the sampled network is the trained one, bit for bit; names that match
    nothing raise; with no choice, the first and the output layer are sampled; and the noise comes
    from examples that the trained weights have not seen.

    Args:
        architecture: a linen module, or any model that `nbcore.as_network` knows.
        deterministic_weights: a trained `DeterministicNN`, parameters, those of a NeuroBayes
            network included; `None` trains.
        num_probabilistic_layers: the last so many hidden layers, and the outputs.
        probabilistic_layer_names: layers to sample.
        probabilistic_neurons: index pairs by layer.
        num_classes: number of classes; `None` is a regression.
        noise_prior: a NumPyro `HalfNormal` or `LogNormal`, or a prior of nbcore.

    Examples:
        >>> import numpy as np, nbcore_neurobayes as nb
        >>> x = np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
        >>> model = nb.PartialBNN(nb.FlaxMLP([4], 1), num_probabilistic_layers=0)
        >>> model.fit(x, x[:, 0] ** 2, 20, 20, sgd_epochs=5, progress_bar=False)
        >>> [part.shape for part in model.predict(x)]
        [(20, 1), (20, 1)]
    """

    def __init__(
        self,
        architecture: Any,
        deterministic_weights: Any = None,
        num_probabilistic_layers: int | None = None,
        probabilistic_layer_names: Sequence[str] | None = None,
        probabilistic_neurons: Mapping[str, Any] | None = None,
        num_classes: int | None = None,
        noise_prior: Any = None,
    ) -> None:
        self.num_classes = num_classes
        self._set_model(
            partial(
                nbcore.PartialBNN,
                architecture,
                weights_of(deterministic_weights),
                subset=subset_of(
                    probabilistic_layer_names, num_probabilistic_layers, probabilistic_neurons
                ),
                num_classes=num_classes,
                noise_prior=None if num_classes else noise_prior_of(noise_prior),
            )
        )

    def fit(  # pyright: ignore[reportIncompatibleMethodOverride]  as in NeuroBayes
        self,
        X: Any,
        y: Any,
        num_warmup: int = 2000,
        num_samples: int = 2000,
        num_chains: int = 1,
        chain_method: str = "sequential",
        sgd_epochs: int | None = None,
        sgd_lr: float | None = 0.01,
        sgd_batch_size: int | None = None,
        swa_config: Mapping[str, Any] | None = None,
        map_sigma: float = 1.0,
        priors_sigma: float = 1.0,
        progress_bar: bool = True,
        device: str | None = None,
        rng_key: Any = None,
        extra_fields: Sequence[str] = (),
        select_neurons_config: Mapping[str, Any] | None = None,
        max_num_restarts: int = 1,
        min_accept_prob: float = 0.55,
        run_diagnostics: bool = False,
        *,
        backend: str | nbcore.Backend = "numpyro-nuts",
    ) -> None:
        """Train the network if no weights were given, then sample the chosen weights.

        Args:
            X: inputs.
            y: targets `(n,)` or `(n, outputs)`; labels.
            num_warmup: warmup steps.
            num_samples: steps after warmup.
            num_chains: number of chains.
            chain_method: `"sequential"`, `"parallel"` or `"vectorized"`.
            sgd_epochs: epochs of training; 500 by default.
            sgd_lr: learning rate.
            sgd_batch_size: examples in a minibatch; all by default.
            swa_config: options of `nbcore.SWA`.
            map_sigma: standard deviation of the prior in training.
            priors_sigma: standard deviation of the prior, around the trained weights.
            progress_bar: whether to report progress.
            device: `"cpu"`, `"gpu"`, or `None`.
            rng_key: random key.
            extra_fields: not needed.
            select_neurons_config: arguments of `nbcore.select_bayesian_components`.
            max_num_restarts: how many runs to make at most while the mean acceptance is too low.
            min_accept_prob: mean acceptance that is enough.
            run_diagnostics: whether to print R-hat and ESS of each layer.
            backend: sampler, see `nbcore.list_backends`.
        """
        del extra_fields
        self.model = self._build(prior=priors_sigma, selection=select_neurons_config)
        size = len(np.asarray(y)) if sgd_batch_size is None else sgd_batch_size
        self._fit(
            X, y, (num_warmup, num_samples, num_chains), device, run_diagnostics, backend=backend,
            sampling=sampling_of(chain_method, max_num_restarts, min_accept_prob),
            training=training_of(sgd_epochs, sgd_lr, size, swa_config, map_sigma), key=rng_key,
            calibration="crossfit", progress=progress_bar,
        )  # fmt: skip


class PartialBayesianMLP(PartialBNN):
    """`PartialBNN`, which takes every architecture, under the name of NeuroBayes."""


class PartialBayesianConvNet(PartialBNN):
    """`PartialBNN`, which takes every architecture, under the name of NeuroBayes."""


class PartialBayesianTransformer(PartialBNN):
    """`PartialBNN` with names before the number of layers, as in NeuroBayes.

    Args:
        transformer: the network.
        deterministic_weights: see `PartialBNN`.
        probabilistic_layer_names: see `PartialBNN`.
        num_probabilistic_layers: see `PartialBNN`.
        probabilistic_neurons: see `PartialBNN`.
        num_classes: see `PartialBNN`.
        noise_prior: see `PartialBNN`.
    """

    def __init__(
        self,
        transformer: Any,
        deterministic_weights: Any = None,
        probabilistic_layer_names: Sequence[str] | None = None,
        num_probabilistic_layers: int | None = None,
        probabilistic_neurons: Mapping[str, Any] | None = None,
        num_classes: int | None = None,
        noise_prior: Any = None,
    ) -> None:
        super().__init__(
            transformer, deterministic_weights, num_probabilistic_layers,
            probabilistic_layer_names, probabilistic_neurons, num_classes, noise_prior,
        )  # fmt: skip
