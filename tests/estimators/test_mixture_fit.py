"""`calibration="mixture"`: networks of the folds, each sampled, calibrated out of fold together."""

from __future__ import annotations

import warnings
from dataclasses import replace

import jax
import numpy as np
import pytest
from samplers import Spread

import nbcore as nb
from nbcore.errors import OptionError
from nbcore.estimators.out_of_fold import calibration_out_of_fold
from nbcore.posterior.mixture import MixturePosterior
from nbcore.training.fold_mixture import HeldOutErrors
from nbcore.training.spread import Spread as LikelySpread
from nbcore_flax import FlaxMLP

FOLDS, COUNT = 3, 62
RNG = np.random.default_rng(0)
X = RNG.normal(size=(COUNT, 2)).astype(np.float32)
Y = 3.0 + 2.0 * X[:, 0] - X[:, 1] ** 2 + 0.3 * RNG.normal(size=COUNT)
NEW = RNG.normal(size=(9, 2)).astype(np.float32)
MIXTURE = nb.CalibrationOptions("mixture", folds=FOLDS)
SHORT = nb.TrainingOptions(epochs=20)


def fitted(**options) -> nb.PartialBNN:
    model = nb.PartialBNN(FlaxMLP(hidden_dims=(4,)), **options)
    return model.fit(
        X, Y, 60, 60, 2, training=SHORT, calibration=MIXTURE, key=3, progress=False
    )  # fmt: skip


@pytest.fixture(scope="module")
def model() -> nb.PartialBNN:
    return fitted()


def test_each_fold_network_is_sampled_on_the_examples_that_it_was_trained_on(model) -> None:
    assert isinstance(model.posterior, MixturePosterior)
    assert len(model.posterior) == FOLDS
    sizes = {posterior.target.num_examples for posterior in model.posteriors}
    assert sizes == {min(len(rows) for rows in model.cross.trained)}
    for posterior, rows in zip(model.posteriors, model.cross.trained, strict=True):
        y = posterior.scaler.shift + posterior.scaler.scale * posterior.target.targets()[:, 0]
        np.testing.assert_allclose(y, Y[rows[: len(y)]], rtol=1e-5)


def test_a_refit_with_a_few_examples_more_compiles_no_program_of_the_network(model) -> None:
    compiled: list[str] = []

    def listen(event: str, seconds: float, **about) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(str(about["fun_name"]))

    more = np.concatenate([X, NEW[:2]]), np.concatenate([Y, [1.0, 2.0]])
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        nb.PartialBNN(model.model).fit(
            *more, 60, 60, 2, training=SHORT, calibration=MIXTURE, progress=False
        )
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert {name.partition(" ")[0] for name in compiled} <= {"jit(_features)"}


def test_the_noise_is_that_of_the_sampled_networks_out_of_fold(model) -> None:
    every = [posterior.predict(X) for posterior in model.posteriors]
    means = np.stack([each.mean for each in every])
    fold, examples = model.cross.fold, np.arange(COUNT)
    own, others = means[fold, examples], np.stack([np.delete(means[:, i], fold[i])
                                                   for i in examples])  # fmt: skip
    within = np.stack([each.epistemic_variance for each in every])[fold, examples]
    errors = HeldOutErrors(
        squared=np.mean((Y - own) ** 2, keepdims=True),
        aligned=np.mean((Y - own) * (others.mean(axis=1) - own), keepdims=True),
        between_seen=np.mean(others.var(axis=1, ddof=1), keepdims=True),
        between_all=np.full(1, np.nan),
        within=np.mean(within, keepdims=True),
        spread=LikelySpread.of((Y - own)[:, None], within[:, None]),
    )
    noise, scale = errors.noise(FOLDS), errors.scale(FOLDS)
    np.testing.assert_allclose(model.mixture_calibration.noise, noise, rtol=1e-3)
    np.testing.assert_allclose(model.mixture_calibration.scale, scale, rtol=1e-3)
    prediction = model.predict_distribution(NEW)
    np.testing.assert_allclose(prediction.aleatoric_variance, np.repeat(noise**2, 9), rtol=1e-3)
    new = [posterior.predict(NEW) for posterior in model.posteriors]
    between = np.var([each.mean for each in new], axis=0)
    spread = scale * np.mean([each.epistemic_variance for each in new], axis=0)
    np.testing.assert_allclose(prediction.epistemic_variance, between + spread, rtol=1e-3)
    unscaled = calibration_out_of_fold(model.posteriors, X, Y, model.cross, scale_draws=False)
    assert unscaled.scale is None
    plain = replace(errors, spread=None)
    np.testing.assert_allclose(unscaled.noise, plain.noise(FOLDS), rtol=1e-3)


