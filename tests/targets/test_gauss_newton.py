"""The log density around a position, against dense derivatives of small networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import nbcore as nb
from nbcore.targets import gauss_newton
from nbcore.targets.curvature import approximate
from nbcore.targets.target import NetworkTarget
from nbcore.targets.whitening import LowRank

FEW, MANY = 4, 30
"""Examples: with few, the rows of the design are fewer than the 18 weights."""


def two_layers(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["first"]["kernel"]) @ params["out"]["kernel"]


def mixing(params: Any, x: jax.Array) -> jax.Array:
    outputs = two_layers(params, x)
    return outputs + 0.3 * jnp.mean(outputs, axis=0)


def target_of(
    likelihood: Any, count: int = MANY, outputs: int = 2, apply: Any = two_layers, **options: Any
) -> NetworkTarget:
    """Return a target of all weights of a small network, at weights that fit nothing."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(count, 4)).astype(np.float32)
    y = rng.normal(size=(count, outputs)).astype(np.float32)
    params = {
        "first": {"kernel": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)},
        "out": {"kernel": jnp.asarray(rng.normal(size=(3, outputs)), jnp.float32)},
    }
    if isinstance(likelihood, nb.Categorical):
        y = np.arange(count) % outputs
    elif isinstance(likelihood, nb.Heteroskedastic):
        y = y[:, : outputs // 2]
    elif isinstance(likelihood, nb.Poisson):
        y = rng.poisson(2.0, size=(count, outputs))
    network = nb.Network.from_functions(lambda key, x: params, apply, example=X[:1])
    subset = nb.ProbabilisticSubset.everything()
    prior = options.pop("prior", nb.NormalPrior(scale=0.7, center="zero"))
    return nb.Target.build(
        network, params, subset, X, y, likelihood=likelihood, prior=prior, **options
    )


def start(target: NetworkTarget) -> jax.Array:
    """Return a position where the noise is large enough for the curvature to be definite."""
    flat = ravel_pytree(target.initial_position(jax.random.key(1), jitter=0.1))[0]
    return flat.at[: flat.size - target.split.size].add(3.0)


@jax.jit
def dense(target: NetworkTarget, flat: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return value, gradient, and the negative Hessian of the linearized log density."""
    unravel = ravel_pytree(target.start)[1]
    linear = target.linearized(unravel(flat))
    value, gradient = jax.value_and_grad(lambda x: target.log_density(unravel(x)))(flat)
    return value, gradient, -jax.hessian(lambda x: linear.log_density(unravel(x)))(flat)


def close(found: Any, expected: Any, tolerance: float) -> None:
    """Check that matrices agree, relative to the diagonal of the expected one."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    scale = np.sqrt(np.abs(np.diagonal(expected)))
    np.testing.assert_allclose(
        found / np.outer(scale, scale), expected / np.outer(scale, scale), atol=tolerance
    )


def matrix(curvature: LowRank) -> np.ndarray:
    """Return a low-rank curvature as a matrix."""
    unit = jnp.eye(curvature.scale.size)
    covariance = jax.vmap(lambda v: curvature.move(curvature.pull(v)))(unit)
    return np.linalg.inv(np.asarray(covariance, np.float64))


KNOWN = [
    nb.Gaussian(noise=0.5),
    nb.Gaussian(noise_prior=nb.HalfNormal(1.0)),
    nb.Categorical(),
    nb.Poisson(),
]


@pytest.mark.parametrize("likelihood", KNOWN, ids=lambda x: type(x).__name__)
def test_value_gradient_and_curvature_are_those_of_dense_derivatives(likelihood: Any) -> None:
    target = target_of(likelihood)
    flat = start(target)
    value, gradient, expected = dense(target, flat)
    found = jax.jit(gauss_newton.primal)(target, flat, None)
    np.testing.assert_allclose(found.value, value, rtol=1e-5)
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-4, atol=1e-3)
    close(found.curvature.matrix, expected, 1e-5)
    np.testing.assert_allclose(
        jax.jit(gauss_newton.diagonal)(target, flat), np.diag(expected), rtol=1e-4
    )


@pytest.mark.parametrize("likelihood", KNOWN, ids=lambda x: type(x).__name__)
def test_the_dual_form_is_the_primal_one(likelihood: Any) -> None:
    target = target_of(likelihood, FEW)
    flat = start(target)
    expected = dense(target, flat)[2]
    found = jax.jit(gauss_newton.dual)(target, flat, None)
    close(matrix(found.curvature), expected, 1e-5)
    gradient = np.linspace(-1, 1, flat.size)
    damped = np.asarray(expected, np.float64) + 3.0 * np.diag(found.curvature.scale**-2.0)
    np.testing.assert_allclose(
        found.curvature.solve(gradient, 3.0), np.linalg.solve(damped, gradient), atol=1e-5
    )
    primal = jax.jit(gauss_newton.primal)(target, flat, None)
    scale = found.curvature.scale
    np.testing.assert_allclose(primal.curvature.scale, scale, rtol=1e-5)
    np.testing.assert_allclose(
        primal.curvature.solve(gradient, 3.0), np.linalg.solve(damped, gradient), atol=1e-5
    )
    root = np.asarray(primal.curvature.root(), np.float64)
    close(root @ root.T, np.linalg.inv(np.asarray(expected, np.float64)), 1e-5)


@pytest.mark.parametrize("likelihood", KNOWN[:2], ids=["known", "unknown"])
def test_all_directions_of_the_low_rank_form_are_the_whole(likelihood: Any) -> None:
    target = target_of(likelihood)
    flat = start(target)
    num_parameters = flat.size - target.split.size
    rank = flat.size - 2 * num_parameters
    near = LowRank(
        jnp.ones(flat.size), jax.random.normal(jax.random.key(0), (flat.size, rank)), jnp.ones(rank)
    )
    found = jax.jit(lambda t, x: gauss_newton.largest(t, x, near, rank))(target, flat)
    close(matrix(found.curvature), dense(target, flat)[2], 1e-4)


def test_few_directions_are_the_largest_and_the_rest_is_its_diagonal() -> None:
    target = target_of(nb.Gaussian(noise=0.5))
    flat = start(target)
    expected = np.asarray(dense(target, flat)[2], np.float64)
    scaled = 0.7**2 * expected - np.eye(flat.size)
    values, vectors = np.linalg.eigh(scaled)
    near = LowRank(jnp.ones(flat.size), jnp.asarray(vectors[:, -4:]), jnp.ones(4))
    found = jax.jit(lambda t, x: gauss_newton.largest(t, x, near, 4))(target, flat)
    kept = (vectors[:, -4:] * values[-4:]) @ vectors[:, -4:].T
    rest = np.diag(np.diag(scaled - kept))
    close(matrix(found.curvature), (np.eye(flat.size) + kept + rest) / 0.7**2, 1e-4)


def test_noise_heads_and_heavy_tails_have_their_fisher_information() -> None:
    """Means have precision exp(-2 l) and logarithms 2; t has (nu + 1) / (nu + 3) / noise^2."""
    for likelihood in (nb.Heteroskedastic(), nb.StudentT(noise=0.5, df=4.0)):
        target = target_of(likelihood)
        flat, unravel = ravel_pytree(target.start)
        outputs = np.asarray(target.outputs(target.start["weights"]))
        jacobian = jax.jacobian(lambda x: target.outputs(unravel(x)["weights"]))(flat)  # noqa: B023
        each = np.full(outputs.shape, 5 / 7 / 0.25)
        if isinstance(likelihood, nb.Heteroskedastic):
            each = np.stack([np.exp(-2 * outputs[:, 1]), np.full(MANY, 2.0)], axis=1)
        expected = np.einsum("iad,ia,iae->de", jacobian, each, jacobian) + np.eye(18) / 0.7**2
        found = jax.jit(gauss_newton.primal)(target, flat, None)
        close(found.curvature.matrix, expected, 1e-5)


def test_networks_whose_outputs_mix_examples_have_the_same() -> None:
    for count in (FEW, MANY):
        target = target_of(nb.Gaussian(noise_prior=nb.HalfNormal(1.0)), count, apply=mixing)
        assert not target.has_minibatches
        flat = start(target)
        value, gradient, expected = dense(target, flat)
        found = jax.jit(gauss_newton.primal)(target, flat, None)
        np.testing.assert_allclose(found.value, value, rtol=1e-5)
        np.testing.assert_allclose(found.gradient, gradient, rtol=1e-4, atol=1e-3)
        close(found.curvature.matrix, expected, 1e-5)


def test_chunks_and_copies_change_nothing() -> None:
    likelihood = nb.Gaussian(noise_prior=nb.HalfNormal(1.0))
    flat = start(target_of(likelihood))
    whole = jax.jit(gauss_newton.primal)(target_of(likelihood), flat, None)
    target = target_of(likelihood, chunk_size=7)
    (block,) = target.blocks
    filled = jnp.concatenate([jnp.arange(MANY), jnp.array([0, 3])])
    copies = replace(block.at(filled), padding=2)
    target = replace(target, blocks=(copies,))
    found = jax.jit(gauss_newton.primal)(target, flat, None)
    np.testing.assert_allclose(found.value, whole.value, rtol=1e-5)
    np.testing.assert_allclose(found.gradient, whole.gradient, rtol=1e-4, atol=1e-3)
    close(found.curvature.matrix, whole.curvature.matrix, 1e-5)
    dual = jax.jit(gauss_newton.dual)
    few = target_of(likelihood, FEW, chunk_size=3)
    close(matrix(dual(few, flat, None).curvature), dense(few, flat)[2], 1e-5)


def test_unknown_scales_of_the_prior_are_held_and_uncoupled() -> None:
    target = target_of(nb.Gaussian(noise=0.5), prior=nb.NormalPrior(scale=nb.HalfNormal(1.0)))
    flat = start(target)
    found = jax.jit(gauss_newton.primal)(target, flat, None)
    expected = dense(target, flat)[2]
    assert found.gradient[0] == 0
    np.testing.assert_array_equal(found.curvature.matrix[0, 1:], 0)
    np.testing.assert_allclose(found.curvature.matrix[0, 0], expected[0, 0], rtol=1e-4)
    close(found.curvature.matrix[1:, 1:], expected[1:, 1:], 1e-5)
    center = approximate(jax.random.key(0), target, target.start).whitening.center
    assert center[0] == ravel_pytree(target.start)[0][0]


def test_the_mode_is_that_of_all_examples_at_once_if_chunks_do_not_divide_few_examples() -> None:
    likelihood = nb.Gaussian(noise=0.5)
    key = jax.random.key(0)
    found, expected = (
        approximate(key, target, target.start)
        for target in (target_of(likelihood, 7, 1, chunk_size=size) for size in (3, None))
    )
    np.testing.assert_allclose(found.whitening.center, expected.whitening.center, atol=2e-2)
    np.testing.assert_allclose(found.log_density, expected.log_density, atol=1e-2)
