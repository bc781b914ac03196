"""Calibration: noise comes from rows that the network has not seen."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pytest
from samplers import Spread

import nbcore as nb
from nbcore import errors
from nbcore.common.progress import Report
from nbcore.distributions.likelihoods import Gaussian
from nbcore.distributions.positive import tight_prior
from nbcore.extend import register_pytree
from nbcore.metrics import nlpd
from nbcore.posterior.mixture import MixturePosterior
from nbcore.training.cross_fit import NOISE_FLOOR
from nbcore.training.folds import CalibrationWarning, fold_of_examples
from nbcore.training.train import BatchPlan
from nbcore_flax import FlaxMLP

SIGMA = 0.5
COUNT = 60
RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, size=(COUNT, 1)).astype(np.float32)
Y = 100 + 10 * (np.sin(2 * X[:, 0]) + SIGMA * RNG.normal(size=COUNT))
NET = nb.as_network(FlaxMLP(hidden_dims=(32,)), example=X[:1])
LABELS = (Y > 100).astype(int)
CLASSES = nb.as_network(FlaxMLP(hidden_dims=(4,), target_dim=2), example=X[:1])

# Eight inputs of which one matters: 60 rows are learned by heart.
X_WIDE = np.concatenate([X, RNG.normal(size=(COUNT, 7)).astype(np.float32)], axis=1)
WIDE = nb.as_network(FlaxMLP(hidden_dims=(32,)), example=X_WIDE[:1])
OVERFIT = nb.TrainingOptions(epochs=100, learning_rate=0.05, sigma=100.0)
TWO_FOLDS = nb.CalibrationOptions("crossfit", folds=2)
ENSEMBLE = nb.CalibrationOptions("crossfit", folds=2, ensemble=True)


def fit(model: nb.PartialBNN, *data: Any, **options: Any) -> nb.PartialBNN:
    settings: dict[str, Any] = {
        "num_warmup": 0, "num_samples": 6, "num_chains": 1, "progress": False,
    }  # fmt: skip
    settings |= {"calibration": "crossfit"}
    settings |= {"backend": Spread(), "training": nb.TrainingOptions(epochs=3), "key": 1}
    X_, y = data or (X, Y)
    return model.fit(X_, y, **(settings | options))


def head(net: Any = NET, **options: Any) -> nb.PartialBNN:
    return nb.PartialBNN(net, probabilistic_layer_names=["Dense1"], **options)


def prior_of(posterior: nb.Posterior) -> Any:
    assert isinstance(posterior.likelihood, Gaussian)
    return posterior.likelihood.noise_prior


@pytest.fixture(scope="module")
def cross() -> nb.CrossFit:
    """A cross-fit of noisy data."""
    return nb.cross_fit(
        NET, X, Y, folds=3, epochs=150, learning_rate=0.02, standardize=True, key=0, progress=False
    )


def test_folds_share_the_rows_evenly() -> None:
    fold = fold_of_examples(jax.random.key(0), 23, 5)
    assert sorted(np.bincount(fold)) == [4, 4, 5, 5, 5]
    assert not np.array_equal(fold, np.arange(23) % 5)


def test_members_have_not_seen_their_fold(cross: nb.CrossFit) -> None:
    """A member's predictions of its fold do not depend on what y is there; others' do."""
    moved = np.where(cross.fold == 1, Y + 50, Y)
    again = nb.cross_fit(
        NET, X, moved, folds=3, epochs=150, learning_rate=0.02, standardize=True, key=0,
        progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(again.fold, cross.fold)
    mine = cross.fold == 1
    np.testing.assert_array_equal(again.predictions[mine], cross.predictions[mine])
    assert np.abs(again.predictions[~mine] - cross.predictions[~mine]).max() > 1
    assert np.abs(again.full.predict(X) - cross.full.predict(X)).max() > 1


def test_out_of_fold_predictions_are_those_of_the_members(cross: nb.CrossFit) -> None:
    for k, member in enumerate(cross.members):
        rows = cross.fold == k
        np.testing.assert_allclose(member.predict(X[rows]), cross.predictions[rows, 0], rtol=1e-6)
    expected = np.sqrt(np.mean((Y - cross.predictions[:, 0]) ** 2))
    np.testing.assert_allclose(cross.noise, [expected])
    expected_nlpd = nlpd(Y, cross.predictions[:, 0], np.full(COUNT, expected**2))
    assert cross.nlpd(Y) == pytest.approx(expected_nlpd)


def test_out_of_fold_noise_is_near_the_truth(cross: nb.CrossFit) -> None:
    truth = 10 * SIGMA
    assert 0.85 * truth < cross.noise[0] < 1.4 * truth
    np.testing.assert_array_equal(cross.training_noise, cross.full.residual_noise(X, Y))
    assert cross.training_noise[0] < cross.noise[0]


def test_networks_depend_on_their_own_key_alone(cross: nb.CrossFit) -> None:
    rows = cross.fold != 2
    alone = nb.DeterministicNN(NET, learning_rate=0.02, standardize=True)
    key = jax.random.fold_in(jax.random.key(0), 2)
    plan = BatchPlan.of(X, None, 32)  # that of all rows, whose programs the folds share
    alone.train(X[rows], Y[rows], 150, plan=plan, key=key, progress=False)
    jax.tree.map(np.testing.assert_array_equal, alone.params, cross.members[2].params)


def test_cross_fit_reports_the_epochs_of_all_networks() -> None:
    seen: list[Report] = []
    nb.cross_fit(NET, X, Y, folds=2, epochs=2, progress=seen.append)
    assert [r.done for r in seen] == list(range(1, 7))
    assert {r.total for r in seen} == {6}


@pytest.mark.parametrize("folds", [1, COUNT + 1])
def test_impossible_folds_are_refused(folds: int) -> None:
    with pytest.raises(
        errors.OptionError,
        match=f"{COUNT} examples can be split into 2 to {COUNT} folds, got {folds}",
    ):
        nb.cross_fit(NET, X, Y, folds=folds, progress=False)


def test_the_noise_prior_outweighs_the_residuals() -> None:
    prior = tight_prior(np.array([0.5, 2.0]), 200)
    assert prior.median == (0.5, 2.0)
    # N residuals know log noise to 1 / sqrt(2 N); the prior is ten times as sure.
    assert prior.spread == pytest.approx(1 / np.sqrt(2 * 200) / 10)


@pytest.mark.slow
def test_crossfit_noise_is_out_of_fold_and_naive_noise_is_too_small() -> None:
    """With NUTS, on a network that overfits: the whole point of cross-fitting."""
    nuts: dict[str, Any] = {"backend": "numpyro-nuts", "num_warmup": 200, "num_samples": 200}
    noises: dict[str, float] = {}
    for calibration in (nb.CalibrationOptions("crossfit", folds=3), nb.CalibrationOptions("none")):
        model = head(WIDE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)
            fit(model, X_WIDE, Y, calibration=calibration, training=OVERFIT, **nuts)
        prediction = model.predict_distribution(X_WIDE)
        noises[calibration.method] = float(np.sqrt(prediction.aleatoric_variance.mean()))
        if calibration.method == "crossfit":
            assert model.noise is not None
            assert model.cross is not None
            np.testing.assert_array_equal(model.noise, model.cross.noise)
            assert noises["crossfit"] == pytest.approx(model.noise[0], rel=0.05)
    assert noises["none"] < 0.8 * noises["crossfit"]


def test_crossfit_warns_where_the_network_overfits() -> None:
    with pytest.warns(CalibrationWarning, match=r"0\.\d\d of that on unseen examples.*out-of-fold"):
        model = fit(head(WIDE), X_WIDE, Y, calibration=TWO_FOLDS, training=OVERFIT)
    # The prior of the noise sits on the out-of-fold error, not on the residuals.
    assert model.det is not None
    assert model.det.scaler is not None
    assert model.noise is not None
    prior = prior_of(model.posterior)
    np.testing.assert_allclose(prior.median, model.noise / model.det.scaler.scale)
    assert prior.spread < 0.01
    assert model.det.residual_noise(X_WIDE, Y)[0] < 0.8 * model.noise[0]


def test_crossfit_says_nothing_where_it_does_not() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        fit(head(), calibration=TWO_FOLDS)


def test_holdout_samples_only_rows_that_were_not_trained_on() -> None:
    train_key = jax.random.split(jax.random.key(1))[0]
    unseen = fold_of_examples(train_key, COUNT, 5) == 0
    model = fit(head(), calibration="holdout")
    sampled = model.posterior.target
    assert sampled is not None
    assert model.posterior.scaler is not None
    expected = model.posterior.scaler.standardize(Y[unseen])
    np.testing.assert_allclose(sampled.targets()[:, 0], expected, rtol=1e-5)
    # The noise is that of the unseen rows, and the network does not depend on their y.
    assert model.det is not None
    assert model.noise is not None
    np.testing.assert_allclose(model.noise, model.det.residual_noise(X[unseen], Y[unseen]))
    moved = fit(head(), X, np.where(unseen, Y + 50, Y), calibration="holdout")
    assert moved.det is not None
    jax.tree.map(np.testing.assert_array_equal, moved.det.params, model.det.params)
    # The rows that are sampled tell the noise by themselves: its prior is as wide as their y.
    assert model.det.scaler is not None
    expected = np.std(Y[unseen]) / model.det.scaler.scale
    np.testing.assert_allclose(prior_of(model.posterior).scale, expected, rtol=1e-5)


def test_an_ensemble_does_not_count_its_spread_twice() -> None:
    """Its variance is the squared error of its mean: a member's less the variance between them."""
    model = fit(
        head(), calibration=replace(ENSEMBLE, folds=3), backend=Spread(0.05),
        training=nb.TrainingOptions(epochs=60),
    )  # fmt: skip
    assert model.cross is not None
    assert len(model.posteriors) == 3
    each = [posterior.predict(X) for posterior in model.posteriors]
    members = np.stack([p.mean for p in each])
    between = members.var(axis=0).mean()
    within = np.mean([p.epistemic_variance.mean() for p in each])
    squared = model.cross.noise[0] ** 2
    assert 0 < 2 * between + within < (1 - NOISE_FLOOR) * squared
    prediction = model.predict_distribution(X)
    expected = squared - 2 * between - within
    np.testing.assert_allclose(prediction.aleatoric_variance, expected, rtol=1e-4)
    np.testing.assert_allclose(prediction.mean, members.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(prediction.variance.mean(), squared - between, rtol=1e-4)
    for k, posterior in enumerate(model.posteriors):
        member = model.cross.members[k]
        assert posterior.network is member.network
        assert posterior.split is not None
    mixture = model.posterior
    assert isinstance(mixture, MixturePosterior)
    assert mixture.members == model.posteriors


def test_the_noise_of_an_ensemble_has_a_floor() -> None:
    model = fit(head(), calibration=ENSEMBLE, backend=Spread(3.0))
    assert model.cross is not None
    noise = model.predict_distribution(X).aleatoric_variance
    np.testing.assert_allclose(noise, NOISE_FLOOR * model.cross.noise[0] ** 2, rtol=1e-4)


def test_an_ensemble_keeps_the_noise_that_the_user_knows() -> None:
    model = fit(head(likelihood=Gaussian(noise=7.0)), calibration=ENSEMBLE)
    noise = model.predict_distribution(X).aleatoric_variance
    np.testing.assert_allclose(noise, 7.0**2, rtol=1e-4)


def test_an_ensemble_member_is_sampled_on_its_own_fold() -> None:
    """Its log density holds the very examples of its fold, inputs and targets."""
    x, y = X[:50], Y[:50]
    model = fit(head(), x, y, calibration=replace(ENSEMBLE, folds=4))
    assert model.cross is not None
    pairs = zip(model.posteriors, model.cross.members, strict=True)
    for k, (posterior, member) in enumerate(pairs):
        own, target = model.cross.fold == k, posterior.target
        assert target is not None
        assert member.scaler is not None
        np.testing.assert_allclose(
            target.targets()[:, 0], member.scaler.standardize(y[own]), rtol=1e-5
        )
        outputs = member.network.apply(member.params, x[own])
        np.testing.assert_allclose(target.outputs(target.split.position), outputs, atol=1e-5)


def trained(**options: Any) -> nb.DeterministicNN:
    det = nb.DeterministicNN(WIDE, learning_rate=0.05, sigma=100.0, standardize=True)
    return det.train(X_WIDE[:40], Y[:40], 100, progress=False, **options)


@pytest.fixture(scope="module")
def overfitted() -> nb.DeterministicNN:
    """Weights that know 40 rows by heart, and nothing of a validation."""
    return trained()


def test_given_weights_without_validation_are_warned_about(overfitted: Any) -> None:
    for given in (overfitted, overfitted.params):
        with pytest.warns(CalibrationWarning, match=r"could not be checked.*validation_data"):
            fit(head(WIDE, deterministic_weights=given), X_WIDE, Y)


def test_a_noise_prior_of_ones_own_is_not_warned_about(overfitted: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        model = head(WIDE, deterministic_weights=overfitted, noise_prior=nb.HalfNormal(3.0))
        prior = prior_of(fit(model, X_WIDE, Y).posterior)
        assert prior.scale == pytest.approx(3.0 / overfitted.scaler.scale[0])
        model = head(WIDE, deterministic_weights=overfitted, noise_prior=nb.LogNormal(3.0, 0.1))
        prior = prior_of(fit(model, X_WIDE, Y).posterior)
        assert (prior.median[0], prior.spread) == (
            pytest.approx(3.0 / overfitted.scaler.scale[0]),
            0.1,
        )


@pytest.mark.parametrize("given", [True, False])
def test_a_known_noise_is_in_the_units_of_y(overfitted: Any, given: bool) -> None:
    weights = overfitted if given else None
    model = head(WIDE, deterministic_weights=weights, likelihood=nb.Gaussian(noise=7.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        fit(model, X_WIDE, Y, calibration="holdout")
    noise = model.predict_distribution(X_WIDE).aleatoric_variance
    np.testing.assert_allclose(noise, 49.0, rtol=1e-5)


def test_a_noise_prior_that_cannot_change_units_is_refused() -> None:
    @register_pytree
    @dataclass(frozen=True)
    class Mine(nb.LogNormal):
        times: Any = None  # as one that was written without it

    with pytest.raises(errors.OptionError, match=r"times\(factor\).*standardize=False"):
        fit(head(noise_prior=Mine()), calibration="none")


def test_a_noise_prior_of_each_output_changes_its_own_units() -> None:
    two = nb.PartialBNN(
        FlaxMLP(hidden_dims=(4,), target_dim=2),
        probabilistic_layer_names=["Dense1"],
        noise_prior=nb.HalfNormal(3.0),
    )
    fit(two, X, np.stack([Y, 10 * Y], axis=1), calibration="none")
    scale = two.posterior.scaler.scale
    np.testing.assert_allclose(prior_of(two.posterior).scale, 3.0 / scale)


def test_given_weights_get_their_noise_from_validation_data(overfitted: Any) -> None:
    with pytest.warns(CalibrationWarning, match=r"taken from the unseen examples"):
        model = fit(
            head(WIDE, deterministic_weights=overfitted), X_WIDE[:40], Y[:40],
            calibration=nb.CalibrationOptions(validation_data=(X_WIDE[40:], Y[40:])),
        )  # fmt: skip
    error = np.sqrt(np.mean((Y[40:] - overfitted.predict(X_WIDE[40:])) ** 2))
    np.testing.assert_allclose(model.noise, [error], rtol=1e-6)
    np.testing.assert_allclose(
        prior_of(model.posterior).median, error / overfitted.scaler.scale, rtol=1e-6
    )


def test_given_weights_remember_the_noise_of_their_own_validation() -> None:
    det = trained(validation_data=(X_WIDE[40:], Y[40:]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        model = fit(head(WIDE, deterministic_weights=det), X_WIDE[:40], Y[:40])
    np.testing.assert_array_equal(model.noise, det.validation_noise)


def test_a_cross_fit_made_before_is_used_as_it_is(cross: nb.CrossFit) -> None:
    model = fit(head(deterministic_weights=cross))
    np.testing.assert_array_equal(model.noise, cross.noise)
    assert model.det is cross.full
    assert len(fit(head(deterministic_weights=cross), calibration=ENSEMBLE).posteriors) == 3
    with pytest.raises(errors.OptionError, match=re.escape("60 examples, and X has 40")):
        fit(head(deterministic_weights=cross), X[:40], Y[:40])


def test_classes_are_told_that_no_noise_is_calibrated() -> None:
    with pytest.warns(CalibrationWarning, match=r"calibration='mixture'"):
        fit(head(CLASSES, num_classes=2), X, LABELS, calibration=TWO_FOLDS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        ensemble = fit(head(CLASSES, num_classes=2), X, LABELS, calibration=ENSEMBLE)
    np.testing.assert_allclose(ensemble.predict(X)[0].sum(axis=1), 1, rtol=1e-5)
    assert ensemble.cross is not None
    of_labels = ensemble.cross.predictions[np.arange(COUNT), LABELS]
    assert ensemble.cross.nlpd(LABELS) == pytest.approx(-np.log(of_labels).mean())


def test_as_many_outputs_as_classes_are_needed() -> None:
    with pytest.raises(errors.OptionError, match=r"num_classes=3, and the network has 2 output"):
        fit(head(CLASSES, num_classes=3), X, LABELS, calibration=TWO_FOLDS)
