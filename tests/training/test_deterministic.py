"""The deterministic network: units, predictions and what it remembers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore import errors
from nbcore.training.outputs import EXAMPLES_AT_ONCE, network_outputs
from nbcore_flax import FlaxMLP, FlaxTransformer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
Y = X @ np.array([1.0, -2.0, 0.5])
LABELS = (Y > 0).astype(int) + (Y > 2)
NO_LOSS: Any = 5  # a number of members, in the place of the loss


@pytest.fixture(scope="module")
def regression() -> nb.DeterministicNN:
    """Trained on y in far-off units, standardized."""
    det = nb.DeterministicNN(FlaxMLP(hidden_dims=(8,)), learning_rate=0.02, standardize=True)
    return det.train(X, 1000 + 300 * Y, 30, 16, (X[:10], 1000 + 300 * Y[:10]), progress=False)


@pytest.fixture(scope="module")
def classifier() -> nb.DeterministicNN:
    """Trained on three classes."""
    det = nb.DeterministicNN(
        FlaxMLP(hidden_dims=(8,), target_dim=3), loss="classification", learning_rate=0.05
    )
    return det.train(X, LABELS, 30, 16, progress=False)


def test_standardized_training_predicts_in_the_units_of_y(regression: nb.DeterministicNN) -> None:
    y = 1000 + 300 * Y
    assert regression.scaler is not None
    np.testing.assert_allclose(regression.scaler.shift, y.mean())
    np.testing.assert_allclose(regression.scaler.scale, y.std())
    raw = np.asarray(FlaxMLP(hidden_dims=(8,)).apply(regression.params, X))[:, 0]
    np.testing.assert_allclose(regression.predict(X), y.mean() + y.std() * raw, rtol=1e-5)
    assert np.mean((regression.predict(X) - y) ** 2) < 0.2 * y.var()


def test_residual_noise_is_the_error_in_the_units_of_y(regression: nb.DeterministicNN) -> None:
    y = 1000 + 300 * Y
    error = np.sqrt(np.mean((regression.predict(X) - y) ** 2))
    np.testing.assert_allclose(regression.residual_noise(X, y), [error], rtol=1e-6)
    remembered = regression.residual_noise(X[:10], y[:10])
    np.testing.assert_array_equal(regression.validation_noise, remembered)


def test_classes_get_probabilities(classifier: nb.DeterministicNN) -> None:
    probabilities = classifier.predict(X)
    assert probabilities.shape == (40, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert np.mean(probabilities.argmax(axis=1) == LABELS) > 0.8
    logits = np.asarray(FlaxMLP(hidden_dims=(8,), target_dim=3).apply(classifier.params, X))
    np.testing.assert_allclose(probabilities, jax.nn.softmax(logits), rtol=1e-5, atol=1e-7)
    assert classifier.validation_noise is None


def test_the_loss_of_classes_is_the_cross_entropy(classifier: nb.DeterministicNN) -> None:
    whole = classifier.batch_gradients(X, LABELS, batch_size=40)

    def loss(params: Any) -> jax.Array:
        logits = FlaxMLP(hidden_dims=(8,), target_dim=3).apply(params, X)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(40), LABELS])  # pyright: ignore[reportArgumentType]

    expected = jax.grad(loss)(classifier.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), whole.mean, expected
    )


def test_predictions_in_batches_keep_the_order_of_rows() -> None:
    tokens = np.random.default_rng(1).integers(
        1, 7, size=(EXAMPLES_AT_ONCE + 30, 8), dtype=np.int32
    )
    tokens[::3, 3:] = 0
    net = FlaxTransformer(
        vocab_size=7, d_model=4, nhead=1, num_layers=0, dim_feedforward=4, pad_token_id=0
    )
    network = nb.as_network(net)
    params = network.init(jax.random.key(0), tokens[:1])
    outputs = network_outputs(network, params, tokens)
    np.testing.assert_allclose(outputs, net.apply(params, tokens), rtol=1e-4, atol=1e-5)  # pyright: ignore[reportArgumentType]


def test_several_outputs_are_columns() -> None:
    net = FlaxMLP(hidden_dims=(4,), target_dim=2)
    targets = np.stack([100 + Y, -10 * Y], axis=1)
    det = nb.DeterministicNN(net, standardize=True).train(X, targets, 2, progress=False)
    raw = np.asarray(net.apply(det.params, X))  # pyright: ignore[reportArgumentType]
    expected = targets.mean(axis=0) + targets.std(axis=0) * raw
    np.testing.assert_allclose(det.predict(X), expected, rtol=1e-4, atol=1e-4)
    noise = np.sqrt(np.mean((targets - expected) ** 2, axis=0))
    np.testing.assert_allclose(det.residual_noise(X, targets), noise, rtol=1e-4)


def test_what_training_remembers(classifier: nb.DeterministicNN) -> None:
    # 40 rows in batches of 16 are 3 steps an epoch, 90 in all; the window is the last 5 %.
    assert classifier.trajectory is not None
    assert int(classifier.trajectory.count) == 90 - int(0.95 * 90)
    assert classifier.gradients is not None
    assert int(classifier.gradients.count) == 9
    assert len(classifier.fit_result.losses) == 30
    without = nb.DeterministicNN(FlaxMLP(hidden_dims=(4,)), swa=None)
    without.train(X, Y, 1, progress=False)
    assert without.trajectory is None


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda net: nb.DeterministicNN(net, loss="homoscedastic"),
            errors.OptionError,
            "Did you mean",
        ),
        (lambda net: nb.DeterministicNN(net, NO_LOSS), errors.OptionError, "likelihood, got 5"),
        (
            lambda net: nb.DeterministicNN(net, loss="classification", standardize=True),
            errors.OptionError,
            "standardize=False",
        ),
        (lambda net: nb.DeterministicNN(net).params, errors.TrainingError, "not trained"),
        (lambda net: nb.DeterministicNN(net).predict(X), errors.TrainingError, "not trained"),
        (lambda net: nb.DeterministicNN(net).train(X, Y, epochs=0), errors.OptionError, "epochs"),
        (
            lambda net: nb.DeterministicNN(net).train(X, Y, batch_size=0),
            errors.OptionError,
            "batch",
        ),
        (
            lambda net: nb.DeterministicNN(net).train(X, Y[:5]),
            errors.ShapeError,
            "40 examples.*5 examples",
        ),
        (
            lambda net: nb.DeterministicNN(net).train(X, Y, validation_data=(X, Y * np.nan)),
            errors.DataError,
            "validation y",
        ),
        (
            lambda net: nb.DeterministicNN(net, loss="classification").train(X, LABELS),
            errors.ShapeError,
            "one logit per class, and the network has 1 output",
        ),
    ],
)
def test_bad_calls_are_refused(
    call: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(FlaxMLP(hidden_dims=(4,)))
