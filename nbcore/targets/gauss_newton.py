"""The log density of a network around a position: value, gradient and Gauss-Newton curvature.

Weights come last in a flat position `(n,)`, after the k parameters of likelihood and prior. With
f_i the outputs for example i, J_i their Jacobian in the weights and L_i the information of the
likelihood about them, the curvature of the weights is sum_i J_i^T L_i J_i + P, with P the diagonal
curvature of the prior. Parameters of the likelihood, and their coupling to the weights, keep their
own Hessian. Unknown scales of the prior are held and uncoupled: the joint mode of weights and their
scale is at scale 0, where all weights are at their center. So are, if asked for, parameters of the
likelihood: with as many weights as examples, the joint mode of weights and noise is at noise 0.
`expected_step` moves them, given the weights and their covariance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from nbcore.distributions.likelihoods import Likelihood
from nbcore.targets.hoisting import chunks
from nbcore.targets.hoisting.forward import Forward
from nbcore.targets.mode import Expansion
from nbcore.targets.target import NetworkTarget
from nbcore.targets.whitening import FLOOR, Dense, LowRank, low_rank

DESIGN_BYTES = 2**26
"""Size of the Jacobians of a chunk of examples."""
POWERS = 2
"""Subspace iterations at each position, started at the subspace of the position before."""

Reduce = Callable[[jax.Array], Any]
"""Maps the design `(rows, d)` of some examples, A with A^T A = sum_i J_i^T L_i J_i, to a term."""

Pull = Callable[[jax.Array], jax.Array]


class Pieces(NamedTuple):
    """The expansion of a log density around a position.

    Args:
        value: the log density.
        gradient: its gradient `(n,)`.
        border: rows of its negative Hessian that belong to parameters `(k, n)`.
        prior: curvature of the log prior in each weight `(d,)`.
        reduced: sum over chunks of the reduced design.
        design: the whole design `(rows, d)`; without rows if it is not kept.
    """

    value: jax.Array
    gradient: jax.Array
    border: jax.Array
    prior: jax.Array
    reduced: Any
    design: jax.Array


class _Sums(NamedTuple):
    value: jax.Array
    weights: jax.Array
    parameters: jax.Array
    own: jax.Array
    cross: jax.Array
    reduced: Any


def pieces(
    target: NetworkTarget, flat: jax.Array, reduce: Reduce, *, keep: bool, hold: bool = False
) -> Pieces:
    """Return the log density around a flat position, in one pass over the examples.

    Args:
        target: the log density.
        flat: the position `(n,)`.
        reduce: maps a design to a summand.
        keep: whether the whole design is kept as well.
        hold: whether parameters of the likelihood are held and uncoupled.
    """
    unravel = ravel_pytree(target.start)[1]
    position = unravel(flat)
    parts: list[_Sums] = []
    kept: list[jax.Array] = []
    for block in target.blocks:
        shared = (block.forward, target.likelihood, position)
        size = _chunk_size(block.forward, target, flat.size)
        summed, design = chunks.fold(
            lambda shared, rows, weights: _of_chunk(reduce, keep, shared, rows, weights),
            size or len(block.y), block.num_weighed, shared, (block.features, block.y),
        )  # fmt: skip
        parts.append(summed)
        kept.append(design)
    sums: _Sums = jax.tree.map(lambda *a: sum(a[1:], a[0]), *parts)
    num_parameters = flat.size - sums.weights.size
    of_likelihood = sums.parameters.size

    def log_prior(x: jax.Array) -> jax.Array:
        return target.log_prior(unravel(x))

    def curve(v: jax.Array) -> jax.Array:
        return -jax.jvp(jax.grad(log_prior), (flat,), (v,))[1]

    places = jnp.arange(flat.size)
    is_held = (places >= of_likelihood) & (places < num_parameters)
    value, gradient = jax.value_and_grad(log_prior)(flat)
    gradient = gradient.at[num_parameters:].add(sums.weights)
    gradient = jnp.where(is_held, 0, gradient.at[:of_likelihood].add(sums.parameters))
    unit = jnp.eye(num_parameters, flat.size, dtype=flat.dtype)
    border = jax.vmap(curve)(unit)
    border = jnp.where((is_held | is_held[:num_parameters, None]) & (unit == 0), 0, border)
    border = border.at[:of_likelihood, num_parameters:].add(sums.cross)
    border = border.at[:of_likelihood, :of_likelihood].add(sums.own)
    if hold and of_likelihood:
        gradient = gradient.at[:of_likelihood].set(0)
        own = _made_positive(border[:of_likelihood, :of_likelihood])
        border = border.at[:of_likelihood].set(0).at[:of_likelihood, :of_likelihood].set(own)
    prior = curve((places >= num_parameters).astype(flat.dtype))[num_parameters:]
    return Pieces(
        value + sums.value, gradient, border, prior, sums.reduced,
        jnp.concatenate(kept),
    )  # fmt: skip


def num_rows(target: NetworkTarget, size: int) -> int:
    """Return the number of rows of the whole design, those of copies included.

    Args:
        target: the log density.
        size: number of entries of a position.
    """
    counts = [
        chunks.filled_count(len(b.y), _chunk_size(b.forward, target, size) or len(b.y))
        for b in target.blocks
    ]
    return sum(counts) * target.likelihood.num_network_outputs(target.num_outputs)


def _chunk_size(forward: Forward, target: NetworkTarget, size: int) -> int:
    """Return how many examples are computed at a time; 0 is all of them."""
    if not forward.program.per_example:
        return 0
    fitting = DESIGN_BYTES // (4 * size * target.num_outputs)
    usual = forward.chunk_size // target.num_outputs
    return max(1, min(usual, fitting) if forward.chunk_size else fitting)


def _of_chunk(
    reduce: Reduce,
    keep: bool,
    shared: tuple[Forward, Likelihood, Any],
    rows: tuple[Any, jax.Array],
    weights: jax.Array,
) -> tuple[_Sums, Any]:
    (forward, likelihood, position), (features, y) = shared, rows
    outputs, jacobian = forward.jacobian(position["weights"], features)
    own = likelihood.num_network_outputs(outputs.shape[1])
    jacobian = jacobian[:, :own]
    parameters, unravel = ravel_pytree(position["likelihood"])

    def log_prob(f: jax.Array, u: jax.Array, y: jax.Array) -> jax.Array:
        return likelihood.log_prob(f[None], y[None], unravel(u))[0]

    def derivatives(f: jax.Array, y: jax.Array) -> Any:
        value, gradients = jax.value_and_grad(log_prob, (0, 1))(f, parameters, y)
        if not parameters.size:
            return value, *gradients, jnp.zeros((f.size, 0), f.dtype), jnp.zeros((0, 0), f.dtype)
        curvatures = jax.jacfwd(jax.grad(log_prob, (0, 1)), 1)(f, parameters, y)
        return value, *gradients, *(-c for c in curvatures)

    value, by_output, by_parameter, cross, among = (
        a * weights.reshape(-1, *[1] * (a.ndim - 1)) for a in jax.vmap(derivatives)(outputs, y)
    )
    information = likelihood.information(outputs, y, position["likelihood"])[:, :own, :own]
    root = _root(information) * jnp.sqrt(weights)[:, None, None]
    design = jnp.einsum("iab,iad->ibd", root, jacobian).reshape(-1, jacobian.shape[2])
    sums = _Sums(
        jnp.sum(value),
        jnp.einsum("ia,iad->d", by_output[:, :own], jacobian),
        jnp.sum(by_parameter, axis=0),
        jnp.sum(among, axis=0),
        jnp.einsum("iak,iad->kd", cross[:, :own], jacobian),
        reduce(design),
    )
    return sums, design if keep else design[:0]


def expected_step(target: NetworkTarget, flat: jax.Array, pull: Pull) -> jax.Array:
    r"""Return a step `(n,)` of the parameters of the likelihood, 0 for all others.

    It climbs E log p(y | f, u) + log p(u), with f normal around the outputs at the position and
    with the covariance s_i = J_i H^-1 J_i^T that the weights give them: up to second order,

    sum_i log p(y_i | f_i, u) - tr(L_i(u) s_i) / 2 + log p(u).

    Alternating with a climb of the weights that ends at the mode of u with the weights integrated
    out, as the EM algorithm does. For Gaussian noise s^2 there, the sum of squared residuals is
    s^2 (N - gamma), with gamma = sum_i s_i / s^2 the number of well-determined weights. The step is
    that of Newton with the curvature at s_i = 0, which takes fewer rounds, and at most 1.

    Args:
        target: the log density.
        flat: the position `(n,)`.
        pull: maps g `(n,)` to R^T g, with R R^T = H^-1.

    References:
        Dempster, Laird & Rubin (1977), "Maximum likelihood from incomplete data via the EM
        algorithm"; MacKay (1992), "Bayesian interpolation", section 4.
    """
    unravel = ravel_pytree(target.start)[1]
    position = unravel(flat)
    parameters = ravel_pytree(position["likelihood"])[0]

    def log_prior(u: jax.Array) -> jax.Array:
        return target.log_prior(unravel(flat.at[: parameters.size].set(u)))

    gradient, hessian = jax.grad(log_prior)(parameters), jax.hessian(log_prior)(parameters)
    for block in target.blocks:
        shared = (block.forward, target.likelihood, position)
        size = _chunk_size(block.forward, target, flat.size)
        more, _ = chunks.fold(
            lambda shared, rows, weights: (_of_parameters(pull, shared, rows, weights), None),
            size or len(block.y), block.num_weighed, shared, (block.features, block.y),
        )  # fmt: skip
        gradient, hessian = gradient + more[0], hessian + more[1]
    step = jnp.linalg.solve(_made_positive(-hessian), gradient)
    return jnp.zeros_like(flat).at[: parameters.size].set(jnp.clip(step, -1, 1))


def _of_parameters(
    pull: Pull,
    shared: tuple[Forward, Likelihood, Any],
    rows: tuple[Any, jax.Array],
    weights: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return the gradient of the expected log likelihood, and the Hessian of the one at f."""
    (forward, likelihood, position), (features, y) = shared, rows
    outputs, jacobian = forward.jacobian(position["weights"], features)
    own = likelihood.num_network_outputs(outputs.shape[1])
    parameters, unravel = ravel_pytree(position["likelihood"])
    size = ravel_pytree(position)[0].size
    places = ((0, 0), (0, 0), (size - jacobian.shape[2], 0))
    pulled = jax.vmap(jax.vmap(pull))(jnp.pad(jacobian[:, :own], places))
    spread = jnp.einsum("iad,ibd->iab", pulled, pulled)

    def at_outputs(u: jax.Array) -> jax.Array:
        return jnp.sum(weights * likelihood.log_prob(outputs, y, unravel(u)))

    def lost(u: jax.Array) -> jax.Array:
        information = likelihood.information(outputs, y, unravel(u))[:, :own, :own]
        return jnp.sum(weights[:, None, None] * information * spread) / 2

    gradient = jax.grad(at_outputs)(parameters) - jax.grad(lost)(parameters)
    return gradient, jax.hessian(at_outputs)(parameters)


