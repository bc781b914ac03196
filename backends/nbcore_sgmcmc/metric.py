"""Coordinates in which the stochastic-gradient samplers move, and what they are learned from.

A position x is flat `(d,)` here. A metric with a free scale e, at most 1, stands for coordinates
phi with x = R phi, R R^T = M^-1,

M = S^-1 (I / e^2 + G) S^-1,

with S diagonal, the deviations of the prior, and G = V diag(l) V^T what the data add to its
curvature. The smaller e, the shorter the steps in directions that the data leave free, while steps
in directions that the data fix keep their length: the damping of the Levenberg-Marquardt method.
Sampling needs this if a network is not linear: along free directions the curvature of all others
changes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp

from nbcore import Target
from nbcore.extend import curvature_rows, eigh, prior_deviations
from nbcore_sgmcmc.minibatches import Minibatches

VISITED = 8
"""Positions of a window at which the curvature is computed."""
MOST_EXAMPLES = 256
"""Largest number of examples that the curvature is estimated from at each position."""
MOST_ROWS = 512
"""Largest rank of G, if there are more parameters than that."""
DECAY = 0.99
LEAST_SHARE = 1e-6


class Metric(NamedTuple):
    """The parts of M that do not depend on the free scale.

    Args:
        scale: diagonal of S `(d,)`.
        vectors: V `(d, r)`; columns are orthonormal, or 0 where l is 0.
        values: l `(r,)`, at least 0.
    """

    scale: jax.Array
    vectors: jax.Array
    values: jax.Array

    def move(self, phi: jax.Array, free_scale: jax.Array) -> jax.Array:
        """Return R phi."""
        return self.scale * self._root(phi, free_scale)

    def pull(self, gradient: jax.Array, free_scale: jax.Array) -> jax.Array:
        """Return the gradient R^T g."""
        return self._root(self.scale * gradient, free_scale)

    def variance(self, noise: jax.Array, free_scale: jax.Array) -> jax.Array:
        """Return the variance v of gradient noise in phi, on average over directions.

        These are the directions that the data fix, tr(G (I / e^2 + G)^-1) of them. If G is not
        known, it is tr(V^2) / tr(V), with V the covariance in phi: nearly that of the worst ones.

        Args:
            noise: independent draws of the noise `(draws, d)`.
            free_scale: e.
        """
        pulled = jax.vmap(lambda gradient: self.pull(gradient, free_scale))(noise)
        products = pulled @ pulled.T
        own, count = jnp.diagonal(products), len(noise)
        if self.values.size:
            return jnp.mean(own) / jnp.maximum(
                jnp.sum(self.values / (self.values + free_scale**-2)), 1
            )
        pairs = (jnp.sum(products**2) - jnp.sum(own**2)) / (count * (count - 1))
        return pairs / jnp.maximum(jnp.mean(own), 1e-30)

    def _root(self, x: jax.Array, free_scale: jax.Array) -> jax.Array:
        """Return (I / e^2 + G)^(-1/2) x."""
        change = (self.values + free_scale**-2) ** -0.5 - free_scale
        return free_scale * x + self.vectors @ (change * (self.vectors.T @ x))


class Seen(NamedTuple):
    """Positions and gradients that a chain has seen in warmup.

    Args:
        visited: positions of the window `(8, d)`.
        squares: running mean of squared gradients `(d,)`.
    """

    visited: jax.Array
    squares: jax.Array

    @staticmethod
    def begin(flat: jax.Array, gradient: jax.Array) -> Seen:
        """Return the state at the start."""
        return Seen(jnp.tile(flat, (VISITED, 1)), gradient**2)

    def update(self, flat: jax.Array, gradient: jax.Array, place: jax.Array) -> Seen:
        """Return the state after a step.

        Args:
            flat: position `(d,)`.
            gradient: gradient there `(d,)`.
            place: which of the visited positions it replaces.
        """
        squares = DECAY * self.squares + (1 - DECAY) * gradient**2
        return Seen(self.visited.at[place].set(flat), squares)


def first_metric(target: Target, seen: Seen, preconditioner: str) -> Metric:
    """Return a metric like that of `measure`, before anything is known about the curvature."""
    like = jax.eval_shape(
        lambda: measure(jax.random.key(0), target, seen, preconditioner)
    )  # fmt: skip
    scale = _scale(target, seen._replace(visited=seen.visited[:1]), preconditioner)
    vectors, values = (jnp.zeros(a.shape, a.dtype) for a in (like.vectors, like.values))
    return Metric(scale, vectors, values)


def measure(key: jax.Array, target: Target, seen: Seen, preconditioner: str) -> Metric:
    """Return the metric of the positions that were seen.

    Args:
        key: random key, of the examples.
        target: the log density.
        seen: positions and gradients of a window.
        preconditioner: `"curvature"`: G is the generalized Gauss-Newton matrix in units of the
            prior, on average over the positions; `"rmsprop"`: G = 0, and S^2 is divided by the
            root of the mean squared gradient in units of the prior, if that is above 1;
            `"none"`: G = 0.

    References:
        Titsias (2023), "Optimal preconditioning and Fisher adaptive Langevin sampling",
        proposition 1 (the average); Li et al. (2016), "Preconditioned stochastic gradient Langevin
        dynamics for deep neural networks", equations 4 and 5.
    """
    scale = _scale(target, seen, preconditioner)
    network: Any = target.network_target
    if preconditioner != "curvature":
        return Metric(scale, jnp.zeros((len(scale), 0), scale.dtype), jnp.zeros(0, scale.dtype))
    count = num_examples_at(target)

    def rows(at: tuple[jax.Array, Any]) -> jax.Array:
        return curvature_rows(at[0], network, at[1], count) * scale / VISITED**0.5

    at = (jax.random.split(key, VISITED), _positions(target, seen))
    if len(scale) > MOST_ROWS:
        return Metric(scale, *_eigen_of_rows(jax.lax.map(rows, at).reshape(-1, len(scale))))

    def add(gram: jax.Array, one: tuple[jax.Array, Any]) -> tuple[jax.Array, None]:
        found = rows(one)
        return gram + found.T @ found, None

    zero = jnp.zeros((len(scale), len(scale)), scale.dtype)
    values, vectors = eigh(_finite(jax.lax.scan(add, zero, at)[0]))
    return Metric(scale, vectors, jnp.maximum(values, 0))


def measuring_gradients(batches: Minibatches, preconditioner: str) -> int:
    """Return the cost of `measure`, in gradients of a minibatch."""
    if preconditioner != "curvature":
        return 0
    network: Any = batches.target.network_target
    rows = VISITED * num_examples_at(batches.target) * network.num_outputs
    return -(-rows // batches.size)


def num_examples_at(target: Target) -> int:
    """Return how many examples the curvature is estimated from at each position."""
    network: Any = target.network_target
    count = min(MOST_EXAMPLES, target.num_examples)
    size = sum(leaf.size for leaf in jax.tree.leaves(target.start))
    most = max(1, MOST_ROWS // (VISITED * network.num_outputs))
    return count if size <= MOST_ROWS else min(count, most)


def _positions(target: Target, seen: Seen) -> Any:
    return jax.vmap(jax.flatten_util.ravel_pytree(target.start)[1])(seen.visited)


def _scale(target: Target, seen: Seen, preconditioner: str) -> jax.Array:
    """Return the diagonal of S."""
    network: Any = target.network_target
    deviations = prior_deviations(network, _positions(target, seen))
    scale = jax.flatten_util.ravel_pytree(deviations)[0]
    if preconditioner != "rmsprop":
        return scale
    return scale * jnp.maximum(scale**2 * seen.squares, 1.0) ** -0.25


def _eigen_of_rows(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return V and l of G = Q^T Q, for fewer rows Q `(rows, d)` than columns."""
    rows = _finite(rows)
    values, vectors = eigh(rows @ rows.T)
    kept = values > LEAST_SHARE * values[-1]
    root = jnp.where(kept, values, 1.0) ** -0.5
    return jnp.where(kept, rows.T @ vectors * root, 0), jnp.where(kept, values, 0)


def _finite(matrix: jax.Array) -> jax.Array:
    return jnp.nan_to_num(matrix, posinf=0.0, neginf=0.0)
