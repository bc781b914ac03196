"""Cross-fitting without a number of epochs: training ends when the NLPD out of fold says so."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

import nbcore as nb
from nbcore.common.progress import Report
from nbcore.training import cross_fit as module
from nbcore_flax import FlaxMLP

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 2)).astype(np.float32)
Y = 50 + 20 * np.sin(2 * X[:, 0]) + 8 * RNG.normal(size=60)
NET = FlaxMLP(hidden_dims=(8,))
OPTIONS: dict[str, Any] = {"learning_rate": 0.02, "standardize": True, "key": 1}


@pytest.fixture(scope="module")
def found() -> tuple[nb.CrossFit, list[Report]]:
    reports: list[Report] = []
    cross = nb.cross_fit(NET, X, Y, 3, progress=reports.append, **OPTIONS)
    return cross, [report for report in reports if report.total == 0]


def test_rounds_double_until_one_is_not_worth_it_and_the_best_is_kept(found) -> None:
    cross, _ = found
    epochs, scores = list(cross.scores), np.array(list(cross.scores.values()))
    assert epochs == [20 * (2 ** (n + 1) - 1) for n in range(len(epochs))]
    assert len(epochs) > 2
    gains = np.minimum.accumulate(scores)[:-1] - scores[1:]
    assert np.all(gains[:-1] >= module.LEAST_GAIN)
    assert gains[-1] < module.LEAST_GAIN or len(epochs) == module.MAX_ROUNDS
    assert cross.nlpd(Y) == pytest.approx(scores.min())


def test_a_round_goes_on_from_the_weights_of_the_one_before(found) -> None:
    """One round is the training that is asked for by its number of epochs."""
    cross, _ = found
    alone = nb.cross_fit(NET, X, Y, 3, epochs=20, progress=False, **OPTIONS)
    assert alone.nlpd(Y) == pytest.approx(cross.scores[20])
    assert not alone.scores
    frozen = nb.cross_fit(NET, X, Y, 2, progress=False, **OPTIONS | {"learning_rate": 1e-12})
    assert list(frozen.scores) == [20, 60]
    assert frozen.scores[60] == pytest.approx(frozen.scores[20], abs=1e-4)
    det = nb.DeterministicNN(NET, learning_rate=1e-9, swa=None, standardize=True)
    det.train(X, Y, 1, params=alone.full.params, progress=False)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), det.params, alone.full.params
    )


def test_the_prior_is_in_units_of_the_noise_that_the_round_before_found(found) -> None:
    cross, _ = found
    first = nb.cross_fit(NET, X, Y, 3, epochs=20, progress=False, **OPTIONS)
    options = module._in_units_of_noise({"sigma": 2.0}, first)
    noise = first.noise[0] / first.full.scaler.scale[0]
    assert options["sigma"] == pytest.approx(2.0 / noise)
    assert cross.full.recipe.sigma > 1.0 / noise  # the last round's noise is smaller


def test_what_was_found_is_said_once(found) -> None:
    cross, remarks = found
    (remark,) = remarks
    best = min(cross.scores, key=lambda number: cross.scores[number])
    assert remark.note.startswith(f"Trained for {best} epochs; NLPD out of fold after 20: ")


def test_labels_are_scored_by_their_own_likelihood(tmp_path) -> None:
    labels = np.where(X[:, 0] > 0, "yes", "no")
    two = FlaxMLP(hidden_dims=(4,), target_dim=2)
    cross = nb.cross_fit(
        two, X, labels, 2, loss="classification", learning_rate=0.02, progress=False
    )
    assert cross.nlpd(labels) == pytest.approx(min(cross.scores.values()))
    cross.save(tmp_path / "cross")
    assert nb.load(tmp_path / "cross").scores == cross.scores


def test_fit_finds_the_number_of_epochs_and_keeps_one_that_is_given(monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_ROUNDS", 2)
    steps = {"num_warmup": 0, "num_samples": 20, "num_chains": 1, "backend": "laplace"}
    options = nb.CalibrationOptions("crossfit", folds=2)
    given = nb.PartialBNN(NET).fit(
        X, Y, **steps, calibration=options, training=nb.TrainingOptions(epochs=5), progress=False
    )
    assert len(given.cross.full.fit_result.losses) == 5
    assert not given.cross.scores
    model = nb.PartialBNN(NET).fit(X, Y, **steps, calibration=options, progress=False)
    assert list(model.cross.scores) == [20, 60]
