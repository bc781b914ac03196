"""The variance between fold networks at unseen examples, and the noise that follows from it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbcore as nb
from nbcore import errors
from nbcore.training.fold_mixture import FoldMixture, HeldOutErrors
from nbcore_flax import FlaxMLP

MEMBERS = 5


def moments(noise: float, between: float, pull: float, within: float = 0.0) -> HeldOutErrors:
    """Return the expected moments of networks that are pulled towards their examples."""
    return HeldOutErrors(
        squared=np.array([noise**2 + between]),
        aligned=np.array([pull * noise**2 + between]),
        between_seen=np.array([(1 - pull) ** 2 * between]),
        between_all=np.array([np.nan]),
        within=np.array([within]),
    )


@given(noise=st.floats(0.1, 10), between=st.floats(1e-3, 10), pull=st.floats(0, 0.85))
@settings(max_examples=50, deadline=None)
def test_the_variance_at_unseen_examples_is_recovered(
    noise: float, between: float, pull: float
) -> None:
    found = moments(noise, between, pull).between()
    np.testing.assert_allclose(found, between, rtol=1e-6)


def test_networks_drawn_from_the_model_give_its_moments_back() -> None:
    rng = np.random.default_rng(0)
    noise, between, pull, count = 0.7, 0.4, 0.5, 40_000
    y = noise * rng.normal(size=count)  # f = 0
    own, *others = np.sqrt(between) * rng.normal(size=(MEMBERS, count))
    seen = (1 - pull) * np.stack(others) + pull * y
    found = HeldOutErrors(
        squared=np.mean((y - own) ** 2, keepdims=True),
        aligned=np.mean((y - own) * (seen.mean(axis=0) - own), keepdims=True),
        between_seen=np.mean(seen.var(axis=0, ddof=1), keepdims=True),
        between_all=np.full(1, np.nan),
        within=np.zeros(1),
    )
    np.testing.assert_allclose(found.between(), between, rtol=0.05)
    # the mixture of all five at new inputs: its squared error is its variance
    new = np.sqrt(between) * rng.normal(size=(MEMBERS, count))
    fresh = noise * rng.normal(size=count)
    claimed = found.noise(MEMBERS) ** 2 + new.var(axis=0).mean()
    np.testing.assert_allclose(claimed, np.mean((fresh - new.mean(axis=0)) ** 2), rtol=0.05)


def test_without_two_networks_that_saw_an_example_all_networks_are_compared() -> None:
    missing = np.full(1, np.nan)
    found = HeldOutErrors(np.ones(1), missing, missing, np.array([0.2]), np.zeros(1))
    np.testing.assert_allclose(found.between(), 0.2)
    np.testing.assert_allclose(found.noise(2), np.sqrt(1 - 2 * 0.1))


@pytest.mark.parametrize("squared", [0.0, 1e-300])
def test_predictions_without_an_error_have_no_noise(squared: float) -> None:
    zeros = np.zeros(1)
    found = HeldOutErrors(np.full(1, squared), zeros, zeros, zeros, zeros)
    np.testing.assert_allclose(found.noise(MEMBERS), np.sqrt(squared))


@given(scale=st.floats(1e-20, 1e20))
@settings(max_examples=20, deadline=None)
def test_units_of_y_scale_the_noise(scale: float) -> None:
    one, many = moments(1.0, 0.5, 0.3, 0.1), moments(scale, 0.5 * scale**2, 0.3, 0.1 * scale**2)
    np.testing.assert_allclose(many.noise(MEMBERS), scale * one.noise(MEMBERS), rtol=1e-9)


def test_the_mixture_of_a_cross_fit_predicts_by_its_networks_and_their_noise() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 2)).astype(np.float32)
    y = 5.0 + X[:, 0] + 0.3 * rng.normal(size=90)
    cross = nb.cross_fit(
        FlaxMLP(hidden_dims=(4,)), X, y, 3, epochs=30, standardize=True, progress=False
    )
    mixture = FoldMixture.of(cross, X, y)
    means = np.stack([member.predict(X) for member in cross.members])
    prediction = mixture.predict_distribution(X)
    np.testing.assert_allclose(prediction.mean, means.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(prediction.epistemic_variance, means.var(axis=0), atol=1e-6)
    np.testing.assert_allclose(prediction.aleatoric_variance, np.repeat(mixture.noise**2, 90))
    assert 0.5 * cross.noise[0] <= mixture.noise[0] <= cross.noise[0]


def test_a_cross_fit_of_labels_has_no_noise_of_a_mixture() -> None:
    X = np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
    labels = (X[:, 0] > 0).astype(int)
    cross = nb.cross_fit(
        FlaxMLP(hidden_dims=(2,), target_dim=2), X, labels, 2, epochs=1,
        loss=nb.Categorical(), progress=False,
    )  # fmt: skip
    with pytest.raises(errors.OptionError, match="Categorical has no noise"):
        FoldMixture.of(cross, X, labels)


def test_missing_targets_leave_an_example_out_of_its_column() -> None:
    rng = np.random.default_rng(2)
    count, folds = 30, 4
    fold = rng.permutation(np.arange(count) % folds)
    means, within = rng.normal(size=(2, folds, count, 2))
    y = rng.normal(size=(count, 2))
    y[rng.uniform(size=(count, 2)) < 0.4] = np.nan
    found = HeldOutErrors.of(means, within, y, _cross(fold))
    for j in range(2):
        known = ~np.isnan(y[:, j])
        own, spread = (a[:, known, j : j + 1] for a in (means, within))
        alone = HeldOutErrors.of(own, spread, y[known, j], _cross(fold[known]))
        for name in ("squared", "aligned", "between_seen", "between_all", "within"):
            np.testing.assert_allclose(getattr(found, name)[j], getattr(alone, name)[0])


def _cross(fold: np.ndarray) -> Any:
    return SimpleNamespace(fold=fold, trained=[np.flatnonzero(fold != k) for k in range(4)])
