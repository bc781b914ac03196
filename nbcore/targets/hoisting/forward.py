"""Outputs of a network as a function of its stochastic weights, with hoisted features."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from nbcore.common.pytrees import register_pytree
from nbcore.networks.evaluation import HashableNetwork, as_columns, is_per_example
from nbcore.networks.inputs import num_examples
from nbcore.networks.network import Network
from nbcore.subsets.split import ParameterSplit, Weights
from nbcore.targets.hoisting import chunks, first_layer, staging
from nbcore.targets.hoisting.sameness import same_program

FEATURE_BATCH = 64
DERIVATIVES_AT_ONCE = 16
Features = Any
"""Hoisted values: arrays with a leading example axis, or of all examples together."""
SplitAndRows = tuple[ParameterSplit, dict[str, first_layer.StochasticRows]]
"""The split, and the stochastic rows of those leaves of which few rows are stochastic."""


@dataclass(frozen=True, eq=False)
class ForwardProgram:
    """Program that computes outputs from weights and features; a static argument of jit.

    Args:
        staged: the cut network.
        per_example: whether it is cut for one example. A network whose outputs mix examples (one
            graph, batch statistics) is cut for all of them together, so it has no minibatches.
        origin: arguments of `_program`, with which an unpickled program is traced anew.
    """

    staged: staging.CutNetwork
    per_example: bool
    origin: tuple[Any, ...] = field(repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what the program was traced from: traced equations are functions of JAX."""
        network, structure, avals, *options = self.origin
        shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in avals]
        return _program_of, (network, jax.tree.unflatten(structure, shapes), *options)

    def prepare(self, frozen: SplitAndRows) -> Any:
        """Return the values that are computed once for all examples."""
        return self.staged.constant_values(frozen)

    def features(self, frozen: SplitAndRows, x: Any) -> Features:
        """Return the values that are computed once for each example."""
        if not self.per_example:
            return self.staged.residual_values(frozen, x)
        return jax.vmap(lambda example: self.staged.residual_values(frozen, example))(x)

    def outputs(self, weights: Weights, constants: Any, features: Features) -> jax.Array:
        """Run the staged program; return outputs `(examples, outputs)`."""
        if not self.per_example:
            return self.staged.apply(weights, constants, features)
        run = jax.vmap(self.staged.apply, in_axes=(None, None, 0))
        return run(weights, constants, features)


