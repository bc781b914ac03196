"""What a run will cost, from one timed gradient."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from nbcore.backend import Backend
from nbcore.target import Target

REPEATS = 20


@dataclass(frozen=True)
class Cost:
    """An estimate of a run.

    Args:
        gradient_seconds: wall time of one gradient, within a compiled loop of many.
        num_gradients: gradients of all chains, as the backend expects them.
        seconds: wall time, `num_gradients * gradient_seconds` over the chains that run side by
            side.
    """

    gradient_seconds: float
    num_gradients: float
    seconds: float

    def __str__(self) -> str:
        """Say it in words."""
        return (
            f"about {self.seconds:.0f} s: {self.num_gradients:,.0f} gradients of "
            f"{1e3 * self.gradient_seconds:.2g} ms"
        )


def estimate_cost(
    target: Target, backend: Backend, position: Any, *, steps: int, side_by_side: int
) -> Cost:
    """Time one gradient of the log density and extrapolate.

    Args:
        target: the log density.
        backend: its `expected_gradients` tells how many gradients a step takes (1 by default).
        position: where to evaluate it.
        steps: steps of all chains together, warmup included.
        side_by_side: how many chains run at the same time.
    """
    minibatch = "minibatch" in backend.capabilities
    jax.block_until_ready(_gradients(target, position, 1))
    begin = time.perf_counter()
    jax.block_until_ready(_gradients(target, position, REPEATS))
    each = (time.perf_counter() - begin) / REPEATS
    if minibatch and target.num_examples:
        each *= min(1.0, 256 / target.num_examples)
    gradients = steps * float(getattr(backend, "expected_gradients", 1.0))
    return Cost(each, gradients, gradients * each / side_by_side)


@jax.jit
def _gradients(target: Target, position: Any, repeats: int) -> Any:
    def body(_: Any, carry: Any) -> Any:
        gradient = jax.grad(lambda z: target.log_density(z))(carry)
        return jax.tree.map(lambda z, g: z + 1e-12 * jnp.nan_to_num(g), carry, gradient)

    return jax.lax.fori_loop(0, repeats, body, position)
