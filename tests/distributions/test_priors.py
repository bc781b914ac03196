"""Priors are the densities that they say they are, centered and scaled as asked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import nbcore as nb
from nbcore.distributions.positive import tight_prior
from nbcore.distributions.priors import fan_in
from nbcore.errors import OptionError, UnknownLayerError

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


def test_the_zero_center_keeps_the_scales_of_norms_at_one():
    center = resolved(center="zero").center
    assert center["Norm/scale"].tolist() == [1.0, 1.0]
    for path in set(center) - {"Norm/scale"}:
        assert not np.any(center[path]), path


def test_a_given_center_is_used_entry_by_entry():
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


def test_fan_in_divides_the_scale_of_kernels_alone():
    found = {path: float(s) for path, s in resolved(scale=2.0, fan_in=True).scale.items()}
    assert found == {
        "Dense0/bias": 2.0, "Dense0/kernel": pytest.approx(2 / np.sqrt(3)), "Norm/bias": 2.0,
        "Norm/scale": 2.0, "enc/Dense1/kernel": pytest.approx(2 / np.sqrt(2)),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "axes", "pair_axes", "bias", "expected"),
    [
        ((4, 2, 3), ("in", "head", "feature"), (0, 1, 2), (2, 3), 4),  # query
        ((2, 3, 5), ("head", "feature", "out"), (0, 1, 2), (5,), 6),  # attention output
        ((2, 3, 5), ("head", "feature", "out"), (0, 1, 2), None, 6),
        ((3, 3, 4, 8), ("in_channel", "out_channel"), (2, 3), (8,), 36),  # image
        ((8, 4), ("in", "out"), (1, 0), None, 4),  # stored as (out, in)
    ],
)
def test_fan_in_counts_what_an_output_sums(shape, axes, pair_axes, bias, expected):
    kernel = nb.Leaf("a/kernel", "kernel", shape, pair_axes, axes)
    leaves = [kernel]
    if bias is not None:
        leaves.append(nb.Leaf("a/bias", "bias", bias, tuple(range(len(bias))), axes[-len(bias) :]))
    assert fan_in(nb.Layer("a", "attention", tuple(leaves)), kernel) == expected


def test_scales_may_be_given_weight_by_weight():
    scales = jax.tree.map(lambda a: 0.1 + np.abs(np.asarray(a)), PARAMS)
    split = nb.ProbabilisticSubset.pairs({"Dense0": [(0, 1), (2, 0)]}).split(NETWORK, PARAMS)
    prior = resolved(split, scale=scales)
    assert np.allclose(prior.scale["Dense0/kernel"], [1.1, 2.1])
    moved = {path: w + 0.3 for path, w in split.stochastic.items()}
    expected = stats.norm.logpdf(0.3, 0, [1.1, 2.1, 0.6, 1.1]).sum()
    assert prior.log_density(moved, {}) == pytest.approx(expected, rel=1e-5)


def test_pretrained_priors_are_centered_at_weights_from_elsewhere():
    simulated = jax.tree.map(lambda a: a + 1.0, PARAMS)
    prior = nb.pretrained_priors(simulated, scale={"**": 0.1, "Norm": 1.0})
    found = prior.resolve(EVERYTHING)
    assert (found.center["Dense0/kernel"] == PARAMS["Dense0"]["kernel"] + 1).all()
    assert (float(found.scale["Dense0/bias"]), float(found.scale["Norm/bias"])) == (
        pytest.approx(0.1),
        1.0,
    )

    class Trained:
        params = simulated

    assert nb.pretrained_priors(Trained()).center is simulated


HIERARCHICAL = {"**": nb.LogNormal(0.5, 0.4), "Norm": 0.2, "enc": nb.HalfNormal(2.0)}


def test_an_unknown_scale_has_a_density_of_its_own():
    prior = resolved(scale=HIERARCHICAL)
    hyperparameters = prior.initial()
    assert {k: float(np.exp(v)) for k, v in hyperparameters.items()} == {
        "log_scale/**": pytest.approx(0.5), "log_scale/enc": pytest.approx(2 * 0.67449, rel=1e-4),
    }  # fmt: skip
    weights = shifted(EVERYTHING.stochastic)
    hyperparameters = {"log_scale/**": jnp.array(-0.3), "log_scale/enc": jnp.array(0.4)}
    known = resolved(scale={"**": np.exp(-0.3), "Norm": 0.2, "enc": np.exp(0.4)})
    # log p(log s) = log p(s) + log s
    expected = known.log_density(weights, {})
    expected += stats.lognorm.logpdf(np.exp(-0.3), 0.4, scale=0.5) - 0.3
    expected += stats.halfnorm.logpdf(np.exp(0.4), scale=2.0) + 0.4
    assert prior.log_density(weights, hyperparameters) == pytest.approx(float(expected), rel=1e-5)


def test_draws_of_an_unknown_scale_follow_its_prior_and_weights_follow_it():
    prior = resolved(scale=nb.LogNormal(0.5, 0.4))
    keys = jax.random.split(jax.random.key(0), 4000)
    weights, hyperparameters = jax.vmap(prior.sample)(keys)
    z = (np.asarray(hyperparameters["log_scale"]) - np.log(0.5)) / 0.4
    assert stats.kstest(z, stats.norm.cdf).pvalue > 1e-3
    moved = np.asarray(weights["Dense0/kernel"] - EVERYTHING.stochastic["Dense0/kernel"])
    ratio = moved / np.exp(np.asarray(hyperparameters["log_scale"]))[:, None, None]
    assert stats.kstest(ratio.ravel(), stats.norm.cdf).pvalue > 1e-3


def test_the_marginal_prior_of_a_hierarchical_scale():
    """One weight: integrating the scale out numerically gives the scale mixture of normals."""
    network = nb.Network.from_functions(lambda key, x: None, lambda p, x: x @ p["a"]["kernel"])
    split = nb.ProbabilisticSubset.everything().split(network, {"a": {"kernel": jnp.zeros((1, 1))}})
    prior = nb.NormalPrior(nb.HalfNormal(1.0)).resolve(split)
    grid = np.linspace(-12, 3, 3001)
    joint = jax.vmap(
        lambda u: jnp.exp(prior.log_density({"a/kernel": jnp.full((1, 1), 0.7)}, {"log_scale": u}))
    )(jnp.asarray(grid))
    found = integrate.simpson(np.float64(joint), x=grid)
    expected = integrate.quad(
        lambda s: stats.norm.pdf(0.7, 0, s) * stats.halfnorm.pdf(s), 1e-4, 20, limit=200
    )[0]
    assert found == pytest.approx(expected, rel=1e-4)


def test_draws_have_the_center_and_scale_of_the_prior():
    prior = resolved(scale={"**": 2.0, "Norm": 0.25})
    keys = jax.random.split(jax.random.key(0), 4000)
    weights, hyperparameters = jax.vmap(prior.sample)(keys)
    assert hyperparameters == {}
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
        ({"scale": nb.LogNormal((1.0, 2.0))}, OptionError, "one number"),
        ({"scale": nb.LogNormal(-1.0)}, OptionError, r"scale\.median must be positive"),
        ({"scale": {"**": 1.0, "Nrm": nb.HalfNormal()}}, UnknownLayerError, "Did you mean 'Norm'"),
        ({"scale": jax.tree.map(jnp.zeros_like, PARAMS)}, OptionError, "must be positive"),
        ({"scale": {"Dense0": PARAMS["Dense0"]}}, OptionError, r"scale is .*pytree.*expected"),
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
