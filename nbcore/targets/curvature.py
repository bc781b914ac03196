"""Mode and curvature of a log density: what a sampler needs to choose its scale without tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from nbcore.common.pytrees import register_pytree
from nbcore.targets.target import Target

DENSE_LIMIT = 512
MODE_STEPS = 200
PROBES = 32
FLOOR = 1e-6


@register_pytree
@dataclass(frozen=True)
class Whitening:
    """An affine map to coordinates in which the log density has about unit curvature.

    position = unravel(center + factor @ phi), with factor factor^T the inverse of the negative
    Hessian at the mode (its diagonal where there are more than `DENSE_LIMIT` numbers).

    Args:
        center: the mode, flat `(d,)`.
        factor: `(d, d)`, or `(d,)` for a diagonal.
    """

    center: jax.Array
    factor: jax.Array

    def to_position(self, phi: jax.Array, like: Any) -> Any:
        """Return the position of whitened coordinates `(d,)`, with the structure of `like`."""
        move = self.factor * phi if self.factor.ndim == 1 else self.factor @ phi
        place = (self.center + move).astype(self.center.dtype)  # whatever the type of phi
        return jax.flatten_util.ravel_pytree(like)[1](place)

    def from_position(self, position: Any) -> jax.Array:
        """Return the whitened coordinates `(d,)` of a position."""
        move = jax.flatten_util.ravel_pytree(position)[0] - self.center
        if self.factor.ndim == 1:
            return move / self.factor
        return jnp.linalg.solve(self.factor, move)

    def from_gradient(self, gradient: Any) -> jax.Array:
        """Return the gradient in whitened coordinates `(d,)` of a gradient in the position."""
        flat = jax.flatten_util.ravel_pytree(gradient)[0]
        return self.factor * flat if self.factor.ndim == 1 else self.factor.T @ flat


def whitened_density(target: Target, whitening: Whitening) -> Callable[[jax.Array], jax.Array]:
    """Return the log density as a function of whitened coordinates `(d,)`.

    log p(phi) = log_density(unravel(center + factor @ phi)); the constant that the change of
    coordinates adds is left out, so that values are those of the target.

    Args:
        target: the log density.
        whitening: the coordinates.

    Examples:
        >>> target = Target.from_log_density(lambda x: -jnp.sum(x), jnp.zeros(2))
        >>> whitening = Whitening(center=jnp.ones(2), factor=jnp.array([2.0, 3.0]))
        >>> float(whitened_density(target, whitening)(jnp.array([1.0, 0.0])))
        -4.0
    """
    like = target.start
    return lambda phi: target.log_density(whitening.to_position(phi, like))


def find_mode(log_density: Callable[[jax.Array], jax.Array], start: jax.Array) -> jax.Array:
    """Climb to a mode with L-BFGS, from a flat position `(d,)`; at most 200 steps.

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
        return (carry[2] < MODE_STEPS) & (carry[3] > 1e-6)

    start_carry = (
        start,
        solver.init(start),
        jnp.zeros((), jnp.int32),
        jnp.asarray(jnp.inf, start.dtype),
    )
    return jax.lax.while_loop(going, body, start_carry)[0]


def curvature_product(target: Target, position: Any) -> Callable[[jax.Array], jax.Array]:
    """Return v -> H v, with H the negative Hessian of the log density, for vectors `(d,)`.

    Args:
        target: the log density.
        position: where.

    Examples:
        >>> target = Target.from_log_density(lambda x: -1.5 * jnp.sum(x**2), jnp.zeros(2))
        >>> curvature_product(target, target.start)(jnp.array([1.0, 2.0])).tolist()
        [3.0, 6.0]

    References:
        Pearlmutter (1994), "Fast exact multiplication by the Hessian", equation 4.
    """
    flat, unravel = jax.flatten_util.ravel_pytree(position)
    gradient = jax.grad(lambda x: target.log_density(unravel(x)))
    return lambda v: -jax.jvp(gradient, (flat,), (v,))[1]


def curvature_at(
    key: jax.Array, target: Target, position: Any, *, dense_limit: int = DENSE_LIMIT
) -> jax.Array:
    """Return the negative Hessian of the log density, `(d, d)`, made positive definite.

    Directions of negative or vanishing curvature get the size of their curvature, floored at
    1e-6 of the largest. With more than `dense_limit` numbers it is the diagonal `(d,)`, estimated
    with 32 random probes.

    Args:
        key: random key of the probes.
        target: the log density.
        position: where.
        dense_limit: up to how many numbers the whole matrix is computed, with d gradients.

    References:
        Bekas, Kokiopoulou & Saad (2007), "An estimator for the diagonal of a matrix", equation 2.
    """
    flat = jax.flatten_util.ravel_pytree(position)[0]
    size = flat.shape[0]
    curve = curvature_product(target, position)
    if size <= dense_limit:
        hessian = jax.lax.map(curve, jnp.eye(size, dtype=flat.dtype), batch_size=16)
        values, vectors = jnp.linalg.eigh((hessian + hessian.T) / 2)
        return (vectors * _floored(values)) @ vectors.T
    probes = jax.random.rademacher(key, (PROBES, size), flat.dtype)
    return _floored(jnp.mean(jax.lax.map(lambda v: v * curve(v), probes, batch_size=8), axis=0))


