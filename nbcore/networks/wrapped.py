"""Networks around another one, whose parameters and layers are their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nbcore.networks.layers import Layer
from nbcore.networks.network import Inputs, Key, Network, Padding, Params


@dataclass(frozen=True)
class WrappedNetwork(Network):
    """A network that stands for another one; a subclass says in `apply` what it changes.

    Args:
        network: the other network.
    """

    network: Network

    @property
    def padding(self) -> Padding | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Padding of the network's inputs."""
        return self.network.padding

    @property
    def example(self) -> Inputs | None:
        """That of the network."""
        return getattr(self.network, "example", None)

    def init(self, key: Key, x: Inputs) -> Params:
        """Return parameters of the network."""
        return self.network.init(key, x)

    def layers(self, params: Params) -> tuple[Layer, ...]:
        """Return the layers of the network."""
        return self.network.layers(params)

    def check_inputs(self, x: Inputs) -> None:
        """Check the inputs as the network itself does."""
        own: Callable[[Any], None] | None = getattr(self.network, "check_inputs", None)
        if own is not None:
            own(x)
