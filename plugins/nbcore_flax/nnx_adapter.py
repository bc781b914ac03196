"""Any flax.nnx module as a network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import nnx

from nbcore import Layer, Network, Padding
from nbcore.errors import NetworkError
from nbcore.extend import (
    Inputs,
    Key,
    Outputs,
    Params,
    StackAxes,
    Traced,
    axes_beyond,
    check_inputs,
    check_reads_one_input,
    example_for,
    has_its_weights,
    infer_layers,
    known_axes,
    leaves_by_path,
    mode_flags,
    ordered,
    padding_of,
    stack_axes,
    stacked_layers,
    warn_of_statistics,
)
from nbcore_flax.module_types import ModuleTypes, collections_of, is_key, typed_key


def rank_of(module: Any, name: str) -> int | None:
    """Return how many axes an array of one module has; `None` if its class is not known."""
    if isinstance(module, nnx.LinearGeneral):
        outs = np.size(module.out_features)
        return outs if name == "bias" else np.size(module.in_features) + outs
    if isinstance(module, nnx.Conv | nnx.ConvTranspose):
        return 1 if name == "bias" else np.size(module.kernel_size) + 2
    if isinstance(module, nnx.LayerNorm | nnx.RMSNorm):
        return np.size(module.feature_axes)
    if isinstance(module, nnx.Linear | nnx.Embed):
        return 1 if name == "bias" else 2
    return 1 if isinstance(module, nnx.BatchNorm | nnx.GroupNorm | nnx.InstanceNorm) else None


TYPES = ModuleTypes(
    kinds={
        nnx.Linear: "dense",
        nnx.LinearGeneral: "dense",
        nnx.BatchNorm: "norm",
        nnx.GroupNorm: "norm",
        nnx.InstanceNorm: "norm",
        nnx.LayerNorm: "norm",
        nnx.RMSNorm: "norm",
    },
    general=nnx.LinearGeneral,
    transposed=nnx.ConvTranspose,
)


@dataclass(frozen=True)
class _Values:
    """What a module held when it became a network.

    Arrays are compared by identity: networks of the same module are equal (so that jitted
    functions are shared), networks of two modules with different weights are not.
    """

    weights: Any
    state: Any
    random: Any

    def _leaves(self) -> list[Any]:
        return jax.tree.leaves((self.weights, self.state, self.random))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Values):
            return False
        mine, theirs = self._leaves(), other._leaves()
        return len(mine) == len(theirs) and all(a is b for a, b in zip(mine, theirs, strict=True))

    def __hash__(self) -> int:
        return len(self._leaves())


@dataclass(frozen=True, eq=False)
class NnxNetwork(Network):
    """An nnx module as a network; made by `NnxNetwork.from_module` or `NnxNetwork.from_builder`.

    Parameters are nested dicts of arrays, `{"params": …, "state": …}`: every `nnx.Param`, then
    every other variable (statistics of BatchNorm, counters), which is state and never a weight.
    `"state"` is missing if the module has none; the weights alone are accepted too. Random
    streams belong to neither: they are seeded from the key that `apply` is given.

    An nnx module gets its weights when it is built. So a network that is to be *trained* is made
    of what builds the module, the class or a `functools.partial` of it, and `init` builds it anew
    for each key; a network made of a *module* keeps the weights in `params`, and its `init`
    refuses: folds and members of an ensemble would otherwise all start from the same weights.

    Dropout is on when `train` is set. BatchNorm always normalizes by its stored statistics, in
    training too (which warns), so that an output depends on its own example only. Every call works
    on a copy: the module that was given is never changed, and nothing that a call writes is kept.

    Args:
        graphdef: structure of the module.
        values: the arrays that it held.
        module: the module itself, asked for its hints only.
        padding: how inputs are padded.
        example: a few inputs to trace for the call order of the layers; without it, and without
            a method `example_input(params)` on the module, the order is unknown.
        build: `(rngs=) -> module`, if the network was made of that.

    Examples:
        >>> import functools, jax, jax.numpy as jnp, nbcore as nb
        >>> from flax import nnx
        >>> network = nb.as_network(functools.partial(nnx.Linear, 3, 1))  # to be trained
        >>> params = network.init(jax.random.key(0), jnp.ones((2, 3)))
        >>> network.apply(params, jnp.ones((2, 3))).shape
        (2, 1)
        >>> trained = nb.as_network(nnx.Linear(3, 1, rngs=nnx.Rngs(0)))  # keeps its weights
        >>> trained.params["params"]["kernel"].shape
        (3, 1)
    """

    graphdef: nnx.GraphDef[Any]
    values: _Values = field(repr=False)
    module: nnx.Module = field(repr=False)
    padding: Padding | None = None
    example: Inputs | None = field(default=None, repr=False)
    build: Callable[..., nnx.Module] | None = None

    @classmethod
    def from_module(cls, module: nnx.Module, example: Inputs | None = None) -> NnxNetwork:
        """Make a network of a module and the values that it holds now.

        Raises:
            NetworkError: an attribute of the module cannot be hashed.
        """
        check_reads_one_input(f"{type(module).__name__}.__call__", module.__call__)
        graphdef, *values = _parts(module)
        try:
            hash(graphdef)
        except TypeError as error:
            raise NetworkError(
                f"{type(module).__name__} holds an attribute that cannot be hashed ({error}). "
                "Keep arrays in nnx.Variable, and lists of options as tuples."
            ) from error
        return cls(graphdef, _Values(*values), module, padding_of(module), example)

    @classmethod
    def from_builder(
        cls, build: Callable[..., nnx.Module], example: Inputs | None = None
    ) -> NnxNetwork:
        """Make a network of what builds its module, so that each key gives weights of its own.

        Args:
            build: called as `build(rngs=nnx.Rngs(key))`; `nb.as_network` knows a class of modules
                and a `functools.partial` of one, and any other function is given here.
            example: a few inputs to trace for the call order of the layers.

        Raises:
            NetworkError: an attribute of the module cannot be hashed.
        """
        one = cls.from_module(build(rngs=nnx.Rngs(0)), example)
        return cls(one.graphdef, one.values, one.module, one.padding, example, build)

    @functools.cached_property
    def _identity(self) -> Any:
        return (self.graphdef, self.values) if self.build is None else self.build

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NnxNetwork) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash((NnxNetwork, self._identity))

    @property
    def params(self) -> Params | None:
        """The parameters of the module that was given; `None` if none was."""
        if self.build is not None:
            return None
        return jax.tree.map(lambda a: a, _params(self.values.weights, self.values.state))

    def init(self, key: Key, x: Inputs) -> Params:
        """Return the parameters of a module that is built anew, from a key.

        Raises:
            NetworkError: a module was given, which has its weights already.
        """
        del x
        if self.build is None:
            raise has_its_weights(self.module, "rngs")
        return _init(self.build, key)

    def apply(
        self, params: Params, x: Inputs, *, train: bool = False, key: Key | None = None
    ) -> Outputs:
        """Return the module's outputs; dropout is drawn from `key` when `train` is set.

        Args:
            params: as `init` and `params` give them, or the weights alone.
            x: inputs with a leading example axis.
            train: whether dropout is on.
            key: random key; needed in training if the module has random streams.

        Raises:
            NetworkError: the module has random streams to train with and no key was given.
        """
        if train and key is None and self.values.random:
            raise NetworkError(
                f"{type(self.module).__name__} has random streams (dropout), and no key was "
                "given. Pass one: apply(params, x, train=True, key=jax.random.key(0))"
            )
        model = self._merge(params, key)
        model.eval()
        if train:
            model.set_attributes(deterministic=False, raise_if_not_found=False)
            for path, module in nnx.iter_modules(model):
                if isinstance(module, nnx.BatchNorm):
                    warn_of_statistics("/".join(map(str, path)))
        return model(x, **mode_flags(model.__call__, train))

    def layers(self, params: Params) -> tuple[Layer, ...]:
        """Return the layers, named by module path; in call order if an example is known."""
        params = self.unboxed(params)
        is_bare = "params" not in params
        prefix = "" if is_bare else "params"
        modules = {
            "/".join(map(str, path)) or "params": module
            for path, module in nnx.iter_modules(self._merge(params, None))
        }

        def describe(params: Params) -> tuple[Layer, ...]:
            layers = infer_layers(params, prefix=prefix, state=("state",))
            return tuple(TYPES.refine(layer, modules.get(layer.name)) for layer in layers)

        example = example_for(self.module, self.example, collections_of(params)["params"])
        traced = None if example is None else Traced.of(self.apply, params, example)
        axes = _stack_axes(params, modules, prefix, {} if traced is None else stack_axes(traced))
        layers = stacked_layers(params, describe, axes)
        return layers if traced is None else ordered(layers, traced)

    def unboxed(self, params: Params) -> Params:
        """Return parameters as nested dicts of arrays, of an `nnx.State` too."""
        return _unboxed(params)

    def check_inputs(self, x: Inputs) -> None:
        """Call the module's `check_inputs(x)`, if it has one; it raises on bad inputs."""
        check_inputs(self.module, x)

    def _merge(self, params: Params, key: Key | None) -> Any:
        collections = collections_of(self.unboxed(params))
        state = collections.get("state", self.values.state)
        random = self.values.random if key is None else _reseed(self.values.random, key)
        return nnx.merge(self.graphdef, collections["params"], random, state)


