"""Step sizes and whitenings that warmup adapts: the published formulas, computed in another way."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.adaptation.window_adaptation import build_schedule

import nbcore as nb
from nbcore.extend import (
    AdaptiveWhitening,
    DualAveraging,
    metropolis,
    warmup_windows,
    whitened_density,
)

RNG = np.random.default_rng(0)


def test_dual_averaging_is_equation_6_of_hoffman_and_gelman():
    rates, wanted, first = RNG.uniform(size=60), 0.7, 0.3
    state = DualAveraging.start(first)
    assert state.step_size == state.average == jnp.float32(first)
    average = None
    for t in range(1, len(rates) + 1):
        state = state.update(rates[t - 1], wanted)
        x = np.log(10 * first) - np.sqrt(t) / 0.05 * np.sum(wanted - rates[:t]) / (t + 10)
        average = x if t == 1 else t**-0.75 * x + (1 - t**-0.75) * average
        np.testing.assert_allclose(state.log_step, x, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(state.log_average, average, rtol=1e-3, atol=1e-4)


def test_dual_averaging_begins_anew_at_the_average():
    state = DualAveraging.start(0.3)
    for rate in RNG.uniform(size=20):
        state = state.update(rate, 0.7)
    anew = jax.jit(lambda s, r: s.update(0.5, 0.7, restart=r))(state, True)
    expected = DualAveraging.start(state.update(0.5, 0.7).average)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), anew, expected)


def test_a_rate_that_is_no_number_counts_as_zero_and_none_is_above_one():
    state = DualAveraging.start(0.3)
    assert state.update(jnp.nan, 0.7) == state.update(0.0, 0.7)
    assert state.update(1.0 + 1e-3, 0.7) == state.update(1.0, 0.7)


@pytest.mark.parametrize("num_warmup", [1, 19, 20, 75, 149, 150, 151, 180, 300, 376, 1000, 2001])
def test_windows_are_those_of_stan(num_warmup):
    """BlackJAX's schedule is another implementation of them."""
    theirs = np.asarray(build_schedule(num_warmup)).astype(bool)
    np.testing.assert_array_equal(warmup_windows(num_warmup), theirs)


def test_no_warmup_has_one_row_so_that_it_can_be_traced():
    assert not warmup_windows(0).any()
    assert warmup_windows(0).shape == (1, 2)


def whitened_by(positions, gradients, windows, **how):
    """The factor after each step of a chain that was at these positions; none before the first."""

    def body(state, row):
        x, g, (inside, ends) = row
        after = state.update({"a": x[:1], "b": x[1:]}, g, inside, ends)
        return after, after.factor

    like = {"a": positions[0, :1], "b": positions[0, 1:]}
    rows = (jnp.asarray(positions), gradients, jnp.asarray(windows))
    start = AdaptiveWhitening.start(like, use_gradients=gradients is not None, **how)
    return jax.lax.scan(body, start, rows)[1]


@pytest.mark.parametrize("dense", [True, False])
def test_without_gradients_it_is_the_covariance_of_the_latest_window(dense):
    root = np.array([[3.0, 0.0], [1.0, 0.1]])
    draws = np.float32(RNG.normal(size=(60, 2)) @ root.T + 100)
    windows = np.zeros((60, 2), bool)
    windows[10:50, 0] = True
    windows[[29, 49], 1] = True
    factors = whitened_by(draws, None, windows, dense=dense)
    for first, last in ((10, 30), (30, 50)):
        n = last - first
        covariance = np.cov(draws[first:last].astype(float), rowvar=False)
        covariance = n / (n + 5) * covariance + 0.001 * 5 / (n + 5) * np.eye(2)
        factor = factors[last - 1]
        found = factor @ factor.T if dense else factor**2
        np.testing.assert_allclose(found, covariance if dense else np.diag(covariance), rtol=1e-3)
    np.testing.assert_array_equal(factors[28], np.eye(2) if dense else np.ones(2))
    np.testing.assert_array_equal(factors[29], factors[48])
    np.testing.assert_array_equal(factors[49], factors[59])


def correlated_draws(size, num, scales):
    """Few positions of a slow chain on a normal density, its covariance, and gradients there."""
    root = np.diag(scales) @ np.linalg.qr(RNG.normal(size=(size, size)))[0]
    root = root @ np.diag(np.geomspace(1, 0.1, size))
    walk = [RNG.normal(size=size)]
    for _ in range(num - 1):
        walk.append(0.95 * walk[-1] + np.sqrt(1 - 0.95**2) * RNG.normal(size=size))
    draws, covariance = np.array(walk) @ root.T, root @ root.T
    return draws.astype(np.float32), covariance, -np.linalg.solve(covariance, draws.T).T


@pytest.mark.parametrize("scales", [np.ones(6), np.geomspace(1e-3, 1e3, 6)])
def test_with_gradients_a_few_draws_give_the_covariance_of_a_normal(scales):
    draws, covariance, gradients = correlated_draws(6, 30, scales)
    windows = np.ones((30, 2), bool) & [True, False]
    windows[-1, 1] = True
    factor = whitened_by(draws, jnp.asarray(gradients, jnp.float32), windows)[-1]
    units = np.outer(scales, scales)
    found = np.linalg.eigvals(np.linalg.solve(covariance / units, factor @ factor.T / units))
    assert np.all((found.real > 0.8) & (found.real < 1.25))
    without = whitened_by(draws, None, windows)[-1]
    worse = np.linalg.eigvals(np.linalg.solve(covariance / units, without @ without.T / units))
    assert worse.real.max() / worse.real.min() > 10 * found.real.max() / found.real.min()


