"""Seconds per gradient, inside a compiled loop of many.

A single call measures dispatch. Here each gradient moves the position by `nothing` times itself:
nothing is zero, which the compiler cannot know, so every turn evaluates the same point and none
of it is dead code. `seconds` is the slope between a loop of one and a loop of many. What is left of
the loop of one, `once`, is what happens once for each call: dispatch, and whatever the compiler
moves out of the loop because no turn changes it. XLA does that for the frozen part of a network,
so a peer whose sampler is one compiled loop pays it once, and one that calls a compiled step for
each draw pays it for each draw; `seconds` is the most favorable figure to a peer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

REPEATS = 5
MOST = 2**20


def seconds_per_gradient(
    density: Callable[..., Any], position: Any, *arguments: Any, seconds: float = 0.3
) -> dict[str, Any]:
    """Time value and gradient of `density(position, *arguments)`.

    Args:
        density: a log density or a potential; a scalar.
        position: a pytree of floating-point arrays.
        arguments: pytrees of arrays, arguments of the compiled loop.
        seconds: how much longer than a loop of one a loop of many takes at least; also at least
            half as long again.

    Returns:
        `seconds` (the median), `repeats` (each of them), `once` (what a call takes besides),
        `gradients` (in a loop of many), `compile` (the first call), `value` (of the density).
    """

    @jax.jit
    def loop(position: Any, nothing: float, count: int, *arguments: Any) -> Any:
        def turn(_: Any, carry: Any) -> Any:
            position, total = carry
            value, gradient = jax.value_and_grad(density)(position, *arguments)
            return jax.tree_util.tree_map(
                lambda z, g: z + nothing * g, position, gradient
            ), total + value

        start = jax.numpy.zeros((), jax.eval_shape(density, position, *arguments).dtype)
        return jax.lax.fori_loop(0, count, turn, (position, start))

    def timed(count: int) -> float:
        begin = time.perf_counter()
        jax.block_until_ready(loop(position, 0.0, count, *arguments))
        return time.perf_counter() - begin

    compiling = timed(1)
    single, many = statistics.median(timed(1) for _ in range(3)), 4
    while min(timed(many), timed(many)) < single + max(seconds, single / 2) and many < MOST:
        many *= 2
    slopes, calls = [], []
    for _ in range(REPEATS):
        one, long = timed(1), timed(many)
        slopes.append((long - one) / (many - 1))
        calls.append(one - slopes[-1])
    return {
        "seconds": statistics.median(slopes),
        "repeats": slopes,
        "once": statistics.median(calls),
        "gradients": many,
        "compile": compiling,
        "value": float(loop(position, 0.0, 1, *arguments)[1]),
    }