def _stack_axes(
    params: Params, modules: Mapping[str, Any], prefix: str, traced: StackAxes
) -> StackAxes:
    """Return the axes that arrays of known modules have beyond those of one module."""
    start = f"{prefix}/" if prefix else ""
    known: dict[str, tuple[int, ...]] = {}
    for path, array in leaves_by_path(params).items():
        name, _, part = path.removeprefix(start).rpartition("/")
        rank = rank_of(modules.get(name or "params"), part) if path.startswith(start) else None
        if rank is not None:
            known[path] = axes_beyond(rank, array.ndim, traced.get(path, ()))
    return known_axes(traced, known)


def _unboxed(params: Params) -> Params:
    if isinstance(params, nnx.State):
        return nnx.to_pure_dict(params)
    return {k: _unboxed(v) for k, v in params.items()} if isinstance(params, Mapping) else params


def _parts(module: nnx.Module) -> tuple[Any, Any, Any, Any]:
    """Return structure, weights, state and random streams of a module."""
    graphdef, *states = nnx.split(module, nnx.Param, nnx.RngState, ...)
    weights, random, state = map(nnx.to_pure_dict, states)
    return graphdef, weights, state, random


def _params(weights: Any, state: Any) -> Params:
    return {"params": weights, "state": state} if state else {"params": weights}


@functools.partial(jax.jit, static_argnums=0)
def _init(build: Callable[..., nnx.Module], key: Key) -> Params:
    _, weights, state, _ = _parts(build(rngs=nnx.Rngs(typed_key(key))))
    return _params(weights, state)


def _reseed(random: Any, key: Key) -> Any:
    """Give every random stream a key of its own, derived from one; counters keep their values."""
    leaves, structure = jax.tree.flatten(random)
    key = typed_key(key)
    seeded = [
        jax.random.split(jax.random.fold_in(key, i), leaf.shape) if is_key(leaf) else leaf
        for i, leaf in enumerate(leaves)
    ]
    return structure.unflatten(seeded)
