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
from nbcore.targets.curvature import NormalApproximation
from nbcore.targets.target import NetworkTarget
from nbcore.testing.oracle import flat_weights, oracle
from nbcore_laplace.laplace import Laplace, laplace


def approximation(target: nb.Target, **options: Any) -> NormalApproximation:
    backend = Laplace(**options)
    return jax.jit(lambda t: laplace(jax.random.key(0), t, t.start, backend))(target)


def covariance(found: NormalApproximation) -> np.ndarray:
    unit = jnp.eye(found.whitening.center.size)
    root = np.asarray(jax.vmap(found.whitening.move, in_axes=1, out_axes=1)(unit), np.float64)
    return root @ root.T


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


@pytest.mark.parametrize("structure", ["full", "low_rank"])
def test_laplace_is_exact_for_a_last_layer_with_known_noise(structure: str) -> None:
    truth = oracle()
    found = approximation(truth.target, structure=structure)
    unravel = jax.flatten_util.ravel_pytree(truth.target.start)[1]
    deviations = np.sqrt(np.diagonal(truth.covariance))
    mean = flat_weights(unravel(found.whitening.center)["weights"])
    np.testing.assert_allclose((mean - truth.mean) / deviations, 0, atol=1e-3)
    columns = jax.vmap(found.whitening.move)(jnp.eye(mean.size))
    root = flat_weights(jax.vmap(unravel)(columns)["weights"])
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
    few = nb.sample(truth.target, "laplace", num_samples=50, num_chains=2, progress=False)
    assert few.diagnostics().verdict() == "No problem found: the draws are independent."


def test_a_temperature_scales_the_covariance() -> None:
    settings = {"key": 3, "num_warmup": 0, "num_samples": 50, "num_chains": 1, "progress": False}
    cold, hot = (nb.sample(oracle().target, Laplace(temperature=t), **settings) for t in (1.0, 4.0))
    ratios = [flat_weights(p.draws["weights"]) - oracle().mean for p in (hot, cold)]
    np.testing.assert_allclose(ratios[0], 2 * ratios[1], atol=2e-4)


def test_the_mode_is_climbed_to_or_the_trained_weights_are_kept() -> None:
    target = classifier()
    flat, unravel = jax.flatten_util.ravel_pytree(target.start)
    kept = approximation(target, find_mode=False)
    np.testing.assert_array_equal(kept.whitening.center, flat)
    assert kept.distance > 1
    found = approximation(target)
    climbed = jax.jit(jax.grad(lambda x: target.log_density(unravel(x))))
    assert np.linalg.norm(climbed(found.whitening.center)) < 0.02 * np.linalg.norm(climbed(flat))
    assert found.distance < 0.3


def test_a_plain_density_has_its_hessian() -> None:
    precision = jnp.array([[2.0, 0.5], [0.5, 1.0]])
    target = nb.Target.from_log_density(lambda x: -0.5 * x @ precision @ x, jnp.ones(2))
    found = approximation(target)
    np.testing.assert_allclose(found.whitening.center, 0, atol=1e-3)
    np.testing.assert_allclose(covariance(found), jnp.linalg.inv(precision), rtol=1e-4)
    low_rank = approximation(target, structure="low_rank", rank=2)
    np.testing.assert_allclose(covariance(low_rank), jnp.linalg.inv(precision), rtol=1e-4)
    diagonal = approximation(target, structure="diagonal")
    np.testing.assert_allclose(covariance(diagonal), np.diag([0.5, 1.0]), rtol=1e-4)


def test_memory_decides_what_is_kept_of_the_covariance() -> None:
    size = 600
    target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.ones(size))
    settings = {"num_warmup": 0, "num_samples": 20, "num_chains": 1, "progress": False}
    small = 2**20
    with pytest.raises(
        errors.OptionError, match=r"600 parameters takes 5 MiB.*structure='low_rank'"
    ):
        nb.sample(target, Laplace(structure="full", byte_budget=small), **settings)
    for options in ({}, {"byte_budget": small}, {"structure": "low_rank", "rank": 4}):
        posterior = nb.sample(target, Laplace(**options), **settings)
        assert posterior.draws.std() == pytest.approx(1.0, abs=0.05)


def hidden_layer(likelihood: Any, outputs: int = 1, scale: float = 0.5) -> NetworkTarget:
    """Return all weights of a network with a hidden layer, and 40 examples it can learn."""
    rng = np.random.default_rng(7)
    X = rng.normal(size=(40, 2)).astype(np.float32)
    mean = np.sin(X[:, 0]) + 0.5 * X[:, 1]
    if isinstance(likelihood, nb.Categorical):
        y: Any = (mean > 0).astype(int) + (mean > 0.7)
    elif isinstance(likelihood, nb.Poisson):
        y = rng.poisson(np.exp(mean))
    else:
        y = mean + 0.2 * rng.normal(size=40)
    params = {
        "first": {"kernel": jnp.asarray(rng.normal(size=(2, 5)), jnp.float32)},
        "out": {"kernel": jnp.asarray(0.3 * rng.normal(size=(5, outputs)), jnp.float32)},
    }

    def apply(p: Any, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ p["first"]["kernel"]) @ p["out"]["kernel"]

    network = nb.Network.from_functions(lambda key, x: params, apply, example=X[:1])
    subset = nb.ProbabilisticSubset.everything()
    return nb.Target.build(
        network, params, subset, X, y, likelihood=likelihood, prior=nb.NormalPrior(scale=scale)
    )