def _made_positive(matrix: jax.Array) -> jax.Array:
    """Return a symmetric matrix with the sizes of its eigenvalues, floored."""
    values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
    values = jnp.maximum(jnp.abs(values), FLOOR * jnp.max(jnp.abs(values), initial=1))
    return (vectors * values) @ vectors.T


def _root(information: jax.Array) -> jax.Array:
    """Return B with B B^T = L, for L `(examples, outputs, outputs)`; negative curvature is zero."""
    if information.shape[1] == 1:
        return jnp.sqrt(jnp.maximum(information, 0))
    values, vectors = jnp.linalg.eigh(information)
    return vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None, :]


def primal(target: NetworkTarget, flat: jax.Array, near: Any, *, hold: bool = False) -> Expansion:
    """Return the log density around a flat position, its curvature as a matrix."""
    del near
    found = pieces(target, flat, lambda design: design.T @ design, keep=False, hold=hold)
    prior = _positive(found.prior)
    num_parameters = len(found.border)
    matrix = jnp.zeros((flat.size, flat.size), flat.dtype)
    matrix = matrix.at[num_parameters:, num_parameters:].set(found.reduced + jnp.diag(prior))
    matrix = matrix.at[:, :num_parameters].set(found.border.T).at[:num_parameters].set(found.border)
    return Expansion(found.value, found.gradient, Dense(matrix, _scale(found)))


