"""The network protocol, pure functions over a parameter pytree, and how models become networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Protocol, cast

import jax

from nbcore.common import plugins
from nbcore.errors import NetworkError
from nbcore.networks.call_order import in_call_order, ordered
from nbcore.networks.inference import infer_layers
from nbcore.networks.layers import Layer
from nbcore.networks.signatures import check_reads_one_input
from nbcore.networks.stack_axes import stack_axes
from nbcore.networks.stacks import stacked_layers
from nbcore.networks.tracing import Traced

Params = Any
Inputs = Any
Outputs = Any
Key = jax.Array


@dataclass(frozen=True)
class Padding:
    """How inputs are padded: `x[..., value, value]` along `axis` carries no information.

    Args:
        axis: axis of the inputs along which they are padded; 0 is the example axis.
        value: the padding value, such as token 0.
    """

    axis: int = 1
    value: int | float = 0


class Network(Protocol):
    """A network as pure functions; outputs are logits, never probabilities.

    Subclass it to write an adapter. `init` gives parameters, `apply` computes outputs with a
    leading example axis, `layers` describes the leaves of the parameters. A network made of a
    model that already holds weights may offer them as an attribute `params`.

    Examples:
        >>> import jax, jax.numpy as jnp, nbcore as nb
        >>> def init(key, x):
        ...     return {"Dense0": {"kernel": jax.random.normal(key, (x.shape[1], 1))}}
        >>> def apply(params, x):
        ...     return x @ params["Dense0"]["kernel"]
        >>> network = nb.Network.from_functions(init, apply)
        >>> params = network.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> [layer.name for layer in network.layers(params)]
        ['Dense0']
    """

    padding: Padding | None

    def init(self, key: Key, x: Inputs) -> Params:
        """Return freshly initialized parameters for inputs like `x` (leading example axis)."""
        ...

    def apply(
        self, params: Params, x: Inputs, *, train: bool = False, key: Key | None = None
    ) -> Outputs:
        """Return outputs `(examples, outputs)`; `train` switches dropout on, drawn from `key`."""
        ...

    def layers(self, params: Params) -> tuple[Layer, ...]:
        """Return the layers in call order (in pytree order, `order=None`, if it is unknown)."""
        ...

    @staticmethod
    def from_functions(
        init: Callable[..., Params],
        apply: Callable[..., Outputs],
        *,
        example: Inputs | None = None,
        padding: Padding | None = None,
        layers: Callable[[Params], tuple[Layer, ...]] | None = None,
    ) -> Network:
        """Make a network from a plain `(init, apply)` pair.

        Args:
            init: `(key, x) -> params`.
            apply: `(params, x) -> outputs`; it may also take `train=` and `key=`.
            example: inputs to trace, so that the call order of the layers is known.
            padding: how inputs are padded, if they are.
            layers: `params -> layers`, if names and shapes do not determine the layers.
        """
        return FunctionNetwork(init, apply, padding, layers, example)


@dataclass(frozen=True)
class FunctionNetwork(Network):
    """A network made of a plain `(init, apply)` pair; see `Network.from_functions`."""

    init_function: Callable[..., Params]
    apply_function: Callable[..., Outputs]
    padding: Padding | None = None
    layers_function: Callable[[Params], tuple[Layer, ...]] | None = None
    example: Inputs | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check what `apply` reads."""
        check_reads_one_input("apply", self.apply_function, first=1)

    def init(self, key: Key, x: Inputs) -> Params:
        """Return `init_function(key, x)`."""
        return self.init_function(key, x)

    def apply(
        self, params: Params, x: Inputs, *, train: bool = False, key: Key | None = None
    ) -> Outputs:
        """Return `apply_function(params, x)`, with `train` and `key` if the function takes them."""
        known = inspect.signature(self.apply_function).parameters
        options = {"train": train, "key": key}
        return self.apply_function(params, x, **{k: v for k, v in options.items() if k in known})

    def layers(self, params: Params) -> tuple[Layer, ...]:
        """Return the layers; in call order if an example is known."""
        if self.layers_function is not None:
            layers = self.layers_function(params)
            if self.example is None or any(layer.order is not None for layer in layers):
                return layers
            return in_call_order(layers, self.apply, params, self.example)
        if self.example is None:
            return infer_layers(params)
        traced = Traced.of(self.apply, params, self.example)
        return ordered(stacked_layers(params, infer_layers, stack_axes(traced)), traced)


def as_network(model: Any, *, example: Inputs | None = None) -> Network:
    """Return the network of a model: of a framework, an `(init, apply)` pair, or a network itself.

    Args:
        model: the model; installed plugins are asked whether they know its framework.
        example: a few inputs (leading example axis) to trace for the call order of layers.

    Returns:
        The network.

    Raises:
        NetworkError: no plugin recognizes the model, or two plugins claim it.
        PluginError: no plugin claims the model, and one failed when it was asked.

    Examples:
        >>> import nbcore as nb
        >>> network = nb.as_network((lambda key, x: {}, lambda params, x: x))
        >>> network.apply({}, 3.0)
        3.0
    """
    if Network in type(model).__mro__:
        return _with_example(model, example)
    if type(model) is tuple and _is_pair(model):  # pyright: ignore[reportUnknownArgumentType]
        return Network.from_functions(*model, example=example)  # pyright: ignore[reportUnknownArgumentType]
    claims = plugins.networks_for(model, example=example)
    if len(claims) > 1:
        raise NetworkError(
            f"{type(model).__name__} is claimed by several plugins: {', '.join(sorted(claims))}. "
            "Switch all but one off: NBCORE_DISABLE_PLUGINS=name"
        )
    if claims:
        return next(iter(claims.values()))
    if isinstance(model, tuple) and _is_pair(model):  # a named tuple that no framework claims
        return Network.from_functions(*model, example=example)  # pyright: ignore[reportUnknownArgumentType]
    if not all(hasattr(model, name) for name in ("init", "apply", "layers", "padding")):
        raise NetworkError(
            f"Got {type(model).__module__}.{type(model).__qualname__}, which no installed plugin "
            "recognizes as a network. Possible: a model of flax, equinox or haiku (pip install "
            "'nbcore[flax]', ...), an (init, apply) pair, or any object with init, apply, layers "
            "and padding (nb.Network.from_functions(init, apply))."
        )
    return cast("Network", model)


def _with_example(network: Network, example: Inputs | None) -> Network:
    """Return the network with an example, if it can hold one and has none yet."""
    names = {f.name for f in fields(network)} if is_dataclass(network) else set[str]()
    if example is None or "example" not in names or getattr(network, "example", None) is not None:
        return network
    return replace(cast("Any", network), example=example)


def _is_pair(model: tuple[Any, ...]) -> bool:
    return len(model) == 2 and all(callable(f) for f in model)