def draw(target: nb.Target, **options: Any) -> Any:
    settings = {"key": 2, "num_warmup": 0, "num_samples": 10, "num_chains": 2, "progress": False}
    return nb.sample(target, Laplace(**options), **settings)


def test_draws_predict_by_the_linearized_network(tmp_path: Any) -> None:
    target = hidden_layer(nb.Gaussian(noise=0.2))
    posterior = draw(target)
    mode = posterior.linearized_at
    X = np.random.default_rng(8).normal(size=(6, 2)).astype(np.float32)

    def outputs(weights: Any) -> jax.Array:
        return target.network.apply(target.split.merge(weights), X)[:, 0]

    jacobian = jax.jacobian(outputs)(mode)
    flat = jax.tree.map(lambda a: a.reshape(20, *a.shape[2:]), posterior.draws["weights"])
    moves = [np.tensordot(flat[p] - mode[p], jacobian[p], (range(1, flat[p].ndim),
             range(1, jacobian[p].ndim))) for p in mode]  # fmt: skip
    expected = np.asarray(outputs(mode)) + sum(moves)
    np.testing.assert_allclose(posterior.outputs(X)[..., 0], expected, atol=1e-4)
    itself = [np.asarray(outputs(jax.tree.map(lambda a, i=i: a[i], flat))) for i in range(20)]
    assert np.abs(expected - itself).max() > 0.05
    through = draw(target, predictions="sampled")
    assert through.linearized_at is None
    np.testing.assert_allclose(through.outputs(X)[..., 0], itself, atol=1e-4)
    posterior.save(tmp_path / "run")
    again = nb.Posterior.load(tmp_path / "run", target.network)
    np.testing.assert_array_equal(again.predict(X).draw_means, posterior.predict(X).draw_means)
    fitted = posterior.outputs(np.asarray(target.blocks[0].features[0]))[..., 0]
    residual = (target.targets()[:, 0] - fitted) / 0.2
    density = -0.5 * residual**2 - np.log(0.2 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(posterior.log_likelihood().reshape(20, -1), density, atol=1e-3)


@pytest.mark.parametrize(
    ("likelihood", "outputs"),
    [
        (nb.Gaussian(noise=0.2), 1),
        (nb.Gaussian(noise_prior=nb.HalfNormal(1.0)), 1),
        (nb.StudentT(noise_prior=nb.HalfNormal(1.0)), 1),
        (nb.Heteroskedastic(), 2),
        (nb.Categorical(), 3),
        (nb.Poisson(), 1),
    ],
    ids=["known", "unknown", "student-t", "two-heads", "classes", "poisson"],
)
def test_the_mode_is_found_for_every_likelihood(likelihood: Any, outputs: int) -> None:
    target = hidden_layer(likelihood, outputs)
    found = approximation(target)
    assert found.distance < 0.5
    assert found.log_density > target.log_density(target.start)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    unknown = jax.flatten_util.ravel_pytree(target.start)[1](found.whitening.center)["likelihood"]
    if isinstance(likelihood, nb.Gaussian) and unknown:
        noise = target.likelihood.constrain(unknown)["noise"]
        assert 0.12 < float(noise[0]) < 0.3


@pytest.mark.parametrize("structure", ["full", "low_rank"])
def test_noise_is_at_its_mode_with_the_weights_integrated_out(structure: Any) -> None:
    """As many weights as examples, with which the joint mode is at noise 0: y ~ N(0, XX' + s^2)."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(25, 25)).astype(np.float32)
    y = X @ rng.normal(size=25) + 2.0 * rng.normal(size=25)
    network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["w"]))
    target = nb.Target.build(
        network, {"out": {"w": jnp.zeros((25, 1))}}, nb.ProbabilisticSubset.everything(), X, y,
        likelihood=nb.Gaussian(noise_prior=nb.HalfNormal(3.0)), prior=nb.NormalPrior(scale=1.0),
    )  # fmt: skip

    values, vectors = np.linalg.eigh(X.astype(np.float64) @ X.T)
    rotated = vectors.T @ y

    def log_density(u: float) -> float:
        position = {**target.start, "likelihood": {"noise": jnp.full(1, u)}}
        noise = float(target.likelihood.constrain(position["likelihood"])["noise"][0])
        marginal = -0.5 * np.sum(np.log(values + noise**2) + rotated**2 / (values + noise**2))
        return float(marginal) + float(target.log_prior(position))

    us = np.linspace(-3, 3, 601)
    best = us[np.argmax([log_density(u) for u in us])]
    options: Any = {"structure": structure, "rank": 24}
    found = curvature.approximate(jax.random.key(0), target, target.start, **options)
    assert float(found.whitening.center[0]) == pytest.approx(best, abs=0.05)
    assert found.distance < 0.5


def test_a_density_without_a_mode_is_refused_with_what_to_do() -> None:
    target = nb.Target.from_log_density(lambda x: jnp.sum(x) - 0.1 * x[0] ** 2, jnp.ones(3))
    with pytest.raises(errors.SamplingError, match=r"no normal approximation.*find_mode=False"):
        draw(target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "kron"}, "'full', 'low_rank', 'diagonal'"),
        ({"predictions": "exact"}, "'linearized', 'sampled'"),
        ({"temperature": 0.0}, "positive"),
        ({"hessian": "full"}, "Possible: predictions"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.OptionError, match=message):
        nb.get_backend("laplace", **options)
