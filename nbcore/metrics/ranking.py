"""Ranking: whether the predictions that claim to be certain are those with the small errors.

Calibration on average says nothing of it: one and the same deviation for every point can be
perfectly calibrated, and ranks nothing.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike

from nbcore.errors import DataError, OptionError, did_you_mean
from nbcore.metrics.arrays import Floats, gaussian

Risk = Literal["mse", "mae"]


class RankCorrelation(NamedTuple):
    """Spearman correlation of deviation and absolute error, with what it could be.

    Args:
        value: the correlation of the predictions.
        reference: its mean if every error were drawn from N(0, variance) of its own prediction,
            which is the most that perfectly calibrated deviations of this spread reach.
        reference_sd: standard deviation of that value over data sets of this size.
    """

    value: float
    reference: float
    reference_sd: float


def rank_correlation(
    y: ArrayLike, mean: ArrayLike, variance: ArrayLike, *, simulations: int = 200, seed: int = 0
) -> RankCorrelation:
    """Spearman correlation of predicted deviation and |error|, and that of perfect calibration.

    `rho = corr(rank(sd_i), rank(|y_i - mean_i|))`. Even perfectly calibrated deviations do not
    reach 1, since an error is one draw from its distribution; how far they reach depends on how
    much the deviations differ, so that the value alone cannot be judged.

    Args:
        y: measured values, shape `(n,)` or `(n, outputs)`; outputs are ranked together.
        mean: predictive means, same shape.
        variance: predictive variances (noise included), same shape, above 0.
        simulations: how many data sets are simulated for the reference.
        seed: seed of the simulation.

    Raises:
        DataError: all deviations are equal, or all errors are: there is no ranking to judge.
        OptionError: simulations is below 2.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> sd = rng.uniform(0.1, 2.0, size=2000)
        >>> found = rank_correlation(sd * rng.normal(size=2000), np.zeros(2000), sd**2)
        >>> bool(abs(found.value - found.reference) < 4 * found.reference_sd)
        True

    References:
        Rasmussen, Duan, Kulik and Jensen (2023), Journal of Cheminformatics 15, 121.
    """
    y, mean, variance = gaussian(y, mean, variance)
    if simulations < 2:
        raise OptionError(f"simulations is {simulations}; expected at least 2.")
    sd, error = np.sqrt(variance).ravel(), np.abs(y - mean).ravel()
    for name, values in (("deviations", sd), ("absolute errors", error)):
        if np.all(values == values[0]):
            raise DataError(
                f"All {values.size} {name} are {values[0]:.6g}: they rank nothing, and no rank "
                "correlation exists."
            )
    ranks = _centered_ranks(sd)
    rng = np.random.default_rng(seed)
    simulated = [
        _correlation(ranks, _centered_ranks(np.abs(sd * rng.standard_normal(sd.size))))
        for _ in range(simulations)
    ]
    value = _correlation(ranks, _centered_ranks(error))
    return RankCorrelation(value, float(np.mean(simulated)), float(np.std(simulated, ddof=1)))


def risk_coverage_curve(
    y: ArrayLike, mean: ArrayLike, variance: ArrayLike, *, risk: Risk = "mse"
) -> tuple[Floats, Floats]:
    """Mean error of the k most certain predictions, for k = 1 … n.

    `risk_k = 1/k sum of the errors of the k smallest variances`. Points of equal variance come in
    no order; each counts with the mean error of all of them.

    Args:
        y: measured values, shape `(n,)` or `(n, outputs)`; outputs are ranked together.
        mean: predictive means, same shape.
        variance: predictive variances, same shape, above 0.
        risk: `"mse"`, squared errors, or `"mae"`, absolute errors.

    Returns:
        Coverage k/n and risk, float64, shape `(n,)` each.

    Raises:
        OptionError: the risk is unknown.

    Examples:
        >>> risk_coverage_curve([0.0, 2.0], [0.0, 0.0], [1.0, 4.0])
        (array([0.5, 1. ]), array([0., 2.]))

    References:
        Geifman, Uziel and El-Yaniv (2019), ICLR, eq. 1.
    """
    errors, variance = _errors(y, mean, variance, risk)
    count = np.arange(1, errors.size + 1)
    return count / errors.size, np.cumsum(_ordered(errors, variance)) / count


def aurc(y: ArrayLike, mean: ArrayLike, variance: ArrayLike, *, risk: Risk = "mse") -> float:
    """Area under the risk-coverage curve: the mean of its risks; lower is better.

    Args:
        y: measured values, shape `(n,)` or `(n, outputs)`.
        mean: predictive means, same shape.
        variance: predictive variances, same shape, above 0.
        risk: `"mse"` or `"mae"`.

    Raises:
        OptionError: the risk is unknown.

    Examples:
        >>> aurc([0.0, 2.0], [0.0, 0.0], [1.0, 4.0]), aurc([0.0, 2.0], [0.0, 0.0], [4.0, 1.0])
        (1.0, 3.0)

    References:
        Geifman, Uziel and El-Yaniv (2019), ICLR.
    """
    return float(np.mean(risk_coverage_curve(y, mean, variance, risk=risk)[1]))


def ause(y: ArrayLike, mean: ArrayLike, variance: ArrayLike, *, risk: Risk = "mse") -> float:
    """Area between the sparsification curve of the deviations and that of an oracle; 0 is perfect.

    Points are removed, the least certain first, and the error of those that are left is divided by
    that of all: sqrt(mse) or mae. The oracle removes the largest error first. Deviations that say
    nothing about errors give about the area between the oracle and 1.

    Args:
        y: measured values, shape `(n,)` or `(n, outputs)`.
        mean: predictive means, same shape.
        variance: predictive variances, same shape, above 0.
        risk: `"mse"` or `"mae"`.

    Raises:
        DataError: all errors are zero, so that nothing can be compared with them.
        OptionError: the risk is unknown.

    Examples:
        >>> ause([1.0, 2.0, 3.0], [0.0] * 3, [1.0, 2.0, 3.0])
        0.0

    References:
        Ilg et al. (2018), ECCV, section 5.2.
    """
    errors, variance = _errors(y, mean, variance, risk)
    if not errors.any():
        raise DataError("All errors are zero: there is no error that removing points could lower.")
    count = np.arange(1, errors.size + 1)
    curves = [np.cumsum(o) / count for o in (_ordered(errors, variance), np.sort(errors))]
    if risk == "mse":
        curves = [np.sqrt(curve) for curve in curves]
    return float(np.mean(curves[0] - curves[1]) / curves[0][-1])


def _errors(y: ArrayLike, mean: ArrayLike, variance: ArrayLike, risk: str) -> tuple[Floats, Floats]:
    y, mean, variance = gaussian(y, mean, variance)
    if risk not in get_args(Risk):
        raise OptionError(
            f"risk is {' or '.join(get_args(Risk))}, got {risk!r}."
            f"{did_you_mean(risk, get_args(Risk))}"
        )
    errors = np.abs(y - mean).ravel()
    return errors**2 if risk == "mse" else errors, variance.ravel()


def _ordered(errors: Floats, variance: Floats) -> Floats:
    """Return the errors by ascending variance; equal variances share their mean error."""
    _, group, counts = np.unique(variance, return_inverse=True, return_counts=True)
    shared = np.bincount(group, weights=errors) / counts
    return np.repeat(shared, counts)


def _centered_ranks(values: Floats) -> Floats:
    from scipy.stats import rankdata  # noqa: PLC0415  scipy.stats takes long to import

    ranks: Floats = rankdata(values)
    return ranks - ranks.mean()


def _correlation(a: Floats, b: Floats) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
