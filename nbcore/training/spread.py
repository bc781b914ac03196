"""The part of the variance between draws that errors on unseen examples bear out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
STEPS = 30
"""Shares of the variance that are compared at a time."""
PASSES = 3
"""Each looks between the neighbors of the best share of the one before."""
HALVINGS = 50
MAX_SHARE = 0.99
"""Some noise is left, or one tiny variance of draws decides."""


@dataclass(frozen=True, eq=False)
class Spread:
    """Noise, and a factor of the variance of draws, with which a network predicts best.

    Args:
        noise: variance of y given the weights `(outputs,)`.
        scale: factor of the variance of the draws `(outputs,)`, at most 1.
    """

    noise: Floats
    scale: Floats

    @staticmethod
    def of(residuals: Floats, within: Floats) -> Spread:
        r"""Return the most likely noise and scale.

        Residuals r_i on unseen examples are normal of mean 0 and variance `n + s w_i`, with w_i the
        variance of the draws there. With `h_i = 1 - q + q w_i / mean(w)` and `c = mean(r_i^2 /
        h_i)`, the variance `c h_i` is the most likely one of those that give w the share q, so
        that q alone is searched for: `n = (1 - q) c` and `s = q c / mean(w)`. No network is made
        less certain than its posterior: s is at most 1, and there the noise is `mean(r^2) -
        mean(w)`, as without a scale (0 at least).

        Args:
            residuals: errors on unseen examples `(examples, outputs)`; NaN if y is missing.
            within: variances of the draws there, of the same shape.

        Examples:
            >>> rng = np.random.default_rng(0)
            >>> w = rng.exponential(size=(4000, 1))
            >>> found = Spread.of(np.sqrt(0.5 + 0.2 * w) * rng.normal(size=w.shape), w)
            >>> found.noise.round(1), found.scale.round(1)
            (array([0.5]), array([0.2]))
        """
        found = [
            _of_output(r[~np.isnan(r)], w[~np.isnan(r)])
            for r, w in zip(residuals.T, within.T, strict=True)
        ]
        return Spread(*np.array(found).reshape(-1, 2).T)


def _of_output(residuals: Floats, within: Floats) -> tuple[float, float]:
    """Return noise and scale of one output."""
    squared, mean = residuals**2, within.mean() if within.size else 0.0
    if not mean > 0 or not squared.any():
        return float(squared.mean()) if squared.size else 0.0, 1.0
    relative = within / mean

    def variance(share: float) -> Floats:
        shape = 1 - share + share * relative
        return shape * np.mean(squared / shape)

    def scale(share: float) -> float:
        return share * float(np.mean(squared / (1 - share + share * relative))) / mean

    most = _last_below(1.0, scale, MAX_SHARE)
    share, ends = most, (0.0, most)
    for _ in range(PASSES):
        shares = np.linspace(*ends, STEPS + 1)
        best = int(np.argmin([np.mean(np.log(variance(q))) for q in shares]))
        share = float(shares[best])
        ends = shares[max(best - 1, 0)], shares[min(best + 1, STEPS)]
    if share == most < MAX_SHARE:
        return max(float(squared.mean() - mean), 0.0), 1.0
    found = scale(share)
    return found * mean * (1 - share) / share if share else float(squared.mean()), found


def _last_below(limit: float, rising: Callable[[float], float], end: float) -> float:
    """Return the largest number in (0, end] at which a rising function is at most `limit`."""
    if rising(end) <= limit:
        return end
    low, high = 0.0, end
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) <= limit else (low, middle)
    return low
