"""Adaptation during warmup: step sizes and whitenings as small states, for any sampler.

Both are pytrees of arrays that a sampler keeps in its own state and updates in `warmup`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from nbcore.common.matrices import eigh
from nbcore.targets.curvature import Whitening

GAMMA = 0.05
DELAY = 10
DECAY = 0.75
FLOOR = 1e-6


class DualAveraging(NamedTuple):
    r"""A step size that is adapted until the mean acceptance rate is the wanted one.

    With x = log step size, a_i the acceptance rates, and d the wanted rate, update t gives

    x_{t+1} = mu - sqrt(t) / gamma * 1 / (t + t0) * sum_{i <= t} (d - a_i),
    xbar_{t+1} = t^-k x_{t+1} + (1 - t^-k) xbar_t,

    with mu = log(10 step_size), gamma = 0.05, t0 = 10, k = 0.75. Warmup takes steps of
    `step_size`, and sampling of `average`; without an update both are the first step size.

    Args:
        log_step: x.
        log_average: xbar.
        log_center: mu.
        total_error: sum of d - a_i.
        num_updates: t.

    Examples:
        >>> step = DualAveraging.start(0.1)
        >>> for _ in range(200):  # of a sampler that accepts a step e at the rate exp(-e)
        ...     step = step.update(jnp.exp(-step.step_size), wanted=0.8)
        >>> print(f"{jnp.exp(-step.average):.2f}")
        0.80

    References:
        Hoffman & Gelman (2014), "The No-U-Turn sampler", equation 6; Nesterov (2009),
        "Primal-dual subgradient methods for convex problems".
    """

    log_step: jax.Array
    log_average: jax.Array
    log_center: jax.Array
    total_error: jax.Array
    num_updates: jax.Array

    @staticmethod
    def start(step_size: Any) -> DualAveraging:
        """Return the state before the first update.

        Args:
            step_size: first step size, a scalar of any floating-point type, which is kept.
        """
        size = jnp.asarray(step_size, jnp.result_type(float, step_size))
        x, zero = jnp.log(size), jnp.zeros_like(size)
        return DualAveraging(x, x, jnp.log(10 * size), zero, zero)

    @property
    def step_size(self) -> jax.Array:
        """Step size of the next step of warmup."""
        return jnp.exp(self.log_step)

    @property
    def average(self) -> jax.Array:
        """Step size after warmup: the weighted average, on a log scale, of those so far."""
        return jnp.exp(self.log_average)

    def update(self, acceptance_rate: Any, wanted: float, restart: Any = False) -> DualAveraging:
        """Return the state after a step.

        Args:
            acceptance_rate: of the step, within [0, 1]; NaN counts as 0.
            wanted: target of the mean acceptance rate.
            restart: whether to begin anew at the average, as when the scales of the coordinates
                have changed (see `warmup_windows`); may be traced.
        """
        kind = self.log_step.dtype
        rate = jnp.clip(jnp.nan_to_num(jnp.asarray(acceptance_rate, kind)), 0, 1)
        t, total = self.num_updates + 1, self.total_error + (wanted - rate)
        x = self.log_center - jnp.sqrt(t) / GAMMA * total / (t + DELAY)
        weight = t**-DECAY
        average = weight * x + (1 - weight) * self.log_average
        moved = DualAveraging(x, average, self.log_center, total, t)
        anew = DualAveraging.start(moved.average)
        return jax.tree.map(lambda new, old: jnp.where(restart, new, old), anew, moved)


class Covariance(NamedTuple):
    """A running covariance of flat vectors `(d,)`.

    Args:
        mean: `(d,)`.
        total: sum of squares and products of deviations from the mean, `(d, d)`, or of squares
            alone, `(d,)`.
        num_vectors: number of vectors.

    References:
        Welford (1962), "Note on a method for calculating corrected sums of squares and products".
    """

    mean: jax.Array
    total: jax.Array
    num_vectors: jax.Array

    def update(self, x: jax.Array) -> Covariance:
        """Return the covariance with one more vector."""
        n = self.num_vectors + 1
        before = x - self.mean
        mean = self.mean + before / n
        after = x - mean
        products = jnp.outer(before, after) if self.total.ndim == 2 else before * after
        return Covariance(mean, self.total + products, n)

    @property
    def unbiased(self) -> jax.Array:
        """The estimate, of the shape of `total`; 0 for a single vector."""
        return self.total / jnp.maximum(self.num_vectors - 1, 1)


class AdaptiveWhitening(NamedTuple):
    r"""A whitening by the positions and gradients of a chain in a window of warmup.

    With C the covariance of the n positions of a window, regularized as in Stan, and G that of
    the gradients of the log density there, the factor F of the whitening has

    F F^T = C without gradients, and F F^T G F F^T = C with gradients,

    at the end of the window: the covariance that minimizes the Fisher divergence. For a normal
    density the latter is exact after d + 1 different positions, however correlated these are,
    while C needs many independent ones; use it wherever there are gradients. The first factor is
    the identity.

    Args:
        factor: `(d, d)`, or `(d,)` for a diagonal.
        positions: their covariance in this window.
        gradients: their covariance in this window, or None.

    Examples:
        >>> draws = jnp.array([1.0, 10.0]) * jax.random.normal(jax.random.key(0), (50, 2))
        >>> whitening = AdaptiveWhitening.start(draws[0], dense=False)
        >>> for n, x in enumerate(draws):
        ...     whitening = whitening.update(x, -x / jnp.array([1.0, 100.0]), True, n == 49)
        >>> whitening.factor.round(3).tolist()
        [1.0, 10.0]

    References:
        Stan Development Team, "Stan reference manual", HMC algorithm parameters (regularization);
        Seyboldt, Carlson & Carpenter (2026), "Preconditioning Hamiltonian Monte Carlo by
        minimizing Fisher divergence".
    """

    factor: jax.Array
    positions: Covariance
    gradients: Covariance | None

    @staticmethod
    def start(
        position: Any, *, dense: bool = True, use_gradients: bool = True
    ) -> AdaptiveWhitening:
        """Return the identity, before the first window.

        Args:
            position: any position, for size and type.
            dense: whether the factor is a matrix, else a diagonal.
            use_gradients: whether `update` is given gradients.
        """
        flat = jax.flatten_util.ravel_pytree(position)[0]
        factor = jnp.eye(flat.size, dtype=flat.dtype) if dense else jnp.ones_like(flat)
        nothing = _nothing(factor)
        return AdaptiveWhitening(factor, nothing, nothing if use_gradients else None)

    def at(self, position: Any) -> Whitening:
        """Return the whitening around a position, whose coordinates are 0."""
        return Whitening(jax.flatten_util.ravel_pytree(position)[0], self.factor)

    def update(self, position: Any, gradient: Any, inside: Any, ends: Any) -> AdaptiveWhitening:
        """Return the state after a step, given its row of `warmup_windows`.

        Args:
            position: position after the step.
            gradient: gradient of the log density there, with the structure of the position; None
                without gradients.
            inside: whether the step is in a window; may be traced.
            ends: whether it ends one, so that the factor is computed anew; may be traced.
        """

        def seen(total: Covariance, value: Any) -> Covariance:
            more = total.update(jax.flatten_util.ravel_pytree(value)[0])
            return jax.tree.map(lambda new, old: jnp.where(inside, new, old), more, total)

        gradients = None if self.gradients is None else seen(self.gradients, gradient)
        state = AdaptiveWhitening(self.factor, seen(self.positions, position), gradients)
        return jax.lax.cond(ends, _renewed, lambda state: state, state)


def _nothing(factor: jax.Array) -> Covariance:
    mean = jnp.zeros(len(factor), factor.dtype)
    return Covariance(mean, jnp.zeros_like(factor), jnp.zeros((), factor.dtype))


def _renewed(state: AdaptiveWhitening) -> AdaptiveWhitening:
    """Return the factor of the positions and gradients so far, and begin a window."""
    n, spread = state.positions.num_vectors, state.positions.unbiased
    if state.gradients is None:
        dense = spread.ndim == 2
        regular = _regularized(spread, n, jnp.eye(len(spread)) if dense else 1.0)
        factor = jnp.linalg.cholesky(regular) if dense else jnp.sqrt(regular)
    else:
        factor = _between(spread, state.gradients.unbiased, n)
    finite = jnp.isfinite(factor)
    usable = finite & (factor > 0) if factor.ndim == 1 else jnp.all(finite)
    factor = jnp.where(usable, factor, state.factor).astype(state.factor.dtype)
    nothing = _nothing(factor)
    return AdaptiveWhitening(factor, nothing, None if state.gradients is None else nothing)


def _regularized(covariance: jax.Array, n: jax.Array, small: jax.Array | float) -> jax.Array:
    """Shrink a covariance of n vectors towards a thousandth of another, as Stan does."""
    return n / (n + 5) * covariance + 1e-3 * 5 / (n + 5) * small


def _between(spread: jax.Array, slope: jax.Array, n: jax.Array) -> jax.Array:
    """Return a factor F with A G A = C for A = F F^T, C the spread and G that of the slopes.

    With s^2 the solution for the diagonals, A = s B s, where B comes of scaled C and G, which are
    regularized by their own diagonals: whatever the units, and however far the chain has moved.
    """
    if spread.ndim == 1:
        return (spread / slope) ** 0.25
    scale = (jnp.diag(spread) / jnp.diag(slope)) ** 0.25
    scale = jnp.where(jnp.isfinite(scale) & (scale > 0), scale, 1.0)
    units = jnp.outer(scale, scale)
    c, g = spread / units, slope * units
    c, g = (_regularized(m, n, jnp.diag(jnp.diag(m))) for m in (c, g))
    values, vectors = eigh(g)
    root = jnp.sqrt(jnp.maximum(values, FLOOR * values[-1]))
    half, back = (vectors * root) @ vectors.T, (vectors / root) @ vectors.T
    values, vectors = eigh(half @ c @ half)
    middle = (vectors * jnp.maximum(values, FLOOR * values[-1]) ** 0.25) @ vectors.T
    return scale[:, None] * (back @ middle)


FIRST_BUFFER, WINDOW, LAST_BUFFER = 75, 25, 50
LEAST = 20


def warmup_windows(num_warmup: int) -> np.ndarray:
    """Return Stan's windows of warmup: is a step in a window, and does it end one?

    Warmup begins with 75 steps that adapt the step size alone; windows of 25, 50, 100, ... steps
    follow, at whose ends scales are estimated anew; the last 50 steps adapt the step size alone.
    With fewer than 150 steps there is one window, of three quarters of them, and with fewer than
    20 there is none.

    Args:
        num_warmup: number of warmup steps.

    Returns:
        Booleans `(num_warmup, 2)`, in columns `inside` and `ends`; one row if there is no warmup,
        so that warmup can be traced.

    Examples:
        >>> warmup_windows(1000)[:, 1].nonzero()[0]  # the last steps of the windows
        array([ 99, 149, 249, 449, 949])

    References:
        Stan Development Team, "Stan reference manual", HMC algorithm parameters.
    """
    windows = np.zeros((max(num_warmup, 1), 2), bool)
    if num_warmup < LEAST:
        return windows
    first, size, last = FIRST_BUFFER, WINDOW, LAST_BUFFER
    if first + size + last > num_warmup:
        first, last = int(0.15 * num_warmup), int(0.1 * num_warmup)
        size = num_warmup - first - last
    begin, stop = first, num_warmup - last
    windows[begin:stop, 0] = True
    while begin < stop:
        # A window that leaves no room for the next one, twice as long, takes all that is left.
        end = begin + size if begin + 3 * size <= stop else stop
        windows[end - 1, 1] = True
        begin, size = end, 2 * size
    return windows
