"""The step that the stochastic-gradient samplers share: a trajectory, accepted or rejected.

Coordinates phi are those of a metric (x = R phi). A leapfrog step of size h is p += h g(phi) / 2,
phi += h p, p += h g(phi) / 2, with g the gradient on one minibatch. A trajectory is a number of
leapfrog steps, each on a minibatch of its own, and is accepted or rejected as a whole. Its h is a
random share, from 1/2 to 1, of the largest, so that no direction returns to its starting point
trajectory after trajectory.
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


class PhasePoint(NamedTuple):
    """Position and momentum of a chain, and the minibatches that it has read.

    Args:
        flat: the position x `(d,)`.
        position: the same, as the target knows it.
        momentum: p `(d,)`.
        value: log density there, on the minibatch that was read last.
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
    def begin(
        key: jax.Array, batches: Minibatches, position: Any, temperature: float
    ) -> PhasePoint:
        """Return the start of a chain at a position."""
        batch_key, momentum_key = jax.random.split(key)
        flat = jax.flatten_util.ravel_pytree(position)[0]
        noise = jax.random.normal(momentum_key, flat.shape, flat.dtype)
        zero = jnp.zeros((), jnp.int32)
        value, gradient = batches.estimate(flat, batch_key, zero)
        return PhasePoint(
            flat, position, temperature**0.5 * noise, value, gradient, batch_key, zero
        )


class Leapfrog(NamedTuple):
    """The coordinates and the size of leapfrog steps.

    Args:
        metric: the coordinates.
        free_scale: e, the scale of phi in directions that the data leave free.
        step_size: the largest h.
    """

    metric: Metric
    free_scale: jax.Array
    step_size: jax.Array

    def times(self, factor: Any) -> Leapfrog:
        """Return the same with another step size."""
        return self._replace(step_size=self.step_size * factor)


class Trajectory(NamedTuple):
    """The length of a trajectory, and the momentum that it starts with.

    Args:
        num_steps: number of leapfrog steps.
        momentum: r, the share of the momentum that a trajectory keeps.
        every_step: whether the momentum is refreshed in part before every leapfrog step, as in
            Langevin dynamics, or before the first one alone.
    """

    num_steps: int
    momentum: float
    every_step: bool

    @property
    def num_refreshed(self) -> int:
        """How often the momentum is refreshed."""
        return self.num_steps if self.every_step else 1

    @property
    def share(self) -> float:
        """Share of the momentum that one refreshment keeps."""
        return self.momentum ** (1 / self.num_refreshed)

    def refreshed(self, key: jax.Array, momentum: jax.Array, temperature: Any) -> jax.Array:
        """Return s p + sqrt((1 - s^2) T) xi, with s the share that is kept."""
        noise = jax.random.normal(key, momentum.shape, momentum.dtype)
        scale = jnp.sqrt((1 - self.share**2) * temperature).astype(noise.dtype)
        return self.share * momentum + scale * noise

    def largest_step(self, noise: jax.Array, inflation: float) -> jax.Array:
        """Return the h at which gradients of variance `noise` add `inflation` to that of p.

        Between two refreshments, n steps add n h^2 `noise`, and each refreshment takes a share of
        1 - s^2 off.
        """
        steps = self.num_steps / self.num_refreshed
        return jnp.sqrt(inflation * (1 - self.share**2) / (steps * noise))


def transition(
    key: jax.Array,
    batches: Minibatches,
    point: PhasePoint,
    leapfrog: Leapfrog,
    trajectory: Trajectory,
    temperature: Any,
) -> tuple[PhasePoint, jax.Array, jax.Array]:
    r"""Follow one trajectory, and accept or reject its end.

    The end is accepted with probability min(1, exp(w / T)), with w the sum over leapfrog steps of
    log p(x') - log p(x) + (|p|^2 - |p'|^2) / 2, each on its own minibatch; otherwise the chain
    stays and its momentum is reversed. If minibatches hold all examples, that leaves the posterior
    invariant. If they do not, trajectories that leave the region in which leapfrog steps are
    accurate are rejected, and the noise of the gradients is the only error.

    Args:
        key: random key.
        batches: the log density.
        point: the chain.
        leapfrog: coordinates and step size.
        trajectory: how many steps, and how much momentum is kept.
        temperature: T.

    Returns:
        The chain after it, the acceptance probability, and w.

    References:
        Horowitz (1991), "A generalized guided Monte Carlo algorithm"; Garriga-Alonso & Fortuin
        (2021), "Exact Langevin dynamics with stochastic gradients", section 3, where all examples
        do the test; Neal (2011), "MCMC using Hamiltonian dynamics", section 3.2 (the random h).
    """
    refresh_key, share_key, test_key = jax.random.split(key, 3)
    share = jax.random.uniform(share_key, dtype=point.value.dtype, minval=0.5)
    integrator = _Integrator(
        refresh_key, batches, point, leapfrog.times(share), trajectory, temperature
    )
    begin = _Path(
        point.flat, point.momentum, point.value, point.gradient, jnp.zeros_like(point.value)
    )
    if batches.is_whole:
        end = jax.lax.fori_loop(0, trajectory.num_steps, integrator.step_by_all, begin)
    else:
        end = jax.lax.fori_loop(
            0, 2 * trajectory.num_steps, integrator.half_step_by_minibatch, begin
        )
    rate = jnp.exp(jnp.minimum(end.work / temperature, 0.0))
    rate = jnp.where(jnp.isfinite(rate), rate, 0.0).astype(point.value.dtype)
    accepted = jax.random.uniform(test_key, dtype=rate.dtype) < rate
    stay = begin._replace(momentum=-point.momentum)
    then = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), end, stay)
    unravel = jax.flatten_util.ravel_pytree(point.position)[1]
    moved = PhasePoint(
        then.flat, unravel(then.flat), then.momentum, then.value, then.gradient,
        point.batch_key, point.t + trajectory.num_steps,
    )  # fmt: skip
    return moved, rate, end.work


