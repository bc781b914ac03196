"""Predictions as pure functions of x, and log likelihoods of given data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore.errors import OptionError
from nbcore_flax import FlaxMLP

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 2)).astype(np.float32)
Y = 100 + 10 * np.sin(X[:, 0]) + RNG.normal(size=24)
NEW = RNG.normal(size=(5, 2)).astype(np.float32)
NET, TWO_HEADS = FlaxMLP(hidden_dims=(4,)), FlaxMLP(hidden_dims=(4,), target_dim=2)
SHORT: dict[str, Any] = {
    "num_warmup": 5, "num_samples": 20, "num_chains": 1, "progress": False,
    "training": nb.TrainingOptions(epochs=20),
    "calibration": nb.CalibrationOptions("crossfit", folds=2),
}  # fmt: skip
MIXTURE = {"calibration": nb.CalibrationOptions("crossfit", folds=2, ensemble=True)}
MODELS: dict[str, Any] = {
    "gaussian": lambda: nb.PartialBNN(NET).fit(X, Y, **SHORT),
    "far inputs": lambda: nb.PartialBNN(NET).fit(300 + 10 * X, Y, **SHORT),
    "student": lambda: nb.PartialBNN(NET, likelihood=nb.StudentT()).fit(X, Y, **SHORT),
    "two heads": lambda: nb.PartialBNN(TWO_HEADS, likelihood=nb.Heteroskedastic()).fit(
        X, Y, **SHORT | {"calibration": "holdout"}
    ),
    "classes": lambda: nb.PartialBNN(TWO_HEADS, num_classes=2).fit(
        X, (Y > 100).astype(int), **SHORT | {"calibration": "holdout"}
    ),
    "mixture": lambda: nb.PartialBNN(NET).fit(X, Y, **SHORT | MIXTURE),
    "linearized": lambda: nb.PartialBNN(NET).fit(X, Y, **SHORT, backend="laplace"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_moments_are_those_of_predict(name: str) -> None:
    model = MODELS[name]()
    x = 300 + 10 * NEW if name == "far inputs" else NEW
    expected, found = model.predict_distribution(x), jax.jit(model.posterior.moments)(x)
    for part in ("mean", "epistemic_variance", "aleatoric_variance", "variance"):
        known = getattr(expected, part).reshape(len(x), -1)
        np.testing.assert_allclose(getattr(found, part), known, rtol=2e-3, atol=1e-4)
    each = jax.vmap(lambda one: model.posterior.moments(one[None]).mean[0])(jnp.asarray(x))
    np.testing.assert_allclose(each, found.mean, rtol=1e-5)


@pytest.fixture(scope="module")
def model() -> nb.PartialBNN:
    return MODELS["gaussian"]()


@pytest.mark.parametrize("part", ["mean", "variance"])
def test_gradients_are_finite_differences_of_predict(model: nb.PartialBNN, part: str) -> None:
    step = 0.05

    def value(x: jax.Array) -> jax.Array:
        return getattr(model.posterior.moments(x[None]), part)[0, 0]

    gradient = jax.grad(value)(jnp.asarray(NEW[0]))
    moves = step * np.eye(2, dtype=np.float32)
    there = np.concatenate([NEW[0] + moves, NEW[0] - moves])
    forward, back = np.split(getattr(model.predict_distribution(there), part), 2)
    np.testing.assert_allclose(gradient, (forward - back) / (2 * step), rtol=0.02, atol=0.02)


def test_predictions_name_the_pure_functions(model: nb.PartialBNN) -> None:
    assert model.det is not None
    for predict in (model.predict, model.posterior.predict, model.det.predict):
        with pytest.raises(OptionError, match=r"traced .*model\.posterior\.moments\(x\)"):
            jax.jit(predict)(NEW)


def test_moments_that_single_precision_cannot_hold_are_standardized() -> None:
    for s, t in ((1.0, 1e8), (1e-23, 0.0), (1e25, 0.0)):
        posterior = nb.PartialBNN(NET).fit(X, s * Y + t, **SHORT).posterior
        with pytest.raises(OptionError, match="standardized=True"):
            posterior.moments(NEW)
        found, scaler = posterior.moments(NEW, standardized=True), posterior.scaler
        assert scaler is not None
        expected = posterior.predict(NEW)
        np.testing.assert_allclose(
            found.mean[:, 0], (expected.mean - scaler.shift) / scaler.scale, atol=1e-4
        )
        np.testing.assert_allclose(
            found.variance[:, 0], expected.variance / scaler.scale**2, rtol=1e-3
        )


@pytest.mark.parametrize("name", ["gaussian", "student", "linearized"])
def test_log_likelihoods_are_those_of_given_data(name: str, tmp_path: Path) -> None:
    posterior = MODELS[name]().posterior
    fitted = posterior.log_likelihood()
    np.testing.assert_allclose(posterior.log_likelihood(X, Y), fitted, rtol=1e-4, atol=1e-4)
    posterior.save(tmp_path)
    loaded = nb.Posterior.load(tmp_path, NET)
    np.testing.assert_allclose(loaded.log_likelihood(X, Y), fitted, rtol=1e-4, atol=1e-4)
    each = loaded.log_likelihood(NEW, Y[:5])
    mixture = np.log(np.exp(each.astype(np.float64)).mean(axis=(0, 1)))
    np.testing.assert_allclose(mixture, posterior.predict(NEW).log_density(Y[:5]), rtol=1e-3)
    for missing in ((), (X,), (None, Y)):
        with pytest.raises(OptionError, match=r"posterior\.log_likelihood\(X, y\)"):
            loaded.log_likelihood(*missing)
