"""Any flax.nnx module as a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx

from nbcore.errors import NetworkError
from nbcore.layers import Layer, in_call_order, infer_layers
from nbcore.network import Inputs, Key, Network, Outputs, Padding, Params
from nbcore_flax.hints import (
    ModuleTypes,
    check_inputs,
    collections_of,
    example_for,
    is_key,
    mode_flags,
    padding_of,
    typed_key,
)

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


@dataclass(frozen=True)
class NnxNetwork(Network):
    """An nnx module as a network; made by `NnxNetwork.from_module(module)`.

    Parameters are nested dicts of arrays, `{"params": …, "state": …}`: every `nnx.Param`, then
    every other variable (statistics of BatchNorm, counters), which is state and never a weight.
    `"state"` is missing where the module has none; the weights alone are accepted too. Random
    streams belong to neither: they are seeded from the key that `apply` is given.

    An nnx module is initialised when it is built, so `init` returns the values that it held when
    it became a network, whatever the key: right for a trained module; build another module for
    another start.

    Dropout is on when `train` is set. BatchNorm always normalises by its stored statistics, in
    training too, so that an output depends on its own example only. Every call works on a copy:
    the module that was given is never changed, and nothing that a call writes is kept.

    Args:
        graphdef: structure of the module.
        values: the arrays that it held.
        module: the module itself, asked for its hints only.
        padding: how inputs are padded.
        example: a few inputs to trace for the call order of the layers; without it, and without
            a method `example_input(params)` on the module, the order is unknown.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> network = NnxNetwork.from_module(nnx.Linear(3, 1, rngs=nnx.Rngs(0)))
        >>> params = network.init(jax.random.key(0), jnp.ones((2, 3)))
        >>> network.apply(params, jnp.ones((2, 3))).shape
        (2, 1)
    """

    graphdef: nnx.GraphDef[Any]
    values: _Values = field(repr=False)
    module: nnx.Module = field(compare=False, repr=False)
    padding: Padding | None = None
    example: Inputs | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_module(cls, module: nnx.Module, example: Inputs | None = None) -> NnxNetwork:
        """Make a network of a module and the values that it holds now.

        Raises:
            NetworkError: an attribute of the module cannot be hashed.
        """
        graphdef, *states = nnx.split(module, nnx.Param, nnx.RngState, ...)
        weights, random, state = map(nnx.to_pure_dict, states)
        try:
            hash(graphdef)
        except TypeError as error:
            raise NetworkError(
                f"{type(module).__name__} holds an attribute that cannot be hashed ({error}). "
                "Keep arrays in nnx.Variable, and lists of options as tuples."
            ) from error
        return cls(graphdef, _Values(weights, state, random), module, padding_of(module), example)

    def init(self, key: Key, x: Inputs) -> Params:
        """Return the values that the module held when it became a network; `key` is not used."""
        weights, state = jax.tree.map(lambda a: a, (self.values.weights, self.values.state))
        return {"params": weights, "state": state} if state else {"params": weights}

    def apply(
        self, params: Params, x: Inputs, *, train: bool = False, key: Key | None = None
    ) -> Outputs:
        """Return the module's outputs; dropout is drawn from `key` when `train` is set.

        Args:
            params: as `init` returns them, or the weights alone.
            x: inputs with a leading example axis.
            train: whether dropout is on.
            key: random key; needed in training where the module has random streams.

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
        return model(x, **mode_flags(model, train))

    def layers(self, params: Params) -> tuple[Layer, ...]:
        """Return the layers, named by module path; in call order where an example is known."""
        is_bare = "params" not in params
        layers = infer_layers(params, prefix="" if is_bare else "params", state=("state",))
        modules = {
            "/".join(map(str, path)) or "params": module
            for path, module in nnx.iter_modules(self._merge(params, None))
        }
        layers = tuple(TYPES.refine(layer, modules.get(layer.name)) for layer in layers)
        example = example_for(self.module, self.example, collections_of(params)["params"])
        return layers if example is None else in_call_order(layers, self.apply, params, example)

    def check_inputs(self, x: Inputs) -> None:
        """Call the module's `check_inputs(x)`, where it has one; it raises on bad inputs."""
        check_inputs(self.module, x)

    def _merge(self, params: Params, key: Key | None) -> Any:
        collections = collections_of(params)
        state = collections.get("state", self.values.state)
        random = self.values.random if key is None else _reseed(self.values.random, key)
        return nnx.merge(self.graphdef, collections["params"], random, state)


def _reseed(random: Any, key: Key) -> Any:
    """Give every random stream a key of its own, derived from one; counters keep their values."""
    leaves, structure = jax.tree.flatten(random)
    key = typed_key(key)
    seeded = [
        jax.random.split(jax.random.fold_in(key, i), leaf.shape) if is_key(leaf) else leaf
        for i, leaf in enumerate(leaves)
    ]
    return structure.unflatten(seeded)
