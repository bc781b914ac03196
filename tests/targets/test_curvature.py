"""Mode and whitening of a log density, on quadratics where both are known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore.targets import curvature
from nbcore.targets.target import FunctionTarget


def normal(size: int, *, diagonal: bool = False) -> tuple[FunctionTarget, np.ndarray, np.ndarray]:
    """Return a normal log density over two leaves, its mean and its covariance."""
    rng = np.random.default_rng(size)
    root = rng.normal(size=(size, size)) + 2 * np.eye(size)
    covariance = np.diag(rng.uniform(0.1, 9.0, size)) if diagonal else root @ root.T / size
    precision, mean = jnp.asarray(np.linalg.inv(covariance)), rng.normal(size=size)

    def density(position: dict[str, jax.Array]) -> jax.Array:
        residual = jnp.concatenate([position["a"], position["b"].ravel()]) - mean
        return -0.5 * residual @ precision @ residual

    start = {"a": jnp.zeros(size - 4), "b": jnp.zeros((2, 2))}
    return nb.Target.from_log_density(density, start), mean, covariance


def test_whitening_of_a_normal_is_its_covariance() -> None:
    target, mean, covariance = normal(7)
    found = curvature.whiten(jax.random.key(0), target, target.start)
    np.testing.assert_allclose(found.center, mean, atol=1e-3)
    np.testing.assert_allclose(found.factor @ found.factor.T, covariance, rtol=1e-3, atol=1e-3)
    largest = curvature.largest_curvature(jax.random.key(1), target, found, target.start)
    assert float(largest) == pytest.approx(1.0, abs=1e-3)


def test_whitened_coordinates_and_positions_are_inverses() -> None:
    target, _, _ = normal(7)
    found = curvature.whiten(jax.random.key(0), target, target.start)
    phi = jax.random.normal(jax.random.key(2), (7,))
    back = found.from_position(found.to_position(phi, target.start))
    np.testing.assert_allclose(back, phi, atol=1e-4)
    assert jax.tree.map(jnp.shape, found.to_position(phi, target.start)) == {"a": (3,), "b": (2, 2)}


def test_many_numbers_get_the_diagonal_of_the_curvature() -> None:
    target, mean, covariance = normal(curvature.DENSE_LIMIT + 1, diagonal=True)
    found = curvature.whiten(jax.random.key(0), target, target.start)
    # The probes of a diagonal matrix have no variance.
    np.testing.assert_allclose(found.factor, np.sqrt(np.diag(covariance)), rtol=1e-3)
    np.testing.assert_allclose(found.center, mean, atol=1e-2)
    phi = jnp.linspace(-2.0, 2.0, found.center.size)
    back = found.from_position(found.to_position(phi, target.start))
    np.testing.assert_allclose(back, phi, atol=1e-3)


def test_curvature_is_made_positive() -> None:
    def saddle(x: jax.Array) -> jax.Array:
        return -0.5 * (4 * x[0] ** 2 - 2 * x[1] ** 2)

    target = nb.Target.from_log_density(saddle, jnp.ones(2))
    found = curvature.curvature_at(jax.random.key(0), target, jnp.ones(2))
    np.testing.assert_allclose(found, [[4, 0], [0, 2]], atol=1e-5)


def test_flat_directions_keep_a_finite_scale() -> None:
    target = nb.Target.from_log_density(lambda x: -0.5 * x[0] ** 2, jnp.ones(2))
    found = curvature.whiten(jax.random.key(0), target, target.start)
    assert np.isfinite(found.factor).all()
    np.testing.assert_allclose(
        jnp.sort(jnp.linalg.norm(found.factor, axis=0)), [1.0, 1e3], rtol=1e-3
    )


def test_the_mode_of_a_curved_valley_is_found() -> None:
    """Rosenbrock's valley, started beside it."""

    def density(x: jax.Array) -> jax.Array:
        return -((1 - x[0]) ** 2) - 100 * (x[1] - x[0] ** 2) ** 2

    np.testing.assert_allclose(curvature.find_mode(density, jnp.array([-1.2, 1.0])), 1.0, atol=1e-2)