def dual(target: NetworkTarget, flat: jax.Array, near: Any, *, hold: bool = False) -> Expansion:
    """Return the same with an exact curvature of low rank, from the rows of all examples."""
    del near
    found = pieces(target, flat, lambda _: (), keep=True, hold=hold)
    scale, border = _scale(found), _scaled_border(found)
    num_parameters = len(border)
    design = scale[num_parameters:] * found.design

    def product(vectors: jax.Array) -> jax.Array:
        return _bordered(border, vectors, design.T @ (design @ vectors[num_parameters:]))

    rows = jnp.pad(design, ((0, 0), (num_parameters, 0)))
    basis = jnp.concatenate([rows.T, _parameter_basis(border)], axis=1)
    return Expansion(found.value, found.gradient, low_rank(scale, product, basis))


def largest(
    target: NetworkTarget, flat: jax.Array, near: LowRank, rank: int, *, hold: bool = False
) -> Expansion:
    """Return the same with the largest directions of the curvature, and the rest as a diagonal.

    The directions are those of subspace iteration, from those at a position nearby.

    Args:
        target: the log density.
        flat: the position `(n,)`.
        near: the curvature there, of at least `rank` directions; the last ones are the largest.
        rank: number of directions beside those of parameters.
        hold: whether parameters of the likelihood are held and uncoupled.

    References:
        Halko, Martinsson & Tropp (2011), "Finding structure with randomness", algorithm 4.4.
    """
    found = pieces(target, flat, lambda design: jnp.sum(design**2, axis=0), keep=False, hold=hold)
    scale, border = _scale(found), _scaled_border(found)
    num_parameters = len(border)
    each = scale[num_parameters:]

    def product(vectors: jax.Array) -> jax.Array:
        inside = each[:, None] * vectors[num_parameters:]

        def reduce(design: jax.Array) -> jax.Array:
            return design.T @ (design @ inside)

        moved = pieces(target, flat, reduce, keep=False).reduced
        return _bordered(border, vectors, each[:, None] * moved)

    def again(basis: jax.Array, _: None) -> tuple[jax.Array, None]:
        return product(jnp.linalg.qr(basis)[0]), None

    basis, _ = jax.lax.scan(again, near.vectors[:, -rank:], None, length=POWERS)
    basis = jnp.concatenate([basis, _parameter_basis(border)], axis=1)
    own = jnp.diagonal(border) - 1
    diagonal = jnp.concatenate([own, each**2 * found.reduced])
    return Expansion(found.value, found.gradient, low_rank(scale, product, basis, diagonal))


