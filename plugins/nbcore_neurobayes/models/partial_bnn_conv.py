"""The partially Bayesian convolutional network of NeuroBayes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nbcore_neurobayes.models.partial import PartiallyBayesian


class PartialBayesianConvNet(PartiallyBayesian):
    """`PartialBNN`, which takes every architecture, under another name.

    Args:
        convnet: the network.
        deterministic_weights: see `PartialBNN`.
        num_probabilistic_layers: see `PartialBNN`.
        probabilistic_layer_names: see `PartialBNN`.
        probabilistic_neurons: see `PartialBNN`.
        num_classes: see `PartialBNN`.
        noise_prior: see `PartialBNN`.
    """

    def __init__(
        self,
        convnet: Any,
        deterministic_weights: Any = None,
        num_probabilistic_layers: int | None = None,
        probabilistic_layer_names: Sequence[str] | None = None,
        probabilistic_neurons: Mapping[str, Any] | None = None,
        num_classes: int | None = None,
        noise_prior: Any = None,
    ) -> None:
        super().__init__(
            convnet, deterministic_weights, num_probabilistic_layers, probabilistic_layer_names,
            probabilistic_neurons, num_classes, noise_prior,
        )  # fmt: skip
