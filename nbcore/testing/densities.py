"""Densities compared with their samples, in any number of dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nbcore.testing.failure import require

Floats = NDArray[np.float64]
LogDensity = Callable[[Floats], Floats]
"""Log density at points `(m, dimensions)`, `(m,)`."""

SAMPLES = 4000
LEAST_PROBABILITY = 1e-5
"""A Kolmogorov-Smirnov distance that is less probable than this is a failure."""
STANDARD_ERRORS = 5.0
_NODES = 0.1 * np.arange(-150, 151)


def require_followed(
    log_density: LogDensity,
    samples: Floats,
    what: str,
    cause: str,
    values: Sequence[float] | None = None,
) -> None:
    """Raise a ConformanceError unless samples follow a density, coordinate by coordinate.

    Args:
        log_density: joint log density, up to a constant.
        samples: samples `(n, dimensions)`.
        what: the rule, which the number of the coordinate is added to.
        cause: what commonly breaks it.
        values: the values that a discrete coordinate takes; `None` is the real line.
    """
    from scipy.special import kolmogorov  # noqa: PLC0415  scipy takes long to import

    n, dimensions = samples.shape
    for coordinate in range(dimensions):
        ranks = np.sort(ranks_given_others(log_density, samples, coordinate, values))
        distance = max(np.max(np.arange(1, n + 1) / n - ranks), np.max(ranks - np.arange(n) / n))
        probability = float(kolmogorov(np.sqrt(n) * distance))
        require(
            probability > LEAST_PROBABILITY,
            f"{what} (coordinate {coordinate} of {dimensions}, given the others)",
            measured=f"a Kolmogorov-Smirnov distance of {distance:.3f} over {n} samples, of "
            f"probability {probability:.1g}; the density has a share of {np.median(ranks):.3f} "
            "below their median",
            limit=f"a probability above {LEAST_PROBABILITY:g}",
            cause=cause,
        )


def ranks_given_others(
    log_density: LogDensity,
    samples: Floats,
    coordinate: int,
    values: Sequence[float] | None = None,
) -> Floats:
    """Return P(X_j < x_j | the other coordinates) for each sample, uniform if these are exact.

    The real line is integrated over x_j + spread / 10 sinh(u), which is finest at the sample. The
    probability of x_j itself counts with a random share, so that ranks of discrete values are
    uniform as well.

    Args:
        log_density: joint log density, up to a constant.
        samples: samples `(n, dimensions)`.
        coordinate: the coordinate j.
        values: the values that it takes; `None` is the real line.

    References:
        Czado, Gneiting & Held (2009), "Predictive model assessment for count data", section 2.1,
        for the random share.
    """
    column = samples[:, coordinate, None]
    if values is None:
        low, high = np.percentile(column, [16, 84])
        points, weights = column + (high - low) / 20 * np.sinh(_NODES), np.cosh(_NODES)
    else:
        points = np.broadcast_to(np.asarray(values, float), (len(column), len(values)))
        weights = np.ones(len(values))
    moved = np.repeat(samples, points.shape[1], axis=0)
    moved[:, coordinate] = points.ravel()
    each = log_density(moved).reshape(points.shape)
    each = np.where(np.isnan(each), -np.inf, each)
    mass = np.exp(each - each.max(axis=1, keepdims=True)) * weights
    share = np.random.default_rng(0).uniform(size=column.shape)
    below = np.sum(mass * ((points < column) + share * (points == column)), axis=1)
    return below / mass.sum(axis=1)


def require_normalized(
    log_density: LogDensity,
    samples: Floats,
    what: str,
    cause: str,
    values: Sequence[float] | None = None,
) -> None:
    """Raise a ConformanceError unless a density integrates, or sums, to 1.

    With samples x of the density and a narrower normal density q, the mean of q(x) / p(x) is one
    over the integral of p.

    Args:
        log_density: log density p.
        samples: samples of it `(n, dimensions)`.
        what: the rule.
        cause: what commonly breaks it.
        values: the values of the only coordinate, if it is discrete.

    References:
        Gelfand & Dey (1994), "Bayesian model choice: asymptotics and exact calculations",
        equation 20.
    """
    if values is not None:
        integral = float(np.exp(log_density(np.asarray(values, float)[:, None])).sum())
        error = 1e-3
    else:
        low, center, high = np.percentile(samples, [16, 50, 84], axis=0)
        spread = (high - low) / 4
        log_q = -0.5 * ((samples - center) / spread) ** 2 - np.log(spread * np.sqrt(2 * np.pi))
        ratios = np.exp(log_q.sum(axis=1) - log_density(samples))
        integral = 1 / float(ratios.mean())
        error = STANDARD_ERRORS * float(ratios.std() / ratios.mean() / np.sqrt(len(ratios)))
    require(
        abs(integral - 1) <= error,
        what,
        measured=f"an integral of {integral:.4g}",
        limit=f"1, within {error:.2g}",
        cause=cause,
    )