def test_a_diagonal_with_gradients_is_that_of_independent_coordinates():
    scales = np.array([0.01, 1.0, 100.0])
    draws = (RNG.normal(size=(8, 3)) * scales).astype(np.float32)
    windows = np.ones((8, 2), bool)
    windows[:-1, 1] = False
    gradients = jnp.asarray(-draws / scales**2, jnp.float32)
    factor = whitened_by(draws, gradients, windows, dense=False)[-1]
    np.testing.assert_allclose(factor, scales, rtol=1e-4)


def test_coordinates_that_say_nothing_keep_their_scale():
    draws = RNG.normal(size=(8, 2)).astype(np.float32) * np.float32([3.0, 1.0])
    gradients = jnp.asarray(-draws / 9, jnp.float32).at[:, 1].set(0.0)  # flat in the second
    windows = np.ones((8, 2), bool)
    windows[:-1, 1] = False
    factor = whitened_by(draws, gradients, windows, dense=False)[-1]
    np.testing.assert_allclose(factor, [3.0, 1.0], rtol=1e-4)
    draws[:, 1] = 1.0  # the chain does not move there
    factor = whitened_by(draws, -jnp.asarray(RNG.normal(size=(8, 2)), jnp.float32), windows)[-1]
    assert np.all(np.isfinite(factor))
    assert np.linalg.matrix_rank(factor) == 2
    factor = whitened_by(draws, gradients.at[:, 1].set(draws[:, 0]), windows, dense=False)[-1]
    np.testing.assert_allclose(factor, [3.0, 1.0], rtol=1e-4)
    still = whitened_by(np.ones((8, 2), np.float32), gradients * 0, windows)[-1]
    np.testing.assert_array_equal(still, np.eye(2))


def test_the_whitening_is_zero_where_the_chain_is():
    position = {"a": jnp.array([1.0]), "b": jnp.array([2.0])}
    whitening = AdaptiveWhitening.start(position).at(position)
    np.testing.assert_array_equal(whitening.to_position(jnp.zeros(2), position)["b"], [2.0])
    moved = whitening.to_position(jnp.array([0.5, 0.0]), position)
    assert (float(moved["a"][0]), float(moved["b"][0])) == (1.5, 2.0)


def test_gradients_are_those_of_whitened_coordinates():
    position, factor = {"a": jnp.array([1.0]), "b": jnp.array([2.0])}, jnp.array([[2.0, 0], [1, 3]])
    target = nb.Target.from_log_density(lambda z: -(z["a"][0] ** 2) - z["b"][0] ** 3, position)
    gradient = jax.grad(target.log_density)(position)
    for root in (factor, jnp.array([2.0, 3.0])):
        whitening = AdaptiveWhitening.start(position)._replace(factor=root).at(position)
        expected = jax.grad(whitened_density(target, whitening))(jnp.zeros(2))
        np.testing.assert_allclose(whitening.from_gradient(gradient), expected, rtol=1e-6)


@pytest.mark.parametrize("use_gradients", [True, False])
def test_a_window_without_a_covariance_keeps_the_factor(use_gradients):
    state = AdaptiveWhitening.start(jnp.zeros(2), use_gradients=use_gradients)
    bad = jnp.array([jnp.inf, 0.0])
    state = state.update(bad, bad if use_gradients else None, inside=True, ends=True)
    np.testing.assert_array_equal(state.factor, np.eye(2))


@pytest.mark.parametrize("kind", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("use_gradients", [True, False])
def test_states_keep_their_types(kind, dense, use_gradients):
    with jax.enable_x64(True):
        zero, one = jnp.zeros(3, kind), jnp.ones(3, kind)
        start = AdaptiveWhitening.start(zero, dense=dense, use_gradients=use_gradients)
        gradient = one if use_gradients else None
        after = start.update(one, gradient, jnp.asarray(True), jnp.asarray(True))
        assert jax.tree.structure(after) == jax.tree.structure(start)
        assert {leaf.dtype for leaf in jax.tree.leaves((start, after))} == {jnp.dtype(kind)}
        step = DualAveraging.start(jnp.ones((), kind))
        assert {leaf.dtype for leaf in step.update(0.5, 0.7)} == {jnp.dtype(kind)}
        assert start.at(zero).to_position(jnp.ones(3, jnp.float64), zero).dtype == kind


def test_metropolis_accepts_at_the_rate_that_it_reports():
    keys = jax.random.split(jax.random.key(0), 4000)
    new, old = {"x": jnp.ones(2)}, {"x": jnp.zeros(2)}
    chosen, rates = jax.vmap(lambda k: metropolis(k, jnp.log(0.3), new, old))(keys)
    np.testing.assert_allclose(rates, 0.3, rtol=1e-6)
    assert abs(float(chosen["x"][:, 0].mean()) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 4000)
    np.testing.assert_array_equal(chosen["x"][:, 0], chosen["x"][:, 1])
    for ratio, rate in ((5.0, 1.0), (-jnp.inf, 0.0), (jnp.nan, 0.0), (jnp.inf, 1.0)):
        kept, found = metropolis(keys[0], jnp.asarray(ratio), new, old)
        assert (float(found), float(kept["x"][0])) == (rate, rate)
