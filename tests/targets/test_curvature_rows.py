"""Curvature from rows of examples: Gauss-Newton of the weights, scales of everything else."""

from __future__ import annotations

from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore.targets.curvature_rows import curvature_rows, prior_deviations
from nbcore.targets.target import NetworkTarget

X = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
KEY = jax.random.key(0)


def linear(y: Any, outputs: int = 1, **options: Any) -> NetworkTarget:
    network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["w"]))
    params = {"out": {"w": jnp.asarray(np.random.default_rng(1).normal(size=(3, outputs)))}}
    return nb.Target.build(
        network, params, nb.ProbabilisticSubset.everything(), X, y, **options
    )  # fmt: skip


def flat_hessian(target: NetworkTarget) -> np.ndarray:
    """Return the negative Hessian of the log likelihood at the start."""
    flat, unravel = jax.flatten_util.ravel_pytree(target.start)
    return -np.asarray(jax.hessian(lambda x: jnp.sum(target.log_likelihood(unravel(x))))(flat))


@pytest.mark.parametrize(
    ("y", "outputs", "likelihood"),
    [
        (X[:, 0], 1, nb.Gaussian(noise=0.5)),
        (np.arange(30) % 3, 3, nb.Categorical()),
        (np.arange(30) % 4, 1, nb.Poisson()),
    ],
    ids=["normal", "classes", "counts"],
)
def test_of_a_linear_network_it_is_the_hessian(y: Any, outputs: int, likelihood: Any) -> None:
    """Where the likelihood is log-concave, Gauss-Newton leaves nothing out."""
    target = linear(y, outputs, likelihood=likelihood)
    rows = np.asarray(curvature_rows(KEY, target, target.start, 30))
    assert rows.shape == (30 * outputs, 3 * outputs)
    np.testing.assert_allclose(rows.T @ rows, flat_hessian(target), rtol=1e-3, atol=1e-3)


def test_some_examples_stand_for_all() -> None:
    """Unbiased: the mean over minibatches is the curvature of all examples."""
    target = linear(X[:, 0], likelihood=nb.Gaussian(noise=0.5))

    def product(key: jax.Array) -> jax.Array:
        rows = curvature_rows(key, target, target.start, 10)
        return rows.T @ rows

    found = jnp.mean(jax.lax.map(product, jax.random.split(KEY, 2000)), axis=0)
    expected = flat_hessian(target)
    np.testing.assert_allclose(found, expected, atol=0.03 * expected.max())


@pytest.mark.parametrize("misfit", [0.0, 2.0], ids=["gradient", "curvature"])
def test_unknown_parameters_have_the_larger_of_curvature_and_gradient(misfit: float) -> None:
    weights = np.random.default_rng(1).normal(size=(3, 1))
    target = linear(
        (X @ weights)[:, 0] + misfit, likelihood=nb.Gaussian(noise_prior=nb.LogNormal(1.0, 0.5))
    )
    rows = np.asarray(curvature_rows(KEY, target, target.start, 30))
    assert rows.shape == (31, 4)

    def density(u: jax.Array) -> jax.Array:
        return target.log_density({**target.start, "likelihood": {"noise": u[None]}})

    zero = jnp.zeros(())
    sizes = abs(float(jax.grad(jax.grad(density))(zero))), abs(float(jax.grad(density)(zero)))
    assert (sizes[0] > sizes[1]) == (misfit > 0)
    places = jax.flatten_util.ravel_pytree(
        jax.tree.map(jnp.zeros_like, target.start) | {"likelihood": {"noise": jnp.ones(1)}}
    )[0]
    own = rows[-1] ** 2
    np.testing.assert_allclose(own[np.asarray(places) == 1], max(sizes), rtol=1e-4)
    assert not own[np.asarray(places) == 0].any()
    assert not rows[:-1, np.asarray(places) == 1].any()


def test_deviations_of_the_prior_are_those_of_each_weight() -> None:
    prior = nb.NormalPrior(scale={"out": nb.LogNormal(0.3, 0.5)})
    target = linear(X[:, 0], prior=prior)
    position = target.start
    raised = jax.tree.map(jnp.ones_like, position["prior"])
    both = jax.tree.map(
        lambda a, b: jnp.stack([a, b]), position, {**position, "prior": raised}
    )  # fmt: skip
    found = prior_deviations(target, both)
    scales = np.array([0.3, np.e])  # log scales are log 0.3 and 1
    np.testing.assert_allclose(
        found["weights"]["out/w"].ravel(), np.mean(scales**-2.0) ** -0.5, rtol=1e-4
    )
    for name in ("likelihood", "prior"):
        assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(found[name]))
