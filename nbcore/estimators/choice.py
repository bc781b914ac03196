"""The choice of the weights that an estimator samples: one way of choosing, or the default."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbcore.errors import OptionError, SubsetError
from nbcore.estimators.frozen import Examples, FrozenNetwork
from nbcore.networks.network import Network, Params
from nbcore.selection.select import arguments_on, check_arguments, select_bayesian_components
from nbcore.subsets.subset import ProbabilisticSubset

MAX_DEFAULT_SIZE = 10_000
logger = logging.getLogger("nbcore")


@dataclass(frozen=True)
class Choice:
    """The ways in which an estimator can be told what to sample; at most one is not `None`.

    Args:
        subset: a `ProbabilisticSubset`.
        probabilistic_layer_names: layer names or patterns.
        num_probabilistic_layers: the last hidden layers, and the outputs.
        probabilistic_neurons: index pairs by layer.
        selection: arguments of `nb.select_bayesian_components`.

    Raises:
        OptionError: more than one was used, or one has an impossible value.
        UnknownSelectorError: `selection` names no selector.
    """

    subset: ProbabilisticSubset | None = None
    probabilistic_layer_names: Sequence[str] | None = None
    num_probabilistic_layers: int | None = None
    probabilistic_neurons: Mapping[str, Any] | None = None
    selection: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check that at most one way was used."""
        given = [name for name in self.__dataclass_fields__ if getattr(self, name) is not None]
        if len(given) > 1:
            raise OptionError(
                f"Got {len(given)} ways of choosing weights at once: {', '.join(given)}. Give "
                "one; join choices with nb.ProbabilisticSubset and `|`."
            )
        if isinstance(self.probabilistic_layer_names, str):
            raise OptionError(
                "probabilistic_layer_names is a list of names, got one string. "
                f"Type: probabilistic_layer_names=[{self.probabilistic_layer_names!r}]"
            )
        if self.selection is not None:
            check_arguments(self.selection)

    def resolve(self, frozen: FrozenNetwork, examples: Examples) -> ProbabilisticSubset:
        """Return the subset that was chosen; by default the first and the output layers.

        Args:
            frozen: the trained network.
            examples: all examples; selectors that look at data see those that are sampled.

        Raises:
            SubsetError: the default is larger than 10,000 weights.
        """
        frozen = frozen.chosen_on or frozen
        if self.selection is not None and frozen.det is not None:
            data = examples.take(frozen.sampled)
            labels = frozen.det.names.labels(data.y)
            arguments = arguments_on(self.selection, data.X, labels)
            return select_bayesian_components(frozen.det, **arguments)
        return self._named(frozen.network, frozen.params)

    def is_everything(self, network: Network, params: Params) -> bool:
        """Return whether all weights of the network were chosen."""
        if self.selection is not None:
            return False
        split = self._named(network, params).split(network, params)
        return split.size == split.total_size

    def _named(self, network: Network, params: Params) -> ProbabilisticSubset:
        if self.subset is not None:
            return self.subset
        if self.probabilistic_layer_names is not None:
            return ProbabilisticSubset.layers(*self.probabilistic_layer_names)
        if self.num_probabilistic_layers is not None:
            return ProbabilisticSubset.last(self.num_probabilistic_layers)
        if self.probabilistic_neurons is not None:
            return ProbabilisticSubset.pairs(self.probabilistic_neurons)
        return _default(network, params)


def _default(network: Network, params: Params) -> ProbabilisticSubset:
    subset = ProbabilisticSubset.first_and_last()
    split = subset.split(network, params)
    names = list(dict.fromkeys(layer.name for layer, _ in split.owners.values()))
    if split.size > MAX_DEFAULT_SIZE:
        raise SubsetError(
            f"No weights were chosen, and the default, first and output layers "
            f"({', '.join(names)}), has {split.size:,} weights, more than {MAX_DEFAULT_SIZE:,}. "
            f"Choose some: selection={{'method': 'variance', 'layer_names': {names}, "
            "'num_pairs_per_layer': 50}"
        )
    logger.info(
        "No weights were chosen; sampling first and output layers: %s (%d weights)",
        ", ".join(names),
        split.size,
    )
    return subset
