"""Priors are the densities that they say they are, centred and scaled as asked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import nbcore as nb
from nbcore.errors import OptionError, UnknownLayerError
from nbcore.positive import tight_prior

PARAMS = {
    "Dense0": {"kernel": jnp.arange(6.0).reshape(3, 2) - 2, "bias": jnp.array([0.5, -1.0])},
    "Norm": {"scale": jnp.array([1.5, 0.5]), "bias": jnp.array([0.1, 0.2])},
    "enc": {"Dense1": {"kernel": jnp.array([[1.0], [-3.0]])}},
}


def apply(p, x):
    h = (x @ p["Dense0"]["kernel"] + p["Dense0"]["bias"]) * p["Norm"]["scale"] + p["Norm"]["bias"]
    return h @ p["enc"]["Dense1"]["kernel"]


NETWORK = nb.Network.from_functions(lambda key, x: PARAMS, apply)
EVERYTHING = nb.ProbabilisticSubset.everything().split(NETWORK, PARAMS)


def resolved(split=EVERYTHING, **options):
    return nb.NormalPrior(**options).resolve(split)


def shifted(weights, by=0.3):
    return {path: w + by * (1 + jnp.arange(w.size).reshape(w.shape)) for path, w in weights.items()}


def test_log_density_is_the_sum_of_normal_log_densities():
    weights = shifted(EVERYTHING.stochastic)
    expected = sum(
        stats.norm.logpdf(np.float64(w), np.float64(EVERYTHING.stochastic[p]), 0.7).sum()
        for p, w in weights.items()
    )
    assert resolved(scale=0.7).log_density(weights, {}) == pytest.approx(expected, rel=1e-5)


def test_a_prior_of_chosen_entries_counts_those_alone():
    split = nb.ProbabilisticSubset.pairs({"Dense0": [(0, 1), (2, 0)]}).split(NETWORK, PARAMS)
    weights = shifted(split.stochastic)
    moved = np.concatenate([np.asarray(weights[p] - split.stochastic[p]) for p in split.paths])
    assert moved.shape == (4,)
    expected = stats.norm.logpdf(np.float64(moved), 0, 2.0).sum()
    prior = resolved(split, scale=2.0)
    assert prior.log_density(weights, prior.initial()) == pytest.approx(expected, rel=1e-5)


def test_the_zero_centre_keeps_the_scales_of_norms_at_one():
    center = resolved(center="zero").center
    assert center["Norm/scale"].tolist() == [1.0, 1.0]
    for path in set(center) - {"Norm/scale"}:
        assert not np.any(center[path]), path


def test_a_given_centre_is_used_entry_by_entry():
    center = jax.tree.map(lambda a: np.asarray(a, np.float64) * 2, PARAMS)
    split = nb.ProbabilisticSubset.pairs({"Dense0": [(2, 1)]}).split(NETWORK, PARAMS)
    assert resolved(split, center=center).center["Dense0/kernel"].tolist() == [6.0]
    assert (resolved(center=center).center["Norm/scale"] == center["Norm"]["scale"]).all()


def test_scales_go_by_layer_and_the_last_pattern_counts():
    scale = {"**": 3.0, "enc": 0.5, "Norm": 2.0}
    found = {path: float(s) for path, s in resolved(scale=scale).scale.items()}
    assert found == {
        "Dense0/bias": 3.0, "Dense0/kernel": 3.0, "Norm/bias": 2.0, "Norm/scale": 2.0,
        "enc/Dense1/kernel": 0.5,
    }  # fmt: skip


def test_draws_have_the_centre_and_scale_of_the_prior():
    prior = resolved(scale={"**": 2.0, "Norm": 0.25})
    keys = jax.random.split(jax.random.key(0), 4000)
    weights, hyper = jax.vmap(prior.sample)(keys)
    assert hyper == {}
    for path, draws in weights.items():
        scale = float(prior.scale[path])
        error = np.abs(np.mean(draws, axis=0) - EVERYTHING.stochastic[path])
        assert (error < 5 * scale / np.sqrt(4000)).all(), path
        assert np.allclose(np.std(draws, axis=0), scale, rtol=0.06), path


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"scale": 0.0}, OptionError, "must be positive, got 0.0"),
        ({"scale": float("nan")}, OptionError, "must be positive"),
        ({"scale": {"Dense0": 1.0}}, OptionError, r"no scale for .*'Norm'.*'\*\*'"),
        ({"scale": {"**": 1.0, "Dense00": 2.0}}, UnknownLayerError, "Did you mean 'Dense0'"),
        ({"center": "trained"}, OptionError, "'params', 'zero' or a pytree"),
        ({"center": {"Dense0": PARAMS["Dense0"]}}, OptionError, "expected"),
        ({"center": jax.tree.map(lambda a: 0.0, PARAMS)}, OptionError, r"got shape \(\)"),
    ],
)
def test_wrong_options_say_what_to_type(options, error, says):
    with pytest.raises(error, match=says):
        resolved(**options)


@pytest.mark.parametrize(
    ("prior", "reference"),
    [
        (nb.HalfNormal(1.7), stats.halfnorm(scale=1.7)),
        (nb.LogNormal(0.4, 0.8), stats.lognorm(s=0.8, scale=0.4)),
    ],
)
def test_positive_priors_are_those_of_scipy(prior, reference):
    values = np.array([1e-3, 0.1, 0.5, 1.0, 3.0, 8.0])
    assert np.allclose(prior.log_prob(jnp.asarray(values)), reference.logpdf(values), rtol=2e-5)
    assert float(prior.median) == pytest.approx(reference.median())
    draws = np.asarray(prior.sample(jax.random.key(1), (5000,)))
    assert stats.kstest(draws, reference.cdf).pvalue > 1e-3


def test_the_tight_noise_prior_is_ten_times_as_sure_as_the_residuals():
    residuals = np.random.default_rng(0).normal(0, 2.0, 800)
    noise = np.sqrt(np.mean(residuals**2))

    def log_lik(log_noise):
        return jnp.sum(jax.scipy.stats.norm.logpdf(residuals, 0, jnp.exp(log_noise)))

    information = -float(jax.hessian(log_lik)(float(np.log(noise))))
    prior = tight_prior(np.array([noise, 0.5]), 800)
    assert np.allclose(prior.median, [noise, 0.5])
    assert 1 / prior.spread == pytest.approx(10 * np.sqrt(information), rel=1e-4)