def test_draws_are_kept_as_they_are_if_asked(model) -> None:
    kept = nb.CalibrationOptions("mixture", folds=FOLDS, scale_draws=False)
    again = nb.PartialBNN(model.cross.full.network, model.cross)
    again.fit(X, Y, 30, 30, 1, calibration=kept, progress=False)
    assert again.mixture_calibration.scale is None
    means = np.concatenate([posterior.predict(NEW).draw_means for posterior in again.posteriors])
    found = again.predict_distribution(NEW).epistemic_variance
    np.testing.assert_allclose(found, means[..., 0].var(axis=0), rtol=1e-6)


def test_a_mixture_is_saved_with_its_noise_and_errors(model, tmp_path) -> None:
    model.save(tmp_path / "model")
    loaded = nb.load(tmp_path / "model")
    before, after = model.predict_distribution(NEW), loaded.predict_distribution(NEW)
    np.testing.assert_array_equal(after.mean, before.mean)
    np.testing.assert_array_equal(after.variance, before.variance)
    for method in ("central", "conformal"):
        np.testing.assert_array_equal(
            after.interval(0.9, method=method), before.interval(0.9, method=method)
        )


def test_conformal_intervals_come_from_the_networks_without_the_example(model) -> None:
    prediction = model.predict_distribution(NEW)
    low, high = prediction.interval(0.9, method="conformal")
    unseen = prediction.conformal.out_of_fold
    np.testing.assert_array_equal(unseen.fold, model.cross.fold)
    own = [posterior.predict(X) for posterior in model.posteriors]
    scores = [abs(Y[i] - own[k].mean[i]) / np.sqrt(own[k].variance[i])
              for i, k in enumerate(model.cross.fold)]  # fmt: skip
    np.testing.assert_allclose(unseen.scores[:, 0], scores, rtol=1e-3)
    assert np.all(low < high)
    assert 0 < unseen.guaranteed(0.9) < 0.9


def test_a_mixture_is_the_default_and_one_network_is_a_word_away() -> None:
    still = {"num_warmup": 0, "num_samples": 8, "num_chains": 1, "backend": Spread()}
    short = nb.TrainingOptions(epochs=1)
    network = nb.PartialBNN(FlaxMLP(hidden_dims=(2,)))
    for calibration, members in (
        (None, 5),
        (nb.CalibrationOptions(folds=2), 2),
        (nb.CalibrationOptions(folds=2, ensemble=False), 1),
        ("crossfit", 1),
        ("holdout", 1),
    ):
        network.fit(X, Y, **still, calibration=calibration, training=short, progress=False)
        assert len(network.posteriors) == members
    given = nb.PartialBNN(FlaxMLP(hidden_dims=(2,)), network.det)
    assert len(given.fit(X, Y, **still, progress=False).posteriors) == 1


def test_inputs_far_from_the_examples_are_outside_of_what_was_learnt(model) -> None:
    far = model.predict_distribution(np.full((3, 2), 30, np.float32))
    assert far.is_outside.tolist() == [True] * 3
    assert np.mean(model.predict_distribution(X).is_outside) < 0.1
    two = nb.Prediction.normal(np.array([[[0.9]] * 2, [[-1.1]] * 2]), np.ones((1, 1, 1)))
    for limit, is_outside in ((1.01, False), (0.99, True)):
        told = replace(two, epistemic_limit=np.array([limit]))
        assert told.is_outside.tolist() == [is_outside] * 2


def test_what_is_outside_is_unknown_of_one_network() -> None:
    prediction = nb.Prediction.normal(np.zeros((2, 3, 1)), np.ones((1, 1, 1)))
    with pytest.raises(OptionError, match='calibration="mixture"'):
        _ = prediction.is_outside


def test_epistemic_variance_of_seen_examples_is_scaled_to_that_of_unseen_ones() -> None:
    rng = np.random.default_rng(0)
    means, within = rng.normal(size=(4, 50, 2)), rng.uniform(size=(4, 50, 2))
    between = np.var(means, axis=0, ddof=1).mean(axis=0)
    errors = HeldOutErrors(
        squared=np.full(2, 50.0), aligned=np.array([4.0, 6.0]), between_seen=0.5 * between,
        between_all=between, within=within.mean(axis=(0, 1)),
    )  # fmt: skip
    found = errors.epistemic(means, within).mean(axis=0) - within.mean(axis=(0, 1))
    np.testing.assert_allclose(found, errors.between() * (1 - 1 / 4))


def test_fit_warns_if_all_intervals_are_alike() -> None:
    still = {"num_warmup": 0, "num_samples": 8, "num_chains": 1, "progress": False}
    still |= {"training": nb.TrainingOptions(epochs=5), "calibration": "crossfit"}
    model = nb.PartialBNN(FlaxMLP(hidden_dims=(2,)))
    with pytest.warns(nb.RankingWarning, match="0.0% of the variance differs.*not where"):
        model.fit(X, Y, **still, backend=Spread(1e-6))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*of the variance differs")
        model.fit(X, Y, **still, backend=Spread(1.0))


