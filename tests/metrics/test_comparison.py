from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import nbcore as nb
from nbcore.errors import DataError, OptionError, ShapeError
from nbcore.metrics import MeanRanks, mean_ranks, paired_difference


def test_the_interval_of_five_pairs_covers_as_it_promises():
    """The expanded bootstrap alone covers 0.907 here."""
    rng = np.random.default_rng(0)
    covered = [
        not paired_difference(rng.normal(size=5), np.zeros(5), num_resamples=999).is_detectable
        for _ in range(300)
    ]
    assert 0.93 <= np.mean(covered) <= 0.98


def test_the_interval_of_many_pairs_is_that_of_student():
    difference = np.random.default_rng(1).normal(0.1, 1.0, 400)
    found = paired_difference(difference, np.zeros(400))
    exact = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.01)
    assert found.mean == pytest.approx(difference.mean())


def test_the_needed_number_of_pairs_is_that_of_a_power_of_80_percent():
    """Mean and deviation 1: (1.960 + 0.842)^2 = 7.85."""
    difference = 1 + np.array([1.0, -1.0]) / np.sqrt(2)
    assert paired_difference(difference, np.zeros(2)).num_needed == 8
    assert paired_difference(10 * difference, np.zeros(2)).num_needed == 8


def test_the_interval_holds_that_of_student_on_both_sides():
    difference = np.array([0.9, 1.0, 1.1])
    found, exact = (
        paired_difference(difference, np.zeros(3)),
        stats.ttest_1samp(difference, 0).confidence_interval(0.95),
    )
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_a_difference_that_is_not_detectable_says_what_it_would_take():
    found = paired_difference([1.0, 0.0, 0.5, 0.6], [0.5, 0.5, 0.5, 0.5])
    assert not found.is_detectable
    assert "not detectable at 4 pairs; would take about" in str(found)


def test_equal_differences_are_a_point_and_equal_methods_are_never_detectable():
    same = paired_difference([1.0, 2.0], [0.5, 1.5])
    assert (same.low, same.high, same.is_detectable) == (0.5, 0.5, True)
    equal = paired_difference([1.0, 2.0], [1.0, 2.0])
    assert not equal.is_detectable
    assert "no number" in str(equal)


@pytest.mark.parametrize(("methods", "quantile"), [(3, 2.343), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_is_that_of_the_published_table(methods: int, quantile: float):
    """Demšar (2006), table 5."""
    losses = np.tile(np.arange(methods, dtype=float), (14, 1))
    found = mean_ranks(losses)
    published = quantile * np.sqrt(methods * (methods + 1) / (6 * 14))
    assert found.critical_difference == pytest.approx(published, rel=1e-3)
    assert found.ranks.tolist() == list(range(1, methods + 1))


def test_methods_are_all_tied_unless_the_test_of_friedman_tells_them_apart():
    alike = mean_ranks(np.ones((6, 4)))
    assert alike.ranks.tolist() == [2.5] * 4
    assert alike.p_value == 1.0
    assert alike.tied_with_best().all()
    chance = MeanRanks(np.array([1.0, 2.0, 3.0]), 1.5, 0.06, 8)
    assert chance.tied_with_best().all()
    told = MeanRanks(np.array([1.0, 2.0, 3.0]), 1.5, 0.04, 8)
    assert told.tied_with_best().tolist() == [True, True, False]


def test_bad_measurements_are_refused():
    with pytest.raises(ShapeError, match="two arrays"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(DataError, match="at least 2 pairs"):
        nb.metrics.paired_difference([1.0], [2.0])
    with pytest.raises(DataError, match="not finite"):
        paired_difference([1.0, np.nan], [2.0, 1.0])
    with pytest.raises(OptionError, match="paired_difference"):
        mean_ranks(np.ones((5, 2)))
    with pytest.raises(OptionError, match="2 data sets"):
        mean_ranks(np.ones((1, 3)))
    with pytest.raises(DataError, match="not finite"):
        mean_ranks([[1.0, 2.0, np.inf]] * 3)
    with pytest.raises(ShapeError, match="table"):
        mean_ranks([1.0, 2.0, 3.0])
