"""Sums and maps over examples in chunks, in the memory of one chunk.

The gradient of a sum over chunks comes from the same pass: each chunk gives its value and gradient,
and keeps nothing else. This is rematerialization without computing anything twice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

BYTES_AN_EQUATION = {"cpu": 2**19}
"""About how much each equation writes for a chunk: with less, its overhead would dominate."""
OTHER_BYTES_AN_EQUATION = 2**23
"""The same on any other device, which needs many examples at a time."""

Examples = Any
"""A pytree of arrays with a leading example axis."""
Each = Callable[[Any, Examples], jax.Array]
"""`(shared, examples) -> (examples, ...)`, with results that depend on their own example alone."""


def examples_in_chunk(example_work: int, equations: int) -> int:
    """Return how many examples a chunk holds.

    Args:
        example_work: bytes that a gradient remembers of one example.
        equations: number of equations that write them.
    """
    each = BYTES_AN_EQUATION.get(jax.default_backend(), OTHER_BYTES_AN_EQUATION)
    return max(1, each * equations // max(example_work, 1))


def filled_count(total: int, size: int) -> int:
    """Return how many examples equal chunks of at most `size` hold, copies included.

    Examples:
        >>> filled_count(564, 24), filled_count(5, 8)
        (576, 5)
    """
    chunks = -(-total // size)
    return total if total <= size else chunks * -(-total // chunks)


def sum_over(
    each: Each, size: int, count: int | jax.Array, shared: Any, examples: Examples
) -> jax.Array:
    """Return the sum of `each(shared, examples)` over the first `count` examples.

    Reverse-mode differentiable, any number of times; forward mode works on its gradient.

    Args:
        each: static; equal functions share programs.
        size: number of examples of a chunk, at most.
        count: number of examples; any further ones are copies, which weigh nothing.
        shared: a pytree of arrays that all examples need.
        examples: the examples.
    """
    total = len(jax.tree.leaves(examples)[0])
    if total <= size:
        return _weighted(each, 0, 1, count, shared, examples)
    chunks = -(-total // size)
    filled = _filled(examples, -total % chunks)
    everything = isinstance(count, int) and count == filled_count(total, size)
    return _sum(each, chunks, (shared, None if everything else count), filled)


def fold(
    part: Callable[[Any, Examples, jax.Array], tuple[Any, Any]],
    size: int,
    count: int | jax.Array,
    shared: Any,
    examples: Examples,
) -> tuple[Any, Any]:
    """Return the sum of the first of two results over chunks, and the second of all examples.

    Args:
        part: `(shared, examples, weights) -> (summed, kept)`, with weights 1, and 0 for copies that
            fill up; what is kept has a leading axis, whose order in the result is not that of the
            examples.
        size: number of examples of a chunk, at most.
        count: number of examples; any further ones are copies, which weigh nothing.
        shared: a pytree of arrays that all examples need.
        examples: the examples.
    """
    total = len(jax.tree.leaves(examples)[0])
    kind = jnp.result_type(float)
    if total <= size:
        return part(shared, examples, (jnp.arange(total) < count).astype(kind))
    chunks = -(-total // size)
    filled = _filled(examples, -total % chunks)
    each = -(-total // chunks)

    @jax.jit  # so that it is traced once, for shapes and for the loop
    def one(i: Any) -> tuple[Any, Any]:
        weights = (i + chunks * jnp.arange(each) < count).astype(kind)
        return part(shared, _chunk(filled, chunks, i), weights)

    def add(summed: Any, i: jax.Array) -> tuple[Any, Any]:
        more, kept = one(i)
        return jax.tree.map(jnp.add, summed, more), kept

    places = jnp.arange(chunks)
    start = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(one, places[0])[0])
    summed, kept = jax.lax.scan(add, start, places)
    return summed, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), kept)


def map_over(each: Each, size: int, shared: Any, examples: Examples) -> jax.Array:
    """Return `each(shared, examples)`, computed in chunks of at most `size` examples."""
    total = len(jax.tree.leaves(examples)[0])
    if total <= size:
        return each(shared, examples)
    chunks = -(-total // size)
    filled = _filled(examples, -total % chunks)
    parts = jax.lax.map(lambda i: each(shared, _chunk(filled, chunks, i)), jnp.arange(chunks))
    joined = jnp.moveaxis(parts, 0, 1)  # chunk i has every example i + chunks * j
    return joined.reshape(-1, *joined.shape[2:])[:total]


def _chunk(examples: Examples, chunks: int, i: Any) -> Examples:
    """Return every example whose index is i modulo `chunks`.

    Every chunk then has its share of the examples of each device.
    """

    def take(a: jax.Array) -> jax.Array:
        parts = a.reshape(-1, chunks, *a.shape[1:])
        return jax.lax.dynamic_index_in_dim(parts, i, axis=1, keepdims=False)

    return jax.tree.map(take, examples)


def _filled(examples: Examples, more: int) -> Examples:
    """Return the examples and copies of the first ones."""
    if not more:
        return examples
    return jax.tree.map(lambda a: jnp.concatenate([a, a[np.arange(more) % len(a)]]), examples)


def _weighted(
    each: Each, i: Any, chunks: int, count: int | jax.Array | None, shared: Any, examples: Examples
) -> jax.Array:
    values = each(shared, examples)
    if count is not None and not (isinstance(count, int) and count >= chunks * len(values)):
        values = jnp.where(i + chunks * jnp.arange(len(values)) < count, values, 0)
    return jnp.sum(values)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sum(each: Each, chunks: int, counted: tuple[Any, Any], examples: Examples) -> jax.Array:
    shared, count = counted

    def add(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        value = _weighted(each, i, chunks, count, shared, _chunk(examples, chunks, i))
        return total + value, None

    start = jnp.zeros((), _dtype(each, shared, examples))
    return jax.lax.scan(add, start, jnp.arange(chunks))[0]


def _dtype(each: Each, shared: Any, examples: Examples) -> Any:
    return jax.eval_shape(each, shared, examples).dtype


def _sum_forward(
    each: Each, chunks: int, counted: tuple[Any, Any], examples: Examples
) -> tuple[jax.Array, Any]:
    """Return the sum, and its gradient with respect to what is differentiated."""
    inputs, structure = jax.tree.flatten((counted, examples), is_leaf=_is_input)
    values = [a.value for a in inputs]
    real = [jnp.issubdtype(jnp.result_type(a), jnp.inexact) for a in values]
    moving = [i for i, a in enumerate(inputs) if a.perturbed and real[i]]

    def one(moved: list[jax.Array], i: jax.Array) -> jax.Array:
        leaves = list(values)
        for place, leaf in zip(moving, moved, strict=True):
            leaves[place] = leaf
        (shared, count), examples = jax.tree.unflatten(structure, leaves)
        return _weighted(each, i, chunks, count, shared, _chunk(examples, chunks, i))

    def add(carry: Any, i: jax.Array) -> tuple[Any, None]:
        more = jax.value_and_grad(one)([values[place] for place in moving], i)
        return jax.tree.map(jnp.add, carry, more), None

    (shared, _), whole = jax.tree.unflatten(structure, values)
    start = (
        jnp.zeros((), _dtype(each, shared, whole)),
        [jnp.zeros_like(values[place]) for place in moving],
    )
    (total, gradient), _ = jax.lax.scan(add, start, jnp.arange(chunks))
    found: list[Any] = [None] * len(values)
    for place, leaf in zip(moving, gradient, strict=True):
        found[place] = leaf
    return total, jax.tree.unflatten(structure, found)


def _sum_backward(each: Each, chunks: int, gradient: Any, cotangent: Any) -> tuple[Any, Any]:
    del each, chunks
    if isinstance(cotangent, SymbolicZero):
        return jax.tree.map(lambda _: None, gradient)
    return jax.tree.map(lambda g: cotangent * g, gradient)


def _is_input(leaf: Any) -> bool:
    return isinstance(leaf, CustomVJPPrimal)


_sum.defvjp(_sum_forward, _sum_backward, symbolic_zeros=True)