def _floored(values: jax.Array) -> jax.Array:
    values = jnp.abs(values)
    return jnp.maximum(values, FLOOR * jnp.max(values))


def inverse_root(curvature: jax.Array) -> jax.Array:
    """Return a factor R of the inverse of a curvature H, R R^T = H^-1, of the same shape.

    Directions of negative or vanishing curvature get the size of their curvature, floored at
    1e-6 of the largest.

    Args:
        curvature: `(d, d)`, or `(d,)` for a diagonal.

    Examples:
        >>> inverse_root(jnp.array([4.0, -0.25])).tolist()
        [0.5, 2.0]
    """
    if curvature.ndim == 1:
        return 1 / jnp.sqrt(_floored(curvature))
    values, vectors = jnp.linalg.eigh(curvature)
    return vectors / jnp.sqrt(_floored(values))


def mode_near(target: Target, position: Any) -> jax.Array:
    """Climb from a position to the mode of a log density, flat `(d,)`.

    Unknown scales of the prior stay where they are: the joint mode of weights and their scale is
    at scale 0, where all weights are at their center.
    """
    flat, unravel = jax.flatten_util.ravel_pytree(position)

    def log_density(x: jax.Array) -> jax.Array:
        return target.log_density(target.with_hyperparameters_of(unravel(x), position))

    return find_mode(log_density, flat)


def whiten(key: jax.Array, target: Target, position: Any) -> Whitening:
    """Find the mode near a position and the curvature there.

    Args:
        key: random key, for the probes of a diagonal.
        target: the log density.
        position: where to start.

    Returns:
        The whitening; where the density has no finite curvature at a mode, the identity around
        `position`.
    """
    start, unravel = jax.flatten_util.ravel_pytree(position)
    center = mode_near(target, position)
    factor = inverse_root(curvature_at(key, target, unravel(center)))
    unit = jnp.ones_like(start) if factor.ndim == 1 else jnp.eye(len(start), dtype=start.dtype)
    found = jnp.all(jnp.isfinite(factor)) & jnp.all(jnp.isfinite(center))
    return Whitening(jnp.where(found, center, start), jnp.where(found, factor, unit))


def linearized(target: Target, position: Any) -> Target:
    """Return the log density with the network replaced by its linearization at a position.

    Its negative Hessian there is J^T L J + P for the weights, the generalized Gauss-Newton matrix,
    with J the Jacobian of the outputs, and L and P the curvatures of the likelihood with respect
    to the outputs and of the prior. Parameters of the likelihood and their coupling to the weights
    keep their own Hessian; a plain density has no network, and is returned as it is.

    Args:
        target: the log density.
        position: where to linearize; the result is for use within the same trace.

    References:
        Martens (2020), "New insights and perspectives on the natural gradient method", section 8.
    """
    network = target.network_target
    if network is None or network is not target:
        return target
    at = position["weights"]
    lines = [
        jax.linearize(lambda w, b=block: b.forward.outputs(w, b.features), at)
        for block in network.blocks
    ]

    def log_density(z: Any) -> jax.Array:
        move = jax.tree.map(jnp.subtract, z["weights"], at)
        total = network.log_prior(z)
        for block, (outputs, jacobian) in zip(network.blocks, lines, strict=True):
            each = network.likelihood.log_prob(outputs + jacobian(move), block.y, z["likelihood"])
            total = total + block.total(each)
        return total

    return Target.from_log_density(log_density, position)


def largest_curvature(
    key: jax.Array, target: Target, whitening: Whitening, like: Any, *, steps: int = 20
) -> jax.Array:
    """Return the largest curvature at the mode in whitened coordinates, by power iteration."""

    def density(phi: jax.Array) -> jax.Array:
        return target.log_density(whitening.to_position(phi, like))

    zero = jnp.zeros_like(whitening.center)

    def body(_: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        moved = -jax.jvp(jax.grad(density), (zero,), (carry[0],))[1]
        size = jnp.linalg.norm(moved)
        return moved / jnp.maximum(size, 1e-30), size

    first = jax.random.normal(key, zero.shape, zero.dtype)
    start = (first / jnp.linalg.norm(first), jnp.ones((), zero.dtype))
    return jax.lax.fori_loop(0, steps, body, start)[1]
