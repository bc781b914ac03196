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
from nbcore_sgmcmc.leaps import Leap, Walk, Ways, go_on
from nbcore_sgmcmc.metric import VISITED, Seen, first_metric, measure, measuring_gradients
from nbcore_sgmcmc.minibatches import Minibatches

PRECONDITIONERS = ("curvature", "rmsprop", "none")
WINDOWS = (0.02, 0.06, 0.12, 0.2, 0.3, 0.5, 0.7)
"""Where windows end, as shares of warmup."""
FIRST_SIZE = 0.1
HEAT = 100.0
LENGTH = 1.2
"""The longest h of one normal number; d of them are accepted as often with d^(-1/4) times it."""

Step = Callable[[Any, Minibatches, Walk, Leap, Any], tuple[Walk, Stats]]
"""`(key, batches, walk, leap, t) -> (walk, stats)`."""


class State(NamedTuple):
    """A chain, how far it leaps, and what that is learned from.

    Args:
        walk: where the chain is.
        leap: how far it leaps.
        sizes: dual averaging of the size e.
        seen: what the metric is measured at.
    """

    walk: Walk
    leap: Leap
    sizes: DualAveraging
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
    backend: Any, num_warmup: int, ways: Ways, step: Step, *, step_size: float | None
) -> Kernel:
    """Return the pure functions of a sampler.

    Warmup goes ways, and learns three things. The metric is measured anew at the ends of windows,
    at positions of the window. The size e follows the acceptance rate by dual averaging, so that
    steps are short where the local expansion ends. The length h is what as many normal numbers
    allow, or less: what minibatch gradients add to the variances stays below `inflation`.

    Args:
        backend: the options.
        num_warmup: number of warmup steps.
        ways: what a way is made of.
        step: a step after warmup.
        step_size: the length h; `None` chooses it.
    """
    places = window_places(num_warmup)
    temperature, kind = backend.temperature, backend.preconditioner

    def batches_of(target: Target) -> Minibatches:
        return Minibatches.of(target, backend.batch_size)

    def fitted(
        key: jax.Array, batches: Minibatches, leap: Leap, seen: Seen, inflation: Any
    ) -> Leap:
        """Return a leap as long as normal numbers and the noise of minibatches allow."""
        if step_size is not None or batches.is_whole:
            return leap
        noise = batches.gradient_noise(key, seen.visited)
        longest = ways.longest(leap.metric.variance(noise, leap.size), inflation)
        return leap._replace(length=jnp.minimum(_free_length(seen.visited[0]), longest))

    def measured(key: jax.Array, batches: Minibatches, state: State, t: Any) -> State:
        """Return a state with the metric of the window that ended at step t."""
        metric_key, noise_key = jax.random.split(key)
        size = jnp.minimum(state.sizes.average, 1)
        metric = measure(metric_key, batches.target, state.seen, kind)
        leap = Leap(metric, size, state.leap.length)
        # On the way from the start gradients are large, and their noise is: hotter, but faster.
        inflation = backend.inflation * HEAT ** jnp.maximum(1 - 2 * t / max(num_warmup, 1), 0)
        leap = fitted(noise_key, batches, leap, state.seen, inflation)
        return State(state.walk, leap, DualAveraging.start(size), state.seen)

    def init(key: jax.Array, target: Target, shared: Any, position: Any) -> State:
        del shared
        walk = Walk.begin(key, batches_of(target), position, temperature)
        seen = Seen.begin(walk.flat, walk.gradient)
        sizes = DualAveraging.start(jnp.asarray(FIRST_SIZE, walk.flat.dtype))
        length = _free_length(walk.flat) if step_size is None else step_size
        metric = first_metric(target, seen, kind)
        leap = Leap(metric, sizes.step_size, jnp.asarray(length, walk.flat.dtype))
        return State(walk, leap, sizes, seen)

    def warmup(
        key: jax.Array, target: Target, shared: Any, state: State, t: Any
    ) -> tuple[State, Stats]:
        del shared
        batches, (place, ends) = batches_of(target), jnp.asarray(places)[t]
        walk, stats = go_on(key, batches, state.walk, state.leap, ways, lambda _: temperature)
        sizes = state.sizes.update(stats.acceptance_rate, backend.target_acceptance_rate)
        leap = state.leap._replace(size=jnp.minimum(sizes.step_size, 1))
        seen = state.seen.update(walk.flat, walk.gradient, place)
        learned = State(walk, leap, sizes, seen)
        anew = jax.random.fold_in(key, 1)
        state = jax.lax.cond(
            ends > 0, lambda s: measured(anew, batches, s, t), lambda s: s, learned
        )
        return state, stats._replace(num_gradients=stats.num_gradients + cost_of(batches) * ends)

    def tune(key: jax.Array, target: Target, shared: Any, state: State) -> tuple[State, Stats]:
        """Hold the average size, and the length that fits it."""
        del shared
        batches, cost = batches_of(target), 0
        if num_warmup == 0:
            state, cost = measured(key, batches, state, 0), cost_of(batches)
        leap = state.leap._replace(size=jnp.minimum(state.sizes.average, 1))
        leap = fitted(key, batches, leap, state.seen, backend.inflation)
        cost += VISITED * batches.noise_gradients
        stats = Stats(state.walk.value, num_gradients=cost, step_size=leap.length)
        return state._replace(leap=leap), stats

    def cost_of(batches: Minibatches) -> int:
        return measuring_gradients(batches, kind) + VISITED * batches.noise_gradients

    def sampling(
        key: jax.Array, target: Target, shared: Any, state: State, t: Any
    ) -> tuple[State, Stats]:
        del shared
        walk, stats = step(key, batches_of(target), state.walk, state.leap, t)
        return state._replace(walk=walk), stats

    return Kernel(init, warmup, sampling, lambda state: state.walk.position, tune=tune)


def scheduled(ways: Ways, backend: Any) -> Step:
    """Return a step of one way whose length follows the schedule of a sampler."""

    def step(
        key: jax.Array, batches: Minibatches, walk: Walk, leap: Leap, t: Any
    ) -> tuple[Walk, Stats]:
        factor = 1.0 if backend.schedule is None else backend.schedule(t)
        return go_on(key, batches, walk, leap.times(factor), ways, lambda _: backend.temperature)

    return step


def _free_length(flat: jax.Array) -> float:
    return LENGTH * flat.size**-0.25
