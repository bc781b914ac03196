"""Chunks change neither sums nor gradients, whatever is differentiated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbcore.targets.hoisting import chunks

SHARED = {"w": jnp.array([0.3, -1.2, 0.7]), "n": jnp.asarray(2.0)}
X = jnp.asarray(np.random.default_rng(0).normal(size=(11, 3)), jnp.float32)
LABELS = jnp.arange(11)


def each(shared, rows):
    x, labels = rows
    return jnp.sin(x @ shared["w"]) * labels * shared["n"]


def in_chunks(shared, x):
    return chunks.sum_over(each, 4, 10, shared, (x, LABELS))


def at_once(shared, x):
    return jnp.sum(each(shared, (x, LABELS))[:10])


DERIVATIVES = {
    "value": lambda f: f(SHARED, X),
    "gradient": lambda f: jax.grad(f)(SHARED, X),
    "gradient in the rows": lambda f: jax.grad(f, 1)(SHARED, X),
    "Hessian": lambda f: jax.hessian(f)(SHARED, X),
    "curvature along a line": lambda f: jax.jvp(jax.grad(f), (SHARED, X), (SHARED, X)),
    "reverse over reverse": lambda f: jax.grad(
        lambda s: jnp.sum(jax.grad(f)(s, X)["w"] ** 2)
    )(SHARED),
    "chains": lambda f: jax.vmap(
        lambda n: jax.grad(f)({"w": SHARED["w"], "n": n}, X)
    )(jnp.arange(3.0)),
    "unused": lambda f: jax.grad(lambda s: 0.0 * s["n"] + jax.lax.stop_gradient(f(s, X)))(SHARED),
}  # fmt: skip


@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_are_those_of_the_sum(name):
    found, expected = (jax.jit(lambda f=f: DERIVATIVES[name](f))() for f in (in_chunks, at_once))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@settings(max_examples=8)
@given(st.integers(1, 20), st.integers(1, 20), st.data())
def test_any_number_of_examples_in_chunks_of_any_size(total, size, data):
    count = data.draw(st.integers(1, total))
    rows = jnp.arange(float(total))[:, None]
    double = lambda shared, rows: shared * rows[:, 0]  # noqa: E731
    assert chunks.sum_over(double, size, count, 2.0, rows) == count * (count - 1)
    mapped = chunks.map_over(double, size, 2.0, rows)
    assert mapped.tolist() == [2.0 * i for i in range(total)]


def test_a_chunk_holds_what_fits_and_at_least_one_row():
    assert chunks.examples_in_chunk(2**30, 10) == 1
    assert chunks.examples_in_chunk(2**12, 10) * 2**12 == 10 * chunks.BYTES_AN_EQUATION["cpu"]


def test_memory_of_a_gradient_is_that_of_a_chunk():
    def wide(shared, x):
        return jnp.tanh(jnp.tanh(x[:, None] * shared[0]) @ shared) @ shared[0]

    def temporary(size, rows):
        gradient = jax.grad(lambda s: chunks.sum_over(wide, size, rows, s, jnp.arange(1.0 * rows)))
        compiled = jax.jit(gradient).lower(jnp.ones((50, 50))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    chunk, more, whole = temporary(10, 400), temporary(10, 4000), temporary(4000, 4000)
    assert more < chunk + 4 * 4000 * 2  # the rows themselves, once or twice
    assert whole > 10 * more
