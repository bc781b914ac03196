"""The selector protocol: a selector scores, or chooses, the entries of a layer to sample."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np

from nbcore.common import plugins
from nbcore.common.declarations import fault_of_class
from nbcore.common.moments import Moments
from nbcore.common.paths import leaves_by_path
from nbcore.errors import OptionError, SelectionError
from nbcore.networks.layers import Layer
from nbcore.networks.network import Inputs, Key, Network, Params
from nbcore.targets.fisher import LikelihoodCurvature

T = TypeVar("T")


@dataclass(frozen=True)
class SelectionContext:
    """The trained network as a selector sees it; the needs that it declares are present.

    Args:
        network: the network.
        params: its trained parameters.
        layers: its layers, in call order if that is known.
        X: inputs, if they were given.
        y: targets, if they were given.
        gradients: moments of per-batch gradients, with the structure of the parameters; only for
            selectors that need them.
        trajectory: moments of the weights over the SWA snapshots, if there are any.
        curvature: per-example gradients and Jacobians on X and y, computed when they are read;
            only for selectors that need it.
        key: random key of the whole selection; see `key_for`.
    """

    network: Network
    params: Params
    layers: tuple[Layer, ...]
    X: Inputs | None
    y: Any | None
    gradients: Moments | None
    trajectory: Moments | None
    curvature: LikelihoodCurvature | None
    key: Key

    def key_for(self, name: str) -> Key:
        """Return the random key that belongs to a name, such as that of a layer or a leaf."""
        return jax.random.fold_in(self.key, np.uint32(zlib.crc32(name.encode())))

    def rng_for(self, name: str) -> np.random.Generator:
        """Return a NumPy generator from `key_for`; its draws need no compilation."""
        return np.random.default_rng(np.asarray(jax.random.key_data(self.key_for(name))).tolist())


def weights_in(layer: Layer, tree: Any) -> dict[str, Any]:
    """Return the weights of a layer, by path, from a pytree like the parameters.

    Examples:
        >>> from nbcore.networks.inference import infer_layers
        >>> params = {"Dense0": {"kernel": np.ones((3, 2)), "bias": np.ones(2)}}
        >>> list(weights_in(infer_layers(params)[0], params))
        ['Dense0/kernel']
    """
    values = leaves_by_path(tree)
    return {leaf.path: values[leaf.path] for leaf in layer.weights}


def required(value: T | None, need: str, who: str) -> T:
    """Return a value that a selector reads from its context.

    Args:
        value: what the context holds.
        need: its name in `needs`.
        who: the name of the selector.

    Raises:
        SelectionError: the context does not hold it.

    Examples:
        >>> required(3.0, "gradients", "mine")
        3.0
    """
    if value is None:
        raise SelectionError(f"The selector {who!r} needs {need} in its context.")
    return value


class Selector(Protocol):
    """The declarations of every selector; its options are dataclass fields.

    A selector is a `ScoringSelector`, which ranks the entries of a layer, or a
    `ChoosingSelector`, which chooses them as a set. Either may also be a `RestrictingSelector`.
    `needs` is a property if it depends on options.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> @dataclass(frozen=True)
        ... class Smallest:
        ...     name: ClassVar[str] = "smallest"
        ...     needs: ClassVar[frozenset[str]] = frozenset()
        ...
        ...     def score(self, context, layer):
        ...         return jax.tree.map(lambda w: -jnp.abs(w), weights_in(layer, context.params))
        >>> isinstance(Smallest(), ScoringSelector)
        True
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]


@runtime_checkable
class ScoringSelector(Selector, Protocol):
    """A selector that gives every entry a score; the core aggregates, ranks and cuts.

    Scores of all layers are on one scale: a budget for the network compares them without rescaling.
    """

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


@runtime_checkable
class RestrictingSelector(Selector, Protocol):
    """A selector that leaves out some of the layers to choose from."""

    def restrict(self, layers: Sequence[Layer]) -> Sequence[Layer]:
        """Return the layers to choose from, at least one of the requested ones."""
        ...


def list_selectors() -> dict[str, plugins.Spec]:
    """Return the selectors that are installed, by name, without importing their libraries.

    Examples:
        >>> "variance" in list_selectors()
        True
    """
    return plugins.specs("selector")


def get_selector(selector: str | Selector, /, **options: Any) -> ScoringSelector | ChoosingSelector:
    """Return a selector by name, with options.

    Args:
        selector: a name from `nb.list_selectors()`, or a selector, which is returned as it is.
        **options: fields of the selector's dataclass, such as `threshold=0.1`.

    Raises:
        UnknownSelectorError: no selector has this name; the nearest names are suggested.
        MissingExtraError: the library behind it is not installed.
        OptionError: an option is unknown or impossible, or options were given in addition to an
            instance, or the object is not a selector.

    Examples:
        >>> get_selector("magnitude", threshold=0.1)
        Magnitude(threshold=0.1)
    """
    if isinstance(selector, str):
        selector = plugins.build("selector", selector, options)
    elif options:
        raise OptionError(
            f"Options {', '.join(options)} were given in addition to a {type(selector).__name__} "
            "instance. Set them on the instance."
        )
    if isinstance(selector, type) or not isinstance(selector, ScoringSelector | ChoosingSelector):
        raise OptionError(
            f"A selector is a name ({', '.join(list_selectors())}) or an object with name, needs, "
            f"and score or choose; got {selector!r}."
        )
    fault = fault_of_class("selector", selector)
    if fault:
        raise OptionError(f"A {type(selector).__name__} is not a selector: {fault}.")
    return selector
