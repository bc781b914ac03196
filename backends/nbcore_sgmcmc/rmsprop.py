"""SGLD with the diagonal preconditioner of RMSprop, adapted in warmup and held after it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nbcore import Kernel, Stats, Target
from nbcore.extend import Whitening, mode_near
from nbcore_sgmcmc.langevin import Tuned, langevin_step
from nbcore_sgmcmc.minibatches import (
    NOISE_BATCHES,
    POWER_STEPS,
    Walk,
    measure_plain,
    num_rows,
)

DECAY = 0.99
FLOOR = 1e-5


class Start(NamedTuple):
    """The mode `(d,)`, and what is tuned to it without a preconditioner."""

    center: jax.Array
    tuned: Tuned


class State(NamedTuple):
    """Where a chain is, its running mean V of squared gradients, what it is tuned to."""

    walk: Walk
    second_moment: jax.Array
    tuned: Tuned


def rms_factor(second_moment: jax.Array) -> jax.Array:
    """Return R with R^2 = G = 1 / (1e-5 + sqrt(V)), relative to its largest entry.

    With no entry above 1, a step size that is stable without R is stable with it.

    References:
        Li et al. (2016), "Preconditioned stochastic gradient Langevin dynamics for deep neural
        networks", equations 4 and 5.
    """
    root = 1 / jnp.sqrt(FLOOR + jnp.sqrt(second_moment))
    return root / jnp.max(root)


def rmsprop_kernel(backend: Any) -> Kernel:
    """Return the pure functions of `SGLD` with `preconditioner="rmsprop"`."""

    def shared(key: jax.Array, target: Target, position: Any) -> Start:
        center = mode_near(target, position)
        scale = measure_plain(key, target, center, num_rows(target, backend.batch_size))
        return Start(center, Tuned.of(scale, backend.step_size, backend.inflation))

    def init(key: jax.Array, target: Target, shared: Start, position: Any) -> State:
        del target
        walk = Walk.begin(key, position)
        return State(walk, jnp.zeros_like(walk.flat), shared.tuned)

    def warmup(
        key: jax.Array, target: Target, shared: Start, state: State, t: Any
    ) -> tuple[State, Stats]:
        del t
        scale, step_size = shared.tuned
        whitening = Whitening(shared.center, rms_factor(state.second_moment))
        tuned = Tuned(scale._replace(whitening=whitening), step_size)
        size = num_rows(target, backend.batch_size)
        walk, stats, gradient = langevin_step(
            key, target, state.walk, tuned, size,
            temperature=backend.temperature, limit=scale.longest,
        )  # fmt: skip
        squared = (gradient / target.num_examples) ** 2
        moment = DECAY * state.second_moment + (1 - DECAY) * squared
        return State(walk, moment, state.tuned), stats

    def tune(key: jax.Array, target: Target, shared: Start, state: State) -> tuple[State, Stats]:
        factor, size = rms_factor(state.second_moment), num_rows(target, backend.batch_size)
        scale = measure_plain(key, target, shared.center, size, factor)
        tuned = Tuned.of(scale, backend.step_size, backend.inflation)
        stats = Stats(jnp.nan, num_gradients=POWER_STEPS + NOISE_BATCHES, step_size=tuned.step_size)
        return state._replace(tuned=tuned), stats

    def step(
        key: jax.Array, target: Target, shared: Start, state: State, t: Any
    ) -> tuple[State, Stats]:
        del shared
        tuned, size = (
            state.tuned.scheduled(backend.schedule, t),
            num_rows(target, backend.batch_size),
        )
        walk, stats, _ = langevin_step(
            key, target, state.walk, tuned, size, temperature=backend.temperature
        )
        return state._replace(walk=walk), stats

    return Kernel(init, warmup, step, lambda state: state.walk.position, shared, tune)
