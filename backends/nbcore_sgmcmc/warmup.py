"""Adaptation of the stochastic-gradient samplers in warmup, and the kernel around their steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nbcore import Kernel, Stats, Target
from nbcore.extend import (
    DualAveraging,
    check_choice,
    check_count,
    check_fraction,
    check_positive,
)
from nbcore_sgmcmc.metric import VISITED, Seen, first_metric, measure, measuring_gradients
from nbcore_sgmcmc.minibatches import Minibatches
from nbcore_sgmcmc.trajectories import Leapfrog, PhasePoint, Trajectory, transitions

PRECONDITIONERS = ("curvature", "rmsprop", "none")
WINDOWS = (0.02, 0.06, 0.12, 0.2, 0.3, 0.5, 0.7)
"""Where windows end, as shares of warmup."""
FIRST_SCALE = 0.1
HEAT = 100.0
LARGEST_STEP = 1.2
"""The largest h for one normal parameter; d of them are accepted as often at d^(-1/4) times it."""

Step = Callable[[Any, Minibatches, PhasePoint, Leapfrog, Any], tuple[PhasePoint, Stats]]
"""`(key, batches, point, leapfrog, t) -> (point, stats)`."""


class State(NamedTuple):
    """A chain, its leapfrog steps, and what these are learned from.

    Args:
        point: position and momentum.
        leapfrog: coordinates and step size.
        free_scales: dual averaging of e.
        seen: positions that the metric is measured at.
    """

    point: PhasePoint
    leapfrog: Leapfrog
    free_scales: DualAveraging
    seen: Seen


def check_options(backend: Any) -> None:
    """Check the options that all stochastic-gradient samplers have.

    Raises:
        OptionError: an option has an impossible value.
    """
    check_positive(optional=True, step_size=backend.step_size)
    check_positive(inflation=backend.inflation, temperature=backend.temperature)
    check_fraction(zero=True, momentum=backend.momentum)
    check_count(1, num_leapfrog_steps=backend.num_leapfrog_steps)
    check_fraction(target_acceptance_rate=backend.target_acceptance_rate)
    check_choice(PRECONDITIONERS, preconditioner=backend.preconditioner)
    check_count(1, optional=True, batch_size=backend.batch_size)


def window_places(num_warmup: int) -> np.ndarray:
    """Return which of the visited positions each step replaces, and whether it ends a window.

    Args:
        num_warmup: number of warmup steps.

    Returns:
        Integers `(num_warmup, 2)`; one row if there is no warmup, so that it can be traced. The
        first step is a window of its own; those of fewer than 8 steps are left out.

    Examples:
        >>> window_places(1000)[:, 1].nonzero()[0]
        array([  0,  19,  59, 119, 199, 299, 499, 699])
    """
    table = np.zeros((max(num_warmup, 1), 2), np.int32)
    table[0, 1] = 1
    begin = 1
    for share in WINDOWS:
        end = round(share * num_warmup)
        if end - begin >= VISITED:
            table[begin:end, 0] = np.arange(end - begin) * VISITED // (end - begin)
            table[end - 1, 1] = 1
            begin = end
    left = num_warmup - begin
    table[begin:, 0] = np.arange(max(left, len(table) - begin)) * VISITED // max(left, 1)
    return table


def kernel_of(
    backend: Any, num_warmup: int, trajectory: Trajectory, step: Step, *, step_size: float | None
) -> Kernel:
    """Return the pure functions of a sampler.

    Warmup follows trajectories and learns three things. The metric is measured anew at the ends of
    windows, at positions of the window. The free scale e follows the acceptance rate by dual
    averaging, so that steps are short if the local expansion ends nearby. The step size h is that
    of as many normal parameters, or less, so that minibatch gradients add no more than `inflation`
    to the variances.

    Args:
        backend: the options.
        num_warmup: number of warmup steps.
        trajectory: number of leapfrog steps, and momentum.
        step: a step after warmup.
        step_size: h; `None` chooses it.
    """
    places = window_places(num_warmup)
    temperature, kind = backend.temperature, backend.preconditioner

    def batches_of(target: Target) -> Minibatches:
        return Minibatches.of(target, backend.batch_size)

    def fitted(
        key: jax.Array, batches: Minibatches, leapfrog: Leapfrog, seen: Seen, inflation: Any
    ) -> Leapfrog:
        """Return leapfrog steps as large as normal parameters and the noise allow."""
        if step_size is not None or batches.is_whole:
            return leapfrog
        noise = batches.gradient_noise(key, seen.visited)
        largest = trajectory.largest_step(
            leapfrog.metric.variance(noise, leapfrog.free_scale), inflation
        )
        return leapfrog._replace(step_size=jnp.minimum(_largest_step(seen.visited[0]), largest))

    def measured(key: jax.Array, batches: Minibatches, state: State, t: Any) -> State:
        """Return a state with the metric of the window that ended at step t."""
        metric_key, noise_key = jax.random.split(key)
        free_scale = jnp.minimum(state.free_scales.average, 1)
        metric = measure(metric_key, batches.target, state.seen, kind)
        leapfrog = Leapfrog(metric, free_scale, state.leapfrog.step_size)
        # Far from the mode gradients are large, and so is their noise: hotter, but faster.
        inflation = backend.inflation * HEAT ** jnp.maximum(1 - 2 * t / max(num_warmup, 1), 0)
        leapfrog = fitted(noise_key, batches, leapfrog, state.seen, inflation)
        return State(state.point, leapfrog, DualAveraging.start(free_scale), state.seen)

    def init(key: jax.Array, target: Target, shared: Any, position: Any) -> State:
        del shared
        point = PhasePoint.begin(key, batches_of(target), position, temperature)
        seen = Seen.begin(point.flat, point.gradient)
        free_scales = DualAveraging.start(jnp.asarray(FIRST_SCALE, point.flat.dtype))
        first = _largest_step(point.flat) if step_size is None else step_size
        metric = first_metric(target, seen, kind)
        leapfrog = Leapfrog(metric, free_scales.step_size, jnp.asarray(first, point.flat.dtype))
        return State(point, leapfrog, free_scales, seen)

    def warmup(
        key: jax.Array, target: Target, shared: Any, state: State, t: Any
    ) -> tuple[State, Stats]:
        del shared
        batches, (place, ends) = batches_of(target), jnp.asarray(places)[t]
        point, stats = transitions(
            key, batches, state.point, state.leapfrog, trajectory, lambda _: temperature
        )
        free_scales = state.free_scales.update(
            stats.acceptance_rate, backend.target_acceptance_rate
        )
        leapfrog = state.leapfrog._replace(free_scale=jnp.minimum(free_scales.step_size, 1))
        seen = state.seen.update(point.flat, point.gradient, place)
        learned = State(point, leapfrog, free_scales, seen)
        anew = jax.random.fold_in(key, 1)
        state = jax.lax.cond(
            ends > 0, lambda s: measured(anew, batches, s, t), lambda s: s, learned
        )
        return state, stats._replace(num_gradients=stats.num_gradients + cost_of(batches) * ends)

    def tune(key: jax.Array, target: Target, shared: Any, state: State) -> tuple[State, Stats]:
        """Fix the average free scale, and the step size that fits it."""
        del shared
        batches, cost = batches_of(target), 0
        if num_warmup == 0:
            state, cost = measured(key, batches, state, 0), cost_of(batches)
        leapfrog = state.leapfrog._replace(free_scale=jnp.minimum(state.free_scales.average, 1))
        leapfrog = fitted(key, batches, leapfrog, state.seen, backend.inflation)
        cost += VISITED * batches.noise_gradients
        stats = Stats(state.point.value, num_gradients=cost, step_size=leapfrog.step_size)
        return state._replace(leapfrog=leapfrog), stats

    def cost_of(batches: Minibatches) -> int:
        return measuring_gradients(batches, kind) + VISITED * batches.noise_gradients

    def sampling(
        key: jax.Array, target: Target, shared: Any, state: State, t: Any
    ) -> tuple[State, Stats]:
        del shared
        point, stats = step(key, batches_of(target), state.point, state.leapfrog, t)
        return state._replace(point=point), stats

    return Kernel(init, warmup, sampling, lambda state: state.point.position, tune=tune)


def scheduled(trajectory: Trajectory, backend: Any) -> Step:
    """Return a step of one trajectory, whose step size follows the schedule of a sampler."""

    def step(
        key: jax.Array, batches: Minibatches, point: PhasePoint, leapfrog: Leapfrog, t: Any
    ) -> tuple[PhasePoint, Stats]:
        factor = 1.0 if backend.schedule is None else backend.schedule(t)
        return transitions(
            key, batches, point, leapfrog.times(factor), trajectory, lambda _: backend.temperature
        )

    return step


def _largest_step(flat: jax.Array) -> float:
    return LARGEST_STEP * flat.size**-0.25
