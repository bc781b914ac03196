"""CV+ intervals: their definition, their guarantee, and their coverage of heavy-tailed data."""

from __future__ import annotations

import numpy as np
import pytest

from nbcore.errors import OptionError, ShapeError
from nbcore.posterior.conformal import OutOfFold

FOLDS = 5


def regression(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the coefficients of a straight line."""
    return np.linalg.lstsq(np.stack([np.ones_like(x), x], 1), y, rcond=None)[0]


def line(coefficients: np.ndarray, x: np.ndarray) -> np.ndarray:
    return coefficients[0] + coefficients[1] * x


def spread(x: np.ndarray) -> np.ndarray:
    return 0.5 + np.abs(x)


def cross_fitted(x: np.ndarray, y: np.ndarray) -> tuple[OutOfFold, list[np.ndarray]]:
    fold = np.arange(len(x)) % FOLDS
    lines = [regression(x[fold != k], y[fold != k]) for k in range(FOLDS)]
    errors = np.abs(y - np.array([line(lines[k], v) for k, v in zip(fold, x, strict=True)]))
    return OutOfFold(fold, (errors / spread(x))[:, None]), lines


def interval(
    found: OutOfFold, lines: list[np.ndarray], x: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    means = np.stack([line(c, x) for c in lines])[..., None]
    deviations = np.broadcast_to(spread(x)[None, :, None], means.shape)
    lower, upper = found.interval(level, means, deviations)
    return lower[:, 0], upper[:, 0]


def test_bounds_are_those_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    fold, scores = rng.permutation(np.arange(23) % 3), rng.exponential(size=(23, 2))
    means, deviations = rng.normal(size=(3, 7, 2)), rng.uniform(0.5, 2, size=(3, 7, 2))
    found = OutOfFold(fold, scores)
    lower, upper = found.interval(0.8, means, deviations)
    rank = 20  # ceil(0.8 * 24)
    for point in range(7):
        for j in range(2):
            reach = scores[:, j] * deviations[fold, point, j]
            ends = np.sort(means[fold, point, j] + reach)
            starts = np.sort(means[fold, point, j] - reach)[::-1]
            assert upper[point, j] == ends[rank - 1]
            assert lower[point, j] == starts[rank - 1]
    monkeypatch.setattr("nbcore.posterior.conformal.BYTES_AT_ONCE", 1)
    for ours, theirs in zip(found.interval(0.8, means, deviations), (lower, upper), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_missing_scores_leave_an_example_out_of_its_column() -> None:
    rng = np.random.default_rng(0)
    fold, scores = rng.permutation(np.arange(40) % 3), rng.exponential(size=(40, 2))
    scores[rng.uniform(size=40) < 0.4, 0] = np.nan
    means, deviations = rng.normal(size=(3, 7, 2)), rng.uniform(0.5, 2, size=(3, 7, 2))
    bounds = OutOfFold(fold, scores).interval(0.8, means, deviations)
    for j in range(2):
        known, own = ~np.isnan(scores[:, j]), slice(j, j + 1)
        column = OutOfFold(fold[known], scores[known, own])
        alone = column.interval(0.8, means[..., own], deviations[..., own])
        for both, one in zip(bounds, alone, strict=True):
            np.testing.assert_array_equal(both[:, j], one[:, 0])
    few = OutOfFold(fold, scores)
    count = int(np.sum(~np.isnan(scores[:, 0])))
    expected = OutOfFold(fold[:count], np.ones((count, 1)))
    assert few.guaranteed(0.8) == expected.guaranteed(0.8)
    with pytest.raises(OptionError, match=f"there are {count}"):
        few.interval(0.97, means, deviations)


@pytest.mark.parametrize("df", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_coverage_of_heavy_tails(df: float, level: float) -> None:
    rng = np.random.default_rng(int(100 * level + df))
    shares: list[float] = []
    for _ in range(200):
        x = rng.uniform(-2, 2, size=160)
        y = 1 + 2 * x + spread(x) * rng.standard_t(df, size=160)
        found, lines = cross_fitted(x[:60], y[:60])
        lower, upper = interval(found, lines, x[60:], level)
        shares.append(float(np.mean((lower <= y[60:]) & (y[60:] <= upper))))
    error = np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) >= level - 2 * error
    assert np.mean(shares) <= level + 0.06
    assert found.guaranteed(level) < level


def test_the_guarantee_is_that_of_the_theorem() -> None:
    found = OutOfFold(np.arange(100) % 5, np.ones((100, 1)))
    assert found.guaranteed(0.9) == pytest.approx(0.8 - min(2 * 0.8 / 21, 0.95 / 6))


def test_what_the_examples_do_not_allow_is_refused() -> None:
    few = OutOfFold(np.arange(10) % 5, np.ones((10, 1)))
    with pytest.raises(OptionError, match=r"level 0.95 needs at least 19 .* there are 10.*0.909"):
        few.interval(0.95, np.zeros((5, 2, 1)), np.ones((5, 2, 1)))
    few.interval(10 / 11, np.zeros((5, 2, 1)), np.ones((5, 2, 1)))
    with pytest.raises(OptionError, match=r"level is 1\.5"):
        few.guaranteed(1.5)
    with pytest.raises(ShapeError, match=r"expected \(5, 2, 1\)"):
        few.interval(0.5, np.zeros((4, 2, 1)), np.ones((4, 2, 1)))
    with pytest.raises(ShapeError, match=r"fold has shape \(3,\)"):
        OutOfFold(np.zeros(3, int), np.ones((4, 1)))
