"""Networks whose weights are bfloat16 or float16 train, are sampled and predict."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import nbcore as nb
from nbcore.common.paths import leaves_by_path

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3)).astype(np.float32)
Y = 2 * X[:, 0] + 0.1 * rng.normal(size=40)
HALF = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])


class Net(nn.Module):
    dtype: str

    @nn.compact
    def __call__(self, x):
        dense = functools.partial(nn.Dense, dtype=self.dtype, param_dtype=self.dtype)
        return dense(1, name="out")(nn.tanh(dense(8, name="hidden")(x)))


@functools.cache
def trained(dtype, learning_rate=0.02, epochs=60):
    det = nb.DeterministicNN(
        Net(dtype), learning_rate=learning_rate, swa=nb.SWA(start_pct=0.5, num_recent=3)
    )
    return det.train(
        X, Y, epochs=epochs, batch_size=20, validation_data=(X[:9], Y[:9]), progress=False
    )


def error(predictions):
    return np.mean((np.asarray(predictions) - Y) ** 2)


@HALF
def test_training_fits_the_data_in_the_dtype_of_the_weights(dtype):
    det, single = trained(dtype), trained("float32")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(det.params)} == {dtype}
    assert det.predict(X).dtype == single.predict(X).dtype
    assert max(error(d.predict(X)) for d in (det, single)) < 0.05 * np.var(Y)
    assert len(det.fit_result.validation_losses) == len(det.fit_result.losses)


@HALF
def test_steps_too_small_for_half_precision_add_up(dtype):
    """60 steps of 1e-5: each is lost in a bfloat16 weight of 0.5, together they are not."""
    rate, epochs = 1e-5, 30
    initial = Net(dtype).init(jax.random.split(jax.random.key(0))[0], X[:1])
    single = jax.tree.map(lambda a: a.astype(jnp.float32), initial)
    ended = [
        leaves_by_path(trained_from(dt, start, rate, epochs).trajectory.mean)
        for dt, start in ((dtype, initial), ("float32", single))
    ]
    start = leaves_by_path(single)
    moved = [np.concatenate([np.ravel(e[path] - start[path]) for path in start]) for e in ended]
    assert np.abs(moved[1]).max() > 2e-4
    assert np.corrcoef(*moved)[0, 1] > 0.97
    assert abs(np.std(moved[0]) / np.std(moved[1]) - 1) < 0.1


def trained_from(dtype, params, rate, epochs):
    network = nb.Network.from_functions(lambda key, x: params, Net(dtype).apply)
    det = nb.DeterministicNN(network, learning_rate=rate, swa=nb.SWA(start_pct=0.9))
    return det.train(X, Y, epochs=epochs, batch_size=20, progress=False)


@HALF
def test_variances_over_training_do_not_underflow(dtype):
    """In float16, squares of moves of 1e-4 are zero."""
    det = trained_from(dtype, Net(dtype).init(jax.random.key(0), X[:1]), 1e-5, 30)
    for moments in (det.trajectory, det.gradients):
        for leaf in jax.tree.leaves(moments.variance):
            assert leaf.dtype == jnp.float32
            assert np.all(np.asarray(leaf) > 0)


@HALF
def test_what_data_say_about_weights_is_that_of_single_precision(dtype):
    det = trained(dtype)
    single = jax.tree.map(lambda a: a.astype(jnp.float32), det.params)
    network = nb.as_network(Net("float32"), example=X)
    known = det.curvature(X, Y)
    expected = replace(known, network=network, params=single)
    for path, values in expected.gauss_newton.items():
        assert known.gauss_newton[path].dtype == jnp.float32
        assert np.allclose(known.gauss_newton[path], values, rtol=0.1, atol=0.02 * values.max())
    subset = nb.select_bayesian_components(det, ["hidden"], "fisher", 5, X=X, y=Y)
    assert subset.split(det.network, det.params).size > 5


@HALF
def test_the_last_layer_has_its_posterior(dtype):
    """Draws of a linear last layer, against the closed form in double precision."""
    det = trained(dtype)
    subset = nb.ProbabilisticSubset.layers("out")
    target = nb.Target.build(
        det.network, det.params, subset, X, Y, likelihood=nb.Gaussian(noise=0.3),
        prior=nb.NormalPrior(center="zero"),
    )  # fmt: skip
    posterior = nb.sample(target, "laplace", num_warmup=0, num_samples=2000, progress=False)
    w = {path: np.asarray(a, np.float64) for path, a in leaves_by_path(det.params).items()}
    hidden = np.tanh(X @ w["params/hidden/kernel"] + w["params/hidden/bias"])
    design = np.concatenate([hidden, np.ones((40, 1))], axis=1)
    precision = design.T @ design / 0.09 + np.eye(9)
    mean = design @ np.linalg.solve(precision, design.T @ Y / 0.09)
    variance = np.einsum("ij,ji->i", design, np.linalg.solve(precision, design.T))
    prediction = posterior.predict(X)
    assert np.abs(prediction.mean - mean).max() < 0.05
    assert np.abs(prediction.epistemic_variance / variance - 1).max() < 0.25


def test_members_of_an_ensemble_train():
    ensemble = nb.EnsembleDeterministicNN(Net("bfloat16"), num_models=2, learning_rate=0.02)
    ensemble.train(X, Y, epochs=40, batch_size=20, bootstrap=True, progress=False)
    assert error(ensemble.predict(X)[0]) < 0.5 * np.var(Y)
