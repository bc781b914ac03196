"""What warmup learns, for samplers of any kind: a step size and a whitening, as small states.

Both are pytrees of arrays that a sampler keeps in its own state and updates in `warmup`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from nbcore.targets.curvature import Whitening

GAMMA = 0.05
DELAY = 10
DECAY = 0.75


class DualAveraging(NamedTuple):
    r"""A step size that moves until the mean acceptance rate is the wanted one.

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

    def update(self, acceptance_rate: Any, wanted: float, *, restart: Any = False) -> DualAveraging:
        """Return the state after a step.

        Args:
            acceptance_rate: of the step, within [0, 1]; NaN counts as 0.
            wanted: mean acceptance rate to arrive at.
            restart: whether to begin anew at the average, as where the scales of the coordinates
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


class AdaptiveWhitening(NamedTuple):
    """A whitening by the covariance of the positions that a chain has visited in a window.

    At the end of a window of n positions with covariance C (unbiased),

    factor factor^T = n / (n + 5) C + 0.001 * 5 / (n + 5) I,

    or its diagonal. The first factor is the identity.

    Args:
        factor: lower triangular `(d, d)`, or `(d,)` for a diagonal.
        mean: of the positions of the window, flat `(d,)`.
        total: sum of squares and products of deviations from the mean, of the shape of `factor`.
        num_positions: of the window.

    Examples:
        >>> whitening = AdaptiveWhitening.start(jnp.zeros(2), dense=False)
        >>> draws = jnp.array([1.0, 10.0]) * jax.random.normal(jax.random.key(0), (1000, 2))
        >>> for n, draw in enumerate(draws):
        ...     whitening = whitening.update(draw, inside=True, ends=n == 999)
        >>> whitening.factor.round(0).tolist()
        [1.0, 10.0]

    References:
        Welford (1962), "Note on a method for calculating corrected sums of squares and products";
        Stan Development Team, "Stan reference manual", HMC algorithm parameters (regularization).
    """

    factor: jax.Array
    mean: jax.Array
    total: jax.Array
    num_positions: jax.Array

    @staticmethod
    def start(position: Any, *, dense: bool) -> AdaptiveWhitening:
        """Return the identity, before the first window.

        Args:
            position: any position, for size and type.
            dense: whether the factor is a matrix, else a diagonal.
        """
        flat = jax.flatten_util.ravel_pytree(position)[0]
        factor = jnp.eye(flat.size, dtype=flat.dtype) if dense else jnp.ones_like(flat)
        zero = jnp.zeros_like(flat)
        return AdaptiveWhitening(factor, zero, jnp.zeros_like(factor), jnp.zeros((), flat.dtype))

    def at(self, position: Any) -> Whitening:
        """Return the whitening around a position: its coordinates there are 0."""
        return Whitening(jax.flatten_util.ravel_pytree(position)[0], self.factor)

    def update(self, position: Any, inside: Any, ends: Any) -> AdaptiveWhitening:
        """Return the state after a step, given its row of `warmup_windows`.

        Args:
            position: position after the step.
            inside: whether the step is in a window; may be traced.
            ends: whether it ends one, so that the factor is computed anew; may be traced.
        """
        x = jax.flatten_util.ravel_pytree(position)[0]
        n = self.num_positions + 1
        before = x - self.mean
        mean = self.mean + before / n
        products = jnp.outer(before, x - mean) if self.factor.ndim == 2 else before * (x - mean)
        seen = AdaptiveWhitening(self.factor, mean, self.total + products, n)
        state = jax.tree.map(lambda new, old: jnp.where(inside, new, old), seen, self)
        return jax.lax.cond(ends, _renewed, lambda state: state, state)


def _renewed(state: AdaptiveWhitening) -> AdaptiveWhitening:
    """Return the factor of what was seen, and begin a window."""
    n, dense = state.num_positions, state.factor.ndim == 2
    covariance = state.total / jnp.maximum(n - 1, 1)
    floor = 1e-3 * 5 / (n + 5)
    covariance = n / (n + 5) * covariance + (floor * jnp.eye(len(state.mean)) if dense else floor)
    factor = jnp.linalg.cholesky(covariance) if dense else jnp.sqrt(covariance)
    good = jnp.all(jnp.isfinite(factor))
    factor = jnp.where(good, factor, state.factor).astype(state.factor.dtype)
    return AdaptiveWhitening(
        factor, jnp.zeros_like(state.mean), jnp.zeros_like(state.total), jnp.zeros_like(n)
    )


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
