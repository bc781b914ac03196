"""What is known inside of loops, calls and rematerialized parts is computed once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbcore.targets.hoisting import staging

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)
POSITION = {"w": jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32)}
FROZEN = {"v": jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32), "b": jnp.ones(3)}


def cut(function, position=POSITION, frozen=FROZEN, example=X, **options) -> staging.CutNetwork:
    return staging.cut(function, position, frozen, example, **options)


def split_values(staged, position=POSITION, frozen=FROZEN, example=X) -> Any:
    constants = staged.constant_values(frozen)
    return staged.apply(position, constants, staged.residual_values(frozen, example))


def check(function, position=POSITION, frozen=FROZEN, example=X) -> str:
    """Value and gradient are those of the function; return what is staged, as text."""
    staged = cut(function, position, frozen, example)
    constants = staged.constant_values(frozen)
    residuals = staged.residual_values(frozen, example)

    def both(position):
        one = function(position, frozen, example)
        two = staged.apply(position, constants, residuals)
        return jnp.sum(jnp.sin(one)), jnp.sum(jnp.sin(two)), one, two

    plain, ours = (jax.grad(lambda p, i=i: both(p)[i])(position) for i in (0, 1))
    one, two = both(position)[2:]
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(ours), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        assert float(jnp.max(jnp.abs(a))) > 0
    return str(jax.make_jaxpr(staged.apply)(position, constants, residuals))


def stacked(position, frozen, x):
    """Two recurrent layers in one loop: the lower one is known."""

    def step(carry, x):
        low, high = carry
        low = jnp.tanh(x @ frozen["v"] + low + frozen["b"])
        high = jnp.tanh(low @ position["w"] + high)
        return (low, high), (low[0], high[0])

    (low, high), (lows, highs) = jax.lax.scan(step, (jnp.zeros(3), jnp.zeros(3)), x, reverse=True)
    return jnp.concatenate([low, high, lows, highs])


def test_the_known_part_of_a_loop_is_a_loop_of_its_own():
    text = check(stacked)
    assert text.count("scan[") == 1
    assert text.count("dot_general") == 1
    assert text.count("tanh") == 1
    residuals = cut(stacked).residual_values(FROZEN, X)
    assert sorted(r.shape for r in residuals) == [(3,), (6,), (6, 3)]  # low, lows, low at each step


def test_products_of_inputs_leave_the_loop_even_where_all_that_is_carried_is_staged():
    def recurrent(position, frozen, x):
        def step(h, x):
            return jnp.tanh(x @ frozen["v"] + h @ position["w"]), h

        return jax.lax.scan(step, jnp.zeros(3), x)[1]

    assert check(recurrent).count("dot_general") == 1


def test_what_is_the_same_in_each_step_leaves_the_loop():
    def recurrent(position, frozen, x):
        def step(h, x):
            return h + jnp.exp(frozen["v"] @ frozen["v"]) @ (position["w"] @ x), None

        return jax.lax.scan(step, jnp.zeros(3), x)[0]

    text = check(recurrent)
    assert text.count("dot_general") == 2
    assert "exp" not in text


def test_what_is_carried_becomes_staged_where_a_later_step_makes_it_so():
    def rotate(position, frozen, x):
        def step(carry, x):
            a, b, c = carry
            return (b, c, a * jnp.sum(position["w"]) + x), None

        return jnp.stack(jax.lax.scan(step, (x[0], x[1], x[2]), x)[0])

    check(rotate)


def test_a_loop_within_a_loop():
    def nested(position, frozen, x):
        def outer(h, row):
            def inner(pair, _):
                known, h = pair
                known = jnp.cos(known @ frozen["v"])
                return (known, h + known @ position["w"]), None

            return jax.lax.scan(inner, (row, h), None, length=2)[0][1], None

        return jax.lax.scan(outer, jnp.zeros(3), x)[0]

    text = check(nested)
    assert "cos" not in text
    assert text.count("dot_general") == 1


def test_known_loops_without_a_known_end_are_hoisted_as_a_whole():
    def halved(position, frozen, x):
        x = jax.lax.while_loop(lambda x: jnp.max(jnp.abs(x)) > 0.1, lambda x: x / 2, x)
        x = jax.lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x)
        return jax.lax.fori_loop(0, 3, lambda i, h: h + x[i] @ position["w"], jnp.zeros(3))

    text = check(halved)
    assert "while[" not in text  # a loop of known length is a scan
    assert "cond[" not in text


def test_loops_whose_end_depends_on_the_position_stay():
    def power(position, frozen, x):
        def going(state):
            return jnp.max(jnp.abs(state[1])) > 0.05

        end = jax.lax.while_loop(going, lambda s: (s[0] + 1, s[1] / 2), (0, position["w"][0]))[0]
        return x @ position["w"] + end

    assert "while[" in check(power)


def test_the_known_part_of_what_is_rematerialized_is_hoisted_and_the_rest_is_kept_as_it_is():
    def block(position, frozen, x):
        return jax.checkpoint(lambda x, w: jnp.tanh(jnp.exp(x @ frozen["v"]) @ w))(x, position["w"])

    text = check(block)
    assert text.count("dot_general") == 1
    assert "exp" not in text

    def above(position, frozen, x):
        return jax.checkpoint(lambda h: jnp.tanh(h @ frozen["v"]))(x @ position["w"])

    assert "checkpoint" in check(above) or "remat" in check(above)


def test_own_derivatives_are_kept():
    @jax.custom_vjp
    def steep(x, factor):
        return x * factor

    steep.defvjp(lambda x, f: (x * f, f), lambda f, g: (7 * g, jnp.zeros_like(f)))

    def network(position, frozen, x):
        return steep(steep(x, frozen["b"]) @ position["w"], jnp.ones(3))

    staged = cut(network)
    constants, residuals = staged.constant_values(FROZEN), staged.residual_values(FROZEN, X)
    gradient = jax.grad(lambda p: jnp.sum(staged.apply(p, constants, residuals)))(POSITION)["w"]
    np.testing.assert_allclose(gradient, 7 * jnp.outer(X.sum(axis=0), jnp.ones(3)), rtol=1e-5)
    assert len(constants) + len(residuals) <= 3


@pytest.mark.parametrize("typed", [True, False])
def test_keys_and_integers_are_known(typed):
    key = jax.random.key(3) if typed else jax.random.PRNGKey(3)
    example = {"key": key, "row": jnp.int32(4)}
    frozen = {"key": jax.random.split(key)[0], "table": jnp.arange(18.0).reshape(6, 3)}

    def noisy(position, frozen, x):
        noise = jax.random.normal(jax.random.fold_in(x["key"], x["row"]), (3,))
        shift = jax.random.uniform(frozen["key"], (3,))
        return (frozen["table"][x["row"]] + noise + shift) @ position["w"]

    text = check(noisy, POSITION, frozen, example)
    assert "random" not in text
    assert "threefry" not in text
    held = cut(lambda p, f, x: jax.random.normal(x["key"], (3,)) * jnp.sum(p["w"]),
               POSITION, frozen, example, byte_budget=8)  # fmt: skip
    assert held.example_bytes == 8 < held.wanted_bytes  # the key itself, made into noise again
    assert held.recomputed


OPERATIONS = {
    "dense": lambda w, h: h @ w,
    "jit": lambda w, h: jax.jit(lambda w, h: jnp.tanh(h @ w))(w, h),
    "checkpoint": lambda w, h: jax.checkpoint(lambda w, h: jnp.sin(h @ w))(w, h),
    "scan": lambda w, h: jax.lax.scan(lambda c, x: (jnp.tanh(c + x @ w), c), h[0], h)[1],
    "back": lambda w, h: jax.lax.scan(lambda c, x: (c * 0.5 + x, c @ w), h[0], h, reverse=True)[1],
    "attention": lambda w, h: jax.nn.softmax(h @ w @ h.T, axis=1) @ h,
    "relu": lambda w, h: jax.nn.relu(h) + h @ w,
    "fori": lambda w, h: jax.lax.fori_loop(0, 2, lambda i, c: jnp.cos(c @ w), h),
}


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), st.booleans()), min_size=1, max_size=8),
    st.integers(0, 100),
)
def test_any_pile_of_layers_has_the_value_and_gradient_of_the_whole(layers, seed):
    with jax.enable_x64(True):
        check_pile(layers, seed)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_a_frozen_layer_under_a_stochastic_one_is_cut_out(name):
    """One pile of each operation: frozen, stochastic, and frozen again."""
    with jax.enable_x64(True):
        check_pile([(name, False), (name, True), ("dense", False)], 0)


def check_pile(layers, seed):
    """Value and gradient agree to ten digits in double precision, for any budget of bytes."""
    rng = np.random.default_rng(seed)
    weights = [jnp.asarray(0.5 * rng.normal(size=(3, 3))) for _ in layers]
    chosen = {str(i) for i, (_, stochastic) in enumerate(layers) if stochastic} or {"0"}
    position = {str(i): w for i, w in enumerate(weights) if str(i) in chosen}
    frozen = {str(i): w for i, w in enumerate(weights) if str(i) not in chosen}
    x = jnp.asarray(rng.normal(size=(4, 3)))

    def pile(position, frozen, x):
        for i, (name, _) in enumerate(layers):
            x = OPERATIONS[name]((position if str(i) in position else frozen)[str(i)], x)
        return x.sum(axis=0)

    expected = pile(position, frozen, x)
    gradient = jax.grad(lambda p: jnp.sum(jnp.sin(pile(p, frozen, x))))(position)
    wanted = cut(pile, position, frozen, x).example_bytes
    for budget in (None, wanted // 2):
        staged = cut(pile, position, frozen, x, byte_budget=budget)
        constants, residuals = staged.constant_values(frozen), staged.residual_values(frozen, x)

        def ours(p, staged=staged, constants=constants, residuals=residuals):
            return staged.apply(p, constants, residuals)

        scale = float(jnp.max(jnp.abs(expected))) + 1
        np.testing.assert_allclose(ours(position), expected, atol=1e-10 * scale)
        found = jax.grad(lambda p, f=ours: jnp.sum(jnp.sin(f(p))))(position)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(gradient), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-10 * (1 + float(jnp.max(jnp.abs(b)))))
