"""The step that the stochastic-gradient samplers share: leaps of a momentum, tested together.

Coordinates phi are those of a metric (x = R phi). One leap is p += h g(phi) / 2, phi += h p,
p += h g(phi) / 2, with g the gradient by one minibatch. A way is several leaps, each by a minibatch
of its own, and is accepted or rejected as a whole. Its h is a random share, from 1/2 to 1, of the
longest, so that no direction comes back to where it was way after way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp

from nbcore import Stats
from nbcore_sgmcmc.metric import Metric
from nbcore_sgmcmc.minibatches import Minibatches

DIVERGENCE = 1000.0


class Walk(NamedTuple):
    """Where a chain is.

    Args:
        flat: the position x `(d,)`.
        position: the same, as the target knows it.
        momentum: p `(d,)`.
        value: log density there, by the minibatch that was read last.
        gradient: its gradient `(d,)`.
        batch_key: key of the chain, which orders its minibatches.
        t: minibatches that it has read.
    """

    flat: jax.Array
    position: Any
    momentum: jax.Array
    value: jax.Array
    gradient: jax.Array
    batch_key: jax.Array
    t: jax.Array

    @staticmethod
    def begin(key: jax.Array, batches: Minibatches, position: Any, temperature: float) -> Walk:
        """Return the start of a chain at a position."""
        batch_key, momentum_key = jax.random.split(key)
        flat = jax.flatten_util.ravel_pytree(position)[0]
        noise = jax.random.normal(momentum_key, flat.shape, flat.dtype)
        zero = jnp.zeros((), jnp.int32)
        value, gradient = batches.estimate(flat, batch_key, zero)
        return Walk(flat, position, temperature**0.5 * noise, value, gradient, batch_key, zero)


class Leap(NamedTuple):
    """How far a leap goes.

    Args:
        metric: the coordinates.
        size: e, the size of steps in directions that the data leave free.
        length: the longest h.
    """

    metric: Metric
    size: jax.Array
    length: jax.Array

    def times(self, factor: Any) -> Leap:
        """Return it with leaps of other length."""
        return self._replace(length=self.length * factor)


class Ways(NamedTuple):
    """What a step is made of.

    Args:
        num_leaps: leaps of a way.
        momentum: r, the share of the momentum that a way keeps.
        every_leap: whether the momentum is refreshed in part before every leap, as in Langevin
            dynamics, or before the first one alone.
    """

    num_leaps: int
    momentum: float
    every_leap: bool

    @property
    def num_refreshed(self) -> int:
        """How often the momentum is refreshed."""
        return self.num_leaps if self.every_leap else 1

    @property
    def share(self) -> float:
        """Share of the momentum that one refreshment keeps."""
        return self.momentum ** (1 / self.num_refreshed)

    def refreshed(self, key: jax.Array, momentum: jax.Array, temperature: Any) -> jax.Array:
        """Return s p + sqrt((1 - s^2) T) xi, with s the share that is kept."""
        noise = jax.random.normal(key, momentum.shape, momentum.dtype)
        scale = jnp.sqrt((1 - self.share**2) * temperature).astype(noise.dtype)
        return self.share * momentum + scale * noise

    def longest(self, noise: jax.Array, inflation: float) -> jax.Array:
        """Return the h at which gradients of variance `noise` add `inflation` to that of p.

        Between two refreshments, n leaps add n h^2 `noise`, of which 1 - s^2 is taken off.
        """
        leaps = self.num_leaps / self.num_refreshed
        return jnp.sqrt(inflation * (1 - self.share**2) / (leaps * noise))


def go(
    key: jax.Array,
    batches: Minibatches,
    walk: Walk,
    leap: Leap,
    ways: Ways,
    temperature: Any,
) -> tuple[Walk, jax.Array, jax.Array]:
    r"""Go one way.

    It is accepted with probability min(1, exp(w / T)), with w the sum over leaps of
    log p(x') - log p(x) + (|p|^2 - |p'|^2) / 2, each by its own minibatch; else the chain stays
    and its momentum is reversed. If minibatches hold all examples, that leaves the posterior
    invariant. If they do not, ways that lead out of where leaps are accurate are refused, and what
    is left is the noise of the gradients.

    Args:
        key: random key.
        batches: the log density.
        walk: where the chain is.
        leap: how far a leap goes.
        ways: how many leaps, and how much momentum is kept.
        temperature: T.

    Returns:
        Where the chain is then, the acceptance probability, and w.

    References:
        Horowitz (1991), "A generalized guided Monte Carlo algorithm"; Garriga-Alonso & Fortuin
        (2021), "Exact Langevin dynamics with stochastic gradients", section 3, where all examples
        do the test; Neal (2011), "MCMC using Hamiltonian dynamics", section 3.2 (the random h).
    """
    refresh_key, length_key, test_key = jax.random.split(key, 3)
    share = jax.random.uniform(length_key, dtype=walk.value.dtype, minval=0.5)
    moving = _Moving(refresh_key, batches, walk, leap.times(share), ways, temperature)
    begin = _Way(walk.flat, walk.momentum, walk.value, walk.gradient, jnp.zeros_like(walk.value))
    if batches.is_whole:
        end = jax.lax.fori_loop(0, ways.num_leaps, moving.leap_by_all, begin)
    else:
        end = jax.lax.fori_loop(0, 2 * ways.num_leaps, moving.half_by_minibatch, begin)
    rate = jnp.exp(jnp.minimum(end.work / temperature, 0.0))
    rate = jnp.where(jnp.isfinite(rate), rate, 0.0).astype(walk.value.dtype)
    accepted = jax.random.uniform(test_key, dtype=rate.dtype) < rate
    stay = begin._replace(momentum=-walk.momentum)
    then = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), end, stay)
    unravel = jax.flatten_util.ravel_pytree(walk.position)[1]
    moved = Walk(
        then.flat, unravel(then.flat), then.momentum, then.value, then.gradient,
        walk.batch_key, walk.t + ways.num_leaps,
    )  # fmt: skip
    return moved, rate, end.work


def go_on(
    key: jax.Array,
    batches: Minibatches,
    walk: Walk,
    leap: Leap,
    ways: Ways,
    temperature: Callable[[Any], Any],
    *,
    count: Any = 1,
    factor: Callable[[Any], Any] = lambda _: 1.0,
) -> tuple[Walk, Stats]:
    """Go several ways, one after the other.

    Args:
        key: random key.
        batches: the log density.
        walk: where the chain is.
        leap: how far a leap goes.
        ways: how many leaps, and how much momentum is kept.
        temperature: T of a way, by its number.
        count: number of ways; may be traced.
        factor: factor on the length of the leaps of a way, by its number.

    Returns:
        Where the chain is then, and statistics, with the mean acceptance rate of the ways.
    """

    def one(i: jax.Array, carry: tuple[Walk, jax.Array, jax.Array]) -> Any:
        walk, rates, is_divergent = carry
        walk, rate, work = go(
            jax.random.fold_in(key, i), batches, walk, leap.times(factor(i)), ways, temperature(i)
        )
        return walk, rates + rate, is_divergent | ~(work > -DIVERGENCE * temperature(i))

    begin = (walk, jnp.zeros_like(walk.value), jnp.zeros((), bool))
    walk, rates, is_divergent = jax.lax.fori_loop(0, count, one, begin)
    stats = Stats(
        log_density=walk.value,
        acceptance_rate=jnp.minimum(rates / count, 1.0),
        is_divergent=is_divergent,
        num_gradients=count * ways.num_leaps * batches.gradients_per_leap,
        step_size=leap.length * factor(count - 1),
    )
    return walk, stats


class _Way(NamedTuple):
    """A way so far: where it is, as in `Walk`, and by how much the energy has fallen."""

    flat: jax.Array
    momentum: jax.Array
    value: jax.Array
    gradient: jax.Array
    work: jax.Array


class _Moving(NamedTuple):
    """What the leaps of a way read."""

    key: jax.Array
    batches: Minibatches
    walk: Walk
    leap: Leap
    ways: Ways
    temperature: Any

    def leap_by_all(self, i: jax.Array, way: _Way) -> _Way:
        """Return the way a leap later; the gradient where it ends begins the next one."""
        moved = self._move(self._kick(self._refresh(i, way), way.value, way.gradient))
        return self._kick(moved, *self._estimate(moved, i))

    def half_by_minibatch(self, i: jax.Array, way: _Way) -> _Way:
        """Return the way half a leap later: a kick, after which the first half moves.

        Halves, so that a compiled program holds the gradient once.
        """
        value, gradient = self._estimate(way, i // 2)
        is_first = i % 2 == 0

        def chosen(first: Any, second: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(is_first, a, b), first, second)

        # What the minibatch before saw is no part of this one's energy.
        way = chosen(self._refresh(i // 2, way)._replace(value=value), way)
        kicked = self._kick(way, value, gradient)
        return chosen(self._move(kicked), kicked)

    def _refresh(self, i: jax.Array, way: _Way) -> _Way:
        key = jax.random.fold_in(self.key, i)
        fresh = self.ways.refreshed(key, way.momentum, self.temperature)
        kept = fresh if self.ways.every_leap else jnp.where(i == 0, fresh, way.momentum)
        return way._replace(momentum=kept)

    def _estimate(self, way: _Way, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.batches.estimate(way.flat, self.walk.batch_key, self.walk.t + i)

    def _kick(self, way: _Way, value: jax.Array, gradient: jax.Array) -> _Way:
        """Return the way after half a kick, and the energy lost since the last value."""
        metric, size, length = self.leap
        momentum = way.momentum + length / 2 * metric.pull(gradient, size)
        kinetic = (jnp.vdot(way.momentum, way.momentum) - jnp.vdot(momentum, momentum)) / 2
        return _Way(way.flat, momentum, value, gradient, way.work + value - way.value + kinetic)

    def _move(self, way: _Way) -> _Way:
        metric, size, length = self.leap
        return way._replace(flat=way.flat + metric.move(length * way.momentum, size))
