"""Estimators of convergence and of effective sample size: R-hat, ESS, Monte Carlo error, E-BFMI.

Draws have leading axes `(chain, draw)`. Each parameter on the trailing axes is treated separately,
in float64, and results have the trailing shape. They agree with those of ArviZ in all but two
cases: a single chain has an R-hat (of its two halves), and any draw that is not finite gives NaN.
Fewer than 4 draws give NaN. A parameter that never moves has R-hat NaN, and as many effective draws
as draws.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbcore.errors import DataError, ShapeError

_Floats = NDArray[np.float64]

MIN_DRAWS = 4
_AT_ONCE = 2**20  # draws in a block: bounds the memory of sorting and FFT


def r_hat(draws: ArrayLike) -> _Floats:
    """Rank-normalized split R-hat: 1 if chains agree, above 1.01 if they do not yet.

    Chains are cut into halves of n draws, and draws replaced by the normal scores of their ranks:
    `R = sqrt((n - 1)/n + var(means of halves)/mean(variances of halves))`. The result is the
    larger R of the draws (do locations differ?) and their distances to the median (do scales?).

    Args:
        draws: shape `(chain, draw, ...)`.

    Returns:
        Shape `(...)`.

    Raises:
        ShapeError: the chain or draw axis is missing.
        DataError: draws are not real numbers.

    Examples:
        >>> chains = np.random.default_rng(0).normal(size=(4, 1000))
        >>> apart = chains + [[0], [0], [0], [5]]
        >>> bool(r_hat(chains) < 1.01), bool(r_hat(apart) > 1.5)
        (True, True)

    References:
        Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Bayesian Analysis 16, section 4.
    """
    return _for_each_parameter(_r_hat, draws)


def ess_bulk(draws: ArrayLike) -> _Floats:
    """Effective sample size in the bulk: the ESS of the normal scores of the ranks.

    Args:
        draws: shape `(chain, draw, ...)`.

    Returns:
        Shape `(...)`.

    Raises:
        ShapeError: the chain or draw axis is missing.
        DataError: draws are not real numbers.

    Examples:
        >>> independent = np.random.default_rng(0).normal(size=(4, 1000, 2))
        >>> ess_bulk(independent) > 3000
        array([ True,  True])

    References:
        Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Bayesian Analysis 16, section 4.
    """
    return _for_each_parameter(lambda block: _ess(_normal_scores(_halves(block))), draws)


def ess_tail(draws: ArrayLike) -> _Floats:
    """Effective sample size in the tails: the smaller ESS of the 5 % and 95 % quantiles.

    Args:
        draws: shape `(chain, draw, ...)`.

    Returns:
        Shape `(...)`.

    Raises:
        ShapeError: the chain or draw axis is missing.
        DataError: draws are not real numbers.

    Examples:
        >>> independent = np.random.default_rng(0).normal(size=(4, 1000, 2))
        >>> ess_tail(independent) > 3000
        array([ True,  True])

    References:
        Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Bayesian Analysis 16, section 4.3.
    """
    return _for_each_parameter(_ess_tail, draws)


def ess_mean(draws: ArrayLike) -> _Floats:
    """Effective sample size of the mean: independent draws that would estimate it as accurately.

    `N/(1 + 2·Σ_t ρ_t)` for N draws with autocorrelation ρ_t at lag t, at most `N·log10(N)`.

    Args:
        draws: shape `(chain, draw, ...)`.

    Returns:
        Shape `(...)`.

    Raises:
        ShapeError: the chain or draw axis is missing.
        DataError: draws are not real numbers.

    Examples:
        >>> repeated = np.random.default_rng(0).normal(size=(4, 1000)).repeat(2, axis=1)
        >>> bool(3500 < ess_mean(repeated) < 4500)
        True

    References:
        Geyer (1992), Statistical Science 7, section 3.3 (truncation of the sum over lags).
    """
    return _for_each_parameter(lambda block: _ess(_halves(block)), draws)


def mcse_mean(draws: ArrayLike) -> _Floats:
    """Monte Carlo standard error of the mean, `sd/sqrt(ess_mean)`, in the units of the draws.

    Args:
        draws: shape `(chain, draw, ...)`.

    Returns:
        Shape `(...)`.

    Raises:
        ShapeError: the chain or draw axis is missing.
        DataError: draws are not real numbers.

    Examples:
        >>> independent = np.random.default_rng(0).normal(size=(4, 2500))
        >>> round(float(mcse_mean(independent)), 2)
        0.01
    """

    def estimate(block: _Floats) -> _Floats:
        return np.std(block, axis=(1, 2), ddof=1) / np.sqrt(_ess(_halves(block)))

    return _for_each_parameter(estimate, draws)


def e_bfmi(energy: ArrayLike) -> _Floats:
    """Energy fraction of missing information of each chain, `mean((E_t - E_(t-1))²)/var(E)`.

    Below 0.3, momentum changes too little from step to step to reach all energies.

    Args:
        energy: Hamiltonian after each step, shape `(chain, draw)`.

    Returns:
        Shape `(chain,)`; NaN for fewer than 2 draws, or if an energy is missing.

    Raises:
        ShapeError: the shape is not `(chain, draw)`.

    Examples:
        >>> e_bfmi([[0.0, 1.0, 0.0, 1.0]])
        array([3.])

    References:
        Betancourt (2016), arXiv:1604.00695, section 3.
    """
    energies = np.asarray(energy, dtype=np.float64)
    if energies.ndim != 2:
        raise ShapeError(
            f"energy has shape {energies.shape}; expected (chain, draw). "
            "For one chain type energy[None]."
        )
    if energies.shape[1] < 2:
        return np.full(len(energies), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.mean(np.diff(energies, axis=1) ** 2, axis=1) / np.var(energies, axis=1, ddof=1)


def checked_draws(draws: ArrayLike) -> NDArray[Any]:
    """Return draws as an array with chain and draw axes of real numbers.

    Raises:
        ShapeError: the chain or draw axis is missing.
        DataError: draws are not real numbers.
    """
    values = np.asarray(draws)
    if values.ndim < 2 or 0 in values.shape[:2]:
        raise ShapeError(
            f"draws have shape {values.shape}; expected (chain, draw, ...), both at least 1. "
            "For one chain type draws[None]."
        )
    if not np.can_cast(values.dtype, np.float64, casting="same_kind"):
        raise DataError(f"draws are {values.dtype}; expected real numbers.")
    return values


def _for_each_parameter(estimate: Callable[[_Floats], _Floats], draws: ArrayLike) -> _Floats:
    """Apply `estimate`, `(parameters, chain, draw) -> (parameters,)`, to blocks of parameters."""
    values = checked_draws(draws)
    num_chains, num_draws, *shape = values.shape
    result = np.full(shape, np.nan).reshape(-1)
    if num_draws < MIN_DRAWS:
        return result.reshape(shape)
    columns = values.reshape(num_chains, num_draws, result.size)
    size = max(1, _AT_ONCE // (num_chains * num_draws))
    for start in range(0, result.size, size):
        block = np.moveaxis(columns[:, :, start : start + size], 2, 0)
        block = np.ascontiguousarray(block, dtype=np.float64)
        finite = np.isfinite(block).all(axis=(1, 2))
        with np.errstate(divide="ignore", invalid="ignore"):
            result[start : start + size][finite] = estimate(block[finite])
    return result.reshape(shape)


def _halves(block: _Floats) -> _Floats:
    """Cut each chain in two; of an odd number of draws the middle one is left out."""
    half = block.shape[2] // 2
    return np.concatenate([block[:, :, :half], block[:, :, -half:]], axis=1)


def _normal_scores(block: _Floats) -> _Floats:
    """Φ⁻¹((rank - 3/8)/(N + 1/4)) over all chains together; ties share their mean rank."""
    flat = block.reshape(len(block), -1)
    count = flat.shape[1]
    order = np.argsort(flat, axis=1)
    ordered = np.take_along_axis(flat, order, axis=1)
    is_first = np.ones(flat.shape, dtype=np.bool_)  # of a run of ties
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.flatnonzero(is_first)
    ties = np.diff(first, append=flat.size)
    ranked = np.repeat(_score_table(count)[2 * (first % count) + ties - 1], ties)
    scores = np.empty_like(flat)
    np.put_along_axis(scores, order, ranked.reshape(flat.shape), axis=1)
    return scores.reshape(block.shape)


@functools.lru_cache(maxsize=4)
def _score_table(count: int) -> _Floats:
    """Return the normal scores of the ranks 1, 1.5, 2 … count: means of tied ranks are halves."""
    inverse = NormalDist().inv_cdf
    ranks = np.arange(2, 2 * count + 1) / 2
    return np.array([inverse(p) for p in ((ranks - 3 / 8) / (count + 1 / 4)).tolist()])


def _r_hat(block: _Floats) -> _Floats:
    halves = _halves(block)
    ordered = np.sort(halves.reshape(len(halves), -1), axis=1)  # faster than np.median
    middle = (ordered.shape[1] - 1) // 2
    median = np.mean(ordered[:, middle : middle + 2], axis=1)[:, None, None]  # an even number
    location, scale = (_r(_normal_scores(values)) for values in (halves, np.abs(halves - median)))
    return np.fmax(location, scale)  # distances are all equal, so their R is NaN, for draws of ±1


def _r(block: _Floats) -> _Floats:
    n = block.shape[2]
    between = n * np.var(np.mean(block, axis=2), axis=1, ddof=1)
    within = np.mean(np.var(block, axis=2, ddof=1), axis=1)
    return np.sqrt((between / within + n - 1) / n)


def _ess_tail(block: _Floats) -> _Floats:
    low, high = np.quantile(block, (0.05, 0.95), axis=(1, 2), keepdims=True)
    below = [_ess(_halves((block <= q).astype(np.float64))) for q in (low, high)]
    return np.minimum(below[0], below[1])


def _ess(block: _Floats) -> _Floats:
    """N/(1 + 2·Σ ρ_t), from the autocorrelation that all chains share."""
    num_chains, n = block.shape[1:]
    total = num_chains * n
    means = np.mean(block, axis=2, keepdims=True)
    length = 1 << (2 * n - 1).bit_length()  # padded, so that the FFT does not wrap around
    spectrum = np.fft.rfft(block - means, n=length, axis=2)
    power = np.mean(spectrum.real**2 + spectrum.imag**2, axis=1)
    covariance = np.fft.irfft(power, n=length, axis=1)[:, :n] / n
    variance = covariance[:, :1] + np.var(means[:, :, 0], axis=1, ddof=1, keepdims=True)
    rho = 1 - (covariance[:, :1] * n / (n - 1) - covariance) / variance
    rho[:, 0] = 1
    tau = np.maximum(_autocorrelation_time(rho), 1 / np.log10(total))
    is_constant = np.max(block, axis=(1, 2)) == np.min(block, axis=(1, 2))
    return np.where(is_constant, total, total / tau)


def _autocorrelation_time(rho: _Floats) -> _Floats:
    """Return 1 + 2·Σ ρ_t over Geyer's initial monotone sequence.

    In theory ρ_2k + ρ_(2k+1) is positive and falls with k. The sum ends at the first pair that is
    not positive, and no pair counts for more than one before it.
    """
    num_pairs = max((rho.shape[1] - 3) // 2, 0) + 1
    even, odd = rho[:, 0 : 2 * num_pairs : 2], rho[:, 1 : 2 * num_pairs : 2]
    pairs = even + odd
    ended = pairs <= 0
    ended[:, -1] = True
    stop = np.argmax(ended, axis=1)[:, None]
    monotone = np.minimum.accumulate(pairs, axis=1)
    before = np.sum(np.where(np.arange(num_pairs) < stop, monotone, 0), axis=1)
    # The last even lag counts once: it lowers the variance of antithetic chains' estimates
    last, last_pair = (np.take_along_axis(a, stop, axis=1)[:, 0] for a in (even, pairs))
    return -1 + 2 * before + np.where((last > 0) | (last_pair >= 0), last, 0)
