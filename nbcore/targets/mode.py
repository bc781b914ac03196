"""The mode of a log density, by Levenberg-Marquardt if its curvature is known, else by L-BFGS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

STEPS = 500
L_BFGS_STEPS = 200
TOLERANCE = 3e-3
"""Squared distance to the mode that is tolerated for each parameter, in posterior deviations."""
ROUNDING = 1e-6
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-5, 1e-7, 1e12


class Curvature(Protocol):
    """A positive definite curvature; a pytree."""

    def solve(self, gradient: jax.Array, damping: Any = 0.0) -> jax.Array:
        """Return (H + damping D)^-1 g, with D a positive diagonal."""
        ...


class Expansion(NamedTuple):
    """A log density around a position.

    Args:
        value: the log density.
        gradient: its gradient `(n,)`.
        curvature: its negative Hessian, or a positive definite approximation.
    """

    value: jax.Array
    gradient: jax.Array
    curvature: Any


class Mode(NamedTuple):
    """The end of a climb.

    Args:
        flat: the position `(n,)`.
        expansion: the log density around it.
        steps: number of steps that were tried.
    """

    flat: jax.Array
    expansion: Expansion
    steps: jax.Array


class _Climb(NamedTuple):
    flat: jax.Array
    at: Expansion
    step: jax.Array
    damping: jax.Array
    growth: jax.Array
    left: jax.Array
    steps: jax.Array


def climb(
    expand: Callable[[jax.Array, Any], Expansion], start: jax.Array, nothing: Any, terms: int
) -> Mode:
    """Climb to a mode from a flat position `(n,)` with the Levenberg-Marquardt algorithm.

    Steps d = (H + damping D)^-1 g, with the damping lowered if the density rises as the
    expansion predicts, and raised if it falls. The expansion is computed once a step, and a
    compiled program holds it once. The remaining squared distance g^T H^-1 g to the mode is
    bounded by (1 + damping) g^T d, since D is at most H.

    Args:
        expand: `(flat, curvature) -> expansion` around a flat position, given the curvature at a
            position nearby; jittable.
        start: the start of the climb.
        nothing: the curvature that `expand` gets at first.
        terms: number of terms of the log density, which determines its rounding error.

    References:
        Nocedal & Wright (2006), "Numerical optimization", section 10.3; Nielsen (1999), "Damping
        parameter in Marquardt's method", equation 2.4 (damping).
    """
    kind = start.dtype
    infinite = jnp.asarray(jnp.inf, kind)

    def body(now: _Climb) -> _Climb:
        there = expand(now.flat + now.step, now.at.curvature)
        noise = ROUNDING * (jnp.abs(there.value) + terms)
        gain, promised = there.value - now.at.value, 0.5 * jnp.vdot(now.step, now.at.gradient)
        finite = jnp.isfinite(there.value) & jnp.all(jnp.isfinite(there.gradient))
        accepted = finite & (gain >= -noise)
        ratio = jnp.where(promised > noise, gain / promised, 1)
        change = jnp.where(accepted, jnp.clip(1 - (2 * ratio - 1) ** 3, 0.1, 2), now.growth)
        damping = jnp.where(now.steps > 0, now.damping * change, now.damping)
        damping = jnp.maximum(damping, LEAST_DAMPING).astype(kind)
        growth = jnp.where(accepted, 2, 2 * now.growth).astype(kind)
        flat, at = jax.tree.map(
            lambda new, old: jnp.where(accepted, new, old),
            (now.flat + now.step, there),
            (now.flat, now.at),
        )
        step = at.curvature.solve(at.gradient, damping)
        left = (1 + damping) * jnp.vdot(at.gradient, step)
        return _Climb(flat, at, step, damping, growth, left, now.steps + 1)

    def going(now: _Climb) -> jax.Array:
        near = (now.left >= 0) & (now.left < TOLERANCE * start.size)
        lost = (now.steps > 0) & ~jnp.isfinite(now.at.value)
        return (now.steps < STEPS) & ~near & ~lost & (now.damping < MOST_DAMPING)

    unseen = Expansion(-infinite, jnp.zeros_like(start), nothing)
    begin = _Climb(
        start, unseen, jnp.zeros_like(start), jnp.asarray(FIRST_DAMPING, kind),
        jnp.asarray(2, kind), infinite, jnp.zeros((), jnp.int32),
    )  # fmt: skip
    end = jax.lax.while_loop(going, body, begin)
    return Mode(end.flat, end.at, end.steps)


def find_mode(log_density: Callable[[jax.Array], jax.Array], start: jax.Array) -> jax.Array:
    """Climb to a mode with L-BFGS, from a flat position `(n,)`; at most 200 steps.

    References:
        Nocedal & Wright (2006), "Numerical optimization", algorithm 7.4.
    """

    def loss(x: jax.Array) -> jax.Array:
        return -log_density(x)

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def body(carry: tuple[jax.Array, Any, Any, Any]) -> tuple[jax.Array, Any, Any, Any]:
        x, state, n, _ = carry
        value, gradient = value_and_grad(x, state=state)
        updates, state = solver.update(
            gradient, state, x, value=value, grad=gradient, value_fn=loss
        )
        moved: Any = optax.apply_updates(x, updates)
        moved = jnp.where(jnp.all(jnp.isfinite(moved)), moved, x)
        return moved, state, n + 1, jnp.max(jnp.abs(moved - x))

    def going(carry: tuple[jax.Array, Any, Any, Any]) -> jax.Array:
        return (carry[2] < L_BFGS_STEPS) & (carry[3] > 1e-6)

    start_carry = (
        start,
        solver.init(start),
        jnp.zeros((), jnp.int32),
        jnp.asarray(jnp.inf, start.dtype),
    )
    return jax.lax.while_loop(going, body, start_carry)[0]
