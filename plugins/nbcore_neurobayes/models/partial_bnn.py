"""NeuroBayes' partially Bayesian network of any architecture."""

from __future__ import annotations

from typing import Any

import numpy as np

import nbcore_flax
from nbcore_neurobayes.models.partial import PartiallyBayesian
from nbcore_neurobayes.models.partial_bnn_conv import PartialBayesianConvNet
from nbcore_neurobayes.models.partial_bnn_mlp import PartialBayesianMLP
from nbcore_neurobayes.models.partial_bnn_transformer import PartialBayesianTransformer

_CLASSES: dict[type[Any], type[PartiallyBayesian]] = {
    nbcore_flax.FlaxMLP: PartialBayesianMLP,
    nbcore_flax.FlaxConvNet: PartialBayesianConvNet,
    nbcore_flax.FlaxTransformer: PartialBayesianTransformer,
}


class PartialBNN(PartiallyBayesian):
    """A network of which some weights are sampled, of any architecture.

    Args:
        architecture: the network.
        deterministic_weights: see `PartiallyBayesian`.
        num_probabilistic_layers: see `PartiallyBayesian`.
        probabilistic_layer_names: see `PartiallyBayesian`.
        probabilistic_neurons: see `PartiallyBayesian`.
        num_classes: see `PartiallyBayesian`.
        noise_prior: see `PartiallyBayesian`.

    Examples:
        >>> import numpy as np, nbcore_neurobayes as nb
        >>> x = np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
        >>> model = nb.PartialBNN(nb.FlaxMLP([4], 1), num_probabilistic_layers=0)
        >>> model.fit(x, x[:, 0] ** 2, 20, 20, sgd_epochs=5, progress_bar=False)
        >>> [part.shape for part in model.predict(x)]
        [(20, 1), (20, 1)]
    """

    @property
    def architecture(self) -> Any:
        """The network."""
        return self.nn

    @property
    def _model(self) -> PartiallyBayesian:
        """This model in the class of its architecture, which NeuroBayes wraps, and scripts read."""
        found = (own for net, own in _CLASSES.items() if isinstance(self.nn, net))
        wrapped = object.__new__(next(found, PartiallyBayesian))
        wrapped.__dict__ = self.__dict__
        return wrapped

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]  X, as in NeuroBayes
        self, X: Any, samples: Any = None, device: str | None = None, rng_key: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of y, see `BNN.predict`."""
        return super().predict(X, samples, device, rng_key)
