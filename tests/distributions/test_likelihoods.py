"""Likelihoods are the densities that they say they are, and refuse targets that do not fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import nbcore as nb
from nbcore.distributions.likelihoods import from_data, to_data
from nbcore.errors import DataError, LabelError, OptionError, ShapeError
from nbcore.networks.evaluation import as_columns

RNG = np.random.default_rng(0)
OUTPUTS, Y = RNG.normal(size=(5, 2)).astype(np.float32), RNG.normal(size=(5, 2))


def test_gaussian_with_known_noise():
    likelihood = nb.Gaussian(noise=(0.5, 2.0))
    expected = stats.norm.logpdf(Y, OUTPUTS, [0.5, 2.0]).sum(axis=1)
    found = likelihood.log_prob(OUTPUTS, likelihood.check(Y, 2), {})
    assert np.allclose(found, expected, rtol=1e-5)
    mean, variance = likelihood.moments(OUTPUTS, {})
    assert (mean == OUTPUTS).all()
    assert np.allclose(variance, [[0.25, 4.0]] * 5)
    assert likelihood.initial(2) == likelihood.constrain({}) == {}
    assert likelihood.log_prior({}) == 0


@pytest.mark.parametrize("prior", [nb.HalfNormal(0.7), nb.LogNormal((0.4, 0.5), 0.6)])
def test_gaussian_with_unknown_noise_has_one_per_output(prior):
    likelihood = nb.Gaussian(noise_prior=prior)
    start = likelihood.constrain(likelihood.initial(2))["noise"]
    assert np.allclose(start, np.broadcast_to(prior.median, 2))
    parameters = {"noise": jnp.array([0.3, -1.2])}
    noise = likelihood.constrain(parameters)["noise"]
    assert np.allclose(noise, prior.median * np.exp(prior.log_spread * np.array([0.3, -1.2])))
    known = nb.Gaussian(noise=tuple(noise.tolist()))
    assert np.allclose(
        likelihood.log_prob(OUTPUTS, Y, parameters), known.log_prob(OUTPUTS, Y, {}), rtol=1e-5
    )
    assert np.allclose(likelihood.moments(OUTPUTS, parameters)[1], noise**2)


@pytest.mark.parametrize("prior", [nb.HalfNormal(0.7), nb.LogNormal(0.4, 0.6)])
def test_the_density_of_the_unconstrained_noise_integrates_to_one(prior):
    likelihood = nb.Gaussian(noise_prior=prior)
    grid = np.linspace(-15, 8, 4001)
    density = jax.vmap(lambda u: jnp.exp(likelihood.log_prior({"noise": u[None]})))(grid)
    assert integrate.simpson(np.float64(density), x=grid) == pytest.approx(1, abs=1e-4)


def test_draws_of_the_noise_follow_its_prior():
    likelihood = nb.Gaussian(noise_prior=nb.HalfNormal(0.7))
    parameters = likelihood.sample_prior(jax.random.key(0), 4000)
    noise = np.asarray(likelihood.constrain(parameters)["noise"])
    assert stats.kstest(noise, stats.halfnorm(scale=0.7).cdf).pvalue > 1e-3
    first, second = ({"noise": parameters["noise"][i : i + 1]} for i in range(2))
    together = likelihood.log_prior({"noise": parameters["noise"][:2]})
    apart = likelihood.log_prior(first) + likelihood.log_prior(second)
    assert together == pytest.approx(float(apart), rel=1e-5)


def test_categorical_reads_logits():
    logits = RNG.normal(size=(6, 3)) * 3
    labels = np.array([0, 1, 2, 2, 1, 0])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    likelihood = nb.Categorical()
    found = likelihood.log_prob(jnp.asarray(logits), likelihood.check(labels, 3), {})
    assert np.allclose(found, np.log(p[np.arange(6), labels]), rtol=1e-5)
    mean, variance = likelihood.moments(jnp.asarray(logits), {})
    assert np.allclose(mean, p, rtol=1e-5)
    assert np.allclose(variance, p * (1 - p), rtol=1e-4)
    huge = likelihood.log_prob(jnp.array([[1e4, -1e4]]), jnp.array([1]), {})
    assert huge[0] == -2e4


def test_student_t_is_that_of_scipy():
    likelihood = nb.StudentT(noise=(0.5, 2.0), df=4.0)
    expected = stats.t.logpdf(Y, 4, OUTPUTS, [0.5, 2.0]).sum(axis=1)
    assert np.allclose(likelihood.log_prob(OUTPUTS, likelihood.check(Y, 2), {}), expected)
    mean, variance = likelihood.moments(OUTPUTS, {})
    assert (mean == OUTPUTS).all()
    assert np.allclose(variance, stats.t.var(4, scale=[0.5, 2.0]))
    assert likelihood.initial(2) == {}


def test_unknown_degrees_of_freedom_stay_above_two():
    likelihood = nb.StudentT(noise=1.0, df_prior=nb.LogNormal(8.0, 1.0))
    grid = np.linspace(-8, 8, 2001)
    unknown = {"df": jnp.asarray(grid)}
    assert np.allclose(likelihood.constrain(unknown)["df"], 2 + 8 * np.exp(grid))
    density = jax.vmap(lambda u: jnp.exp(likelihood.log_prior({"df": u})))(grid)
    assert integrate.simpson(np.float64(density), x=grid) == pytest.approx(1, abs=1e-4)
    draws = jax.vmap(lambda k: likelihood.sample_prior(k, 1)["df"])(
        jax.random.split(jax.random.key(0), 4000)
    )
    assert stats.kstest(np.asarray(draws), stats.norm.cdf).pvalue > 1e-3


@pytest.mark.parametrize("df", [2.1, 15.9, 16.1, 1e3, 1e5])
def test_the_density_of_t_keeps_its_digits(df):
    found = nb.StudentT(noise=0.7, df=df).log_prob(OUTPUTS, Y, {})
    assert np.allclose(found, stats.t.logpdf(Y, df, OUTPUTS, 0.7).sum(axis=1), rtol=5e-6)


def test_many_degrees_of_freedom_are_a_gaussian():
    found = nb.StudentT(noise=0.7, df=1e6).log_prob(OUTPUTS, Y, {})
    assert np.allclose(found, nb.Gaussian(noise=0.7).log_prob(OUTPUTS, Y, {}), rtol=1e-4)


def test_the_t_distribution_of_residuals_is_found():
    residuals = stats.t.rvs(4, scale=[0.3, 3.0], size=(4000, 2), random_state=0)
    found = nb.StudentT().with_estimated_noise(residuals, 100)
    assert np.allclose(found.noise_prior.median, [0.3, 3.0], rtol=0.05)
    assert 2 + found.df_prior.median == pytest.approx(4, rel=0.15)
    assert found.noise_prior.spread == pytest.approx(0.1 / np.sqrt(200))
    known = nb.StudentT(df=4.0).with_estimated_noise(residuals, 100)
    assert known.df_prior is None
    assert np.allclose(known.noise_prior.median, [0.3, 3.0], rtol=0.05)


def test_the_heads_are_means_and_log_deviations():
    logs = RNG.normal(size=(5, 2))
    outputs = jnp.asarray(np.concatenate([OUTPUTS, logs], axis=1))
    likelihood = nb.Heteroskedastic()
    expected = stats.norm.logpdf(Y, OUTPUTS, np.exp(logs)).sum(axis=1)
    assert np.allclose(
        likelihood.log_prob(outputs, likelihood.check(Y, 4), {}), expected, rtol=1e-4
    )
    mean, variance = likelihood.moments(outputs, {})
    assert np.allclose(mean, OUTPUTS)
    assert np.allclose(variance, np.exp(logs) ** 2, rtol=1e-5)


def test_bernoulli_is_that_of_scipy_and_of_two_classes():
    labels = np.array([[0, 1], [1, 1], [0, 0], [1, 0], [1, 1]])
    p = 1 / (1 + np.exp(-OUTPUTS.astype(np.float64)))
    likelihood = nb.Bernoulli()
    found = likelihood.log_prob(jnp.asarray(OUTPUTS), likelihood.check(labels, 2), {})
    assert np.allclose(found, stats.bernoulli.logpmf(labels, p).sum(axis=1), rtol=1e-4)
    mean, variance = likelihood.moments(jnp.asarray(OUTPUTS), {})
    assert np.allclose(mean, p, rtol=1e-5)
    assert np.allclose(variance, stats.bernoulli.var(p), rtol=1e-4)
    one = jnp.asarray(OUTPUTS[:, :1])
    logits = jnp.concatenate([jnp.zeros_like(one), one], axis=1)
    two = nb.Categorical().log_prob(logits, jnp.asarray(labels[:, 0]), {})
    assert np.allclose(likelihood.log_prob(one, jnp.asarray(labels[:, :1]), {}), two, rtol=1e-5)
    assert likelihood.log_prob(jnp.array([[-1e4]]), jnp.array([[1.0]]), {})[0] == -1e4


def test_poisson_is_that_of_scipy():
    counts = np.array([[0, 1], [3, 2], [7, 0], [1, 1], [2, 5]])
    likelihood = nb.Poisson()
    found = likelihood.log_prob(jnp.asarray(OUTPUTS), likelihood.check(counts, 2), {})
    rates = np.exp(OUTPUTS.astype(np.float64))
    assert np.allclose(found, stats.poisson.logpmf(counts, rates).sum(axis=1), rtol=1e-4)
    mean, variance = likelihood.moments(jnp.asarray(OUTPUTS), {})
    assert np.allclose(mean, rates, rtol=1e-5)
    assert np.allclose(variance, rates, rtol=1e-5)


def linear_noise(x, parameters):
    return parameters["floor"] + parameters["slope"] * jnp.abs(x[:, 0])


NOISE_PRIORS = {"floor": nb.LogNormal(0.2, 0.5), "slope": nb.HalfNormal(1.0)}


def test_a_noise_model_reads_x_from_behind_the_outputs():
    likelihood = nb.NoiseModel(linear_noise, NOISE_PRIORS, num_targets=2)
    x = RNG.normal(size=(5, 3))
    outputs = jnp.asarray(np.concatenate([OUTPUTS, x], axis=1))
    parameters = {"floor": jnp.array(0.5), "slope": jnp.array(-0.3)}
    constrained = likelihood.constrain(parameters)
    assert constrained["floor"] == pytest.approx(0.2 * np.exp(0.25))
    noise = (constrained["floor"] + constrained["slope"] * np.abs(x[:, 0]))[:, None]
    found = likelihood.log_prob(outputs, likelihood.check(Y, 5), parameters)
    assert np.allclose(found, stats.norm.logpdf(Y, OUTPUTS, noise).sum(axis=1), rtol=1e-4)
    mean, variance = likelihood.moments(outputs, parameters)
    assert np.allclose(mean, OUTPUTS)
    assert np.allclose(variance, np.broadcast_to(noise**2, (5, 2)), rtol=1e-5)
    scaled = likelihood.rescaled(np.array([2.0, 10.0]))
    other = scaled.moments(outputs, parameters)[1]
    assert np.allclose(other, noise**2 / np.array([4.0, 100.0]), rtol=1e-5)
    expected = sum(
        nb.Gaussian(noise_prior=prior).log_prior({"noise": parameters[name]})
        for name, prior in NOISE_PRIORS.items()
    )
    assert likelihood.log_prior(parameters) == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(ShapeError, match=r"shape \(2,\) for 5 example"):
        nb.NoiseModel(lambda x, p: jnp.ones(2), NOISE_PRIORS).moments(outputs, parameters)


def test_an_open_noise_prior_is_as_wide_as_y():
    y = RNG.normal(size=(50, 2)) * [3.0, 0.1]
    deviations = y.std(axis=0)
    assert np.allclose(nb.Gaussian().resolve(y).noise_prior.scale, deviations)
    assert np.allclose(nb.StudentT().resolve(y).noise_prior.scale, deviations)
    shared = nb.Gaussian(shared=True).resolve(y)
    assert np.allclose(shared.noise_prior.scale, np.sqrt(np.mean(deviations**2)))
    assert nb.Gaussian().resolve(np.ones((4, 1))).noise_prior.scale == (1.0,)
    mine = nb.Gaussian(noise_prior=nb.HalfNormal(7.0))
    assert mine.resolve(y) is mine
    with pytest.raises(OptionError, match=r"not known yet.*likelihood\.resolve\(y\)"):
        nb.Gaussian().log_prior({"noise": jnp.zeros(1)})


@pytest.mark.parametrize("cls", [nb.Gaussian, nb.StudentT])
@pytest.mark.parametrize(
    "options",
    [
        {"noise": (0.5, 2.0)},
        {"noise_prior": nb.HalfNormal((0.5, 1.0))},
        {"noise_prior": nb.LogNormal(0.4, 0.3)},
        {"noise_prior": nb.HalfNormal(0.5), "shared": True},
    ],
)
def test_standardized_noise_is_the_same_noise(cls, options):
    """p(y) dy does not depend on the units: log p(y / s) = log p(y) + sum log s."""
    scale = np.array([10.0, 0.2])
    likelihood = cls(**options) if cls is nb.Gaussian else cls(**options, df=5.0)
    other = likelihood.rescaled(scale)
    parameters = likelihood.initial(2)
    assert jax.tree.map(np.shape, parameters) == jax.tree.map(np.shape, other.initial(2))
    before = likelihood.log_prob(OUTPUTS, Y, parameters)
    after = other.log_prob(OUTPUTS / scale, Y / scale, parameters)
    assert np.allclose(after, before + np.log(scale).sum(), rtol=1e-4)
    assert other.log_prior(parameters) == pytest.approx(float(likelihood.log_prior(parameters)))
    # What the likelihood says is in the units of y is, and nothing else.
    for name, value in other.constrain(parameters).items():
        units = scale if name in other.in_units_of_y else 1.0
        assert np.allclose(value * units, likelihood.constrain(parameters)[name], rtol=1e-5)


def test_labels_and_counts_are_not_standardized():
    for likelihood in (nb.Bernoulli(), nb.Categorical(), nb.Poisson()):
        assert not likelihood.can_standardize
        with pytest.raises(OptionError, match="standardize=False"):
            likelihood.rescaled(np.ones(1))


@pytest.mark.parametrize("labels", [np.array([1.0, 0.0]), np.array([[1], [0]]), [True, False]])
def test_labels_may_be_columns_floats_or_booleans(labels):
    assert nb.Categorical().check(labels, 2).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("likelihood", "y", "outputs", "error", "says"),
    [
        (nb.StudentT(df=2.0), np.zeros(4), 1, OptionError, r"df is one number above 2"),
        (nb.StudentT(df_prior=nb.LogNormal(-1.0)), np.zeros(4), 1, OptionError, "df_prior"),
        (nb.Gaussian(shared=True, noise=(1.0, 2.0)), np.zeros((4, 2)), 2, OptionError, "share one"),
        (nb.Heteroskedastic(), np.zeros(4), 3, ShapeError, "two outputs for each target.*has 3"),
        (nb.Heteroskedastic(), np.zeros((4, 2)), 2, ShapeError, "log standard deviations of 1"),
        (nb.Bernoulli(), np.array([0, 2]), 1, LabelError, r"0 or 1.*got 2.0 in example 1"),
        (nb.Poisson(), np.array([1.0, -1.0]), 1, DataError, r"got -1.0 in example 1"),
        (nb.Poisson(), np.array([0.5, 1.0]), 1, DataError, r"got 0.5 in example 0"),
        (nb.NoiseModel(abs, {}), np.zeros(4), 2, OptionError, "no parameters"),
        (nb.Gaussian(), np.zeros((4, 2)), 1, ShapeError, r"\(4, 2\).*1 output.*\(examples, 1\)"),
        (nb.Gaussian(), np.zeros(4), 2, ShapeError, r"\(4,\).*2 output.*\(examples, 2\)"),
        (nb.Gaussian(), np.zeros((4, 1, 1)), 1, ShapeError, r"\(4, 1, 1\)"),
        (nb.Gaussian(), np.array(["a"]), 1, DataError, "real numbers"),
        (nb.Gaussian(), np.array([1j]), 1, DataError, "real numbers"),
        (nb.Gaussian(noise=0.0), np.zeros(4), 1, OptionError, "must be positive, got 0.0"),
        (nb.Gaussian(noise=float("nan")), np.zeros(4), 1, OptionError, "must be positive"),
        (nb.Gaussian(noise=(1.0, 2.0)), np.zeros(4), 1, OptionError, r"1 output.*tuple of 1"),
        (nb.Gaussian(noise_prior=nb.HalfNormal(-1.0)), np.zeros(4), 1, OptionError, "positive"),
        (nb.Gaussian(noise_prior=nb.LogNormal((1.0, 1.0))), np.zeros(4), 1, OptionError, "tuple"),
        (nb.Gaussian(noise_prior=nb.LogNormal(1.0, 0.0)), np.zeros(4), 1, OptionError, "finite"),
        (nb.Categorical(), np.array([0, 3]), 3, LabelError, "label 3 of example 1.*0 to 2"),
        (nb.Categorical(), np.array(["a", "b"]), 3, LabelError, "names, y = np.unique"),
        (nb.Categorical(), np.array([-1, 0]), 3, LabelError, "label -1 of example 0"),
        (nb.Categorical(), np.array([0.5, 1]), 3, LabelError, "integers 0 to 2"),
        (nb.Categorical(), np.eye(3), 3, ShapeError, r"\(examples,\), got \(3, 3\)"),
    ],
)
def test_targets_and_options_that_do_not_fit(likelihood, y, outputs, error, says):
    with pytest.raises(error, match=says):
        likelihood.check(y, outputs)


def test_classes_need_a_logit_each():
    with pytest.raises(ShapeError, match="one logit per class"):
        nb.Categorical().initial(1)


def test_outputs_have_one_or_two_axes():
    assert as_columns(jnp.zeros(3), 3).shape == (3, 1)
    assert as_columns(jnp.zeros((3, 2)), 3).shape == (3, 2)
    with pytest.raises(ShapeError, match=r"\(3, 2, 1\)"):
        as_columns(jnp.zeros((3, 2, 1)), 3)


@pytest.mark.parametrize(
    "likelihood",
    [
        nb.Categorical(),
        nb.Bernoulli(),
        nb.Poisson(),
        nb.Heteroskedastic(),
        nb.StudentT(df=4.0, noise_prior=nb.LogNormal(1.0, 0.1)),
        nb.Gaussian(),
        nb.Gaussian(shared=True, ratio=(1.0, 3.0)),
        nb.Gaussian(noise=0.3),
        nb.Gaussian(noise=(0.3, 0.4)),
        nb.Gaussian(noise_prior=nb.HalfNormal(2.0)),
        nb.Gaussian(noise_prior=nb.LogNormal((1.0, 2.0), 0.1)),
    ],
)
def test_standard_likelihoods_survive_json(likelihood):
    assert from_data(to_data(likelihood)) == likelihood


def test_a_strangers_likelihood_is_no_json():
    class Gaussian(nb.Gaussian):
        pass

    assert to_data(Gaussian()) is None


def test_a_strangers_prior_makes_the_likelihood_a_strangers():
    class HalfNormal(nb.HalfNormal):
        pass

    assert to_data(nb.Gaussian(noise_prior=HalfNormal())) is None
