"""Programs are the same only if they do the same with the same captured arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore.networks import length_buckets
from nbcore.networks.network import Padding
from nbcore.targets.hoisting.sameness import same_program

X = (jnp.ones((3, 1)),)
Make = Callable[[np.ndarray], Callable[[Any], Any]]


def in_jit(table: np.ndarray) -> Callable[[Any], Any]:
    return jax.jit(lambda k: k * table)


def in_scan(table: np.ndarray) -> Callable[[Any], Any]:
    return lambda k: jax.lax.scan(lambda c, _: (c * table, None), k, length=2)[0]


def in_branch(table: np.ndarray) -> Callable[[Any], Any]:
    return lambda k: jax.lax.cond(k[0, 0] > 0, lambda k: k * table, lambda k: k, k)


def in_loop(table: np.ndarray) -> Callable[[Any], Any]:
    return lambda k: jax.lax.fori_loop(0, jnp.int32(k[0, 0]), lambda _, c: c * table, k)


def in_checkpoint(table: np.ndarray) -> Callable[[Any], Any]:
    return jax.checkpoint(lambda k: jnp.sin(k * table))


def in_value_and_rule(table: np.ndarray) -> Callable[[Any], Any]:
    function: Any = jax.custom_jvp(lambda k: k * table)
    function.defjvp(lambda primals, tangents: (function(*primals), tangents[0] * table))
    return function


def in_forward_rule(table: np.ndarray) -> Callable[[Any], Any]:
    function: Any = jax.custom_jvp(lambda k: k)
    function.defjvp(lambda primals, tangents: (primals[0], tangents[0] * table))
    return function


def in_backward_rule(table: np.ndarray) -> Callable[[Any], Any]:
    function: Any = jax.custom_vjp(lambda k: k)
    function.defvjp(lambda k: (k, None), lambda _, g: (g * table,))
    return function


def in_callback(table: np.ndarray) -> Callable[[Any], Any]:
    shape = jax.ShapeDtypeStruct((3, 1), jnp.float32)
    return lambda k: jax.pure_callback(lambda k: np.asarray(k) * table, shape, k)


def in_key(table: np.ndarray) -> Callable[[Any], Any]:
    key = jax.random.key(int(table[0, 0]))
    return lambda k: k * jax.random.normal(key, (3, 1))


PLACES: list[Make] = [
    in_jit, in_scan, in_branch, in_loop, in_checkpoint, in_value_and_rule, in_forward_rule,
    in_backward_rule, in_key,
]  # fmt: skip


@pytest.mark.parametrize("make", [*PLACES, in_callback], ids=lambda make: make.__name__)
def test_programs_with_different_captured_arrays_differ(make: Make) -> None:
    ones, twos = np.ones((3, 1), np.float32), np.full((3, 1), 2, np.float32)
    assert not same_program(make(ones), make(twos), X, X)


@pytest.mark.parametrize("make", PLACES, ids=lambda make: make.__name__)
def test_programs_with_equal_captured_arrays_are_the_same(make: Make) -> None:
    first, second = (np.full((3, 1), 2, np.float32) for _ in range(2))
    assert same_program(make(first), make(second), X, X)


def test_other_operations_options_and_wirings_differ() -> None:
    def swapped(k: Any) -> Any:
        a, b = jnp.sin(k), jnp.cos(k)
        return b - a

    functions: list[Callable[[Any], Any]] = [
        swapped,
        lambda k: jnp.sin(k) - jnp.cos(k),
        lambda k: jnp.sum(k, axis=0),
        lambda k: jnp.sum(k, axis=1),
        lambda k: k * 2.0,
        lambda k: k * 3.0,
        lambda k: k[::1].astype(jnp.int32),
    ]
    for i, one in enumerate(functions):
        same = [same_program(one, other, X, X) for other in functions]
        assert same == [i == j for j in range(len(functions))]
    assert not same_program(jnp.sin, jnp.sin, X, (jnp.ones((4, 1)),))


def blocks_and_error(head: Callable[[Any, Any, Any], Any]) -> tuple[list[int], float]:
    """Return how many examples each block of two lengths has, and how wrong outputs are."""
    rng = np.random.default_rng(0)
    x = np.where(np.arange(40) < np.repeat([7, 30], 4)[:, None], rng.integers(1, 6, (8, 40)), 0)
    params = {
        "embed": {"embedding": jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)},
        "out": {"kernel": jnp.asarray(rng.normal(size=(3, 1)), jnp.float32)},
    }

    def apply(p: Any, x: Any) -> Any:
        pooled = jnp.tanh(p["embed"]["embedding"][x] * (x != 0)[:, :, None]).sum(axis=1)
        return head(pooled, p["out"]["kernel"], np.full((3, 1), x.shape[1], np.float32))

    network = nb.Network.from_functions(lambda key, x: params, apply, padding=Padding(1, 0))
    subset = nb.ProbabilisticSubset.layers("out")
    with mock.patch.object(length_buckets, "EXAMPLES_A_GROUP", 4):
        target = nb.Target.build(network, params, subset, x, rng.normal(size=8))
    found, expected = target.outputs(target.start["weights"]), apply(params, x)
    return [block.count for block in target.blocks], float(np.max(np.abs(found / expected - 1)))


def test_blocks_whose_programs_capture_other_arrays_are_not_joined() -> None:
    """The known part divides by a table of the length, the staged part multiplies by it."""
    counts, error = blocks_and_error(
        lambda h, kernel, table: (h / table[0]) @ jax.jit(lambda k: k * table)(kernel)
    )
    assert counts == [4, 4]
    assert error < 1e-4


def test_blocks_with_activations_are_joined() -> None:
    def head(h: Any, kernel: Any, table: Any) -> Any:
        del table
        return jax.nn.gelu(jax.nn.relu(h @ kernel)) + jax.nn.softplus(h @ kernel)

    counts, error = blocks_and_error(head)
    assert counts == [8]
    assert error < 1e-4
