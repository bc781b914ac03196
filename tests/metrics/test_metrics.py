"""Metrics against closed forms, identities and an independent implementation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from nbcore import metrics
from nbcore.errors import DataError, LabelError, OptionError, ShapeError

finite = st.floats(-1e3, 1e3)
positive = st.floats(1e-2, 1e3)


@st.composite
def gaussian_predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = draw(st.sampled_from([(1,), (7,), (4, 1), (3, 2)]))
    return (
        draw(arrays(float, shape, elements=finite)),
        draw(arrays(float, shape, elements=finite)),
        draw(arrays(float, shape, elements=positive)),
    )


# Errors ---------------------------------------------------------------------------------------


@given(gaussian_predictions())
def test_rmse_squared_is_bias_squared_plus_spread_of_the_error(case):
    y, mean, _ = case
    error = y - mean
    expected = error.mean() ** 2 + error.var()
    assert metrics.rmse(y, mean) ** 2 == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert metrics.mae(y, mean) <= metrics.rmse(y, mean) + 1e-9


def test_errors_of_a_constant_shift_are_the_shift():
    y = np.linspace(-3, 3, 11)
    assert metrics.rmse(y, y - 2.5) == pytest.approx(2.5, rel=1e-15)
    assert metrics.mae(y, y + 2.5) == pytest.approx(2.5, rel=1e-15)


def test_computes_in_float64_even_on_float32():
    y = np.full(10, 1e4, np.float32)
    mean = y + np.float32(0.5)
    # (1e4)² in float32 would swallow 0.25 of a squared sum
    assert metrics.rmse(y, mean) == 0.5


# Densities ------------------------------------------------------------------------------------


@given(gaussian_predictions())
def test_nlpd_is_minus_the_mean_normal_log_density(case):
    y, mean, variance = case
    expected = -stats.norm.logpdf(y, mean, np.sqrt(variance)).mean()
    assert metrics.nlpd(y, mean, variance) == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_nlpd_of_an_unknown_mean_is_least_at_the_mean_squared_error():
    y = np.random.default_rng(0).normal(size=50)
    mean = np.zeros(50)
    best = metrics.rmse(y, mean) ** 2
    scores = [metrics.nlpd(y, mean, np.full(50, best * f)) for f in (0.9, 1.0, 1.1)]
    assert scores[1] == min(scores)
    assert scores[1] == pytest.approx(0.5 * math.log(2 * math.pi * math.e * best))


def test_lppd_averages_densities_over_draws():
    densities = np.random.default_rng(1).uniform(0.01, 2, size=(6, 9))
    expected = np.log(densities.mean(axis=0)).mean()
    assert metrics.lppd(np.log(densities)) == pytest.approx(expected, rel=1e-14)


def test_lppd_of_identical_draws_is_minus_nlpd():
    rng = np.random.default_rng(2)
    y, mean, variance = rng.normal(size=8), rng.normal(size=8), rng.uniform(0.1, 2, 8)
    log_likelihood = np.tile(stats.norm.logpdf(y, mean, np.sqrt(variance)), (5, 1))
    assert metrics.lppd(log_likelihood) == pytest.approx(-metrics.nlpd(y, mean, variance))


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_lppd_neither_underflows_nor_overflows(shift):
    values = np.log([[0.1, 0.4], [0.3, 0.4]])
    assert metrics.lppd(values + shift) == pytest.approx(metrics.lppd(values) + shift, rel=1e-12)


def test_lppd_counts_a_draw_of_zero_density():
    assert metrics.lppd([[0.0], [-np.inf]]) == pytest.approx(-math.log(2))
    assert metrics.lppd([[-np.inf], [-np.inf]]) == -np.inf


# CRPS -----------------------------------------------------------------------------------------


def brute_force_crps(y: np.ndarray, samples: np.ndarray, fair: bool) -> float:
    count = len(samples)
    distance = np.abs(samples - y).mean(axis=0)
    pairs = np.abs(samples[:, None] - samples[None]).sum(axis=(0, 1))
    return float((distance - pairs / (2 * count * (count - fair))).mean())


@given(
    arrays(float, (3,), elements=finite),
    arrays(float, st.sampled_from([(2, 3), (5, 3), (8, 3)]), elements=finite),
    st.booleans(),
)
def test_crps_equals_the_sum_over_all_pairs(y, samples, fair):
    expected = brute_force_crps(y, samples, fair)
    assert metrics.crps(y, samples, fair=fair) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_crps_of_draws_is_the_integral_of_the_squared_cdf_error():
    y, samples = 0.3, np.array([-1.0, 0.1, 0.7, 2.0])
    grid = np.linspace(-2, 3, 500_001)
    cdf = np.searchsorted(np.sort(samples), grid, side="right") / 4
    integral = np.sum((cdf - (grid >= y)) ** 2) * (grid[1] - grid[0])
    assert metrics.crps([y], samples[:, None], fair=False) == pytest.approx(integral, abs=1e-4)


def test_crps_of_one_draw_is_the_absolute_error():
    assert metrics.crps([1.0, 5.0], [[3.0, 4.0]], fair=False) == 1.5


@given(gaussian_predictions())
def test_crps_of_a_gaussian_is_its_integral_form(case):
    y, mean, variance = (values.ravel()[:1] for values in case)
    sd, z = math.sqrt(variance[0]), (y[0] - mean[0]) / math.sqrt(variance[0])
    # E|X - y| of a normal, minus half of E|X - X'| = 2σ/√π
    expected_distance = sd * (z * (1 - 2 * stats.norm.cdf(-z)) + 2 * stats.norm.pdf(z))
    assert metrics.crps_gaussian(y, mean, variance) == pytest.approx(
        expected_distance - sd / math.sqrt(math.pi), rel=1e-9, abs=1e-9
    )


def test_crps_of_exact_gaussian_quantiles_approaches_the_closed_form():
    y, mean, variance = np.array([0.4, -3.0]), np.array([0.0, 1.0]), np.array([1.0, 4.0])
    levels = (np.arange(4000) + 0.5) / 4000
    samples = mean + np.sqrt(variance) * stats.norm.ppf(levels)[:, None]
    exact = metrics.crps_gaussian(y, mean, variance)
    assert metrics.crps(y, samples, fair=False) == pytest.approx(exact, rel=1e-3)


def test_fair_crps_is_unbiased_with_few_draws():
    rng = np.random.default_rng(3)
    y, ones = np.full(40_000, 0.5), np.ones(40_000)
    exact = metrics.crps_gaussian(y, 0 * ones, ones)
    few = rng.normal(size=(3, 40_000))
    per_point = [metrics.crps(y[i::40], few[:, i::40]) for i in range(40)]
    standard_error = np.std(per_point, ddof=1) / math.sqrt(40)
    assert abs(np.mean(per_point) - exact) < 4 * standard_error
    # pairing every draw with itself is too pessimistic by E|X - X'|/(2S) = 1/(S√π)
    gap = metrics.crps(y, few, fair=False) - metrics.crps(y, few)
    assert gap == pytest.approx(1 / (3 * math.sqrt(math.pi)), rel=0.02)


def test_crps_keeps_its_digits_far_from_zero():
    samples = np.array([[-1.0], [0.5], [2.0]])
    near = metrics.crps([0.25], samples)
    assert metrics.crps([0.25 + 2.0**30], samples + 2.0**30) == near


# Calibration ----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.1, 0.5, 0.68, 0.95])
def test_coverage_of_exact_normal_quantiles_is_the_level(level):
    count = 1000
    z = stats.norm.ppf((np.arange(count) + 0.5) / count)
    covered = metrics.coverage(3 + 2 * z, np.full(count, 3.0), np.full(count, 4.0), level)
    assert covered == pytest.approx(level, abs=1 / count)


def test_coverage_has_its_edge_at_the_normal_quantile():
    edge = stats.norm.ppf(0.975)
    inside, outside = edge * (1 - 1e-9), edge * (1 + 1e-9)
    assert metrics.coverage([inside, -inside], [0.0, 0.0], [1.0, 1.0]) == 1
    assert metrics.coverage([outside, -outside], [0.0, 0.0], [1.0, 1.0]) == 0


def test_calibration_curve_agrees_with_coverage_and_with_interval_coverage():
    rng = np.random.default_rng(4)
    y, mean, variance = rng.normal(size=60), rng.normal(size=60), rng.uniform(0.5, 2, 60)
    levels = [0.5, 0.68, 0.95]
    curve = metrics.calibration_curve(y, mean, variance, levels)
    lower, upper = (
        [stats.norm.ppf(0.5 + s * level / 2, mean, np.sqrt(variance)) for level in levels]
        for s in (-1, 1)
    )
    for i, level in enumerate(levels):
        assert curve[i] == metrics.coverage(y, mean, variance, level)
        assert curve[i] == metrics.interval_coverage(y, lower[i], upper[i])


def test_calibration_error_is_zero_when_calibrated_and_half_when_certain():
    count = 10_000
    z = stats.norm.ppf((np.arange(count) + 0.5) / count)
    ones = np.ones(count)
    assert metrics.calibration_error(z, 0 * ones, ones) < 1e-3
    # intervals far too wide cover everything: the mean of 1 - level over 0.01 … 0.99
    assert metrics.calibration_error(z, 0 * ones, 1e8 * ones) == pytest.approx(0.5, abs=1e-3)
    # and far too narrow ones nothing
    assert metrics.calibration_error(z, 0 * ones, 1e-12 * ones) == pytest.approx(0.5, abs=1e-3)


def test_interval_coverage_includes_its_bounds():
    assert metrics.interval_coverage([0.0, 1.0, 2.0], [0.0] * 3, [1.0] * 3) == 2 / 3


# Classification -------------------------------------------------------------------------------


def test_accuracy_is_the_fraction_of_right_classes():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.5, 0.5, 0.0]])
    assert metrics.accuracy([0, 1, 1, 0], probabilities) == 0.75


def test_brier_between_certain_and_uniform():
    labels = np.array([0, 2, 1])
    assert metrics.brier(labels, np.eye(3)[labels]) == 0
    assert metrics.brier(labels, np.eye(3)[(labels + 1) % 3]) == 2
    # uniform over C classes: (1 - 1/C)² + (C - 1)/C² = 1 - 1/C
    assert metrics.brier(labels, np.full((3, 3), 1 / 3)) == pytest.approx(2 / 3)


def binned_ece(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> float:
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    return total


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_ece_equals_the_sum_over_bins(seed, bins):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([1.0, 1.0, 1.0], size=30)
    labels = rng.integers(3, size=30)
    expected = binned_ece(labels, probabilities, bins)
    assert metrics.ece(labels, probabilities, bins) == pytest.approx(expected, abs=1e-12)


def test_ece_bins_hold_their_upper_edge():
    # with 2 bins, confidences 0.5 and 0.6 fall into different bins: |1 - 0.5|/2 + |0 - 0.6|/2
    probabilities = [[0.5, 0.5], [0.6, 0.4]]
    assert metrics.ece([0, 1], probabilities, bins=2) == pytest.approx(0.55)
    # in one bin the two errors cancel: |(1 - 0.5) + (0 - 0.6)|/2
    assert metrics.ece([0, 1], probabilities, bins=1) == pytest.approx(0.05)


def test_ece_is_zero_where_confidence_equals_accuracy():
    probabilities = np.tile([0.75, 0.25], (4, 1))
    assert metrics.ece([0, 0, 0, 1], probabilities) == 0


# Bad input ------------------------------------------------------------------------------------

y5, column5 = np.arange(5.0), np.arange(5.0)[:, None]

with_pairs: list[Callable[..., float]] = [metrics.rmse, metrics.mae]
with_variance: list[Callable[..., float]] = [
    metrics.nlpd,
    metrics.crps_gaussian,
    metrics.coverage,
    metrics.calibration_error,
]
with_labels: list[Callable[..., float]] = [metrics.accuracy, metrics.brier, metrics.ece]


@pytest.mark.parametrize("metric", with_pairs)
def test_a_column_against_a_vector_raises_and_says_what_to_type(metric):
    with pytest.raises(ShapeError, match=r"y has shape \(5,\) and mean \(5, 1\).*mean\[:, 0\]"):
        metric(y5, column5)
    with pytest.raises(ShapeError, match=r"Type y\[:, 0\]"):
        metric(column5, y5)


@pytest.mark.parametrize("metric", with_variance)
def test_every_array_is_held_to_the_shape_of_y(metric):
    with pytest.raises(ShapeError, match=r"variance \(5, 1\).*variance\[:, 0\]"):
        metric(y5, y5, column5 + 1)
    with pytest.raises(ShapeError, match=r"variance \(\)"):
        metric(y5, y5, 1.0)
    with pytest.raises(ShapeError, match=r"mean \(4,\)"):
        metric(y5, y5[:4], y5 + 1)


@pytest.mark.parametrize("metric", with_variance)
@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_variance_must_be_above_zero(metric, bad):
    variance = np.ones(5)
    variance[3] = bad
    with pytest.raises(DataError, match=r"1 entries of variance are not above 0 \(the first: 3\)"):
        metric(y5, y5, variance)


@pytest.mark.parametrize("metric", with_variance)
@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_raises_wherever_it_stands(metric, position, bad):
    columns = [y5.copy(), y5.copy(), y5 + 1]
    columns[position][2] = bad
    name = ("y", "mean", "variance")[position]
    with pytest.raises(DataError, match=rf"1 entries of {name} are not finite \(the first: 2\)"):
        metric(*columns)


def test_positions_in_a_table_are_row_and_output():
    y = np.zeros((3, 2))
    y[2, 1] = np.nan
    with pytest.raises(DataError, match=r"the first: \(2, 1\)"):
        metrics.rmse(y, np.zeros((3, 2)))


@pytest.mark.parametrize("y", [[], 3.0, np.zeros((2, 2, 2)), np.zeros((0, 1))])
def test_y_must_be_a_vector_or_a_table(y):
    with pytest.raises(ShapeError, match=r"expected \(n,\) or \(n, outputs\)"):
        metrics.rmse(y, y)


def test_text_is_no_number():
    with pytest.raises(DataError, match="mean is not an array of real numbers"):
        metrics.rmse([1.0], ["high"])


@pytest.mark.parametrize("level", [0.0, 1.0, 95, -0.1, np.nan])
def test_level_must_be_a_probability(level):
    with pytest.raises(OptionError, match=r"expected probabilities such as 0\.95"):
        metrics.coverage(y5, y5, y5 + 1, level)


def test_crossed_interval_bounds_raise():
    with pytest.raises(DataError, match="lower are above upper"):
        metrics.interval_coverage([0.0, 0.0], [0.0, 1.0], [1.0, 0.0])


def test_crps_wants_draws_first():
    with pytest.raises(ShapeError, match=r"samples has shape \(5, 9\).*moveaxis"):
        metrics.crps(y5, np.zeros((5, 9)))
    with pytest.raises(ShapeError, match="holds 1 draws; expected at least 2"):
        metrics.crps(y5, np.zeros((1, 5)))
    with pytest.raises(ShapeError, match="holds 0 draws; expected at least 1"):
        metrics.crps(y5, np.zeros((0, 5)), fair=False)
    with pytest.raises(DataError, match=r"samples are not finite \(the first: \(1, 0\)\)"):
        metrics.crps([0.0], [[0.0], [np.nan]])


def test_lppd_wants_draws_by_points():
    with pytest.raises(ShapeError, match=r"expected \(draws, n\).*reshape"):
        metrics.lppd(np.zeros((2, 3, 4)))
    with pytest.raises(ShapeError, match="both at least 1"):
        metrics.lppd(np.zeros((0, 4)))
    with pytest.raises(DataError, match="NaN"):
        metrics.lppd([[0.0, np.nan]])


@pytest.mark.parametrize("metric", with_labels)
def test_labels_and_probabilities_are_checked(metric):
    halves = np.full((3, 2), 0.5)
    with pytest.raises(LabelError, match=r"labels\[1\] is 2 \(1 in all\).*from 0 to 1"):
        metric([0, 2, 1], halves)
    with pytest.raises(LabelError, match="labels\\[0\\] is -1"):
        metric([-1, 0, 1], halves)
    with pytest.raises(LabelError, match=r"expected integers"):
        metric([0.0, 1.0, 1.0], halves)
    with pytest.raises(ShapeError, match=r"\(3, 1\)"):
        metric([[0], [1], [1]], halves)
    with pytest.raises(ShapeError, match=r"np\.stack"):
        metric([0, 1, 1], [0.5, 0.5, 0.5])
    with pytest.raises(DataError, match=r"softmax first \(the first: 0, 1, 2\)"):
        metric([0, 1, 1], halves * 2)
    with pytest.raises(DataError, match="negative"):
        metric([0], [[1.5, -0.5]])
    with pytest.raises(DataError, match="not finite"):
        metric([0], [[np.nan, 0.5]])


def test_float32_softmax_rows_are_probabilities():
    logits = np.random.default_rng(5).normal(size=(200, 50)).astype(np.float32)
    exponentials = np.exp(logits)
    rows = exponentials / exponentials.sum(axis=1, keepdims=True, dtype=np.float32)
    assert metrics.accuracy(logits.argmax(axis=1), rows) == 1


def test_ece_needs_a_bin():
    with pytest.raises(OptionError, match="bins is 0"):
        metrics.ece([0], [[1.0, 0.0]], bins=0)
