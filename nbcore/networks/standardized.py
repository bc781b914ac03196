"""Networks that standardize their inputs first, by a step that is stored with their results."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any

from nbcore.networks.input_scaling import InputScaler, InputsWarning, far_features
from nbcore.networks.network import Inputs, Key, Network, Outputs, Params
from nbcore.networks.wrapped import WrappedNetwork

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StandardizedInputs(WrappedNetwork):
    """A network that reads standardized inputs: `network.apply(params, scaler.standardize(x))`.

    Its parameters and layers are those of the network. Made by the training of a network with
    `standardize_inputs=True`; the step is stored with the results, and everything takes inputs in
    the user's own units.

    Args:
        network: the network.
        scaler: the step.
    """

    scaler: InputScaler

    def init(self, key: Key, x: Inputs) -> Params:
        """Return parameters of the network."""
        return self.network.init(key, self.scaler.standardize(x))

    def apply(
        self, params: Params, x: Inputs, *, train: bool = False, key: Key | None = None
    ) -> Outputs:
        """Return the outputs of the network at the standardized inputs."""
        return self.network.apply(params, self.scaler.standardize(x), train=train, key=key)


def standardizing(network: Network, x: Inputs) -> Network:
    """Return the network with a step that standardizes inputs like `x`, if they need one.

    Networks of padded inputs, and those that have such a step, are returned as they are.
    """
    if network.padding is not None or input_scaler(network) is not None:
        return network
    scaler = InputScaler.fit(x)
    if not scaler.steps:
        return network
    logger.info("X is standardized inside the network: %s", far_features(x))
    return StandardizedInputs(network, scaler)


def with_scaler(network: Network, scaler: InputScaler | None) -> Network:
    """Return the network with a stored step, or as it is without one."""
    if scaler is None or input_scaler(network) is not None:
        return network
    return StandardizedInputs(network, scaler)


def plain_network(network: Network) -> Network:
    """Return the network without the step."""
    return network.network if isinstance(network, StandardizedInputs) else network


def input_scaler(network: Any) -> InputScaler | None:
    """Return the step that a network applies to its inputs, if it has one."""
    if isinstance(network, StandardizedInputs):
        return network.scaler
    inner = getattr(network, "network", None)
    return None if inner is None else input_scaler(inner)


def warn_of_far_inputs(network: Network, x: Inputs, remedy: str) -> None:
    """Warn if a network reads inputs that are far from standardized as they are."""
    if network.padding is not None or input_scaler(network) is not None:
        return
    found = far_features(x)
    if found:
        warnings.warn(
            f"X is far from standardized: {found}. Networks learn little from such values. "
            f"{remedy}",
            InputsWarning,
            stacklevel=4,
        )
