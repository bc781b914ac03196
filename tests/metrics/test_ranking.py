"""Ranking of errors by deviations, and calibration from PIT values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from nbcore import metrics
from nbcore.errors import DataError, OptionError, ShapeError

RNG = np.random.default_rng(0)
SD = RNG.uniform(0.2, 3.0, size=400)
ERROR = SD * RNG.standard_normal(400)
ZERO = np.zeros(400)

rows = st.lists(
    st.tuples(st.integers(1, 4), st.integers(-5, 5)), min_size=2, max_size=6
)  # (variance, error): small integers, so that variances tie


def test_rank_correlation_is_spearmans() -> None:
    found = metrics.rank_correlation(ERROR, ZERO, SD**2)
    assert found.value == pytest.approx(stats.spearmanr(SD, np.abs(ERROR)).statistic, abs=1e-12)


def test_the_reference_is_the_mean_over_perfectly_calibrated_data() -> None:
    fresh = np.random.default_rng(7)
    drawn = [
        stats.spearmanr(SD, np.abs(SD * fresh.standard_normal(SD.size))).statistic
        for _ in range(400)
    ]
    found = metrics.rank_correlation(ERROR, ZERO, SD**2, simulations=400)
    error = np.std(drawn) / np.sqrt(200)  # of the difference of two means of 400
    assert abs(found.reference - np.mean(drawn)) < 4 * error
    assert found.reference_sd == pytest.approx(np.std(drawn), rel=0.15)
    assert 0.3 < found.reference < 0.8  # far from 1, though nothing is wrong


def test_the_reference_does_not_depend_on_the_errors_and_repeats() -> None:
    one = metrics.rank_correlation(ERROR, ZERO, SD**2, seed=3)
    other = metrics.rank_correlation(ERROR[::-1].copy(), ZERO, SD**2, seed=3)
    assert one[1:] == other[1:]
    assert one != other


def test_equal_deviations_or_errors_have_no_ranking() -> None:
    with pytest.raises(DataError, match=r"All 400 deviations are 2: they rank nothing"):
        metrics.rank_correlation(ERROR, ZERO, np.full(400, 4.0))
    with pytest.raises(DataError, match=r"All 400 absolute errors are 1"):
        metrics.rank_correlation(np.ones(400), ZERO, SD**2)
    with pytest.raises(OptionError, match="simulations is 1"):
        metrics.rank_correlation(ERROR, ZERO, SD**2, simulations=1)


def all_orders(variance: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return the mean risk over every order that the variances allow."""
    count = np.arange(1, len(errors) + 1)
    curves = [
        np.cumsum(errors[list(order)]) / count
        for order in itertools.permutations(range(len(errors)))
        if np.all(np.diff(variance[list(order)]) >= 0)
    ]
    return np.mean(curves, axis=0)


@given(rows)
def test_risks_are_the_mean_over_all_orders_of_ties(pairs: list[tuple[int, int]]) -> None:
    variance, error = (np.array(column, float) for column in zip(*pairs, strict=True))
    for risk, errors in (("mse", error**2), ("mae", np.abs(error))):
        coverage, found = metrics.risk_coverage_curve(error, 0 * error, variance, risk=risk)
        expected = all_orders(variance, errors)
        np.testing.assert_allclose(found, expected, atol=1e-12)
        np.testing.assert_allclose(coverage, np.arange(1, len(error) + 1) / len(error))
        area = metrics.aurc(error, 0 * error, variance, risk=risk)
        assert area == pytest.approx(expected.mean(), abs=1e-12)


@given(rows)
def test_sparsification_is_that_of_its_definition(pairs: list[tuple[int, int]]) -> None:
    variance, error = (np.array(column, float) for column in zip(*pairs, strict=True))
    if not error.any():
        with pytest.raises(DataError, match="All errors are zero"):
            metrics.ause(error, 0 * error, variance)
        return
    ours = all_orders(variance, np.abs(error))
    oracle = np.cumsum(np.sort(np.abs(error))) / np.arange(1, len(error) + 1)
    expected = np.mean(ours - oracle) / np.mean(np.abs(error))
    found = metrics.ause(error, 0 * error, variance, risk="mae")
    assert found == pytest.approx(expected, abs=1e-12)
    assert metrics.ause(error, 0 * error, 1 + error**2) == pytest.approx(0.0, abs=1e-12)


def test_useless_deviations_are_worse_than_useful_ones_and_better_than_reversed_ones() -> None:
    useful, useless, wrong = (
        metrics.ause(ERROR, ZERO, v) for v in (SD**2, np.ones(400), 1 / SD**2)
    )
    assert 0 < useful < useless < wrong


def test_an_unknown_risk_is_refused() -> None:
    with pytest.raises(OptionError, match=r"mse or mae, got 'msee'\. Did you mean 'mse'"):
        metrics.aurc(ERROR, ZERO, SD**2, risk="msee")  # pyright: ignore[reportArgumentType]


def test_pit_is_the_normal_distribution_function() -> None:
    expected = stats.norm.cdf(ERROR, 0.5, SD)
    np.testing.assert_allclose(metrics.pit(ERROR, ZERO + 0.5, SD**2), expected, atol=1e-12)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8))
def test_the_miscalibration_area_is_the_integral(numerators: list[int]) -> None:
    ranks = np.array(numerators) / 20

    def gap(p: float) -> float:
        return abs(np.mean(ranks <= p) - p)

    breaks = sorted({*ranks.tolist(), *(k / len(ranks) for k in range(len(ranks) + 1))})
    expected = sum(
        integrate.quad(gap, a, b)[0] for a, b in itertools.pairwise([0.0, *breaks, 1.0]) if a < b
    )
    assert metrics.miscalibration_area(ranks) == pytest.approx(expected, abs=1e-9)


def test_uniform_ranks_have_the_area_of_their_steps() -> None:
    count = 1000
    middles = (np.arange(count) + 0.5) / count
    assert metrics.miscalibration_area(middles) == pytest.approx(1 / (4 * count), rel=1e-9)


def test_ranks_outside_of_probabilities_are_refused() -> None:
    with pytest.raises(DataError, match="not between 0 and 1"):
        metrics.miscalibration_area([0.5, 1.5])
    with pytest.raises(DataError, match="not between 0 and 1"):
        metrics.miscalibration_area([np.nan])
    with pytest.raises(ShapeError, match="no value"):
        metrics.miscalibration_area([])


def test_ence_is_that_of_its_bins() -> None:
    order = np.argsort(SD)
    expected = [
        abs(np.sqrt(np.mean(SD[part] ** 2)) - np.sqrt(np.mean(ERROR[part] ** 2)))
        / np.sqrt(np.mean(SD[part] ** 2))
        for part in np.split(order, 8)
    ]
    assert metrics.ence(ERROR, ZERO, SD**2, bins=8) == pytest.approx(np.mean(expected), abs=1e-12)


def test_ence_of_calibrated_deviations_is_what_its_bins_leave() -> None:
    sd = np.random.default_rng(1).uniform(0.2, 3.0, size=40_000)
    y = sd * np.random.default_rng(2).standard_normal(40_000)
    expected = np.sqrt(10 / (np.pi * 40_000))
    assert metrics.ence(y, 0 * y, sd**2) == pytest.approx(expected, rel=0.6)
    assert metrics.ence(y, 0 * y, 4 * sd**2) == pytest.approx(0.5, abs=0.02)


def test_impossible_bins_are_refused() -> None:
    for bins in (0, 401):
        with pytest.raises(OptionError, match=f"bins is {bins}; expected 1 to 400"):
            metrics.ence(ERROR, ZERO, SD**2, bins=bins)
