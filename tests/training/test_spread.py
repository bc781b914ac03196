"""The scale of the variance of draws: simulated errors whose scale is known give it back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbcore.training.fold_mixture import HeldOutErrors
from nbcore.training.spread import Spread

COUNT = 40_000


def simulated(noise: float, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return errors of variance `noise + scale * within`, and the variances within."""
    rng = np.random.default_rng(seed)
    within = rng.gamma(0.8, 2.0, size=(COUNT, 1))
    return np.sqrt(noise + scale * within) * rng.normal(size=within.shape), within


@pytest.mark.parametrize(("noise", "scale"), [(0.5, 0.02), (0.3, 0.3), (1.0, 0.9), (0.02, 0.7)])
def test_the_noise_and_the_scale_of_simulated_errors_are_recovered(
    noise: float, scale: float
) -> None:
    found = Spread.of(*simulated(noise, scale))
    np.testing.assert_allclose(found.noise, noise, rtol=0.06)
    np.testing.assert_allclose(found.scale, scale, rtol=0.06)


def test_no_network_is_made_less_certain_than_its_posterior() -> None:
    residuals, within = simulated(0.5, 2.5)
    found = Spread.of(residuals, within)
    np.testing.assert_array_equal(found.scale, 1.0)
    np.testing.assert_allclose(found.noise, np.mean(residuals**2) - within.mean())


def test_variances_that_tell_nothing_of_the_errors_are_left_out() -> None:
    residuals, within = simulated(0.5, 0.0)
    found = Spread.of(residuals, within)
    assert found.scale[0] < 0.01
    np.testing.assert_allclose(found.noise, np.mean(residuals**2), rtol=0.02)


@given(
    seed=st.integers(0, 1000), unit=st.floats(1e-12, 1e12), wide=st.floats(1e-6, 1e6),
    count=st.integers(1, 40),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_it_is_the_most_likely_pair_and_follows_the_units(
    seed: int, unit: float, wide: float, count: int
) -> None:
    residuals, within = (part[:count] for part in simulated(0.5, 0.3, seed))
    within = wide * within
    found = Spread.of(residuals, within)
    assert 0 <= found.scale[0] <= 1
    variance = found.noise + found.scale * within
    squared = np.mean(residuals**2)
    if found.scale[0] == 1:  # as without a scale
        np.testing.assert_allclose(found.noise, max(squared - within.mean(), 0), atol=1e-9)
        return
    np.testing.assert_allclose(np.mean(residuals**2 / variance), 1.0)

    def score(variance: np.ndarray) -> float:
        return float(np.mean(np.log(variance) + residuals**2 / variance))

    assert score(variance) <= score(np.full_like(within, squared)) + 1e-9  # no scale at all
    other = Spread.of(unit * residuals, unit**2 * within)
    np.testing.assert_allclose(other.noise, unit**2 * found.noise, rtol=1e-6)
    np.testing.assert_allclose(other.scale, found.scale, rtol=1e-6)


def test_each_output_has_its_own_and_missing_targets_are_left_out() -> None:
    (first, narrow), (second, broad) = simulated(0.5, 0.2), simulated(0.1, 0.6, seed=1)
    residuals, within = np.hstack([first, second]), np.hstack([narrow, broad])
    residuals[::3, 0] = np.nan
    found = Spread.of(residuals, within)
    alone = Spread.of(np.delete(first, np.s_[::3], axis=0), np.delete(narrow, np.s_[::3], axis=0))
    np.testing.assert_allclose(found.noise, [alone.noise[0], Spread.of(second, broad).noise[0]])
    np.testing.assert_allclose(found.scale, [alone.scale[0], Spread.of(second, broad).scale[0]])


def test_draws_that_do_not_differ_leave_all_errors_to_the_noise() -> None:
    residuals = np.array([[1.0], [-2.0]])
    found = Spread.of(residuals, np.zeros((2, 1)))
    assert (found.noise[0], found.scale[0]) == (2.5, 1.0)
    exact = Spread.of(np.zeros((2, 1)), np.ones((2, 1)))
    assert (exact.noise[0], exact.scale[0]) == (0.0, 1.0)


@pytest.mark.parametrize("shared", [True, False])
def test_a_mixture_of_simulated_networks_predicts_its_errors(shared: bool) -> None:
    """Draws claim the variance w; errors of all networks alike, or of each, are 0.3 w."""
    rng = np.random.default_rng(2)
    networks, noise = 5, 0.8
    claimed = rng.gamma(2.0, 1.0, size=COUNT)
    each = np.sqrt(0.3 * claimed) * rng.normal(size=(1 if shared else networks, COUNT))
    own, *others = each + 0.5 * rng.normal(size=(networks, COUNT))
    y = noise * rng.normal(size=COUNT)  # f = 0
    seen, mean = np.stack(others), np.mean([own, *others], axis=0)
    errors = HeldOutErrors(
        squared=np.mean((y - own) ** 2, keepdims=True),
        aligned=np.mean((y - own) * (seen.mean(axis=0) - own), keepdims=True),
        between_seen=np.mean(seen.var(axis=0, ddof=1), keepdims=True),
        between_all=np.full(1, np.nan),
        within=np.mean(claimed, keepdims=True),
        spread=(spread := Spread.of((y - own)[:, None], claimed[:, None])),
    )
    np.testing.assert_allclose(spread.scale, 0.3, rtol=0.05)
    scale = errors.scale(networks)
    assert scale is not None
    if not shared:  # the variance between the networks has it already
        np.testing.assert_array_equal(scale, 0.0)
        return
    variance = errors.noise(networks) ** 2 + scale * claimed + np.stack([own, *others]).var(axis=0)
    for some in (claimed < 1, claimed > 3):
        np.testing.assert_allclose(variance[some].mean(), np.mean((y - mean)[some] ** 2), rtol=0.1)
