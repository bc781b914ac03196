"""The selector contract: a selector scores, or chooses, the entries of a layer to sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from nbcore import plugins
from nbcore.errors import OptionError
from nbcore.layers import Layer
from nbcore.moments import Moments
from nbcore.network import Inputs, Key, Network, Params

NEEDS = ("data", "gradients", "trajectory")
"""What a selector can ask for: X, per-batch gradients, weights over the SWA snapshots."""


@dataclass(frozen=True)
class SelectionContext:
    """What a selector sees of a trained network; what it declares to need is there.

    Args:
        network: the network.
        params: its trained parameters.
        layers: its layers, in call order where that is known.
        X: inputs, where they were given.
        y: targets, where they were given.
        gradients: moments of per-batch gradients, with the structure of the parameters; only for
            selectors that need them.
        trajectory: moments of the weights over the SWA snapshots, where there are any.
        key: random key of the whole selection; `choose` gets one of its own for each layer.
    """

    network: Network
    params: Params
    layers: tuple[Layer, ...]
    X: Inputs | None
    y: Any | None
    gradients: Moments | None
    trajectory: Moments | None
    key: Key


class Selector(Protocol):
    """What every selector declares; its options are dataclass fields.

    A selector is a `ScoringSelector`, which ranks the entries of a layer, or a
    `ChoosingSelector`, which chooses them as a set.

    Examples:
        >>> import jax.numpy as jnp
        >>> from nbcore.layers import leaves_by_path
        >>> @dataclass(frozen=True)
        ... class Smallest:
        ...     name: ClassVar[str] = "smallest"
        ...     needs: ClassVar[frozenset[str]] = frozenset()
        ...
        ...     def score(self, context, layer):
        ...         values = leaves_by_path(context.params)
        ...         return {leaf.path: -jnp.abs(values[leaf.path]) for leaf in layer.weights}
        >>> isinstance(Smallest(), ScoringSelector)
        True
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]


@runtime_checkable
class ScoringSelector(Selector, Protocol):
    """A selector that gives every entry a score; the core aggregates, ranks and cuts."""

    def score(self, context: SelectionContext, layer: Layer) -> Mapping[str, Any]:
        """Return the score of every entry of a layer, higher = sample it.

        Returns:
            For the path of each leaf in `layer.weights`, an array of its shape; `-inf` marks
            entries that must not be chosen.
        """
        ...


@runtime_checkable
class ChoosingSelector(Selector, Protocol):
    """A selector that chooses the entries of a layer as a set."""

    def choose(self, context: SelectionContext, layer: Layer, num_pairs: int, key: Key) -> Any:
        """Return the pairs to sample.

        Args:
            context: the trained network.
            layer: a layer with one weight leaf; of a layer with components, one component.
            num_pairs: how many, at least 1 and at most as many as there are.
            key: random key of this layer and component.

        Returns:
            Integers `(num_pairs, axes)`: distinct indices into `layer.weights[0].pair_shape`.
        """
        ...


def list_selectors() -> dict[str, plugins.Spec]:
    """Return the selectors that are installed, by name, without importing their libraries.

    Examples:
        >>> "variance" in list_selectors()
        True
    """
    return plugins.specs("selector")


def get_selector(selector: str | Selector, **options: Any) -> ScoringSelector | ChoosingSelector:
    """Return a selector by name, with options.

    Args:
        selector: a name from `nb.list_selectors()`, or a selector, which is returned as it is.
        **options: fields of the selector's dataclass, such as `threshold=0.1`.

    Raises:
        UnknownSelectorError: no selector has this name; the nearest names are suggested.
        MissingExtraError: the library behind it is not installed.
        OptionError: an option is unknown or impossible, or options were given beside an instance,
            or the object is no selector.

    Examples:
        >>> get_selector("magnitude", threshold=0.1)
        Magnitude(threshold=0.1)
    """
    if isinstance(selector, str):
        selector = plugins.build("selector", selector, options)
    elif options:
        raise OptionError(
            f"Options {', '.join(options)} were given beside a {type(selector).__name__} instance. "
            "Set them on the instance."
        )
    if isinstance(selector, type) or not isinstance(selector, ScoringSelector | ChoosingSelector):
        raise OptionError(
            f"A selector is a name ({', '.join(list_selectors())}) or an object with name, needs, "
            f"and score or choose; got {selector!r}."
        )
    return selector
