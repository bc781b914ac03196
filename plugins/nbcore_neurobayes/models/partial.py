"""Common base of the partially Bayesian networks of NeuroBayes: some weights are sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import nbcore
from nbcore.errors import OptionError
from nbcore_neurobayes.architectures import as_plain
from nbcore_neurobayes.arguments import (
    Weights,
    noise_prior_of,
    on_device,
    sampling_of,
    training_of,
    weights_of,
)
from nbcore_neurobayes.choice import subset_of
from nbcore_neurobayes.errors import NotFittedError
from nbcore_neurobayes.flax_nets.config_utils import extract_configs, layer_names, with_pairs
from nbcore_neurobayes.flax_nets.parameter_selection import select_bayesian_components
from nbcore_neurobayes.models.bnn import BNN
from nbcore_neurobayes.numpyro_model import SampledNetwork
from nbcore_neurobayes.words import own_words

FOLDS = 5


class PartiallyBayesian(BNN):
    """A network of which some weights are sampled; `estimator` is the `nbcore.PartialBNN` of it.

    Layers that are named are sampled as a whole, or in their pairs alone, if they have some.
    Unlike in NeuroBayes, the sampled network is the trained one, bit for bit; names that match
    nothing raise; with no choice, the first and the output layer are sampled; and the noise comes
    from examples that the trained weights have not seen.

    Args:
        architecture: a linen module, or any model that `nbcore.as_network` knows.
        deterministic_weights: a trained `DeterministicNN`, parameters, those of a NeuroBayes
            network included; `None` trains.
        num_probabilistic_layers: the last so many hidden layers, and the outputs; of a transformer
            the last so many layers, its output and its norms counted.
        probabilistic_layer_names: layers to sample.
        probabilistic_neurons: index pairs by layer.
        num_classes: number of classes; `None` is a regression.
        noise_prior: a distribution of NumPyro, or a prior of nbcore.

    Raises:
        ArchitectureError: the architecture is no network.
        OptionError: options contradict each other.
    """

    is_whole_network = False

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
        self.pretrained_priors = None
        self.deterministic_nn = architecture
        self.num_probabilistic_layers = num_probabilistic_layers
        self.probabilistic_layer_names = probabilistic_layer_names
        self.probabilistic_neurons = probabilistic_neurons
        self._given, self._selected = deterministic_weights, None
        self._begin(architecture, num_classes, noise_prior)

    @property
    def deterministic_weights(self) -> Any:
        """The weights that were given or set, else those that `fit` trained; `None` before it."""
        trained = self.estimator.det
        return self._given if self._given is not None or trained is None else Weights(trained)

    @deterministic_weights.setter
    def deterministic_weights(self, weights: Any) -> None:
        self._given = weights

    @property
    def layer_configs(self) -> list[dict[str, Any]]:
        """Name, kind and width of each layer, whether it is sampled, and its pairs."""
        names, count = self.probabilistic_layer_names, self.num_probabilistic_layers
        pairs = self._selected or self.probabilistic_neurons
        if names is None and count is None:
            outputs = layer_names(self.nn, 0) or []
            first = extract_configs(self.nn, outputs)[0]["layer_name"]
            names = list(pairs) if pairs else [first, *outputs]
        return with_pairs(extract_configs(self.nn, names, count), pairs)

    @property
    def _likelihood(self) -> Any:
        return nbcore.Gaussian() if self.is_regression else nbcore.Categorical()

    def _estimator(self, sigma: float) -> nbcore.PartialBNN:
        return self._around(weights_of(self._given), sigma)

    def _around(self, weights: Any, sigma: float) -> nbcore.PartialBNN:
        """Return the model of nbcore around given weights; `None` are trained."""
        return nbcore.PartialBNN(
            as_plain(self.nn), weights, subset=self._subset(), num_classes=self.num_classes,
            noise_prior=None if self.num_classes else noise_prior_of(self.noise_prior), prior=sigma,
        )  # fmt: skip

    def _subset(self) -> nbcore.ProbabilisticSubset | None:
        return subset_of(
            self.nn, self.probabilistic_layer_names, self.num_probabilistic_layers,
            self._selected or self.probabilistic_neurons,
        )  # fmt: skip

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
            select_neurons_config: arguments of `select_bayesian_components`: the pairs of its
                layers are chosen after training. Of the layers that the model names, those are
                sampled in these pairs alone.
            max_num_restarts: how many runs to make at most while the mean acceptance is too low.
            min_accept_prob: mean acceptance that is enough.
            run_diagnostics: whether to print R-hat of each layer.
            backend: sampler, see `nbcore.list_backends`.

        Raises:
            OptionError: pairs are to be selected, and the weights that were given are bare
                parameters.
        """
        del extra_fields
        rows, targets = self.set_data(X, y)
        size = len(targets) if sgd_batch_size is None else min(sgd_batch_size, len(targets))
        key = jax.random.key(0) if rng_key is None else rng_key
        train_key, sample_key = jax.random.split(
            jax.random.key(key) if isinstance(key, int) else key
        )
        with on_device(device), own_words():
            training = training_of(sgd_epochs, sgd_lr, size, swa_config, map_sigma)
            weights = weights_of(self._given)
            if weights is None:
                weights = nbcore.cross_fit(
                    as_plain(self.nn), rows, _vector(targets), min(FOLDS, len(targets)),
                    epochs=training.epochs,
                    batch_size=training.batch_size, key=train_key, progress=progress_bar,
                    **training.network_options(self._likelihood),
                )  # fmt: skip
            self._selected = _selected(weights, select_neurons_config)
            self.estimator = self._around(weights, priors_sigma)
            self._sample(
                rows, targets, (num_warmup, num_samples, num_chains), run_diagnostics,
                backend=backend, key=sample_key, progress=progress_bar, calibration="crossfit",
                sampling=sampling_of(chain_method, max_num_restarts, min_accept_prob),
            )  # fmt: skip

    def _sampled_network(self, rows: Any) -> SampledNetwork:
        """Return the network with the sites of its stochastic weights."""
        if self.estimator.posteriors:
            return super()._sampled_network(rows)
        weights, subset = weights_of(self._given), self._subset()
        if weights is None:
            raise NotFittedError("The network is not trained yet. Type: model.fit(X, y)")
        network = nbcore.as_network(as_plain(self.nn), example=rows[:1])
        subset = nbcore.ProbabilisticSubset.first_and_last() if subset is None else subset
        split = subset.split(network, getattr(weights, "params", weights))
        return self._as_sites(network, split, getattr(weights, "scaler", None))


def _vector(targets: np.ndarray) -> np.ndarray:
    """Return one column as a vector: labels and single targets."""
    return targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 else targets


def _selected(weights: Any, config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the pairs that are chosen on a trained network; `None` if none are to be."""
    if config is None:
        return None
    trained = getattr(weights, "full", weights)
    if not isinstance(trained, nbcore.DeterministicNN):
        raise OptionError(
            "select_neurons_config chooses pairs on a network that fit trains, and weights were "
            "given. Type: probabilistic_neurons=nb.select_bayesian_components(det, layer_names, "
            "method)"
        )
    return select_bayesian_components(trained, **config)
