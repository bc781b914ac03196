"""Any Equinox module as a network."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax

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
    has_its_weights,
    leaves_by_path,
    ordered,
    padding_of,
    stack_axes,
    stacked_layers,
    warn_of_statistics,
)
from nbcore_equinox.described import describe, nested, parts_of_type, stacked_axes


@dataclass(frozen=True, eq=False)
class EquinoxNetwork(Network):
    """An Equinox module as a network; made by `from_module` or `from_builder`.

    Equinox modules compute one example: `apply` is `jax.vmap(module)`. Parameters are nested
    dicts, `{"params": …, "state": …}`: every array of floats of the module by its attribute path
    (list items by their number), then what `eqx.nn.State` holds, which is never a weight.
    `"state"` is missing if there is none; the weights alone are accepted too. Arrays keep
    Equinox's storage order, (out, in); pairs are (in, out) as everywhere.

    An Equinox module gets its weights when it is built. So a network that is to be *trained* is
    made of what builds the module, the class or a `functools.partial` of it, and `init` builds it
    anew for each key; a network made of a *module* keeps its weights in `params`, and its `init`
    refuses: folds and members of an ensemble would otherwise all start from the same weights.

    Dropout is on when `train` is set, with a key of its own for each example. BatchNorm always
    normalizes by its stored statistics, in training too (which warns), so that an output depends
    on its own example only; nothing that a call writes to its state is kept.

    Args:
        module: the module; asked for its structure, never for its weights.
        held: the parameters that it came with.
        state_tree: structure of its `eqx.nn.State`; `None` if it has none.
        example: a few inputs to trace for the call order of the layers; without it, and without
            a method `example_input(params)` on the module, the order is unknown.
        build: `(key=) -> module`, if the network was made of that.

    Examples:
        >>> import functools, equinox as eqx, jax, jax.numpy as jnp, nbcore as nb
        >>> x = jnp.ones((2, 3))
        >>> mlp = functools.partial(eqx.nn.MLP, 3, 1, width_size=8, depth=2)
        >>> network = nb.as_network(mlp, example=x)  # to be trained
        >>> params = network.init(jax.random.key(0), x)
        >>> network.apply(params, x).shape
        (2, 1)
        >>> trained = nb.as_network(mlp(key=jax.random.key(0)))  # keeps its weights
        >>> [layer.name for layer in trained.layers(trained.params)]
        ['layers/0', 'layers/1', 'layers/2']
    """

    module: eqx.Module = field(repr=False)
    held: Params = field(repr=False)
    state_tree: Any = field(default=None, repr=False)
    example: Inputs | None = field(default=None, repr=False)
    build: Callable[..., eqx.Module] | None = None

    @classmethod
    def from_module(
        cls, module: eqx.Module, state: Any = None, example: Inputs | None = None
    ) -> EquinoxNetwork:
        """Make a network of a module, and of its state if it has one.

        Args:
            module: the module.
            state: the `eqx.nn.State` that `eqx.nn.make_with_state` gave; `None` for a module
                without stateful layers.
            example: a few inputs to trace for the call order of the layers.

        Raises:
            NetworkError: the module has stateful layers, and no state was given.
        """
        if state is None and parts_of_type(module, eqx.nn.StateIndex):
            raise NetworkError(
                f"{type(module).__name__} has stateful layers. Pass its state too: "
                f"nb.as_network((module, state)), both from eqx.nn.make_with_state("
                f"{type(module).__name__})(...)"
            )
        if state is None:
            called: Any = module
            check_reads_one_input(f"{type(module).__name__}.__call__", called.__call__)
        leaves, state_tree = jax.tree.flatten(state)
        held = _params(module, leaves)
        return cls(module, held, None if state is None else state_tree, example)

    @classmethod
    def from_builder(
        cls, build: Callable[..., eqx.Module], example: Inputs | None = None
    ) -> EquinoxNetwork:
        """Make a network of what builds its module, so that each key gives weights of its own.

        Args:
            build: called as `build(key=key)`; `nb.as_network` knows a class of modules and a
                `functools.partial` of one, and any other function is given here.
            example: a few inputs to trace for the call order of the layers.
        """
        module, state = eqx.nn.make_with_state(build)(key=jax.random.key(0))
        has_state = bool(jax.tree.leaves(state))
        one = cls.from_module(module, state if has_state else None, example)
        return cls(one.module, one.held, one.state_tree, example, build)

    @functools.cached_property
    def _identity(self) -> Any:
        # Arrays are compared by identity: networks of one module share compiled programs.
        return id(self.module) if self.build is None else self.build

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EquinoxNetwork) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash((EquinoxNetwork, self._identity))

    @property
    def padding(self) -> Padding | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How inputs are padded: the module's `padding`, if that is a `Padding`."""
        return padding_of(self.module)

    @property
    def params(self) -> Params | None:
        """The parameters of the module that was given; `None` if none was."""
        return jax.tree.map(lambda a: a, self.held) if self.build is None else None

    def init(self, key: Key, x: Inputs) -> Params:
        """Return the parameters of a module that is built anew, from a key.

        Raises:
            NetworkError: a module was given, which has its weights already.
        """
        del x
        if self.build is None:
            raise has_its_weights(self.module, "key")
        return _init(self.build, key)

    def apply(
        self, params: Params, x: Inputs, *, train: bool = False, key: Key | None = None
    ) -> Outputs:
        """Return the module's output for each example; dropout is drawn from `key` in training.

        Args:
            params: as `init` and `params` give them, or the weights alone.
            x: inputs with a leading example axis.
            train: whether dropout is on.
            key: random key; needed in training if the module has dropout.

        Raises:
            NetworkError: the module has dropout to train with and no key was given.
        """
        module = self._mode(self.module_of(params), train, key)
        takes_key = "key" in inspect.signature(module.__call__).parameters
        options = () if self.state_tree is None else (self._state(params),)

        def one(example: Any, key: Any) -> Any:
            outputs = module(example, *options, **({"key": key} if takes_key else {}))
            return outputs if self.state_tree is None else outputs[0]

        if not train or key is None:
            return jax.vmap(lambda example: one(example, None))(x)
        return jax.vmap(one)(x, jax.random.split(key, len(jax.tree.leaves(x)[0])))

    def module_of(self, params: Params) -> Any:
        """Return the Equinox module with other weights."""
        arrays, rest = eqx.partition(self.module, eqx.is_inexact_array)
        weights = leaves_by_path(params.get("params", params))
        paths = leaves_by_path(arrays)
        leaves = [weights[path] for path in paths]
        return eqx.combine(jax.tree.unflatten(jax.tree.structure(arrays), leaves), rest)

    def layers(self, params: Params) -> tuple[Layer, ...]:
        """Return the layers, named by attribute path; in call order if an example is known."""
        example = example_for(self.module, self.example, params)
        traced = None if example is None else Traced.of(self.apply, params, example)
        found = {} if traced is None else stack_axes(traced)
        axes = stacked_axes(self.module, params, found)
        layers = stacked_layers(params, functools.partial(describe, self.module), axes)
        return layers if traced is None else ordered(layers, traced)

    def check_inputs(self, x: Inputs) -> None:
        """Call the module's `check_inputs(x)`, if it has one; it raises on bad inputs."""
        check_inputs(self.module, x)

    def _state(self, params: Params) -> Any:
        leaves = params.get("state", self.held.get("state"))
        return jax.tree.unflatten(self.state_tree, leaves)

    def _mode(self, module: Any, train: bool, key: Key | None) -> Any:
        module = eqx.nn.inference_mode(module, value=not train)
        if not train:
            return module
        random = [d for d in parts_of_type(module, eqx.nn.Dropout).values() if d.p]
        if random and key is None:
            raise NetworkError(
                f"{type(self.module).__name__} draws random numbers (dropout), and no key was "
                "given. Pass one: apply(params, x, train=True, key=jax.random.key(0))"
            )
        norms = parts_of_type(module, eqx.nn.BatchNorm)
        for name in norms:
            warn_of_statistics(name)
        if not norms:
            return module
        found = lambda m: [n.inference for n in parts_of_type(m, eqx.nn.BatchNorm).values()]  # noqa: E731
        return eqx.tree_at(found, module, [True] * len(norms))


def _params(module: Any, state: list[Any]) -> Params:
    weights = nested(leaves_by_path(eqx.filter(module, eqx.is_inexact_array)))
    return {"params": weights, "state": state} if state else {"params": weights}


@functools.partial(jax.jit, static_argnums=0)
def _init(build: Callable[..., eqx.Module], key: Key) -> Params:
    module, state = eqx.nn.make_with_state(build)(key=key)
    return _params(module, jax.tree.leaves(state))
