"""Any flax.linen module as a network."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import errors as flax_errors
from flax import linen as nn
from flax.core import unfreeze

from nbcore import Layer, Network, Padding
from nbcore.errors import NetworkError
from nbcore.extend import (
    Inputs,
    Key,
    Outputs,
    Params,
    Traced,
    check_inputs,
    check_reads_one_input,
    example_for,
    infer_layers,
    leaves_by_path,
    mode_flags,
    ordered,
    padding_of,
    stack_axes,
    stacked_layers,
    warn_of_statistics,
)
from nbcore_flax.lifted_axes import LiftedAxes
from nbcore_flax.module_types import ModuleTypes, collections_of
from nbcore_flax.random_streams import RandomStreams

TYPES = ModuleTypes(
    kinds={
        nn.Dense: "dense",
        nn.DenseGeneral: "dense",
        nn.BatchNorm: "norm",
        nn.GroupNorm: "norm",
        nn.InstanceNorm: "norm",
        nn.LayerNorm: "norm",
        nn.RMSNorm: "norm",
    },
    general=nn.DenseGeneral,
    transposed=nn.ConvTranspose,
)


@dataclass(frozen=True, eq=False)
class LinenNetwork(Network):
    """A linen module as a network.

    Parameters are flax's own variables, `{"params": …, "batch_stats": …}`, so that
    `module.apply(params, x)` is the same call; the collection `"params"` alone is accepted too,
    if the module has no other. Every other collection is state: never a weight.

    Training is announced to the module's `__call__` under the name that it uses for it: `train`,
    `training`, `is_training`, `enable_dropout`, or their opposites `deterministic`, `inference`.
    BatchNorm always normalizes by its stored statistics, in training too (which warns), so that an
    output depends on its own example only; nothing that a call writes to state is kept.

    Args:
        module: the module, not bound.
        example: a few inputs to trace for the call order of the layers; without it, and without
            a method `example_input(params)` on the module, the order is unknown.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> network = LinenNetwork(nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(1)]))
        >>> params = network.init(jax.random.key(0), jnp.ones((2, 3)))
        >>> network.apply(params, jnp.ones((2, 3))).shape
        (2, 1)
    """

    module: nn.Module
    example: Inputs | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check what the module reads."""
        if callable(self.module):
            name = f"{type(self.module).__name__}.__call__"
            check_reads_one_input(name, self.module.__call__)

    @property
    def padding(self) -> Padding | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How inputs are padded: the module's `padding`, if that is a `Padding`."""
        return padding_of(self.module)

    @functools.cached_property
    def _identity(self) -> Any:
        # A module with lists among its attributes cannot be hashed; then it equals only itself.
        try:
            hash(self.module)
        except TypeError:
            return id(self.module)
        return self.module

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LinenNetwork) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash((LinenNetwork, self._identity))

    def init(self, key: Key, x: Inputs) -> Params:
        """Return freshly initialized variables for inputs like `x`."""
        return _init(self, key, x)

    def apply(
        self, params: Params, x: Inputs, *, train: bool = False, key: Key | None = None
    ) -> Outputs:
        """Return `module.apply(params, x)`; with a key, every random stream draws from its own.

        Args:
            params: variables, or the collection `"params"` alone.
            x: inputs with a leading example axis.
            train: whether dropout is on.
            key: random key; needed only if the module draws random numbers.

        Raises:
            NetworkError: the module needs random numbers and no key was given.
        """
        variables = collections_of(params)
        state = [name for name in variables if name != "params"]

        def call(rngs: dict[str, Key] | None) -> Outputs:
            with nn.intercept_methods(functools.partial(_use_stored_statistics, train)):
                result = self.module.apply(
                    variables,
                    x,
                    rngs=rngs,
                    mutable=state or False,
                    **mode_flags(self.module.__call__, train),
                )
            return result[0] if state else result

        if key is not None:
            return self._streams.call(call, key)
        try:
            return call(None)
        except flax_errors.InvalidRngError as error:
            raise NetworkError(
                f"{type(self.module).__name__} draws random numbers (train={train}), and no key "
                "was given. Pass one: apply(params, x, train=True, key=jax.random.key(0))"
            ) from error

    @functools.cached_property
    def _streams(self) -> RandomStreams:
        return RandomStreams()

    def layers(self, params: Params) -> tuple[Layer, ...]:
        """Return the layers, named by module path; in call order if an example is known."""
        params = self.unboxed(params)
        shapes = tuple(
            (path, np.shape(leaf), str(jnp.result_type(leaf)))
            for path, leaf in leaves_by_path(params).items()
        )
        if shapes not in self._layers_by_shapes:
            self._layers_by_shapes[shapes] = self._traced_layers(params)
        return self._layers_by_shapes[shapes]

    @functools.cached_property
    def _layers_by_shapes(self) -> dict[Any, tuple[Layer, ...]]:
        return {}

    def _traced_layers(self, params: Params) -> tuple[Layer, ...]:
        is_bare = "params" not in params
        infer = functools.partial(
            infer_layers,
            prefix="" if is_bare else "params",
            state=() if is_bare else [name for name in params if name != "params"],
        )
        example = example_for(self.module, self.example, collections_of(params)["params"])
        if example is None:
            return infer(params)
        modules: dict[str, nn.Module] = {}
        lifted = LiftedAxes()

        def apply(params: Params, x: Inputs) -> Outputs:
            with nn.intercept_methods(_record(modules)):
                return self.apply(lifted.boxed(params), x)

        def describe(params: Params) -> tuple[Layer, ...]:
            return tuple(TYPES.refine(ly, modules.get(ly.name)) for ly in infer(params))

        traced = Traced.of(apply, params, example)
        axes = lifted.joined(stack_axes(traced))
        return ordered(stacked_layers(params, describe, axes), traced)

    def unboxed(self, params: Params) -> Params:
        """Return parameters without partitioning metadata, in dicts."""
        return unfreeze(nn.meta.unbox(params))

    def check_inputs(self, x: Inputs) -> None:
        """Call the module's `check_inputs(x)`, if it has one; it raises on bad inputs."""
        check_inputs(self.module, x)


@functools.partial(jax.jit, static_argnums=0)
def _init(network: LinenNetwork, key: Key, x: Inputs) -> Params:
    flags = mode_flags(network.module.__call__, False)
    return network.unboxed(network.module.init({"params": key}, x, **flags))


def _use_stored_statistics(
    train: bool,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: Any,
) -> Any:
    if not isinstance(context.module, nn.BatchNorm) or context.method_name != "__call__":
        return call(*args, **kwargs)
    if train:
        warn_of_statistics("/".join(context.module.path))
    # BatchNorm refuses the flag in two places; this instance lives for one call of apply.
    object.__setattr__(context.module, "use_running_average", None)
    return call(*args[:1], **(kwargs | {"use_running_average": True}))


def _record(modules: dict[str, nn.Module]) -> Callable[..., Any]:
    """Return an interceptor that notes which module was called at which path."""

    def interceptor(
        call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: Any
    ) -> Any:
        if context.module.scope is not None:  # not while it is made, in __post_init__
            modules.setdefault("/".join(context.module.path) or "params", context.module)
        return call(*args, **kwargs)

    return interceptor
