"""Conformal intervals from out-of-fold errors: CV+, whose coverage holds without a model of y."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nbcore.errors import OptionError, ShapeError

Floats = NDArray[np.float64]
BYTES_AT_ONCE = 2**26


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Errors of fold networks on the examples that each was fitted without.

    Args:
        fold: number of the fold of each example, 0 … folds - 1, `(n,)`.
        scores: |y - mean| / deviation of the network without that fold `(n, outputs)`; NaN if y
            is missing, which leaves the example out for that output.
    """

    fold: NDArray[np.intp]
    scores: Floats

    def __post_init__(self) -> None:
        """Check that every example has one fold and its scores."""
        if self.scores.ndim != 2 or self.fold.shape != self.scores.shape[:1]:
            raise ShapeError(
                f"fold has shape {self.fold.shape} and scores {self.scores.shape}; expected (n,) "
                "and (n, outputs)."
            )

    @property
    def num_folds(self) -> int:
        """Number of folds."""
        return int(self.fold.max()) + 1

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of examples with a score, for each output."""
        return tuple(int(n) for n in np.sum(~np.isnan(self.scores), axis=0))

    def ranks(self, level: float) -> tuple[int, ...]:
        """Return which order statistic bounds the interval of each output: ceil(level (n + 1)).

        Raises:
            OptionError: the level is not between 0 and 1, or there are too few examples for it.
        """
        if not 0 < level < 1:
            raise OptionError(f"level is {level}; expected a probability such as 0.9.")
        ranks = tuple(math.ceil(level * (count + 1) - 1e-9) for count in self.counts)
        count = min(self.counts)
        if any(rank > n for rank, n in zip(ranks, self.counts, strict=True)):
            needed = math.ceil(level / (1 - level) - 1e-9)
            raise OptionError(
                f"A conformal interval of level {level} needs at least {needed} out-of-fold "
                f"examples, and there are {count}. Give a level of at most "
                f"{count / (count + 1):.3g}."
            )
        return ranks

    def guaranteed(self, level: float) -> float:
        """Return the coverage that CV+ guarantees for exchangeable examples, whatever the model.

        `2 level - 1 - min(2 (1 - 1/K) / (n/K + 1), (1 - K/n) / (K + 1))` for n examples in K folds;
        coverage in practice is about the level itself. Of several outputs, n is that of the one
        with the fewest scores.

        References:
            Barber, Candès, Ramdas and Tibshirani (2021), Annals of Statistics 49, theorem 4.
        """
        self.ranks(level)
        count, folds = min(self.counts), self.num_folds
        slack = min(2 * (1 - 1 / folds) / (count / folds + 1), (1 - folds / count) / (folds + 1))
        return 2 * level - 1 - slack

    def interval(self, level: float, means: Floats, deviations: Floats) -> tuple[Floats, Floats]:
        """Return bounds of CV+ intervals, with errors in units of the predicted deviation.

        With R_i the score of example i and k(i) its fold, the bounds at x are the
        ceil(level (n + 1))-th smallest of `mean_k(i)(x) + R_i sd_k(i)(x)` over i, and the same from
        above of `mean_k(i)(x) - R_i sd_k(i)(x)`.

        Args:
            level: probability inside the interval, between 0 and 1.
            means: means of each fold's network at new inputs, `(folds, points, outputs)`.
            deviations: predictive standard deviations, of the same shape.

        Returns:
            Lower and upper bounds, `(points, outputs)` each.

        Raises:
            OptionError: the level is impossible, or there are too few examples for it.
            ShapeError: means are not those of these folds.

        References:
            Barber et al. (2021), Annals of Statistics 49, eq. 1.10; scaled scores as in
            Papadopoulos, Gammerman and Vovk (2008).
        """
        ranks = self.ranks(level)
        expected = (self.num_folds, *means.shape[1:2], self.scores.shape[1])
        if means.shape != expected or deviations.shape != expected:
            raise ShapeError(
                f"means have shape {means.shape} and deviations {deviations.shape}; expected "
                f"{expected}: (folds, points, outputs)."
            )
        lower, upper = np.empty(expected[1:]), np.empty(expected[1:])
        step = max(1, BYTES_AT_ONCE // max(1, 8 * len(self.scores)))
        for j, rank in enumerate(ranks):
            known = ~np.isnan(self.scores[:, j])
            fold, scores = self.fold[known], self.scores[known, j, None]
            for first in range(0, means.shape[1], step):
                some = slice(first, first + step)
                center, reach = means[fold, some, j], deviations[fold, some, j] * scores
                upper[some, j] = np.partition(center + reach, rank - 1, axis=0)[rank - 1]
                lower[some, j] = -np.partition(reach - center, rank - 1, axis=0)[rank - 1]
        return lower, upper


@dataclass(frozen=True, eq=False)
class ConformalPrediction:
    """Predictions of each fold's network at new inputs, from which CV+ intervals follow.

    Args:
        out_of_fold: errors of the networks on the examples that they have not seen.
        means: means of each network, `(folds, points, outputs)`.
        deviations: predictive standard deviations, of the same shape.
    """

    out_of_fold: OutOfFold
    means: Floats
    deviations: Floats

    def interval(self, level: float) -> tuple[Floats, Floats]:
        """Return bounds `(points, outputs)`, see `OutOfFold.interval`."""
        return self.out_of_fold.interval(level, self.means, self.deviations)
