"""Mixtures of posteriors: predictions against the law of total variance, tables and ArviZ data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

import nbcore as nb
from nbcore import errors
from nbcore.posterior.conformal import OutOfFold
from nbcore.posterior.mixture import MixtureCalibration, MixturePosterior
from nbcore.posterior.posterior import NetworkPosterior
from nbcore.posterior.prediction import Prediction
from nbcore.posterior.run_info import RunInfo
from nbcore.posterior.scaler import Scaler
from nbcore_flax import FlaxMLP

CHAINS, DRAWS, MEMBERS = 2, 12, 3
INFO = RunInfo("none", {}, {"thin": 1}, "sequential", {"total": 1.5}, {"sampling": 9}, {})
X = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
Y = np.random.default_rng(2).normal(size=20)
NEW = np.random.default_rng(3).normal(size=(7, 3)).astype(np.float32)
SUBSET = nb.ProbabilisticSubset.layers("Dense1")


def member(seed: int, subset: nb.ProbabilisticSubset = SUBSET) -> NetworkPosterior:
    """Return a posterior around weights of its own, with draws made up of normal numbers."""
    network = nb.as_network(FlaxMLP(hidden_dims=(4,)), example=X[:1])
    params = network.init(jax.random.key(seed), X[:1])
    noise = nb.Gaussian(noise_prior=nb.LogNormal(0.3, 0.4))
    target = nb.Target.build(network, params, subset, X, Y, likelihood=noise)
    rng = np.random.default_rng(seed)

    def around(a: Any) -> np.ndarray:
        return np.asarray(a + 0.1 * rng.normal(size=(CHAINS, DRAWS, *a.shape)), np.float32)

    draws = jax.tree.map(around, target.start)
    stats = nb.Stats(*rng.normal(size=(len(nb.Stats._fields), CHAINS, DRAWS)))
    posterior = NetworkPosterior.of(target, draws, stats, INFO)
    return posterior.in_units_of(Scaler(np.array([10.0]), np.array([2.0])))


@pytest.fixture(scope="module")
def members() -> tuple[NetworkPosterior, ...]:
    return tuple(member(seed) for seed in range(MEMBERS))


def test_predictions_follow_the_law_of_total_variance(members) -> None:
    noise = np.array([0.7])
    found = MixturePosterior(members, MixtureCalibration(noise)).predict(NEW)
    means = np.concatenate([m.predict(NEW).draw_means[..., 0] for m in members])
    np.testing.assert_allclose(found.mean, means.mean(axis=0))
    np.testing.assert_allclose(found.epistemic_variance, means.var(axis=0))
    np.testing.assert_allclose(found.aleatoric_variance, np.full(len(NEW), 0.49))
    share = means.var(axis=0) / (means.var(axis=0) + noise**2)
    np.testing.assert_allclose(found.epistemic_share, share)


def test_the_variance_of_the_draws_of_each_member_is_scaled_about_its_mean(members) -> None:
    scale, noise = np.array([0.3]), np.array([0.7])
    scaled = MixturePosterior(members, MixtureCalibration(noise, scale=scale))
    found, moments = scaled.predict(NEW), scaled.moments(NEW)
    each = np.stack([m.predict(NEW).draw_means[..., 0] for m in members])
    expected = 0.3 * each.var(axis=1).mean(axis=0) + each.mean(axis=1).var(axis=0)
    np.testing.assert_allclose(found.mean, each.mean(axis=(0, 1)))
    np.testing.assert_allclose(found.epistemic_variance, expected, rtol=1e-6)
    np.testing.assert_allclose(moments.epistemic_variance[:, 0], expected, rtol=1e-3)
    np.testing.assert_allclose(found.aleatoric_variance, np.full(len(NEW), 0.49))
    one = MixturePosterior(members, MixtureCalibration(noise, scale=np.ones(1))).predict(NEW)
    plain = MixturePosterior(members, MixtureCalibration(noise)).predict(NEW)
    np.testing.assert_array_equal(one.quantile(0.1), plain.quantile(0.1))


def test_without_a_noise_of_its_own_it_is_the_plain_mixture(members) -> None:
    found = MixturePosterior(members).predict(NEW)
    plain = Prediction.mixture([m.predict(NEW) for m in members])
    np.testing.assert_array_equal(found.mean, plain.mean)
    np.testing.assert_array_equal(found.variance, plain.variance)
    np.testing.assert_array_equal(found.quantile(0.1), plain.quantile(0.1))


def test_a_single_member_predicts_as_its_posterior(members) -> None:
    one = MixturePosterior(members[:1]).predict(NEW)
    np.testing.assert_array_equal(one.variance, members[0].predict(NEW).variance)


def test_conformal_intervals_are_those_of_each_folds_network(members) -> None:
    rng = np.random.default_rng(0)
    unseen = OutOfFold(np.arange(60) % MEMBERS, np.abs(rng.normal(size=(60, 1))))
    calibration = MixtureCalibration(np.array([9.0]), unseen)
    mixture = MixturePosterior(members, calibration)
    low, high = mixture.predict(NEW).interval(0.9, method="conformal")
    own = [m.predict(NEW) for m in members]
    means = np.stack([p.mean for p in own])[..., None]
    deviations = np.sqrt(np.stack([p.variance for p in own]))[..., None]
    for found, expected in zip((low, high), unseen.interval(0.9, means, deviations), strict=True):
        np.testing.assert_allclose(found, expected[:, 0], rtol=1e-6)
    with pytest.raises(errors.OptionError, match=r'calibration="mixture"'):
        MixturePosterior(members).predict(NEW).interval(0.9, method="conformal")
    with pytest.raises(errors.OptionError, match="'central', 'conformal', got 'cv'"):
        mixture.predict(NEW).interval(0.9, method="cv")


def test_diagnostics_compare_chains_within_a_member_alone(members) -> None:
    together = MixturePosterior(members).diagnostics()
    for k, each in enumerate(members):
        alone = each.diagnostics()
        for path, values in alone.r_hat.items():
            np.testing.assert_array_equal(together.r_hat[f"member {k}: {path}"], values)
    assert together.num_divergences == sum(m.diagnostics().num_divergences for m in members)
    worst = [m.diagnostics().worst(1)[0] for m in members]
    k = int(np.argmax([r_hat for _, r_hat, _ in worst]))
    assert together.worst(1) == [(f"member {k}: {worst[k][0]}", *worst[k][1:])]
    outputs = MixturePosterior(members).diagnostics(NEW)
    assert len(outputs.r_hat) == MEMBERS
    assert sum(v.size for v in outputs.r_hat.values()) == MEMBERS * len(NEW)


def test_weights_of_whole_networks_are_judged_by_predictions() -> None:
    whole = MixturePosterior((member(0, nb.ProbabilisticSubset.everything()),))
    assert whole.diagnostics().has_symmetry
    assert not whole.diagnostics(NEW).has_symmetry
    assert not MixturePosterior((member(0),)).diagnostics().has_symmetry


def test_alarms_of_a_member_are_those_of_the_mixture_with_its_number(members) -> None:
    alarmed = replace(members[1], info=replace(members[1].info, alarms=("Draws are far away.",)))
    mixture = MixturePosterior((members[0], alarmed))
    assert "member 1: Draws are far away." in mixture.diagnostics().verdict().splitlines()
    assert str(mixture.summary()).splitlines()[0] == "member 1: Draws are far away."


def test_the_summary_names_the_member_of_each_line(members) -> None:
    table = MixturePosterior(members).summary()
    size = len(members[0].summary())
    assert len(table) == MEMBERS * size
    np.testing.assert_array_equal(table.columns["member"], np.repeat(np.arange(MEMBERS), size))
    np.testing.assert_array_equal(table.columns["sd"][:size], members[0].summary().columns["sd"])


def test_arviz_data_have_members_as_a_dimension(members) -> None:
    pytest.importorskip("arviz")
    data = MixturePosterior(members).to_arviz()
    name = str(next(iter(data.posterior.data_vars)))
    values = data.posterior[name]
    assert values.dims == ("chain", "draw", "member", f"{name}_index")
    alone = members[1].to_arviz(log_likelihood=False).posterior[name]
    np.testing.assert_array_equal(values.sel(member=1).values, alone.values)
    assert data.sample_stats["lp"].dims == ("chain", "draw", "member")
    np.testing.assert_array_equal(
        data.sample_stats["lp"].values[..., 2], members[2].stats.log_density
    )


def test_members_with_other_weights_have_no_common_arviz_data(members) -> None:
    pytest.importorskip("arviz")
    pairs = nb.ProbabilisticSubset.pairs({"Dense1": [(0, 0)]})
    with pytest.raises(errors.OptionError, match=r"members\[0\]\.to_arviz\(\)"):
        MixturePosterior((members[0], member(5, pairs))).to_arviz()


def test_an_empty_mixture_is_refused(members) -> None:
    with pytest.raises(errors.OptionError, match="at least one"):
        replace(MixturePosterior(members), members=())