def test_all_members_have_the_same_weights_chosen_on_the_network_of_all_examples() -> None:
    selection = {"method": "magnitude", "layer_names": ["Dense0"], "num_pairs_per_layer": 2}
    chosen = fitted(selection=selection)
    labels = [posterior.split.labels() for posterior in chosen.posteriors]
    assert all(each == labels[0] for each in labels)
    alone = nb.select_bayesian_components(chosen.det, **selection)
    assert alone.split(chosen.det.network, chosen.det.params).labels() == labels[0]


def test_classes_are_sampled_on_unseen_examples() -> None:
    labels = (np.mean(Y) < Y).astype(int)
    model = nb.PartialBNN(FlaxMLP(hidden_dims=(4,), target_dim=2), num_classes=2)
    model.fit(X, labels, 30, 30, 1, training=SHORT, calibration=MIXTURE, progress=False)
    sizes = [posterior.target.num_examples for posterior in model.posteriors]
    assert sizes == np.bincount(model.cross.fold).tolist()
    assert model.mixture_calibration is None


def test_missing_targets_are_left_out_of_noise_and_intervals(tmp_path) -> None:
    y = np.stack([Y, -Y], axis=1)
    y[np.random.default_rng(1).uniform(size=y.shape) < 0.3] = np.nan
    likelihood = nb.Gaussian(missing="mask")
    model = nb.PartialBNN(FlaxMLP(hidden_dims=(4,), target_dim=2), likelihood=likelihood)
    model.fit(X, y, 30, 30, 1, training=SHORT, calibration=MIXTURE, key=3, progress=False)
    every = [posterior.predict(X) for posterior in model.posteriors]
    own = (model.cross.fold, np.arange(COUNT))
    errors = np.abs(y - np.stack([each.mean for each in every])[own])
    unseen = model.mixture_calibration.out_of_fold
    scores = errors / np.sqrt(np.stack([each.variance for each in every])[own])
    np.testing.assert_allclose(unseen.scores, scores, rtol=1e-3)
    assert np.all(model.mixture_calibration.noise <= np.sqrt(np.nanmean(errors**2, axis=0)))
    model.save(tmp_path / "model")
    loaded = nb.load(tmp_path / "model").predict_distribution(NEW)
    for method in ("central", "conformal"):
        low, high = model.predict_distribution(NEW).interval(0.9, method=method)
        assert np.all(low < high)
        np.testing.assert_array_equal(loaded.interval(0.9, method=method), (low, high))


def test_networks_of_a_given_cross_fit_are_sampled_as_the_method_says() -> None:
    cross = nb.cross_fit(FlaxMLP(hidden_dims=(4,)), X, Y, FOLDS, epochs=5, progress=False)
    model = nb.PartialBNN(cross.full.network, cross)
    model.fit(X, Y, 30, 30, 1, calibration="mixture", progress=False)
    assert len(model.posteriors) == FOLDS
    for posterior, member in zip(model.posteriors, cross.members, strict=True):
        jax.tree.map(np.testing.assert_array_equal, posterior.split.params, member.params)


@pytest.mark.slow
def test_it_knows_more_where_it_has_seen_examples_and_predicts_better_than_one_network() -> None:
    rng = np.random.default_rng(5)
    x = rng.uniform(-2, 2, size=(400, 1)).astype(np.float32)
    x = x[np.abs(x[:, 0] - 0.4) > 0.6]
    truth = np.sin(3 * x[:, 0]) + 0.5 * x[:, 0]
    y = truth + 0.1 * rng.normal(size=len(x))
    gap = np.linspace(0.1, 0.7, 40, dtype=np.float32)[:, None]
    inside = np.concatenate([np.linspace(-1.9, -0.4, 30), np.linspace(1.2, 1.9, 20)])
    inside = inside.astype(np.float32)[:, None]
    training = nb.TrainingOptions(epochs=200)
    found = {}
    for method in ("mixture", "crossfit"):
        model = nb.PartialBNN(FlaxMLP(hidden_dims=(16, 16)))
        model.fit(
            x, y, 500, 2000, 2, backend=nb.get_backend("blackjax-mclmc", num_moves=1),
            training=training,
            sampling=nb.SamplingOptions(thin=10), calibration=method, progress=False,
        )  # fmt: skip
        found[method] = model.predict_distribution(gap), model.predict_distribution(inside)
    mixed_gap, mixed_inside = found["mixture"]
    ratio = np.sqrt(mixed_gap.epistemic_variance.mean() / mixed_inside.epistemic_variance.mean())
    assert ratio > 2
    for unseen, prediction in zip((gap, inside), found["mixture"], strict=True):
        truth = np.sin(3 * unseen[:, 0]) + 0.5 * unseen[:, 0]
        at = truth + 0.1 * rng.normal(size=len(truth))
        one = found["crossfit"][0 if unseen is gap else 1]
        assert prediction.nlpd(at) < one.nlpd(at)
