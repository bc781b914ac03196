"""Mode and curvature of a log density, by which a sampler chooses its scale without tuning."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from nbcore.common.pytrees import register_pytree
from nbcore.errors import OptionError
from nbcore.targets import gauss_newton
from nbcore.targets.mode import STEPS, Expansion, Mode, climb, find_mode
from nbcore.targets.target import NetworkTarget, Target
from nbcore.targets.whitening import FLOOR, Dense, Factor, LowRank, Whitening, low_rank

Structure = Literal["auto", "full", "low_rank", "diagonal"]
DENSE_LIMIT = 512
RANK = 128
BYTE_BUDGET = 2**30
WHITENING_BYTES = 2**22
"""The byte budget of samplers, which multiply by the factor in every step: 512 parameters."""
MATRICES = 4
"""Number of matrices of the size of the curvature that are held at a time."""
ROUNDS, STILL = 50, 3e-3
"""Number of rounds of weights and parameters, and the step of the latter that ends them."""
PROBES = 32
AT_ONCE = 16


@register_pytree
@dataclass(frozen=True)
class NormalApproximation:
    """The normal density with the mode and the curvature of a log density.

    Args:
        whitening: the mode, and a factor R of the covariance R R^T.
        log_density: the log density at the mode.
        distance: how far the mode is from `whitening.center`, in deviations: sqrt(g^T H^-1 g).
        steps: how many steps the search for the mode took.
    """

    whitening: Whitening
    log_density: jax.Array
    distance: jax.Array
    steps: jax.Array


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


def approximate(
    key: jax.Array,
    target: Target,
    position: Any,
    *,
    structure: Structure = "auto",
    find: bool = True,
    byte_budget: int = BYTE_BUDGET,
    rank: int = RANK,
) -> NormalApproximation:
    r"""Return the normal approximation of a log density; jittable.

    The curvature of a network's weights is J^T L J + P, the generalized Gauss-Newton matrix of its
    linearization, see `nbcore.targets.gauss_newton`; a plain density has its Hessian, with negative
    curvature replaced by its size.

    Args:
        key: random key, of the directions that low-rank curvature starts with.
        target: the log density.
        position: the start of the climb, or the point of expansion.
        structure: `"full"`; `"low_rank"`, the `rank` largest directions relative to the prior, and
            the diagonal of the rest; `"diagonal"`; or `"auto"`, the first of the three that the
            byte budget holds, by shapes alone.
        find: whether to climb to the mode first.
        byte_budget: bytes that a full curvature may take.
        rank: directions of a low-rank curvature.

    Raises:
        OptionError: the structure is `"full"`, and takes more bytes.

    References:
        Martens (2020), "New insights and perspectives on the natural gradient method", section 8.
    """
    network = target.network_target
    if network is not None and network is target:
        return _of_network(key, network, position, structure, find, byte_budget, rank)
    return _of_density(key, target, position, structure, find, byte_budget, rank)


def _of_network(
    key: jax.Array,
    target: NetworkTarget,
    position: Any,
    structure: Structure,
    find: bool,
    byte_budget: int,
    rank: int,
) -> NormalApproximation:
    flat = ravel_pytree(position)[0]
    num_parameters = flat.size - target.split.size
    rows = sum(len(block.y) for block in target.blocks)
    rows = rows * target.likelihood.num_network_outputs(target.num_outputs) + 2 * num_parameters
    rank = min(rank, max(flat.size - 2 * num_parameters, 1))
    nothing: Any
    expand: Callable[[jax.Array, Any], Expansion]
    if not _is_full(structure, flat.size, rows, byte_budget):
        expand = functools.partial(gauss_newton.largest, target, rank=rank)
        start = jax.random.normal(key, (flat.size, rank + 2 * num_parameters), flat.dtype)
        nothing = LowRank(jnp.ones_like(flat), start, jnp.ones(start.shape[1], flat.dtype))
    elif rows < flat.size:
        expand = functools.partial(gauss_newton.dual, target)
        directions = gauss_newton.num_rows(target, flat.size) + 2 * num_parameters
        start = jnp.zeros((flat.size, directions), flat.dtype)
        nothing = LowRank(jnp.ones_like(flat), start, jnp.ones(directions, flat.dtype))
    else:
        expand = functools.partial(gauss_newton.primal, target)
        nothing = Dense(jnp.zeros((flat.size, flat.size), flat.dtype), jnp.ones_like(flat))
    if find:
        mode = _marginal_mode(target, expand, flat, nothing)
        flat, at, steps = mode.flat, mode.expansion, mode.steps
    else:
        at, steps = expand(flat, nothing), jnp.zeros((), jnp.int32)
    found = _factor(at)
    distance = jnp.linalg.norm(Whitening(flat, found).pull(at.gradient))
    if structure == "diagonal":
        found = 1 / jnp.sqrt(gauss_newton.diagonal(target, flat))
    return NormalApproximation(Whitening(flat, found), at.value, distance, steps)


def _factor(at: Expansion) -> Factor:
    return at.curvature.root() if isinstance(at.curvature, Dense) else at.curvature


def _marginal_mode(
    target: NetworkTarget, expand: Callable[..., Expansion], flat: jax.Array, nothing: Any
) -> Mode:
    """Return the mode of the weights given parameters of the likelihood at their own mode.

    The latter is that with the weights integrated out: of as many weights as examples the joint
    mode is at noise 0.
    """
    held = functools.partial(expand, hold=True)

    def climbed(flat: jax.Array) -> Mode:
        return climb(held, flat, nothing, target.num_examples)

    if not jax.tree.leaves(target.start["likelihood"]):
        return climbed(flat)

    def again(now: tuple[Mode, jax.Array, jax.Array]) -> tuple[Mode, jax.Array, jax.Array]:
        before, step, rounds = now
        mode = climbed(before.flat + step)
        whitening = Whitening(mode.flat, _factor(mode.expansion))
        step = gauss_newton.expected_step(target, mode.flat, whitening.pull)
        return mode._replace(steps=before.steps + mode.steps), step, rounds + 1

    def going(now: tuple[Mode, jax.Array, jax.Array]) -> jax.Array:
        moves = (now[2] == 0) | (jnp.max(jnp.abs(now[1])) > STILL)
        return moves & (now[2] < ROUNDS) & (now[0].steps < STEPS)

    none, unseen = jnp.zeros((), jnp.int32), jnp.zeros_like(flat)
    expansion = Expansion(jnp.zeros((), flat.dtype), unseen, nothing)
    begin = Mode(flat, expansion, none), unseen, none
    return jax.lax.while_loop(going, again, begin)[0]


def _is_full(structure: Structure, size: int, rows: int, byte_budget: int) -> bool:
    """Whether the curvature of `size` parameters, from `rows` rows, is computed in full.

    Raises:
        OptionError: it was asked for, and takes more bytes than the budget.
    """
    if structure == "low_rank":
        return False
    wanted = MATRICES * jnp.dtype(jnp.result_type(float)).itemsize * size * min(size, rows)
    if structure == "full" and wanted > byte_budget:
        raise OptionError(
            f"A full covariance of {size:,} parameters takes {wanted / 2**20:,.0f} MiB, and the "
            f"byte budget is {byte_budget / 2**20:,.0f} MiB. Give structure='low_rank' or "
            f"'diagonal', or byte_budget={wanted}"
        )
    return wanted <= byte_budget


def _of_density(
    key: jax.Array,
    target: Target,
    position: Any,
    structure: Structure,
    find: bool,
    byte_budget: int,
    rank: int,
) -> NormalApproximation:
    start, unravel = ravel_pytree(position)
    flat = mode_near(target, position) if find else start
    at = unravel(flat)
    if structure == "auto" and not _is_full(structure, flat.size, flat.size, byte_budget):
        structure = "diagonal"
    if structure == "low_rank":
        factor: Factor = _low_rank_hessian(key, target, at, min(rank, flat.size))
    elif structure == "diagonal":
        factor = inverse_root(curvature_diagonal(target, at))
    else:
        _is_full(structure, flat.size, flat.size, byte_budget)
        factor = inverse_root(curvature_at(key, target, at, dense_limit=flat.size))
    whitening = Whitening(flat, factor)
    value, gradient = jax.value_and_grad(lambda x: target.log_density(unravel(x)))(flat)
    distance = jnp.linalg.norm(whitening.pull(gradient))
    return NormalApproximation(whitening, value, distance, jnp.zeros((), jnp.int32))


def whiten(key: jax.Array, target: Target, position: Any) -> Whitening:
    """Find the mode near a position and the curvature there, for samplers.

    The factor is full for up to 512 parameters. Beyond, that of a network has a diagonal and the
    128 largest directions, that of a plain density a diagonal, estimated with 32 random probes.

    Args:
        key: random key, for directions and probes.
        target: the log density.
        position: the start of the climb.

    Returns:
        The whitening; if the density has no finite curvature at a mode, the identity around
        `position`.
    """
    start, unravel = ravel_pytree(position)
    if target.network_target is target:
        found = approximate(key, target, position, byte_budget=WHITENING_BYTES).whitening
    else:
        center = mode_near(target, position)
        found = Whitening(center, inverse_root(curvature_at(key, target, unravel(center))))
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves(found)]))
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), found, _identity(start, found.factor))


def _identity(center: jax.Array, like: Factor) -> Whitening:
    """Return the coordinates in which R is the identity."""
    if isinstance(like, LowRank):
        return Whitening(center, LowRank(
            jnp.ones_like(like.scale), jnp.zeros_like(like.vectors), jnp.ones_like(like.values)
        ))  # fmt: skip
    unit = jnp.ones_like(center) if like.ndim == 1 else jnp.eye(len(center), dtype=center.dtype)
    return Whitening(center, unit)


def mode_near(target: Target, position: Any) -> jax.Array:
    """Climb from a position to the mode of a log density with L-BFGS, flat `(n,)`.

    Unknown scales of the prior stay where they are: the joint mode of weights and their scale is
    at scale 0, where all weights are at their center.
    """
    flat, unravel = ravel_pytree(position)

    def log_density(x: jax.Array) -> jax.Array:
        return target.log_density(target.with_hyperparameters_of(unravel(x), position))

    return find_mode(log_density, flat)


def curvature_product(target: Target, position: Any) -> Callable[[jax.Array], jax.Array]:
    """Return v -> H v, with H the negative Hessian of the log density, for vectors `(n,)`.

    Args:
        target: the log density.
        position: the point of evaluation.

    Examples:
        >>> target = Target.from_log_density(lambda x: -1.5 * jnp.sum(x**2), jnp.zeros(2))
        >>> curvature_product(target, target.start)(jnp.array([1.0, 2.0])).tolist()
        [3.0, 6.0]

    References:
        Pearlmutter (1994), "Fast exact multiplication by the Hessian", equation 4.
    """
    flat, unravel = ravel_pytree(position)
    gradient = jax.grad(lambda x: target.log_density(unravel(x)))
    return lambda v: -jax.jvp(gradient, (flat,), (v,))[1]


def curvature_at(
    key: jax.Array, target: Target, position: Any, *, dense_limit: int = DENSE_LIMIT
) -> jax.Array:
    """Return the negative Hessian of the log density, `(n, n)`, made positive definite.

    Directions of negative or vanishing curvature get the size of their curvature, floored at
    1e-6 of the largest. With more than `dense_limit` parameters it is the diagonal `(n,)`,
    estimated with 32 random probes.

    Args:
        key: random key of the probes.
        target: the log density.
        position: the point of evaluation.
        dense_limit: up to how many parameters the whole matrix is computed, with n gradients.

    References:
        Bekas, Kokiopoulou & Saad (2007), "An estimator for the diagonal of a matrix", equation 2.
    """
    flat = ravel_pytree(position)[0]
    size = flat.shape[0]
    curve = curvature_product(target, position)
    if size <= dense_limit:
        hessian = jax.lax.map(curve, jnp.eye(size, dtype=flat.dtype), batch_size=AT_ONCE)
        values, vectors = jnp.linalg.eigh((hessian + hessian.T) / 2)
        return (vectors * _floored(values)) @ vectors.T
    probes = jax.random.rademacher(key, (PROBES, size), flat.dtype)
    each = jax.lax.map(lambda v: v * curve(v), probes, batch_size=AT_ONCE)
    return _floored(jnp.mean(each, axis=0))


def curvature_diagonal(target: Target, position: Any) -> jax.Array:
    """Return the diagonal `(n,)` of the negative Hessian of a log density, with n gradients."""
    flat = ravel_pytree(position)[0]
    curve = curvature_product(target, position)

    def entry(i: jax.Array) -> jax.Array:
        return curve(jnp.zeros_like(flat).at[i].set(1))[i]

    return jax.lax.map(entry, jnp.arange(flat.shape[0]), batch_size=AT_ONCE)


def _low_rank_hessian(key: jax.Array, target: Target, position: Any, rank: int) -> LowRank:
    """Return the largest directions of the Hessian, relative to its diagonal."""
    scale = 1 / jnp.sqrt(_floored(curvature_diagonal(target, position)))
    curve = curvature_product(target, position)

    def product(vectors: jax.Array) -> jax.Array:
        moved = jax.lax.map(lambda v: scale * curve(scale * v), vectors.T, batch_size=AT_ONCE)
        return moved.T - vectors

    basis = jax.random.normal(key, (scale.size, rank), scale.dtype)
    for _ in range(gauss_newton.POWERS):
        basis = product(jnp.linalg.qr(basis)[0])
    return low_rank(scale, product, basis, jnp.zeros_like(scale))


def _floored(values: jax.Array) -> jax.Array:
    values = jnp.abs(values)
    return jnp.maximum(values, FLOOR * jnp.max(values))


def inverse_root(curvature: jax.Array) -> jax.Array:
    """Return a factor R of the inverse of a curvature H, R R^T = H^-1, of the same shape.

    Directions of negative or vanishing curvature get the size of their curvature, floored at
    1e-6 of the largest.

    Args:
        curvature: `(n, n)`, or `(n,)` for a diagonal.

    Examples:
        >>> inverse_root(jnp.array([4.0, -0.25])).tolist()
        [0.5, 2.0]
    """
    if curvature.ndim == 1:
        return 1 / jnp.sqrt(_floored(curvature))
    values, vectors = jnp.linalg.eigh(curvature)
    return vectors / jnp.sqrt(_floored(values))


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
