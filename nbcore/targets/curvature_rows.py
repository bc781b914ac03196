"""Curvature of a log density from some of its examples: what a sampler learns as it moves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp

from nbcore.common.matrices import eigh
from nbcore.targets.blocks import Block
from nbcore.targets.strata import Batch
from nbcore.targets.target import NetworkTarget

LEAST_SHARE = 1e-6


def prior_deviations(target: NetworkTarget, positions: Any) -> Any:
    r"""Return the scale of every number under the prior, with the structure of a position.

    For weights it is c^(-1/2), with c the curvature of the log prior on average over positions,
    floored at 1e-6 of the largest; exact for independent normals. Unknown parameters of likelihood
    and prior are sampled on a scale of about 1, which is theirs.

    Args:
        target: the log density.
        positions: positions with a leading axis.

    Examples:
        >>> import jax.numpy as jnp, nbcore as nb
        >>> network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["w"]))
        >>> every = nb.ProbabilisticSubset.everything()
        >>> target = nb.Target.build(
        ...     network, {"out": {"w": jnp.ones((2, 1))}}, every, jnp.ones((3, 2)), jnp.ones(3),
        ...     likelihood=nb.Gaussian(noise=1.0), prior=nb.NormalPrior(scale=0.5),
        ... )  # fmt: skip
        >>> one = jax.tree.map(lambda a: a[None], target.start)
        >>> prior_deviations(target, one)["weights"]["out/w"].ravel().tolist()
        [0.5, 0.5]
    """

    def curvature(position: Any) -> Any:
        def gradient(weights: Any) -> Any:
            return jax.grad(lambda w: target.log_prior({**position, "weights": w}))(weights)

        ones = jax.tree.map(jnp.ones_like, position["weights"])
        found = jax.jvp(gradient, (position["weights"],), (ones,))[1]
        return jax.tree.map(jnp.abs, found)

    mean = jax.tree.map(lambda a: jnp.mean(a, axis=0), jax.lax.map(curvature, positions))
    largest = jnp.max(jnp.stack([jnp.max(a) for a in jax.tree.leaves(mean)]))
    largest = jnp.where(largest > 0, largest, 1.0)
    scales = jax.tree.map(lambda a: jnp.maximum(a, LEAST_SHARE * largest) ** -0.5, mean)
    return {**jax.tree.map(jnp.ones_like, target.start), "weights": scales}


def curvature_rows(key: jax.Array, target: NetworkTarget, position: Any, count: int) -> jax.Array:
    r"""Return rows Q `(rows, d)` with Q^T Q the curvature of the log likelihood at a position.

    For weights it is an estimate, from some of the examples, of the generalized Gauss-Newton
    matrix sum_i J_i^T L_i J_i, with J_i the Jacobian of the outputs and L_i the curvature of the
    negative log likelihood in them, without its negative directions: a row for each example and
    output. Each unknown parameter of likelihood or prior has a row of its own, and no coupling. It
    is the logarithm of a scale, so that gradient and curvature are sums of the same exponentials;
    the larger of their sizes is taken, for far from the mode the curvature alone may vanish.

    Args:
        key: random key, of the examples.
        target: the log density.
        position: the point of evaluation.
        count: number of examples.

    Examples:
        >>> import jax.numpy as jnp, nbcore as nb
        >>> network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["w"]))
        >>> every, X = nb.ProbabilisticSubset.everything(), jnp.array([[1.0, 0.0], [1.0, 2.0]])
        >>> target = nb.Target.build(
        ...     network, {"out": {"w": jnp.ones((2, 1))}}, every, X, jnp.ones(2),
        ...     likelihood=nb.Gaussian(noise=0.5),
        ... )  # fmt: skip
        >>> rows = curvature_rows(jax.random.key(0), target, target.start, 2)
        >>> (rows.T @ rows).tolist()  # X^T X / 0.25
        [[8.0, 8.0], [8.0, 16.0]]

    References:
        Martens (2020), "New insights and perspectives on the natural gradient method", section 8.
    """
    batch = target.batch(key, 0, count)
    rows = [
        _rows_of_weights(target, position, block, indices)
        for block, indices in zip(target.blocks, batch.indices, strict=True)
    ]
    if len(jax.tree.leaves(position)) > len(jax.tree.leaves(position["weights"])):
        rows.append(_rows_of_parameters(target, position, batch))
    return jnp.concatenate(rows)


def _rows_of_weights(
    target: NetworkTarget, position: Any, block: Block, indices: jax.Array
) -> jax.Array:
    """Return the rows of some examples of a block, `(examples * outputs, d)`."""
    weight = (block.count / len(indices)) ** 0.5
    weights, likelihood = position["weights"], target.likelihood
    zeros = jax.tree.map(jnp.zeros_like, position)
    whole = replace(block.forward, chunk_size=0)

    def of_example(example: Any) -> jax.Array:
        features, y = jax.tree.map(lambda a: a[None], example)

        def log_prob(outputs: jax.Array) -> jax.Array:
            return likelihood.log_prob(outputs[None], y, position["likelihood"])[0]

        at, pull_back = jax.vjp(lambda w: whole.outputs(w, features)[0], weights)
        values, vectors = eigh(-jax.hessian(log_prob)(at))
        root = weight * vectors * jnp.sqrt(jnp.maximum(values, 0))
        pulled = jax.vmap(lambda column: pull_back(column)[0], in_axes=1)(root)
        return jax.vmap(lambda w: _flat({**zeros, "weights": w}))(pulled)

    some = block.at(indices)
    size = min(block.forward.chunk_size or len(indices), len(indices))
    rows = jax.lax.map(of_example, (some.features, some.y), batch_size=size)
    return rows.reshape(-1, rows.shape[-1])


def _rows_of_parameters(target: NetworkTarget, position: Any, batch: Batch) -> jax.Array:
    """Return a row for each parameter that is no weight."""
    others = {name: part for name, part in position.items() if name != "weights"}
    flat, unravel = jax.flatten_util.ravel_pytree(others)

    def density(x: jax.Array) -> jax.Array:
        return target.minibatch_log_density({**position, **unravel(x)}, batch)

    gradient = jax.grad(density)
    curvature = jnp.diagonal(jax.jacfwd(gradient)(flat))
    sizes = jnp.sqrt(jnp.maximum(jnp.abs(curvature), jnp.abs(gradient(flat))))
    zeros = jax.tree.map(jnp.zeros_like, position)
    return jax.vmap(lambda row: _flat({**zeros, **unravel(row)}))(jnp.diag(sizes))


def _flat(tree: Any) -> jax.Array:
    return jax.flatten_util.ravel_pytree(tree)[0]
