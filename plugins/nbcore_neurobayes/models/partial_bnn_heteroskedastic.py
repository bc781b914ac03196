"""NeuroBayes' partially Bayesian network with a second head for the noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nbcore
from nbcore_neurobayes.architectures import as_plain
from nbcore_neurobayes.models.bnn_heteroskedastic import HeteroskedasticBNN
from nbcore_neurobayes.models.partial import PartiallyBayesian


class HeteroskedasticPartialBNN(  # pyright: ignore[reportIncompatibleMethodOverride]
    PartiallyBayesian, HeteroskedasticBNN
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
        super().__init__(
            deterministic_nn, deterministic_weights, num_probabilistic_layers,
            probabilistic_layer_names,
        )  # fmt: skip

    @property
    def _likelihood(self) -> Any:
        return nbcore.Heteroskedastic()

    def _around(self, weights: Any, sigma: float) -> nbcore.PartialBNN:
        return nbcore.PartialBNN(
            as_plain(self.nn), weights, subset=self._subset(), likelihood=self._likelihood,
            prior=sigma,
        )  # fmt: skip
