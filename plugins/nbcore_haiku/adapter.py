"""Any transformed Haiku function as a network."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import haiku as hk
import jax

from nbcore import Layer, Leaf, Network, Padding
from nbcore.errors import NetworkError
from nbcore.extend import (
    Inputs,
    Key,
    Outputs,
    Params,
    Traced,
    check_reads_one_input,
    infer_layers,
    mode_flags,
    ordered,
    stack_axes,
    stacked_layers,
    warn_of_statistics,
)

NORMS = (hk.BatchNorm, hk.GroupNorm, hk.InstanceNorm, hk.LayerNorm, hk.RMSNorm)
ATTENTION = {"query": "query", "key": "key", "value": "value", "linear": "out"}


@dataclass(frozen=True)
class HaikuNetwork(Network):
    """A transformed Haiku function as a network.

    Parameters are Haiku's own, `{module: {name: array}}`, so that `transformed.apply` takes them;
    of a function with state they are `{"params": …, "state": …}`, and state is never a weight.

    Training is announced to the function under the name that it uses for it: `train`, `training`,
    `is_training`, `enable_dropout`, or their opposites `deterministic`, `inference`. Random
    numbers are there in training only. BatchNorm always normalizes by its stored statistics, in
    training too (which warns), so that an output depends on its own example only; nothing that a
    call writes to state is kept.

    Args:
        transformed: what `hk.transform` or `hk.transform_with_state` gave.
        example: a few inputs to trace for the call order of the layers, and for what the modules
            are; without it both are read off names and shapes, and the order is unknown.
        padding: how inputs are padded.

    Examples:
        >>> import haiku as hk, jax, jax.numpy as jnp, nbcore as nb
        >>> x = jnp.ones((2, 3))
        >>> network = nb.as_network(hk.transform(lambda x: hk.nets.MLP([8, 1])(x)), example=x)
        >>> params = network.init(jax.random.key(0), x)
        >>> [layer.name for layer in network.layers(params)]
        ['mlp/~/linear_0', 'mlp/~/linear_1']
        >>> network.apply(params, x).shape
        (2, 1)
    """

    transformed: hk.Transformed | hk.TransformedWithState
    example: Inputs | None = field(default=None, compare=False, repr=False)
    padding: Padding | None = None

    def __post_init__(self) -> None:
        """Check what the function reads."""
        check_reads_one_input("The transformed function", self.transformed.init, first=1)

    @property
    def has_state(self) -> bool:
        """Whether the function was transformed with state."""
        return isinstance(self.transformed, hk.TransformedWithState)

    def init(self, key: Key, x: Inputs) -> Params:
        """Return freshly initialized parameters for inputs like `x`."""
        return _init(self, key, x)

    def apply(
        self, params: Params, x: Inputs, *, train: bool = False, key: Key | None = None
    ) -> Outputs:
        """Return the function's outputs; random numbers are drawn from `key` in training.

        Args:
            params: as `init` returns them.
            x: inputs with a leading example axis.
            train: whether dropout is on.
            key: random key; needed in training if the function draws random numbers.

        Raises:
            NetworkError: the function draws random numbers and no key was given.
        """
        return self._run(params, x, train, key, {})

    def layers(self, params: Params) -> tuple[Layer, ...]:
        """Return the layers, named by module; in call order if an example is known."""
        infer = functools.partial(
            infer_layers,
            prefix="params" if self.has_state else "",
            state=("state",) * self.has_state,
        )
        if self.example is None:
            return infer(params)
        modules: dict[str, hk.Module] = {}

        def describe(params: Params) -> tuple[Layer, ...]:
            return _joined(tuple(_refined(layer, modules) for layer in infer(params)), modules)

        traced = Traced.of(
            lambda params, x: self._run(params, x, False, None, modules), params, self.example
        )
        return ordered(stacked_layers(params, describe, stack_axes(traced)), traced)

    def _run(
        self, params: Params, x: Inputs, train: bool, key: Key | None, seen: dict[str, Any]
    ) -> Outputs:
        apply = self.transformed.apply
        known = inspect.signature(apply).parameters
        parts = (params["params"], params["state"]) if self.has_state else (params,)
        rng = ((key if train else None),) if "rng" in known else ()  # see hk.without_apply_rng
        try:
            with hk.intercept_methods(functools.partial(_use_stored_statistics, train, seen)):
                result = apply(*parts, *rng, x, **mode_flags(apply, train))
        except ValueError as error:
            if type(error).__name__ != "MissingRNGError":
                raise
            raise NetworkError(
                "The network draws random numbers, and no key was given. Pass one: "
                "apply(params, x, train=True, key=jax.random.key(0))"
                if train
                else "The network draws random numbers in evaluation too. Give the function an "
                "argument is_training, and call hk.next_rng_key() only if that is set."
            ) from error
        return result[0] if self.has_state else result


@functools.partial(jax.jit, static_argnums=0)
def _init(network: HaikuNetwork, key: Key, x: Inputs) -> Params:
    init = network.transformed.init
    made = init(key, x, **mode_flags(init, True))  # BatchNorm makes its state in training only
    return dict(zip(("params", "state"), made, strict=True)) if network.has_state else made


def _use_stored_statistics(
    train: bool,
    seen: dict[str, Any],
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: Any,
) -> Any:
    """Intercept calls: note the module, and give BatchNorm the statistics that it has."""
    module = context.module
    if context.method_name == "__call__":
        seen.setdefault(module.module_name, module)
    if context.method_name != "__call__" or not isinstance(module, hk.BatchNorm):
        return call(*args, **kwargs)
    if train:
        warn_of_statistics(module.module_name)
    options = inspect.signature(context.orig_method).bind(*args, **kwargs).arguments
    return call(**{**options, "is_training": False, "test_local_stats": False})


def _refined(layer: Layer, modules: dict[str, Any]) -> Layer:
    """Correct what names and shapes said about a layer by the modules that it is in."""
    module = modules.get(layer.name)
    above = [m for name, m in modules.items() if layer.name.startswith(f"{name}/")]
    if isinstance(module, NORMS):
        leaves = tuple(replace(f, role=_norm_role(f)) for f in layer.leaves)
        return replace(layer, kind="norm", leaves=leaves)
    if isinstance(module, hk.ConvNDTranspose):
        return replace(layer, leaves=tuple(map(_transposed, layer.leaves)))
    if any(isinstance(m, hk.RNNCore) for m in [module, *above]):
        layer = replace(layer, kind="recurrent")
    if isinstance(module, hk.GRU):  # the bias of all gates belongs to the weights of the input
        leaves = (replace(f, component="w_i") if f.role == "bias" else f for f in layer.leaves)
        return replace(layer, leaves=tuple(leaves))
    return layer


def _norm_role(leaf: Leaf) -> Any:
    name = leaf.path.rpartition("/")[2]
    return {"scale": "scale", "offset": "bias"}.get(name, leaf.role)


def _transposed(leaf: Leaf) -> Leaf:
    """A transposed convolution keeps (window ..., out, in)."""
    return replace(leaf, pair_axes=leaf.pair_axes[::-1]) if leaf.role == "kernel" else leaf


def _joined(layers: tuple[Layer, ...], modules: dict[str, Any]) -> tuple[Layer, ...]:
    """Make one layer with components of the four linear maps of attention."""
    found: dict[str, Layer] = {}
    for layer in layers:
        parent, _, part = layer.name.rpartition("/")
        if not isinstance(modules.get(parent), hk.MultiHeadAttention) or part not in ATTENTION:
            found[layer.name] = layer
            continue
        leaves = tuple(replace(leaf, component=ATTENTION[part]) for leaf in layer.leaves)
        before = found[parent].leaves if parent in found else ()
        found[parent] = Layer(parent, "attention", (*before, *leaves))
    return tuple(found.values())
