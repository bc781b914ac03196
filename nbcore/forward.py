"""The network as a function of the stochastic weights, with what is known computed once."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from nbcore import hoisting
from nbcore.likelihoods import as_columns
from nbcore.network import Network, Static, evaluate
from nbcore.split import ParameterSplit, Weights

FEATURE_BATCH = 256
Features = Any
"""What is known of some examples: a pytree of arrays with a leading example axis."""


class Program(Protocol):
    """How outputs are computed from weights and features; a static argument of jit."""

    @property
    def per_example(self) -> bool:
        """Whether the outputs of each example depend on that example alone."""
        ...

    def prepare(self, split: ParameterSplit) -> Any:
        """Return what is computed once for all examples."""
        ...

    def features(self, split: ParameterSplit, x: Any) -> Features:
        """Return what is computed once for each example."""
        ...

    def outputs(self, weights: Weights, constants: Any, features: Features) -> jax.Array:
        """Return outputs `(examples, outputs)`."""
        ...

    def text(self, weights: Weights, constants: Any, features: Features) -> str:
        """Return what is done for one example, as text: equal texts do the same."""
        ...


@dataclass(frozen=True, eq=False)
class Hoisted:
    """Outputs of each example depend on that example alone; see `nbcore.hoisting`."""

    staged: hoisting.Staged
    per_example: bool = True

    def prepare(self, split: ParameterSplit) -> Any:
        """Return the constants of the staged program."""
        return self.staged.constant_values(split)

    def features(self, split: ParameterSplit, x: Any) -> Features:
        """Return the residuals of each example."""
        return jax.vmap(lambda example: self.staged.residual_values(split, example))(x)

    def outputs(self, weights: Weights, constants: Any, features: Features) -> jax.Array:
        """Run the staged program, vectorised over examples."""
        run = jax.vmap(self.staged.apply, in_axes=(None, None, 0))
        return as_columns(run(weights, constants, features))

    def text(self, weights: Weights, constants: Any, features: Features) -> str:
        """Return the staged program of one example."""
        one = jax.tree.map(lambda a: a[0], features)  # pyright: ignore[reportUnknownLambdaType]
        return str(jax.make_jaxpr(self.staged.apply)(weights, constants, one))


@dataclass(frozen=True, eq=False)
class WholeBatch:
    """Outputs mix examples (one graph, batch statistics): nothing is hoisted, no minibatches."""

    network: Network
    per_example: bool = False

    def prepare(self, split: ParameterSplit) -> Any:
        """Return the split itself."""
        return split

    def features(self, split: ParameterSplit, x: Any) -> Features:
        """Return the inputs themselves."""
        del split
        return x

    def outputs(self, weights: Weights, constants: Any, features: Features) -> jax.Array:
        """Apply the network to all examples."""
        return as_columns(self.network.apply(constants.merge(weights), features))

    def text(self, weights: Weights, constants: Any, features: Features) -> str:
        """Return a text that no other program has."""
        del weights, constants, features
        return f"whole batch {id(self)}"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Forward:
    """Outputs as a function of the stochastic weights and of hoisted features.

    A pytree; the program is static. Made by `Forward.build`.
    """

    constants: Any
    program: Program = field(metadata={"static": True})

    @staticmethod
    def build(
        network: Network,
        split: ParameterSplit,
        x: Any,
        *,
        byte_budget: int = hoisting.BYTE_BUDGET,
        num_examples: int | None = None,
        per_example: bool | None = None,
    ) -> Forward:
        """Cut the network for inputs like `x`.

        Args:
            network: the network.
            split: which of its weights are stochastic.
            x: inputs, of which only shapes are read where `per_example` is given.
            byte_budget: how many bytes of features may be stored.
            num_examples: for how many examples features will be stored; those of `x` by default.
            per_example: whether each output depends on its own example alone; checked on a few
                rows by default.
        """
        x = jax.tree.map(jnp.asarray, x)
        if per_example is None:
            per_example = is_per_example(network, split.params, x)
        if not per_example:
            whole = _whole_batch(Static(network))
            return Forward(whole.prepare(split), whole)
        count = num_examples or len(jax.tree.leaves(x)[0])
        parts = (split.position, split, jax.tree.map(lambda a: a[0], x))
        leaves, structure = jax.tree.flatten(parts)
        avals = tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        program = _hoisted(Static(network), structure, avals, None)
        share = byte_budget // count
        if program.staged.example_bytes > share:
            program = _hoisted(Static(network), structure, avals, share)
        return Forward(_prepare(program, split), program)

    def features(self, split: ParameterSplit, x: Any) -> Features:
        """Return what is known of the examples `x`, computed in batches."""
        x = jax.tree.map(jnp.asarray, x)
        count = len(jax.tree.leaves(x)[0])
        if not self.program.per_example or count <= FEATURE_BATCH:
            return _features(self.program, split, x)
        rows = np.resize(np.arange(count), -(-count // FEATURE_BATCH) * FEATURE_BATCH)
        parts = [
            _features(self.program, split, jax.tree.map(lambda a, r=some: a[r], x))  # pyright: ignore[reportUnknownLambdaType]
            for some in rows.reshape(-1, FEATURE_BATCH)
        ]
        return jax.tree.map(lambda *p: jnp.concatenate(p)[:count], *parts)

    def outputs(self, weights: Weights, features: Features) -> jax.Array:
        """Return outputs `(examples, outputs)`; jittable and differentiable."""
        return self.program.outputs(weights, self.constants, features)

    def same_as(self, other: Forward, weights: Weights, mine: Features, theirs: Features) -> bool:
        """Whether both do the same with features of the same shapes."""
        shapes = [[x.shape[1:] for x in jax.tree.leaves(features)] for features in (mine, theirs)]
        constants = [jax.tree.leaves(forward.constants) for forward in (self, other)]
        return (
            self.program.per_example
            and other.program.per_example
            and shapes[0] == shapes[1]
            and [c.shape for c in constants[0]] == [c.shape for c in constants[1]]
            and all(np.array_equal(a, b) for a, b in zip(*constants, strict=True))
            and self.program.text(weights, self.constants, mine)
            == other.program.text(weights, other.constants, theirs)
        )


@functools.lru_cache(maxsize=256)
def _hoisted(
    network: Static, structure: Any, avals: tuple[Any, ...], budget: int | None
) -> Hoisted:
    def one(weights: Weights, split: ParameterSplit, example: Any) -> jax.Array:
        batch = jax.tree.map(lambda a: a[None], example)  # pyright: ignore[reportUnknownLambdaType]
        return as_columns(network.network.apply(split.merge(weights), batch))[0]

    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in avals]
    weights, split, example = jax.tree.unflatten(structure, shapes)
    budget = 2**62 if budget is None else budget
    return Hoisted(hoisting.stage(one, weights, split, example, byte_budget=budget))


@functools.lru_cache(maxsize=64)
def _whole_batch(network: Static) -> WholeBatch:
    return WholeBatch(network.network)


@functools.partial(jax.jit, static_argnums=0)
def _features(program: Program, split: ParameterSplit, x: Any) -> Features:
    return program.features(split, x)


@functools.partial(jax.jit, static_argnums=0)
def _prepare(program: Program, split: ParameterSplit) -> Any:
    return program.prepare(split)


def is_per_example(network: Network, params: Any, x: Any) -> bool:
    """Whether the outputs of a few rows are those of each row alone."""
    count = len(jax.tree.leaves(x)[0])
    rows = sorted({0, count // 2, count - 1})  # neighbours may well be copies of each other
    few = jax.tree.map(lambda a: jnp.asarray(a)[np.array(rows)], x)
    together = evaluate(network, params, few)
    if jnp.ndim(together) not in (1, 2) or len(together) != len(jax.tree.leaves(few)[0]):
        return False
    single = [jax.tree.map(lambda a, i=i: a[i : i + 1], few) for i in range(len(rows))]  # pyright: ignore[reportUnknownLambdaType]
    alone = np.concatenate([np.asarray(evaluate(network, params, row)) for row in single])
    scale = float(jnp.max(jnp.abs(together)))
    return bool(np.allclose(np.asarray(together), alone, rtol=1e-3, atol=1e-4 * scale + 1e-6))