def diagonal(target: NetworkTarget, flat: jax.Array) -> jax.Array:
    """Return the diagonal of the curvature at a flat position `(n,)`."""
    found = pieces(target, flat, lambda design: jnp.sum(design**2, axis=0), keep=False)
    own = jnp.abs(jnp.diagonal(found.border))
    return jnp.concatenate([_positive(own), _positive(found.prior) + found.reduced])


def _positive(prior: jax.Array) -> jax.Array:
    """Return a curvature made positive: its size with a floor, or 1 if all of it vanishes."""
    size = jnp.abs(prior)
    most = jnp.max(size, initial=0)
    return jnp.where(most > 0, jnp.maximum(size, FLOOR * most), 1)


def _scale(found: Pieces) -> jax.Array:
    """Return deviations `(n,)`: of weights under the prior, of parameters under the posterior."""
    own = jnp.abs(jnp.diagonal(found.border))
    return 1 / jnp.sqrt(jnp.concatenate([_positive(own), _positive(found.prior)]))


def _scaled_border(found: Pieces) -> jax.Array:
    scale = _scale(found)
    return scale[: len(found.border), None] * found.border * scale


def _bordered(border: jax.Array, vectors: jax.Array, moved: jax.Array) -> jax.Array:
    """Return (S H S - I) V, given the product of the design with the weights' part of V."""
    num_parameters = len(border)
    own = vectors[:num_parameters]
    return jnp.concatenate([border @ vectors - own, border[:, num_parameters:].T @ own + moved])


def _parameter_basis(border: jax.Array) -> jax.Array:
    """Return columns that span the directions coupled to parameters `(n, 2 k)`."""
    num_parameters, size = border.shape
    unit = jnp.eye(size, num_parameters, dtype=border.dtype)
    return jnp.concatenate([unit, border.T], axis=1)
