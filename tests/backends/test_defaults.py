"""Defaults on few data and both layers of a network that is not linear, with unknown noise."""

from __future__ import annotations

import numpy as np
import pytest

import nbcore as nb
from nbcore_flax import FlaxMLP

NUTS = 0.205, 0.212
"""RMSE and mean epistemic deviation of `numpyro-nuts`, 4 chains of 500 draws, R-hat 1.005."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("backend", ["laplace", "blackjax-mclmc"])
def test_samplers_predict_as_nuts_does(backend: str) -> None:
    """The joint mode of weights and noise is at noise 0 here: 81 weights and 60 examples."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3)).astype(np.float32)
    y = np.sin(2 * X[:, 0]) + X[:, 1] ** 2 / 2 + 0.3 * rng.normal(size=60)
    net = FlaxMLP(hidden_dims=(16,))
    trained = nb.DeterministicNN(net, learning_rate=1e-2)
    model = nb.PartialBNN(net, trained.train(X, y, epochs=200, key=0, progress=False))
    model.fit(X, y, backend=backend, key=0, num_warmup=500, num_samples=500, progress=False)
    prediction = model.predict_distribution(X)
    error = np.sqrt(np.mean((np.ravel(prediction.mean) - y) ** 2))
    deviation = np.sqrt(prediction.epistemic_variance).mean()
    assert error < 1.2 * NUTS[0]
    assert NUTS[1] / 1.25 < deviation < 1.25 * NUTS[1]
