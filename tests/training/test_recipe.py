"""Recipes: learning rates and snapshots of each step, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nbcore import errors
from nbcore.training.recipe import SWA, Recipe


@pytest.mark.parametrize("schedule", ["constant", "linear", "cyclic"])
@pytest.mark.parametrize("epochs", [20, 100, 500])
@pytest.mark.parametrize("steps_per_epoch", [4, 33])
def test_swa_windows_hold_snapshots(schedule: Any, epochs: int, steps_per_epoch: int) -> None:
    total = epochs * steps_per_epoch
    recipe = Recipe(learning_rate=0.1, swa=SWA(schedule))
    rates, marks = recipe.plan(total, steps_per_epoch)
    start = int(0.95 * total)
    assert len(rates) == len(marks) == total
    assert not marks[:start].any()
    assert marks.sum() >= 2
    np.testing.assert_array_equal(rates[:start], 0.1)
    if schedule == "constant":
        assert marks[start:].all()
        np.testing.assert_array_equal(rates, 0.1)
    else:
        np.testing.assert_allclose(rates[marks], 0.01)
        assert np.all(np.diff(rates[start : np.argmax(marks) + 1]) <= 0)
    if schedule == "linear":
        assert marks[np.argmax(marks) :].all()


def test_a_cycle_that_does_not_fit_is_refused() -> None:
    swa = SWA("cyclic", start_pct=0.5, cycle_length=50)
    with pytest.raises(errors.OptionError, match=r"cycle of 50 steps leaves one snapshot"):
        Recipe(swa=swa).plan(100, 1)


def test_cycles_swing_halfway_up_and_are_as_long_as_asked() -> None:
    swa = SWA("cyclic", start_pct=0.5, decay_fraction=0.1, swa_lr=0.02, cycle_length=0.5)
    rates, marks = Recipe(learning_rate=0.1, swa=swa).plan(400, 20)
    window = rates[240:]  # after half of the steps, and a tenth of them to fall
    np.testing.assert_array_equal(np.flatnonzero(marks), np.arange(240, 400, 10))
    np.testing.assert_allclose(window[::10], 0.02)
    np.testing.assert_allclose(window[5::10], 0.06)
    np.testing.assert_allclose(window.max(), 0.06)


def test_the_cosine_schedule_starts_low_peaks_and_ends_at_zero() -> None:
    rates, marks = Recipe(learning_rate=0.1, schedule="cosine", swa=None).plan(200, 10)
    assert not marks.any()
    assert np.argmax(rates) == 9
    assert rates.max() == pytest.approx(0.1)
    assert np.all(np.diff(rates[:10]) > 0)
    assert np.all(np.diff(rates[9:]) < 0)
    assert rates[-1] == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Recipe(learning_rate=0.0),
        lambda: Recipe(sigma=-1.0),
        lambda: Recipe(weight_decay=-0.1),
        lambda: Recipe(schedule="cosin"),  # pyright: ignore[reportArgumentType]
        lambda: SWA("linaer"),  # pyright: ignore[reportArgumentType]
        lambda: SWA(start_pct=1.0),
        lambda: SWA(decay_fraction=-0.1),
        lambda: SWA(swa_lr=0.0),
        lambda: SWA(cycle_length=-1.0),
        lambda: SWA.of({"start": 0.9}),
    ],
)
def test_impossible_recipes_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(errors.OptionError):
        make()


def test_averaging_is_given_as_a_dict_too() -> None:
    assert SWA.of({"schedule": "linear", "start_pct": 0.5}) == SWA("linear", 0.5)
    assert SWA.of(None) is None
    with pytest.raises(errors.OptionError, match=r"Did you mean 'start_pct'"):
        SWA.of({"start_pc": 0.5})
