"""Step sizes and whitenings that warmup adapts: the published formulas, computed in another way."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.adaptation.window_adaptation import build_schedule

from nbcore.extend import AdaptiveWhitening, DualAveraging, warmup_windows

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


@pytest.mark.parametrize("num_warmup", [1, 19, 20, 75, 149, 150, 151, 200, 376, 1000, 2001])
def test_windows_are_those_of_stan(num_warmup):
    """BlackJAX's schedule is another implementation of them."""
    theirs = np.asarray(build_schedule(num_warmup)).astype(bool)
    np.testing.assert_array_equal(warmup_windows(num_warmup), theirs)


def test_no_warmup_has_one_row_so_that_it_can_be_traced():
    assert not warmup_windows(0).any()
    assert warmup_windows(0).shape == (1, 2)


@pytest.mark.parametrize("dense", [True, False])
def test_the_whitening_is_by_the_covariance_of_the_latest_window(dense):
    root = np.array([[3.0, 0.0], [1.0, 0.1]])
    draws = np.float32(RNG.normal(size=(60, 2)) @ root.T + 100)
    position = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    windows = np.zeros((60, 2), bool)
    windows[10:50, 0] = True
    windows[[29, 49], 1] = True

    def body(state, row):
        (a, b), (inside, ends) = row
        return state.update({"a": a[None], "b": b[None]}, inside, ends), state.factor

    start = AdaptiveWhitening.start(position, dense=dense)
    end, factors = jax.lax.scan(body, start, (jnp.asarray(draws), jnp.asarray(windows)))
    for first, last, step in ((10, 30, 30), (30, 50, 59)):
        n = last - first
        covariance = np.cov(draws[first:last].astype(float), rowvar=False)
        covariance = n / (n + 5) * covariance + 0.001 * 5 / (n + 5) * np.eye(2)
        factor = factors[step]
        found = factor @ factor.T if dense else factor**2
        expected = covariance if dense else np.diag(covariance)
        np.testing.assert_allclose(found, expected, rtol=1e-3)
    np.testing.assert_array_equal(factors[29], np.eye(2) if dense else np.ones(2))
    np.testing.assert_array_equal(end.factor, factors[59])


def test_the_whitening_is_zero_where_the_chain_is():
    position = {"a": jnp.array([1.0]), "b": jnp.array([2.0])}
    whitening = AdaptiveWhitening.start(position, dense=True).at(position)
    np.testing.assert_array_equal(whitening.to_position(jnp.zeros(2), position)["b"], [2.0])
    moved = whitening.to_position(jnp.array([0.5, 0.0]), position)
    assert (float(moved["a"][0]), float(moved["b"][0])) == (1.5, 2.0)


def test_a_window_without_a_covariance_keeps_the_factor():
    state = AdaptiveWhitening.start(jnp.zeros(2), dense=True)
    state = state.update(jnp.array([jnp.inf, 0.0]), inside=True, ends=True)
    np.testing.assert_array_equal(state.factor, np.eye(2))


def test_states_keep_their_types():
    for kind in (jnp.float32, jnp.float64):
        with jax.enable_x64(True):
            start = AdaptiveWhitening.start(jnp.zeros(3, kind), dense=True)
            after = start.update(jnp.ones(3, kind), jnp.asarray(True), jnp.asarray(True))
            assert {leaf.dtype for leaf in (*start, *after)} == {jnp.dtype(kind)}
            step = DualAveraging.start(jnp.ones((), kind))
            assert {leaf.dtype for leaf in step.update(0.5, 0.7)} == {jnp.dtype(kind)}
            place = start.at(jnp.zeros(3, kind)).to_position(
                jnp.ones(3, jnp.float64), jnp.zeros(3, kind)
            )
            assert place.dtype == kind