@register_pytree
@dataclass(frozen=True)
class Forward:
    """Outputs as a function of the stochastic weights and of hoisted features.

    A pytree; the program is static. Made by `Forward.build`.

    Args:
        constants: values that are computed once for all examples.
        program: computes outputs.
        chunk_size: how many examples are computed at a time; 0 is all of them.
        linearized_at: weights m at which the network is linearized, so that outputs are
            f(m) + J(m) (w - m); `None` is the network itself.
    """

    constants: Any
    program: ForwardProgram = field(metadata={"static": True})
    chunk_size: int = field(default=0, metadata={"static": True})
    linearized_at: Weights | None = None

    @staticmethod
    def build(
        network: Network,
        split: ParameterSplit,
        x: Any,
        *,
        byte_budget: int | None = None,
        per_example: bool | None = None,
        chunk_size: int | None = None,
    ) -> Forward:
        """Cut the network for inputs like `x`.

        Args:
            network: the network.
            split: which of its weights are stochastic.
            x: inputs, of which only shapes are read if `per_example` is given.
            byte_budget: bytes that the features of one example may take, or those of all examples
                if outputs mix them; `None` is no limit.
            per_example: whether each output depends on its own example alone; checked on a few
                examples by default.
            chunk_size: how many examples are computed at a time; by default enough to keep each
                operation busy, a function of shapes alone.
        """
        if per_example is None:
            per_example = is_per_example(network, split.params, x)
        example = jax.tree.map(lambda a: np.asarray(a[0]), x) if per_example else x
        frozen = (split, first_layer.stochastic_rows(split))
        leaves, structure = jax.tree.flatten((split.position, frozen, example))
        avals = tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        program = _program(HashableNetwork(network), structure, avals, per_example, None)
        if byte_budget is not None and program.staged.example_bytes > byte_budget:
            program = _program(HashableNetwork(network), structure, avals, per_example, byte_budget)
        if not per_example:
            chunk_size = 0
        elif chunk_size is None:
            staged = program.staged
            chunk_size = chunks.examples_in_chunk(staged.example_work, len(staged.staged))
        return Forward(_prepare(program, frozen), program, chunk_size)

    def features(self, split: ParameterSplit, x: Any) -> Features:
        """Return the features of the examples `x`, computed in batches."""
        x = jax.tree.map(np.asarray, x)  # on the host, where taking a batch compiles nothing
        frozen = (split, first_layer.stochastic_rows(split))
        count = len(jax.tree.leaves(x)[0])
        if not self.program.per_example or count <= FEATURE_BATCH:
            return _features(self.program, frozen, x)
        indices = np.resize(np.arange(count), -(-count // FEATURE_BATCH) * FEATURE_BATCH)
        parts = [
            _features(self.program, frozen, jax.tree.map(lambda a, i=some: a[i], x))  # pyright: ignore[reportUnknownLambdaType]
            for some in indices.reshape(-1, FEATURE_BATCH)
        ]
        return jax.tree.map(
            lambda *p: jax.device_put(np.concatenate([np.asarray(a) for a in p])[:count]), *parts
        )

    def outputs(self, weights: Weights, features: Features) -> jax.Array:
        """Return outputs `(examples, outputs)`, in chunks; jittable and differentiable."""
        if not self.chunk_size or not jax.tree.leaves(features):
            return self.at_once(weights, features)
        shared = (self, weights)
        return chunks.map_over(_outputs_of_chunk, self.chunk_size, shared, features)

    def at_once(self, weights: Weights, features: Features) -> jax.Array:
        """Return outputs `(examples, outputs)`, all examples at a time."""

        def run(weights: Weights) -> jax.Array:
            return self.program.outputs(weights, self.constants, features)

        if self.linearized_at is None:
            return run(weights)
        move = jax.tree.map(jnp.subtract, weights, self.linearized_at)
        outputs, change = jax.jvp(run, (self.linearized_at,), (move,))
        return outputs + change

    def jacobian(self, weights: Weights, features: Features) -> tuple[jax.Array, jax.Array]:
        """Return outputs `(N, outputs)` and their Jacobian in the weights `(N, outputs, d)`.

        It takes as many derivatives as an example has outputs, or weights if those are fewer.
        """
        if not self.program.per_example:
            at_a_time = functools.partial(jax.lax.map, batch_size=DERIVATIVES_AT_ONCE)
            return _jacobian(lambda w: self.at_once(w, features), weights, at_a_time)

        def one(features: Features) -> tuple[jax.Array, jax.Array]:
            alone = jax.tree.map(lambda a: a[None], features)
            return _jacobian(lambda w: self.at_once(w, alone)[0], weights, _all_at_once)

        return jax.vmap(one)(features)

    def linearized(self, weights: Weights) -> Forward:
        """Return the network's linearization f(m) + J(m) (w - m) at weights m.

        References:
            Immer, Korzepa & Bauer (2021), "Improving predictions of Bayesian neural nets via local
            linearization", equation 6.
        """
        return replace(self, linearized_at=weights)

    def same_as(self, other: Forward, weights: Weights, mine: Features, theirs: Features) -> bool:
        """Whether both compute the same outputs from features of the same shapes.

        Args:
            other: another forward function, of the same weights.
            weights: stochastic weights, of which only shapes and dtypes count.
            mine: features of this one.
            theirs: features of the other.
        """
        if not (self.program.per_example and other.program.per_example):
            return False
        shapes = [[x.shape[1:] for x in jax.tree.leaves(features)] for features in (mine, theirs)]
        pairs = [jax.tree.leaves(forward.constants) for forward in (self, other)]
        if shapes[0] != shapes[1] or len(pairs[0]) != len(pairs[1]):
            return False
        if not all(np.array_equal(a, b) for a, b in zip(*pairs, strict=True)):
            return False
        one, another = (
            (weights, f.constants, _first(x)) for f, x in ((self, mine), (other, theirs))
        )
        return same_program(self.program.staged.apply, other.program.staged.apply, one, another)


def _first(features: Features) -> Features:
    return jax.tree.map(lambda a: a[0], features)  # pyright: ignore[reportUnknownLambdaType]


def _outputs_of_chunk(shared: tuple[Forward, Weights], features: Features) -> jax.Array:
    forward, weights = shared
    return forward.at_once(weights, features)


def _jacobian(
    outputs: Callable[[Weights], jax.Array], weights: Weights, over: Callable[..., jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Return outputs, and their derivatives in the flat weights as a last axis.

    Args:
        outputs: weights -> outputs of any shape.
        weights: the point of evaluation.
        over: maps a function over the leading axis of an array.
    """
    flat, unravel = ravel_pytree(weights)
    shape = jax.eval_shape(outputs, weights).shape
    count = int(np.prod(shape))
    if count <= flat.size:
        there, pull = jax.vjp(lambda x: outputs(unravel(x)), flat)
        rows = over(lambda c: pull(c.reshape(shape))[0], jnp.eye(count, dtype=there.dtype))
        return there, rows.reshape(*shape, flat.size)
    there, push = jax.linearize(lambda x: outputs(unravel(x)), flat)
    return there, jnp.moveaxis(over(push, jnp.eye(flat.size, dtype=flat.dtype)), 0, -1)


def _all_at_once(function: Callable[[jax.Array], jax.Array], rows: jax.Array) -> jax.Array:
    return jax.vmap(function)(rows)


@functools.lru_cache(maxsize=256)
def _program(
    network: HashableNetwork,
    structure: Any,
    avals: tuple[Any, ...],
    per_example: bool,
    byte_budget: int | None,
) -> ForwardProgram:
    def outputs(weights: Weights, frozen: SplitAndRows, x: Any) -> jax.Array:
        params = first_layer.merged(*frozen, weights)
        if not per_example:
            return as_columns(network.network.apply(params, x), num_examples(x))
        batch = jax.tree.map(lambda a: a[None], x)  # pyright: ignore[reportUnknownLambdaType]
        return as_columns(network.network.apply(params, batch), 1)[0]

    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in avals]
    weights, frozen, x = jax.tree.unflatten(structure, shapes)
    staged = staging.cut(outputs, weights, frozen, x, byte_budget=byte_budget)
    origin = (network, structure, avals, per_example, byte_budget)
    return ForwardProgram(staged, per_example, origin)


def _program_of(
    network: HashableNetwork, shapes: Any, per_example: bool, byte_budget: int | None
) -> ForwardProgram:
    leaves, structure = jax.tree.flatten(shapes)
    avals = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    return _program(network, structure, avals, per_example, byte_budget)


@functools.partial(jax.jit, static_argnums=0)
def _features(program: ForwardProgram, frozen: SplitAndRows, x: Any) -> Features:
    return program.features(frozen, x)


@functools.partial(jax.jit, static_argnums=0)
def _prepare(program: ForwardProgram, frozen: SplitAndRows) -> Any:
    return program.prepare(frozen)
