"""Comparison of methods over repetitions: paired differences, and ranks over several data sets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbcore.errors import DataError, OptionError, ShapeError

POWER = 0.8
"""Probability of detecting the measured difference at `num_needed` pairs."""
MAX_LEVEL = 1 - 1e-12


@dataclass(frozen=True)
class PairedDifference:
    """The mean difference of two methods that were measured on the same seeds or data sets.

    Args:
        mean: mean of first minus second.
        low: lower end of its interval.
        high: upper end.
        num_pairs: number of pairs n.
        num_needed: about how many pairs would detect a difference of this size with probability
            0.8, if the differences vary as they do here; infinite if their mean is 0.
    """

    mean: float
    low: float
    high: float
    num_pairs: int
    num_needed: float

    @property
    def is_detectable(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.low <= 0 <= self.high

    def __str__(self) -> str:
        """Return the difference in words."""
        interval = f"{self.mean:.3g} (95 % interval {self.low:.3g} to {self.high:.3g})"
        if self.is_detectable:
            return interval
        needed = f"about {self.num_needed:,.0f}" if math.isfinite(self.num_needed) else "no number"
        return f"{interval}: not detectable at {self.num_pairs} pairs; would take {needed}"


def paired_difference(
    first: ArrayLike, second: ArrayLike, *, num_resamples: int = 9999, seed: int = 0
) -> PairedDifference:
    """Compare two methods pair by pair, with an interval of 95 % for the mean difference.

    The interval holds that of Student's t and the expanded percentile interval of the bootstrap,
    whose tails are `Phi(-sqrt(n / (n - 1)) t)` with the quantile t of Student's distribution. The
    bootstrap alone, which never leaves the range of the differences, is too narrow for few pairs:
    5 differences have one sign by chance in 1 of 16 cases.

    Args:
        first: measurements of one method `(n,)`, such as its RMSE for each seed.
        second: those of another for the same seeds.
        num_resamples: bootstrap samples.
        seed: seed of the bootstrap.

    Raises:
        ShapeError: the measurements are not pairs.
        DataError: fewer than 2 pairs, or a value is not finite.

    Examples:
        >>> print(paired_difference([0.9, 0.8, 0.7, 0.9], [0.5, 0.4, 0.4, 0.5]))
        0.375 (95 % interval 0.295 to 0.455)

    References:
        Hesterberg (2015), "What teachers should know about the bootstrap", The American
        Statistician 69, section 5.3.
    """
    from scipy import stats  # noqa: PLC0415  scipy.stats takes long to import

    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ShapeError(f"Pairs are two arrays (n,) of one length, got {a.shape} and {b.shape}.")
    count = len(a)
    if count < 2:
        raise DataError(f"A paired difference needs at least 2 pairs, got {count}. Run more seeds.")
    difference = a - b
    if not np.all(np.isfinite(difference)):
        raise DataError(
            "A measurement is not finite. Leave out the pairs in which a method failed, and say so."
        )
    mean, deviation = float(difference.mean()), float(difference.std(ddof=1))
    quantile = float(stats.t.ppf(0.975, count - 1))
    half, wide = quantile * deviation / math.sqrt(count), quantile * math.sqrt(count / (count - 1))
    found = stats.bootstrap(
        (difference,), np.mean, n_resamples=num_resamples, method="percentile",
        confidence_level=min(1 - 2 * float(stats.norm.cdf(-wide)), MAX_LEVEL),
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    quantiles = float(stats.norm.ppf(0.975) + stats.norm.ppf(POWER))
    needed = math.inf if mean == 0 else max(2.0, math.ceil((quantiles * deviation / mean) ** 2))
    low, high = min(float(found.low), mean - half), max(float(found.high), mean + half)
    return PairedDifference(mean, low, high, count, needed)


@dataclass(frozen=True, eq=False)
class MeanRanks:
    """Mean ranks of methods over data sets.

    Args:
        ranks: mean rank of each method `(methods,)`; 1 is the best.
        critical_difference: mean ranks that differ by less are not told apart at 5 %.
        p_value: of the Friedman test that all methods are alike.
        num_blocks: number of data sets.
    """

    ranks: NDArray[np.float64]
    critical_difference: float
    p_value: float
    num_blocks: int

    def tied_with_best(self) -> NDArray[np.bool_]:
        """Return which methods cannot be told from the best one `(methods,)`; all if p > 5 %."""
        near = self.ranks - self.ranks.min() < self.critical_difference
        return near | (not self.p_value <= 0.05)


def mean_ranks(losses: ArrayLike) -> MeanRanks:
    """Rank methods on each data set, and average; ties share their mean rank.

    Two mean ranks of k methods over n data sets differ at 5 % if they are
    `q sqrt(k (k + 1) / (6 n))` apart, with q the quantile of the studentized range over sqrt(2).
    Seeds of one data set are not independent data sets: average them first.

    Args:
        losses: one value for each data set and method `(n, methods)`; lower is better.

    Raises:
        ShapeError: the values are no table.
        OptionError: fewer than 3 methods, for which `paired_difference` is the comparison, or
            fewer than 2 data sets.
        DataError: a value is not finite.

    Examples:
        >>> found = mean_ranks([[0.1, 0.2, 0.3]] * 8)
        >>> found.ranks.tolist(), found.tied_with_best().tolist()
        ([1.0, 2.0, 3.0], [True, True, False])

    References:
        Demšar (2006), "Statistical comparisons of classifiers over multiple data sets", JMLR 7.
    """
    from scipy import stats  # noqa: PLC0415  scipy.stats takes long to import

    table = np.asarray(losses, np.float64)
    if table.ndim != 2:
        raise ShapeError(f"losses is a table (data sets, methods), got the shape {table.shape}.")
    blocks, methods = table.shape
    if methods < 3 or blocks < 2:
        raise OptionError(
            f"Mean ranks need at least 3 methods and 2 data sets, got {methods} and {blocks}. Two "
            "methods: nb.metrics.paired_difference(first, second)"
        )
    if not np.all(np.isfinite(table)):
        raise DataError("A loss is not finite. Leave out data sets in which a method failed.")
    ranks = stats.rankdata(table, axis=1)
    is_alike = bool(np.all(ranks == ranks[:, :1]))  # the statistic of Friedman is 0 / 0
    p_value = 1.0 if is_alike else float(stats.friedmanchisquare(*table.T).pvalue)
    quantile = float(stats.studentized_range.ppf(0.95, methods, np.inf)) / math.sqrt(2)
    critical = quantile * math.sqrt(methods * (methods + 1) / (6 * blocks))
    return MeanRanks(ranks.mean(axis=0), critical, p_value, blocks)
