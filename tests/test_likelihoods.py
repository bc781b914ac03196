"""Likelihoods are the densities that they say they are, and refuse targets that do not fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import nbcore as nb
from nbcore.errors import DataError, LabelError, OptionError, ShapeError
from nbcore.likelihoods import as_columns, from_data, to_data

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
    unknowns = {"noise": jnp.array([0.3, -1.2])}
    noise = likelihood.constrain(unknowns)["noise"]
    assert np.allclose(noise, prior.median * np.exp(prior.log_spread * np.array([0.3, -1.2])))
    known = nb.Gaussian(noise=tuple(noise.tolist()))
    assert np.allclose(
        likelihood.log_prob(OUTPUTS, Y, unknowns), known.log_prob(OUTPUTS, Y, {}), rtol=1e-5
    )
    assert np.allclose(likelihood.moments(OUTPUTS, unknowns)[1], noise**2)


@pytest.mark.parametrize("prior", [nb.HalfNormal(0.7), nb.LogNormal(0.4, 0.6)])
def test_the_density_of_the_unconstrained_noise_integrates_to_one(prior):
    likelihood = nb.Gaussian(noise_prior=prior)
    grid = np.linspace(-15, 8, 4001)
    density = jax.vmap(lambda u: jnp.exp(likelihood.log_prior({"noise": u[None]})))(grid)
    assert integrate.simpson(np.float64(density), x=grid) == pytest.approx(1, abs=1e-4)


def test_draws_of_the_noise_follow_its_prior():
    likelihood = nb.Gaussian(noise_prior=nb.HalfNormal(0.7))
    unknowns = likelihood.sample_prior(jax.random.key(0), 4000)
    noise = np.asarray(likelihood.constrain(unknowns)["noise"])
    assert stats.kstest(noise, stats.halfnorm(scale=0.7).cdf).pvalue > 1e-3
    first, second = ({"noise": unknowns["noise"][i : i + 1]} for i in range(2))
    together = likelihood.log_prior({"noise": unknowns["noise"][:2]})
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


@pytest.mark.parametrize("labels", [np.array([1.0, 0.0]), np.array([[1], [0]]), [True, False]])
def test_labels_may_be_columns_floats_or_booleans(labels):
    assert nb.Categorical().check(labels, 2).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("likelihood", "y", "outputs", "error", "says"),
    [
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
        (nb.Categorical(), np.array([0, 3]), 3, LabelError, "label 3 in row 1.*0 to 2"),
        (nb.Categorical(), np.array([-1, 0]), 3, LabelError, "label -1 in row 0"),
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
    assert as_columns(jnp.zeros(3)).shape == (3, 1)
    assert as_columns(jnp.zeros((3, 2))).shape == (3, 2)
    with pytest.raises(ShapeError, match=r"\(3, 2, 1\)"):
        as_columns(jnp.zeros((3, 2, 1)))


@pytest.mark.parametrize(
    "likelihood",
    [
        nb.Categorical(),
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
