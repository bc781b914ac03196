"""The Laplace backend, on densities whose mode and curvature are known."""

from __future__ import annotations

from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore import errors
from nbcore.targets import curvature
from nbcore.targets.curvature import Whitening
from nbcore.targets.target import NetworkTarget
from nbcore.testing.oracle import flat_weights, oracle
from nbcore_laplace.laplace import Laplace, curvature_diagonal, laplace


def approximation(target: nb.Target, **options: Any) -> Whitening:
    backend = Laplace(**options)
    return jax.jit(lambda t: laplace(jax.random.key(0), t, t.start, backend))(target)


@jax.jit
def jacobian_and_outputs(target: NetworkTarget, position: Any) -> tuple[jax.Array, jax.Array]:
    """Return the Jacobian `(examples, outputs, d)` and the outputs."""
    flat, unravel = jax.flatten_util.ravel_pytree(position)
    outputs = target.outputs(position["weights"])
    return jax.jacobian(lambda x: target.outputs(unravel(x)["weights"]))(flat), outputs


@jax.jit
def exact_curvature(target: nb.Target, position: Any) -> jax.Array:
    flat, unravel = jax.flatten_util.ravel_pytree(position)
    return -jax.hessian(lambda x: target.log_density(unravel(x)))(flat)


@jax.jit
def linearized_curvature(target: nb.Target, position: Any) -> jax.Array:
    linear = curvature.linearized(target, position)
    flat, unravel = jax.flatten_util.ravel_pytree(position)
    return -jax.hessian(lambda x: linear.log_density(unravel(x)))(flat)


@jax.jit
def linearized_diagonal(target: nb.Target, position: Any) -> jax.Array:
    return curvature_diagonal(curvature.linearized(target, position), position)