def transitions(
    key: jax.Array,
    batches: Minibatches,
    point: PhasePoint,
    leapfrog: Leapfrog,
    trajectory: Trajectory,
    temperature: Callable[[Any], Any],
    *,
    count: Any = 1,
    factor: Callable[[Any], Any] = lambda _: 1.0,
) -> tuple[PhasePoint, Stats]:
    """Follow several trajectories, one after the other.

    Args:
        key: random key.
        batches: the log density.
        point: the chain.
        leapfrog: coordinates and step size.
        trajectory: how many steps, and how much momentum is kept.
        temperature: T of a trajectory, by its number.
        count: number of trajectories; may be traced.
        factor: factor on the step size of a trajectory, by its number.

    Returns:
        The chain after them, and statistics, with the mean acceptance rate of the trajectories.
    """

    def one(i: jax.Array, carry: tuple[PhasePoint, jax.Array, jax.Array]) -> Any:
        point, rates, is_divergent = carry
        point, rate, work = transition(
            jax.random.fold_in(key, i),
            batches,
            point,
            leapfrog.times(factor(i)),
            trajectory,
            temperature(i),
        )
        return point, rates + rate, is_divergent | ~(work > -DIVERGENCE * temperature(i))

    begin = (point, jnp.zeros_like(point.value), jnp.zeros((), bool))
    point, rates, is_divergent = jax.lax.fori_loop(0, count, one, begin)
    stats = Stats(
        log_density=point.value,
        acceptance_rate=jnp.minimum(rates / count, 1.0),
        is_divergent=is_divergent,
        num_gradients=count * trajectory.num_steps * batches.gradients_per_step,
        step_size=leapfrog.step_size * factor(count - 1),
    )
    return point, stats


class _Path(NamedTuple):
    """A trajectory so far: its end, as in `PhasePoint`, and by how much the energy has fallen."""

    flat: jax.Array
    momentum: jax.Array
    value: jax.Array
    gradient: jax.Array
    work: jax.Array


class _Integrator(NamedTuple):
    """Leapfrog steps of one trajectory."""

    key: jax.Array
    batches: Minibatches
    point: PhasePoint
    leapfrog: Leapfrog
    trajectory: Trajectory
    temperature: Any

    def step_by_all(self, i: jax.Array, path: _Path) -> _Path:
        """Return the path one step further; the gradient at its end begins the next step."""
        moved = self._move(self._kick(self._refresh(i, path), path.value, path.gradient))
        return self._kick(moved, *self._estimate(moved, i))

    def half_step_by_minibatch(self, i: jax.Array, path: _Path) -> _Path:
        """Return the path half a step further: a kick, after which the first half moves.

        Half steps, so that a compiled program holds the gradient once.
        """
        value, gradient = self._estimate(path, i // 2)
        is_first = i % 2 == 0

        def chosen(first: Any, second: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(is_first, a, b), first, second)

        # What the minibatch before saw is no part of this one's energy.
        path = chosen(self._refresh(i // 2, path)._replace(value=value), path)
        kicked = self._kick(path, value, gradient)
        return chosen(self._move(kicked), kicked)

    def _refresh(self, i: jax.Array, path: _Path) -> _Path:
        key = jax.random.fold_in(self.key, i)
        fresh = self.trajectory.refreshed(key, path.momentum, self.temperature)
        kept = fresh if self.trajectory.every_step else jnp.where(i == 0, fresh, path.momentum)
        return path._replace(momentum=kept)

    def _estimate(self, path: _Path, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.batches.estimate(path.flat, self.point.batch_key, self.point.t + i)

    def _kick(self, path: _Path, value: jax.Array, gradient: jax.Array) -> _Path:
        """Return the path after half a kick, and the energy lost since the last value."""
        metric, free_scale, step_size = self.leapfrog
        momentum = path.momentum + step_size / 2 * metric.pull(gradient, free_scale)
        kinetic = (jnp.vdot(path.momentum, path.momentum) - jnp.vdot(momentum, momentum)) / 2
        return _Path(path.flat, momentum, value, gradient, path.work + value - path.value + kinetic)

    def _move(self, path: _Path) -> _Path:
        metric, free_scale, step_size = self.leapfrog
        return path._replace(flat=path.flat + metric.move(step_size * path.momentum, free_scale))
