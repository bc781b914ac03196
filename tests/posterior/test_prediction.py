"""A prediction is the mixture of its draws: moments, quantiles and densities against scipy."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

import nbcore as nb
from nbcore.distributions.each_draw import each_draw
from nbcore.errors import DataError, LabelError, OptionError, ShapeError
from nbcore.metrics import crps_gaussian
from nbcore.posterior import prediction
from nbcore.posterior.prediction import Prediction
from nbcore.posterior.scaler import Scaler

RNG = np.random.default_rng(0)
MEANS = RNG.normal(size=(7, 4, 2)) * 2
VARIANCES = RNG.uniform(0.1, 3, size=(7, 4, 2))
NORMAL = Prediction.normal(MEANS, VARIANCES)
ONE = MEANS[:, :, :1]
SINGLE = Prediction.normal(ONE, VARIANCES[:, :, :1])
NANS = np.array([np.nan, 0.0, 1.0, 2.0])
PROBABILITIES = RNG.dirichlet(np.ones(3), size=(7, 4))
CLASSES = Prediction(nb.CategoricalDistribution(np.log(PROBABILITIES)))


def cdf(x: float, example: int) -> float:
    """P(Y <= x) of the mixture of `SINGLE`."""
    m, v = MEANS[:, example, 0], VARIANCES[:, example, 0]
    return float(stats.norm.cdf(x, m, np.sqrt(v)).mean())


def density(x: float, example: int) -> float:
    m, v = MEANS[:, example, 0], VARIANCES[:, example, 0]
    return float(stats.norm.pdf(x, m, np.sqrt(v)).mean())


@pytest.mark.parametrize("example", range(4))
def test_moments_are_those_of_the_mixture_density(example):
    def moment(f):
        return integrate.quad(lambda x: f(x) * density(x, example), -30, 30, limit=200)[0]

    mean = moment(lambda x: x)
    assert SINGLE.mean[example] == pytest.approx(mean, abs=1e-7)
    assert SINGLE.variance[example] == pytest.approx(moment(lambda x: (x - mean) ** 2), rel=1e-7)


def test_the_law_of_total_variance():
    assert np.allclose(NORMAL.variance, VARIANCES.mean(axis=0) + MEANS.var(axis=0))
    assert np.allclose(NORMAL.aleatoric_variance, VARIANCES.mean(axis=0))
    assert np.allclose(NORMAL.epistemic_variance, MEANS.var(axis=0))
    # for classes, the total variance of the indicator of a class is p (1 - p)
    assert np.allclose(CLASSES.variance, CLASSES.mean * (1 - CLASSES.mean))


def test_one_variance_for_all_draws_is_broadcast():
    narrow = Prediction.normal(MEANS, np.full((1, 1, 2), 0.5))
    wide = Prediction.normal(MEANS, np.full(MEANS.shape, 0.5))
    for name in ("mean", "variance", "aleatoric_variance", "epistemic_variance"):
        assert np.array_equal(getattr(narrow, name), getattr(wide, name)), name
    assert np.array_equal(narrow.quantile(0.3), wide.quantile(0.3))
    assert np.array_equal(narrow.log_density(MEANS[0]), wide.log_density(MEANS[0]))


DF = np.array([3.0, 4.0, 5.0, 8.0, 12.0, 30.0, 100.0])[:, None, None]
SCALES = np.sqrt(VARIANCES[:, :, :1] * (DF - 2) / DF)
TAILED = Prediction(nb.StudentTDistribution(DF, MEANS[:, :, :1], SCALES))
RATES = np.exp(RNG.normal(size=(7, 4, 1)))
COUNTS = Prediction(nb.PoissonDistribution(np.log(RATES)))
CHANCES = RNG.uniform(0.02, 0.98, size=(7, 4, 1))
YES = Prediction(nb.BernoulliDistribution(np.log(CHANCES / (1 - CHANCES))))


def t_of(example: int):
    scale = np.sqrt(VARIANCES[:, example, 0] * (DF[:, 0, 0] - 2) / DF[:, 0, 0])
    return stats.t(DF[:, 0, 0], MEANS[:, example, 0], scale)


def test_a_mixture_of_t_is_that_of_scipy():
    y = RNG.normal(size=4) * 3
    for e in range(4):
        t = t_of(e)
        assert np.allclose(t.var(), VARIANCES[:, e, 0])  # variance is that of y, not of the scale
        assert TAILED.log_density(y)[e] == pytest.approx(np.log(t.pdf(y[e]).mean()))
        assert TAILED.cdf(y)[e] == pytest.approx(t.cdf(y[e]).mean())
        for level in (0.01, 0.5, 0.99):
            found = TAILED.quantile(level)[e]
            assert t.cdf(found).mean() == pytest.approx(level, abs=1e-7)


def test_counts_are_those_of_scipy():
    poisson = stats.poisson(RATES[:, :, 0])
    y = np.array([0, 1, 4, 2])
    assert np.allclose(COUNTS.log_density(y), np.log(poisson.pmf(y).mean(axis=0)))
    assert np.allclose(COUNTS.cdf(y), poisson.cdf(y).mean(axis=0))
    total = RATES.mean(axis=0)[:, 0] + RATES.var(axis=0)[:, 0]
    assert np.allclose(COUNTS.variance, total)
    for level in (0.001, 0.3, 0.5, 0.999):
        k = COUNTS.quantile(level)
        assert (poisson.cdf(k).mean(axis=0) >= level).all()
        assert (poisson.cdf(k - 1).mean(axis=0) < level).all()


def test_yes_and_no_have_the_probability_of_scipy():
    y = np.array([0, 1, 1, 0])
    p = CHANCES.mean(axis=0)[:, 0]
    assert np.allclose(YES.log_density(y), stats.bernoulli.logpmf(y, p))
    assert YES.labels.tolist() == (p > 0.5).astype(int).tolist()
    assert np.allclose(YES.variance, p * (1 - p))
    certain = Prediction(each_draw(nb.Bernoulli(), np.full((1, 1, 1), 30, np.float32), {}))
    assert certain.mean == pytest.approx(1)
    assert certain.log_density(np.array([0]))[0] == pytest.approx(-30, rel=1e-5)  # p rounds to 1


@pytest.mark.parametrize("prediction", [CLASSES, YES], ids=["classes", "yes or no"])
def test_entropy_is_expected_entropy_plus_mutual_information(prediction):
    assert (prediction.mutual_information >= 0).all()
    total = prediction.expected_entropy + prediction.mutual_information
    assert np.allclose(prediction.total_entropy, total, rtol=1e-12)
    assert prediction.total_entropy.shape == (4,)
    one = Prediction(prediction.distribution.take(np.arange(1)))
    assert np.all(one.mutual_information == 0)


def test_entropies_are_those_of_scipy():
    assert np.allclose(CLASSES.total_entropy, stats.entropy(CLASSES.mean, axis=1))
    assert np.allclose(CLASSES.expected_entropy, stats.entropy(PROBABILITIES, axis=2).mean(axis=0))
    assert np.allclose(YES.total_entropy, stats.bernoulli(CHANCES.mean(axis=0)[:, 0]).entropy())
    # Sure draws that disagree: all of log 2 is in the weights, none in y.
    sure = np.array([[[0.0, -np.inf]], [[-np.inf, 0.0]]])
    split = Prediction(nb.CategoricalDistribution(sure))
    assert split.expected_entropy[0] == 0
    assert split.mutual_information[0] == pytest.approx(np.log(2))


FORMS = ["normal", "t", "counts", "yes or no"]


@pytest.mark.parametrize("prediction", [SINGLE, TAILED, COUNTS, YES], ids=FORMS)
def test_samples_have_the_moments_of_the_mixture(prediction):
    count = 7 * 3000
    samples = prediction.sample(count, 0)
    assert samples.shape == (count, 4)
    error = np.abs(samples.mean(axis=0) - prediction.mean)
    assert (error < 5 * np.sqrt(prediction.variance / count)).all()
    if prediction is not TAILED:  # whose variance has no variance
        assert np.allclose(samples.var(axis=0), prediction.variance, rtol=0.1)
    if prediction in (SINGLE, TAILED):
        ranks = np.mean(samples <= prediction.quantile(0.9), axis=0)
        assert (np.abs(ranks - 0.9) < 5 * np.sqrt(0.09 / count)).all()
    assert np.array_equal(samples, prediction.sample(count, jax.random.key(0)))
    assert not np.array_equal(samples, prediction.sample(count, 1))


def test_sampled_labels_have_the_mean_probabilities():
    labels = CLASSES.sample(7 * 3000)
    assert labels.shape == (7 * 3000, 4)
    shares = np.stack([np.mean(labels == c, axis=0) for c in range(3)], axis=1)
    assert np.abs(shares - CLASSES.mean).max() < 5 * np.sqrt(0.25 / 21000)


def test_few_samples_are_from_draws_that_are_evenly_spaced():
    exact = Prediction.normal(np.arange(7.0)[:, None, None], np.full((1, 1, 1), 1e-12))
    assert np.allclose(exact.sample(3)[:, 0], [0, 3, 6], atol=1e-4)


def test_crps_of_draws_tends_to_the_closed_form():
    y = np.array([0.3, -1.0, 2.0, 0.0])
    one = Prediction.normal(MEANS[:1, :, :1], VARIANCES[:1, :, :1])
    exact = one.crps(y)
    assert exact == pytest.approx(crps_gaussian(y, one.mean, one.variance))
    twice = Prediction.mixture([one, one])  # the same distribution, but no single normal
    assert twice.crps(y) == pytest.approx(exact, rel=0.06)
    assert TAILED.crps(y) > 0
    assert COUNTS.crps(np.array([0, 1, 4, 2])) > 0


def test_a_mixture_keeps_the_degrees_of_freedom():
    heavy = replace(TAILED.distribution, df=np.full((1, 1, 1), 3.0))
    heavy = Prediction(heavy)
    both = Prediction.mixture([TAILED, heavy])
    y = RNG.normal(size=4) * 5
    halves = [np.exp(p.log_density(y)) / 2 for p in (TAILED, heavy)]
    assert np.allclose(np.exp(both.log_density(y)), sum(halves))


@pytest.mark.parametrize("level", [0.001, 0.025, 0.5, 0.9])
def test_quantiles_solve_the_distribution_function(level):
    found = SINGLE.quantile(level)
    for example in range(4):
        root = optimize.brentq(lambda x, e=example: cdf(x, e) - level, -40, 40, xtol=1e-10)
        assert found[example] == pytest.approx(root, abs=1e-6)


@given(st.floats(-100, 100), st.floats(0.01, 50), st.floats(0.01, 0.99))
def test_a_single_draw_has_the_quantiles_of_a_normal(mean, deviation, level):
    one = Prediction.normal(np.full((1, 1, 1), mean), np.full((1, 1, 1), deviation**2))
    expected = stats.norm.ppf(level, mean, deviation)
    assert one.quantile(level)[0] == pytest.approx(expected, abs=1e-6 * deviation)
    assert one.cdf(np.array([expected]))[0] == pytest.approx(level)


def test_several_quantiles_have_a_leading_axis_and_are_ordered():
    found = NORMAL.quantile([0.1, 0.5, 0.9])
    assert found.shape == (3, 4, 2)
    assert (np.diff(found, axis=0) > 0).all()
    assert np.array_equal(found[1], NORMAL.quantile(0.5))
    low, high = NORMAL.interval(0.8)
    assert np.allclose(low, found[0])
    assert np.allclose(high, found[2])


def test_the_distribution_function_is_that_of_the_mixture():
    y = RNG.normal(size=4)
    assert np.allclose(SINGLE.cdf(y), [cdf(v, e) for e, v in enumerate(y)])
    assert np.allclose(SINGLE.cdf(SINGLE.quantile(0.3)), 0.3)


def test_coverage_counts_what_lies_inside():
    low, high = SINGLE.interval(0.68)
    y = np.array([low[0] + 1e-3, high[1] - 1e-3, low[2] - 1e-3, high[3] + 1e-3])
    assert SINGLE.coverage(y, 0.68) == 0.5
    assert SINGLE.coverage(y, 0.99) == 1.0


def test_coverage_of_draws_from_the_mixture_is_its_level():
    draw = RNG.integers(0, 7, size=20000)
    y = RNG.normal(MEANS[draw, 0, 0], np.sqrt(VARIANCES[draw, 0, 0]))
    low, high = (bound[0] for bound in SINGLE.interval(0.9))
    inside = np.mean((y >= low) & (y <= high))
    assert abs(inside - 0.9) < 5 * np.sqrt(0.09 / 20000)


def test_log_density_is_that_of_the_mixture():
    y = RNG.normal(size=(4, 2))
    each = stats.norm.logpdf(y, MEANS, np.sqrt(VARIANCES)).sum(axis=2)
    expected = np.log(np.exp(each).mean(axis=0))
    assert np.allclose(NORMAL.log_density(y), expected)
    assert NORMAL.nlpd(y) == pytest.approx(-expected.mean())
    far = NORMAL.log_density(y + 1e3)  # where every density underflows
    assert np.isfinite(far).all()


def test_log_density_of_labels():
    labels = np.array([0, 2, 1, 1])
    expected = np.log(PROBABILITIES.mean(axis=0)[np.arange(4), labels])
    assert np.allclose(CLASSES.log_density(labels), expected)
    assert CLASSES.labels.tolist() == PROBABILITIES.mean(axis=0).argmax(axis=1).tolist()


def test_a_mixture_has_the_draws_of_all():
    other = Prediction.normal(MEANS + 1, np.full((1, 1, 1), 0.5))
    both = Prediction.mixture([NORMAL, other])
    assert np.allclose(both.mean, (NORMAL.mean + other.mean) / 2)
    y = RNG.normal(size=(4, 2))
    halves = [np.exp(p.log_density(y)) / 2 for p in (NORMAL, other)]
    assert np.allclose(np.exp(both.log_density(y)), sum(halves))
    between = ((NORMAL.mean - other.mean) / 2) ** 2
    assert np.allclose(both.variance, (NORMAL.variance + other.variance) / 2 + between)


@pytest.mark.parametrize(
    "others",
    [
        [],
        [NORMAL, SINGLE],
        [NORMAL, Prediction.normal(MEANS[:3], VARIANCES[:3])],
        [CLASSES, Prediction.normal(PROBABILITIES, PROBABILITIES)],
    ],
    ids=["none", "shapes", "draws", "kinds"],
)
def test_a_mixture_of_unlike_predictions_is_refused(others):
    with pytest.raises(DataError, match="mixture"):
        Prediction.mixture(others)


@given(st.floats(-5, 5), st.floats(0.1, 10))
def test_units_are_an_affine_map(shift, scale):
    scaler = Scaler(np.array([shift]), np.array([scale]))
    moved = SINGLE.in_units_of(scaler)
    assert np.allclose(moved.mean, shift + scale * SINGLE.mean)
    assert np.allclose(moved.variance, scale**2 * SINGLE.variance)
    y = np.array([0.3, -1.0, 2.0, 0.0])
    assert np.allclose(
        moved.log_density(shift + scale * y), SINGLE.log_density(y) - np.log(scale), atol=1e-9
    )


def test_the_scaler_standardizes_and_survives_json():
    y = RNG.normal(3, 5, size=(50, 2))
    y[:, 1] = 7.0
    scaler = Scaler.fit(y)
    z = scaler.standardize(y)
    assert np.allclose(z.mean(axis=0), 0)
    assert np.allclose(z.std(axis=0), [1, 0])
    again = Scaler.from_data(scaler.to_data())
    assert np.array_equal(again.standardize(y), z)
    assert scaler.standardize(y).shape == (50, 2)
    assert Scaler.fit(y[:, 0]).standardize(y[:, 0]).shape == (50,)
    assert np.array_equal(Scaler.identity(2).standardize(y), y)


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda: NORMAL.quantile(1.0), OptionError, "between 0 and 1, got 1.0"),
        (lambda: NORMAL.quantile([0.5, -0.1]), OptionError, "between 0 and 1"),
        (lambda: CLASSES.quantile(0.5), OptionError, "Classes have no quantiles"),
        (lambda: CLASSES.cdf(np.zeros(4)), OptionError, "Classes have no order"),
        (lambda: NORMAL.labels, OptionError, "Only predictions of classes"),
        (lambda: SINGLE.log_density(np.zeros((4, 1))), ShapeError, r"\(4, 1\).*\(4,\)"),
        (lambda: SINGLE.coverage(np.zeros(3)), ShapeError, r"\(3,\).*\(4,\)"),
        (lambda: SINGLE.cdf(np.zeros(3)), ShapeError, r"\(3,\).*\(4,\)"),
        (lambda: NORMAL.total_entropy, OptionError, "Only labels have entropies"),
        (lambda: YES.quantile(0.5), OptionError, "Classes have no quantiles"),
        (lambda: CLASSES.crps(np.array([0, 1, 2, 0])), OptionError, "no order"),
        (lambda: YES.log_density(np.array([0, 1, 2, 0])), LabelError, "0 or 1, got 2"),
        (lambda: COUNTS.log_density(np.array([0, 1, 2, 0.5])), DataError, "non-negative integers"),
        (lambda: NORMAL.sample(0), OptionError, "at least 1"),
        (lambda: Prediction(MEANS), OptionError, r"ndarray.*Prediction\.normal\(means"),
        (lambda: Prediction.normal(MEANS[0], 1.0), ShapeError, r"draws.*\(4, 2\)"),
        (lambda: Prediction.normal(ONE, np.ones(4)), ShapeError, r"\(4,\).*\(7, 4, 1\)"),
        (lambda: Prediction.normal(ONE, np.ones((7, 4))), ShapeError, r"\(7, 4\).*\(7, 4, 1\)"),
        (lambda: Prediction.normal(ONE, np.ones((5, 1, 1))), ShapeError, r"\(5, 1, 1\).*reshape"),
        (lambda: Prediction.normal(ONE, np.ones((1, 7, 4, 1))), ShapeError, r"\(1, 7, 4, 1\)"),
        (lambda: SINGLE.with_variance(np.ones(4)), ShapeError, r"\(4,\).*one variance for each"),
        (lambda: SINGLE.crps(NANS[:, None], missing="mask"), ShapeError, r"\(4, 1\).*\(4,\)"),
        (lambda: SINGLE.crps(NANS[:3], missing="mask"), ShapeError, r"\(3,\).*\(4,\)"),
        (lambda: COUNTS.with_variance(np.ones(1)), OptionError, "follows from its mean"),
        (lambda: COUNTS.in_units_of(Scaler.identity(1)), OptionError, "has no units"),
        (lambda: CLASSES.log_density(np.array([0, 1, 2, 3])), LabelError, "0 to 2"),
        (lambda: CLASSES.log_density(np.array([0, 1, 2, 0.5])), LabelError, "integers"),
        (lambda: CLASSES.log_density(np.zeros((4, 3))), ShapeError, r"\(4,\), got \(4, 3\)"),
    ],
)
def test_impossible_questions(ask, error, says):
    with pytest.raises(error, match=says):
        ask()


@pytest.mark.parametrize("form", ["normal", "t", "categorical"])
def test_examples_are_evaluated_a_few_at_a_time(form):
    rng = np.random.default_rng(0)
    values, scales = rng.normal(size=(4, 7, 3)).astype(np.float32), np.full((4, 1, 1), 0.3)
    several = Prediction({
        "normal": nb.NormalDistribution(values, scales),
        "t": nb.StudentTDistribution(np.full((4, 1, 1), 5.0), values, scales),
        "categorical": nb.CategoricalDistribution(values),
    }[form])  # fmt: skip
    y = np.arange(7) % 3 if form == "categorical" else rng.normal(size=(7, 3))

    def everything():
        found = [several.mean, several.variance, several.log_density(y)]
        if form == "categorical":
            return [*found, several.expected_entropy, several.mutual_information]
        return [*found, several.cdf(y), several.quantile([0.1, 0.9])]

    whole = everything()
    with mock.patch.object(prediction, "SLICE", 30):  # two of the seven examples
        for a, b in zip(everything(), whole, strict=True):
            assert np.array_equal(a, b)