def classifier() -> NetworkTarget:
    """Return two layers and three classes, away from a mode: the Hessian is not definite."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(30, 2)).astype(np.float32)
    y = rng.integers(0, 3, size=30)
    params = {
        "first": {"kernel": jnp.asarray(rng.normal(size=(2, 4)), jnp.float32)},
        "out": {"kernel": jnp.asarray(2 * rng.normal(size=(4, 3)), jnp.float32)},
    }

    def apply(p: Any, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ p["first"]["kernel"]) @ p["out"]["kernel"]

    network = nb.as_network((lambda key, x: params, apply))
    return nb.Target.build(
        network, params, nb.ProbabilisticSubset.everything(), X, y,
        likelihood=nb.Categorical(), prior=nb.NormalPrior(scale=10.0),
    )  # fmt: skip


def with_unknown_noise() -> NetworkTarget:
    rng = np.random.default_rng(6)
    X = rng.normal(size=(40, 2)).astype(np.float32)
    network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))
    return nb.Target.build(
        network, {"out": {"kernel": jnp.zeros((2, 1))}}, nb.ProbabilisticSubset.everything(),
        X, X @ np.ones(2) + 0.5 * rng.normal(size=40), likelihood=nb.Gaussian(),
        prior=nb.NormalPrior(scale=1.0, center="zero"),
    )  # fmt: skip


def test_laplace_is_exact_for_a_last_layer_with_known_noise() -> None:
    truth = oracle()
    found = approximation(truth.target)
    unravel = jax.flatten_util.ravel_pytree(truth.target.start)[1]
    deviations = np.sqrt(np.diagonal(truth.covariance))
    mean = flat_weights(unravel(found.center)["weights"])
    np.testing.assert_allclose((mean - truth.mean) / deviations, 0, atol=1e-3)
    columns = jax.vmap(unravel, in_axes=1, out_axes=0)(found.factor)
    root = flat_weights(columns["weights"])
    covariance = root.T @ root / np.outer(deviations, deviations)
    expected = truth.covariance / np.outer(deviations, deviations)
    np.testing.assert_allclose(covariance, expected, atol=1e-5)


def test_draws_are_independent_and_have_mean_and_covariance_of_the_posterior() -> None:
    truth = oracle()
    posterior = nb.sample(
        truth.target, "laplace", key=0, num_warmup=0, num_samples=4000, num_chains=4,
        progress=False,
    )  # fmt: skip
    root = np.linalg.cholesky(truth.covariance)
    draws = flat_weights(posterior.draws["weights"]) - truth.mean
    white = np.linalg.solve(root, draws.reshape(-1, len(root)).T)
    # 4 standard errors: 1 / sqrt(n) of a mean and of a correlation, sqrt(2 / n) of a variance.
    limit = 4 / np.sqrt(white.shape[1])
    np.testing.assert_allclose(white.mean(axis=1), 0, atol=limit)
    np.testing.assert_allclose(np.cov(white), np.eye(len(root)), atol=1.5 * limit)
    chains = draws.reshape(4, 4000, -1)
    lagged = np.mean(chains[:, 1:] * chains[:, :-1], axis=(0, 1)) / chains.var(axis=(0, 1))
    np.testing.assert_allclose(lagged, 0, atol=limit)
    last = jax.tree.map(lambda a: a[1, -1], posterior.draws)
    reported = posterior.stats.log_density[1, -1]
    np.testing.assert_allclose(reported, truth.target.log_density(last), rtol=1e-5)
    assert not posterior.stats.num_gradients.any()


def test_a_temperature_scales_the_covariance() -> None:
    settings = {"key": 3, "num_warmup": 0, "num_samples": 50, "num_chains": 1, "progress": False}
    cold, hot = (nb.sample(oracle().target, Laplace(temperature=t), **settings) for t in (1.0, 4.0))
    ratios = [flat_weights(p.draws["weights"]) - oracle().mean for p in (hot, cold)]
    np.testing.assert_allclose(ratios[0], 2 * ratios[1], atol=2e-4)


def test_gauss_newton_is_the_hessian_where_outputs_are_linear_in_the_weights() -> None:
    target = oracle().target
    position = target.initial_position(jax.random.key(1), jitter=0.5)
    hessian = exact_curvature(target, position)
    found = linearized_curvature(target, position)
    np.testing.assert_allclose(found, hessian, rtol=1e-4, atol=1e-4 * np.abs(hessian).max())


def test_gauss_newton_of_classes_is_definite_where_the_hessian_is_not() -> None:
    target = classifier()
    position = target.start
    found = linearized_curvature(target, position)
    assert np.linalg.eigvalsh(exact_curvature(target, position)).min() < -0.1
    assert np.linalg.eigvalsh(found).min() > 0.5 / 10.0**2  # the precision of the prior
    # J^T (diag p - p p^T) J + I / 10^2, written out
    jacobian, outputs = (np.asarray(a, np.float64) for a in jacobian_and_outputs(target, position))
    p = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    inner = np.einsum("ia,ab->iab", p, np.eye(3)) - np.einsum("ia,ib->iab", p, p)
    expected = np.einsum("iad,iab,ibe->de", jacobian, inner, jacobian)
    expected += np.eye(len(expected)) / 100
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_unknown_noise_has_its_own_hessian_beside_gauss_newton() -> None:
    target = with_unknown_noise()
    position = target.initial_position(jax.random.key(1), jitter=0.3)
    # Outputs are linear, so that the joint curvature of weights and noise is the Hessian.
    hessian = exact_curvature(target, position)
    found = linearized_curvature(target, position)
    np.testing.assert_allclose(found, hessian, rtol=1e-3, atol=1e-4 * np.abs(hessian).max())
    assert np.abs(hessian[0, 1:]).max() > 1  # the noise and the weights are coupled


@pytest.mark.parametrize("make", [classifier, with_unknown_noise])
def test_diagonal_is_the_diagonal_of_the_precision(make: Any) -> None:
    target = make()
    at = target.start
    full = linearized_curvature(target, at)
    np.testing.assert_allclose(linearized_diagonal(target, at), np.diag(full), rtol=1e-4)
    found = approximation(target, covariance="diagonal", find_mode=False)
    np.testing.assert_allclose(found.factor, 1 / np.sqrt(np.abs(np.diag(full))), rtol=1e-4)


def test_the_mode_is_climbed_to_or_the_trained_weights_are_kept() -> None:
    target = classifier()
    flat, unravel = jax.flatten_util.ravel_pytree(target.start)
    np.testing.assert_array_equal(approximation(target, find_mode=False).center, flat)
    mode = approximation(target).center
    climbed = jax.jit(jax.grad(lambda x: target.log_density(unravel(x))))
    assert np.linalg.norm(climbed(mode)) < 1e-2 * np.linalg.norm(climbed(flat))


def test_a_plain_density_has_its_hessian() -> None:
    precision = jnp.array([[2.0, 0.5], [0.5, 1.0]])
    target = nb.Target.from_log_density(lambda x: -0.5 * x @ precision @ x, jnp.ones(2))
    found = approximation(target)
    np.testing.assert_allclose(found.center, 0, atol=1e-3)
    np.testing.assert_allclose(found.factor @ found.factor.T, jnp.linalg.inv(precision), rtol=1e-4)
    diagonal = approximation(target, covariance="diagonal").factor
    np.testing.assert_allclose(diagonal, [1 / np.sqrt(2), 1.0], rtol=1e-4)


def test_too_many_numbers_for_a_matrix_are_refused() -> None:
    size = curvature.DENSE_LIMIT + 1
    target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.ones(size))
    settings = {"num_warmup": 0, "num_samples": 20, "num_chains": 1, "progress": False}
    with pytest.raises(errors.OptionError, match="covariance='diagonal'"):
        nb.sample(target, "laplace", **settings)
    posterior = nb.sample(target, Laplace(covariance="diagonal"), **settings)
    assert posterior.draws.std() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"covariance": "kron"}, "'full', 'diagonal'"),
        ({"temperature": 0.0}, "positive"),
        ({"hessian": "full"}, "Possible: covariance"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.OptionError, match=message):
        nb.get_backend("laplace", **options)
