"""Distance of draws to a reference, in its standard deviations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nbcore.posterior import convergence

_Floats = NDArray[np.float64]

NUM_DIRECTIONS = 64
"""Random directions over which distances of draws are averaged; the same ones every time."""


@dataclass(frozen=True)
class Distance:
    """The distance of draws to a reference, over functions of the weights `(functions,)`.

    With means m and deviations s of the draws, m* and s* of the reference: biases `(m - m*) / s*`
    and ratios `s / s*`, each with its Monte Carlo standard error (of both sides), and the distance
    of the draws themselves.

    Args:
        names: names of the functions.
        bias: biases of the means, in deviations of the reference.
        bias_error: their standard errors.
        ratio: deviations over those of the reference.
        ratio_error: their standard errors.
        sliced: sliced Wasserstein distance to the draws of the reference, in its deviations.
        sliced_error: the same distance between two halves of the reference's draws: less cannot
            be told from 0.

    Examples:
        >>> import nbcore as nb
        >>> reference = nb.references.load("linear")
        >>> posterior = nb.sample(
        ...     reference.target, "laplace", key=0, num_warmup=0, num_samples=500, progress=False
        ... )
        >>> found = reference.distance(posterior)  # exact here
        >>> abs(found.mean_bias) < 0.2, abs(found.deviation_error) < 0.2
        (True, True)

    References:
        Bonneel, Rabin, Peyré & Pfister (2015), "Sliced and Radon Wasserstein barycenters of
        measures", equation 6, for the sliced distance.
    """

    names: tuple[str, ...]
    bias: _Floats
    bias_error: _Floats
    ratio: _Floats
    ratio_error: _Floats
    sliced: float
    sliced_error: float

    @property
    def mean_bias(self) -> float:
        """Root mean square bias, in deviations of the reference."""
        return float(np.sqrt(np.mean(self.bias**2)))

    @property
    def mean_bias_error(self) -> float:
        """Root mean square standard error: about the bias that exact draws of this ESS have."""
        return float(np.sqrt(np.mean(self.bias_error**2)))

    @property
    def deviation_error(self) -> float:
        """Root mean square of the logarithms of the ratios: 0.1 is about 10 %."""
        return float(np.sqrt(np.mean(np.log(np.maximum(self.ratio, 1e-12)) ** 2)))

    @property
    def deviation_error_error(self) -> float:
        """Root mean square standard error of the ratios."""
        return float(np.sqrt(np.mean(self.ratio_error**2)))

    @property
    def worst(self) -> str:
        """Name of the function whose bias is the largest."""
        return self.names[int(np.argmax(np.abs(self.bias)))]

    def __str__(self) -> str:
        """Return the distance in words."""
        return (
            f"bias {self.mean_bias:.3f} ± {self.mean_bias_error:.3f} standard deviations of the "
            f"reference, worst of {self.worst}; deviations off by {self.deviation_error:.3f} ± "
            f"{self.deviation_error_error:.3f}; sliced distance {self.sliced:.3f} "
            f"({self.sliced_error:.3f} between halves of the reference)"
        )


def distance(
    values: _Floats,
    names: tuple[str, ...],
    mean: _Floats,
    deviation: _Floats,
    errors: tuple[_Floats, _Floats],
    draws: _Floats,
) -> Distance:
    """Return the distance of draws to a reference.

    Args:
        values: draws of the functions `(chain, draw, functions)`.
        names: names of the functions.
        mean: means of the reference.
        deviation: its deviations, above 0.
        errors: Monte Carlo standard errors of both.
        draws: draws of the reference `(n, functions)`.
    """
    found, own = values.mean(axis=(0, 1)), values.std(axis=(0, 1))
    mean_error, deviation_error = errors
    # The error of a deviation is that of squares, since predictions are not normal.
    squares = convergence.mcse_mean((values - found) ** 2) / (2 * np.maximum(own, 1e-300))
    scaled = (values.reshape(-1, len(names)) - mean) / deviation
    known = (draws - mean) / deviation
    return Distance(
        names,
        (found - mean) / deviation,
        np.hypot(convergence.mcse_mean(values), mean_error) / deviation,
        own / deviation,
        np.hypot(squares, deviation_error) / deviation,
        sliced(scaled, known),
        sliced(known[::2], known[1::2]),
    )


def sliced(first: _Floats, second: _Floats) -> float:
    """Return the mean distance of sorted projections onto random directions.

    Args:
        first: draws `(n, functions)`.
        second: other draws `(m, functions)`.

    Examples:
        >>> x = np.random.default_rng(0).normal(size=(400, 1))
        >>> round(sliced(x, x), 3), round(sliced(x, x + 2), 3)
        (0.0, 2.0)
    """
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(first.shape[1], NUM_DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    levels = (np.arange(200) + 0.5) / 200
    one, other = (np.quantile(x @ directions, levels, axis=0) for x in (first, second))
    return float(np.mean(np.abs(one - other)))


def bias_by_draw(values: _Floats, mean: _Floats, deviation: _Floats) -> _Floats:
    """Return the root mean square bias of the first 1, 2, ... draws of all chains `(draw,)`.

    Args:
        values: draws of the functions `(chain, draw, functions)`.
        mean: means of the reference.
        deviation: its deviations.

    Examples:
        >>> bias_by_draw(np.array([[[1.0], [-1.0], [3.0]]]), np.zeros(1), np.ones(1)).tolist()
        [1.0, 0.0, 1.0]
    """
    pooled = values.mean(axis=0)
    means = np.cumsum(pooled, axis=0) / np.arange(1, len(pooled) + 1)[:, None]
    return np.sqrt(np.mean(((means - mean) / deviation) ** 2, axis=1))
