"""Folds by splitters of scikit-learn, copies among examples, and what few examples allow."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np
import pytest
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
)

import nbcore as nb
from nbcore.errors import OptionError
from nbcore.training.folds import CalibrationWarning, make_folds, warn_of_copies
from nbcore_flax import FlaxMLP

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
Y = X[:, 0]


def test_splitters_say_who_is_trained_and_who_is_held_out() -> None:
    labels = np.arange(30) % 3
    for splitter in (KFold(3), StratifiedKFold(3), KFold(3, shuffle=True, random_state=1)):
        found = make_folds(KEY, X, labels, splitter)
        pairs = list(splitter.split(X, labels))
        assert found.count == 3
        for k, (train, test) in enumerate(pairs):
            np.testing.assert_array_equal(found.trained[k], np.sort(train))
            np.testing.assert_array_equal(found.held_out(k), np.sort(test))


def test_splitters_get_the_groups() -> None:
    groups = np.arange(30) // 5
    for splitter, count in ((GroupKFold(3), 3), (LeaveOneGroupOut(), 6)):
        found = make_folds(KEY, X, Y, splitter, groups)
        assert found.count == count
        for k in range(count):
            assert not set(groups[found.trained[k]]) & set(groups[found.held_out(k)])


def test_time_series_are_trained_on_the_past_alone() -> None:
    found = make_folds(KEY, X, Y, TimeSeriesSplit(4))
    for k in range(4):
        assert found.trained[k].max() < found.held_out(k).min()
    assert np.flatnonzero(found.fold == -1).tolist() == list(range(6))
    cross = nb.cross_fit(FlaxMLP((4,)), X, Y, TimeSeriesSplit(4), epochs=2, progress=False)
    assert np.isnan(cross.predictions[:6]).all()
    assert np.isfinite(cross.predictions[6:]).all()
    assert cross.residuals.shape == (24, 1)
    errors = Y[6:, None] - cross.predictions[6:]
    np.testing.assert_allclose(cross.noise, np.sqrt(np.mean(errors**2, axis=0)))
    z = (Y[6:] - cross.predictions[6:, 0]) / cross.noise
    nlpd = np.mean(0.5 * z**2 + 0.5 * np.log(2 * np.pi * cross.noise**2))
    assert cross.nlpd(Y) == pytest.approx(nlpd, rel=1e-5)


@pytest.mark.parametrize(
    ("splitter", "said"),
    [
        (
            ShuffleSplit(4, test_size=0.5, random_state=0),
            r"ShuffleSplit holds out example \d+ [234] times",
        ),
        (KFold(3, shuffle=True), "global random state.*random_state=0"),
        ("five", "a number or a cross-validator of scikit-learn, got 'five'"),
    ],
)
def test_splitters_that_cannot_serve_are_refused(splitter: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        make_folds(KEY, X, Y, splitter)


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (1, "X has 1.*calibration='none'"),
        (2, r"2 examples can be split into 2 to 2 folds, got 5.*folds=2"),
        (4, r"4 examples can be split into 2 to 4 folds, got 5.*folds=4"),
    ],
)
def test_few_examples_are_told_what_they_allow(count: int, said: str) -> None:
    model = nb.PartialBNN(FlaxMLP((4,)))
    with pytest.raises(OptionError, match=said):
        model.fit(X[:count], Y[:count], progress=False)


def test_copies_are_noticed_and_named() -> None:
    copied = X.copy()
    copied[[7, 9, 20]] = copied[[2, 2, 19]]
    with pytest.warns(CalibrationWarning, match=r"3 of 30 .*\(7 of 2, 9 of 2, 20 of 19\).*groups="):
        make_folds(KEY, copied, Y, 3)
    with pytest.warns(CalibrationWarning, match="3 of 30"):
        make_folds(KEY, {"a": copied[:, :1], "b": copied[:, 1:]}, Y, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_folds(KEY, X, Y, 3)
        make_folds(KEY, copied, Y, 3, np.arange(30))


def test_copies_up_to_rounding_are_noticed() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    noisy = (x[:150].astype(np.float64) * (1 + 4e-8 * rng.uniform(-1, 1, (150, 4)))).astype(
        np.float32
    )
    assert 20 < sum(bool(np.any(a != b)) for a, b in zip(noisy, x, strict=False)) < 150
    with pytest.warns(CalibrationWarning, match=r"1[45]\d of 350 examples .*200 of 0"):
        warn_of_copies(np.concatenate([x, noisy]))
    tokens = rng.integers(0, 9, (50, 6)).astype(np.int32)
    with pytest.warns(CalibrationWarning, match=r"50 of 100 examples"):
        warn_of_copies({"tokens": np.concatenate([tokens, tokens]), "t": np.zeros(100)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_copies(x)
        warn_of_copies(1e6 + rng.normal(size=(200, 2)))  # far from zero, and different
        warn_of_copies(1e-12 * rng.normal(size=(200, 2)))


def noise_and_coverage(copies: int, groups: np.ndarray | None) -> tuple[float, float]:
    """Fit pure noise of deviation 1, shared in each of 60 groups; test on 200 new groups."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 5)).astype(np.float32)
    y = rng.normal(size=60)
    copied = np.repeat(x, copies, axis=0) + 1e-3 * rng.normal(size=(60 * copies, 5))
    model = nb.PartialBNN(FlaxMLP((32,)), probabilistic_layer_names=["Dense1"])
    model.fit(
        copied.astype(np.float32), np.repeat(y, copies), num_warmup=200, num_samples=200,
        num_chains=1, groups=groups, key=0, progress=False, calibration="crossfit",
        training=nb.TrainingOptions(epochs=200, learning_rate=0.02, sigma=10.0),
        sampling=nb.SamplingOptions(marginalize=False),
    )  # fmt: skip
    new = rng.normal(size=(200, 5)).astype(np.float32)
    assert model.noise is not None
    return float(model.noise[0] / y.std()), model.predict_distribution(new).coverage(
        rng.normal(size=200)
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::nbcore.training.folds.CalibrationWarning")
def test_groups_keep_replicates_from_tearing_the_calibration_apart() -> None:
    single, covered = noise_and_coverage(1, None)
    assert single > 0.95
    assert covered > 0.9
    torn, uncovered = noise_and_coverage(5, None)
    assert torn < 0.7
    assert uncovered < 0.75  # what the groups are for
    whole, covered = noise_and_coverage(5, np.repeat(np.arange(60), 5))
    assert whole > 0.95
    assert covered > 0.9
