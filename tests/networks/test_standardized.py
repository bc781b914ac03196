"""Inputs far from standardized are standardized inside the networks that the library trains."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore.errors import DataError
from nbcore.networks.input_scaling import InputScaler, InputsWarning
from nbcore.networks.standardized import StandardizedInputs, input_scaler, standardizing
from nbcore_flax import FlaxConvNet, FlaxMLP, FlaxTransformer

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(60, 2))
Y = np.sin(2 * Z[:, 0]) + 0.1 * RNG.normal(size=60)
MODULE = FlaxMLP(hidden_dims=(4,))
SHORT: dict[str, Any] = {
    "num_warmup": 5, "num_samples": 5, "num_chains": 1, "progress": False,
    "training": nb.TrainingOptions(epochs=4),
    "calibration": nb.CalibrationOptions("crossfit", folds=2),
}  # fmt: skip
FAR = {
    "offset": 1e6 + Z, "scale": 1e6 * Z, "small": 1e-6 * Z, "both": 1e6 * (Z + 3),
    "single precision": (1e6 + Z).astype(np.float32), "half": (300 + 10 * Z).astype(np.float16),
    "one column": np.stack([Z[:, 0], 1e6 * Z[:, 1]], axis=1),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputsWarning)
        yield


@pytest.mark.parametrize("name", FAR)
def test_the_step_is_exact_and_inverted(name: str) -> None:
    x = FAR[name]
    scaler = InputScaler.fit(x)
    found = np.asarray(scaler.standardize(x))
    is_far = np.array([True, True]) if name != "one column" else np.array([False, True])
    deviation = x.std(axis=0, dtype=np.float64)
    mean = x.mean(axis=0, dtype=np.float64).astype(np.float32).astype(np.float64)
    by_hand = np.where(is_far, (x.astype(np.float64) - mean) / deviation, x)
    np.testing.assert_allclose(found, by_hand, atol=0.04)  # x itself is rounded by 0.03
    np.testing.assert_allclose(scaler.restore(found), x, rtol=1e-3)
    assert InputScaler.from_data(scaler.to_data()) == scaler
    assert InputScaler.fit(found).steps == ()


def test_what_networks_learn_from_is_left_alone() -> None:
    rare = np.zeros((500, 3))
    rare[7, 0] = 1.0
    for x in (Z, 3 * Z, rare, np.full((5, 1), 2.0), np.linspace(0, 1, 9), np.zeros((4, 3))):
        assert InputScaler.fit(x).steps == ()
    assert InputScaler.fit(np.arange(1000)[:, None]).steps == ()  # integers may be tokens


def test_features_are_those_of_the_last_axis() -> None:
    """Channels of images, quantities of series; arrays of a pytree each by themselves."""
    images = RNG.uniform(0, [255, 1], size=(20, 5, 5, 2))
    ((path, shift, scale),) = InputScaler.fit(images).steps
    assert path == ""
    assert shift == pytest.approx((images[..., 0].mean(), 0.0))
    assert scale == pytest.approx((images[..., 0].std(), 1.0))
    both = {"ids": np.arange(40).reshape(20, 2), "table": 1e6 * Z[:20], "one": 1e6 * Z[:20, 0]}
    scaler = InputScaler.fit(both)
    assert [path for path, _, _ in scaler.steps] == ["one", "table"]
    found = scaler.standardize(both)
    assert found["ids"] is both["ids"]
    np.testing.assert_allclose(found["one"], (both["one"] - both["one"].mean()) / both["one"].std(),
                               atol=1e-5)  # fmt: skip


def test_equal_values_become_zero() -> None:
    scaler = InputScaler.fit(np.full((9, 1), 300.0))
    assert np.asarray(scaler.standardize(np.array([[300.0], [330.0]]))).ravel() == pytest.approx(
        [0.0, 0.1]
    )


@pytest.mark.parametrize("name", ["offset", "one column"])
def test_a_fit_is_that_of_standardized_inputs(name: str, tmp_path: Path) -> None:
    """By hand and inside, weights and predictions are the same, also in a loaded posterior."""
    x = FAR[name].astype(np.float32)
    scaler = InputScaler.fit(x)
    model = nb.PartialBNN(MODULE).fit(x, Y, **SHORT)
    by_hand = nb.PartialBNN(MODULE).fit(np.asarray(scaler.standardize(x)), Y, **SHORT)
    assert isinstance(model.det.network, StandardizedInputs)
    assert input_scaler(by_hand.det.network) is None
    params, others = model.det.params, by_hand.det.params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params, others)
    new = x[::7] * np.float32(1.01)
    expected = by_hand.predict(np.asarray(scaler.standardize(new)))
    np.testing.assert_allclose(model.predict(new), expected, atol=0.3)  # sampled weights
    np.testing.assert_allclose(
        model.det.predict(new), by_hand.det.predict(np.asarray(scaler.standardize(new))), atol=1e-4
    )
    model.save(tmp_path / "model")
    assert np.array_equal(nb.load(tmp_path / "model").predict(new), model.predict(new))
    model.posterior.save(tmp_path / "posterior")
    loaded = nb.Posterior.load(tmp_path / "posterior", MODULE)
    assert np.array_equal(loaded.predict(new).mean, model.predict(new)[0])
    assert input_scaler(loaded.network) == input_scaler(model.det.network)


def test_networks_and_ensembles_standardize_by_option(tmp_path: Path) -> None:
    x, options = FAR["scale"], {"standardize_inputs": True, "learning_rate": 0.05}
    det = nb.DeterministicNN(MODULE, **options).train(x, Y, 60, progress=False)
    assert np.mean((det.predict(x) - Y) ** 2) < 0.5 * np.var(Y)
    again = pickle.loads(pickle.dumps(det))
    assert np.array_equal(again.predict(x), det.predict(x))
    target = nb.Target.build(
        det.network, det.params, nb.ProbabilisticSubset.last(1), x, Y, likelihood=nb.Gaussian(1.0)
    )
    outputs = np.asarray(target.outputs(target.start["weights"]))[:, 0]
    np.testing.assert_allclose(outputs, det.predict(x), atol=1e-5)
    ensemble = nb.EnsembleDeterministicNN(MODULE, num_models=2, **options)
    ensemble.train(x, Y, 3, bootstrap=True, progress=False)
    ensemble.save(tmp_path / "ensemble")
    assert np.array_equal(nb.load(tmp_path / "ensemble").predict(x), ensemble.predict(x))
    det.save(tmp_path / "network")
    loaded = nb.load(tmp_path / "network")
    assert np.array_equal(loaded.predict(x), det.predict(x))
    loaded.train(1e3 * x, Y, 1, progress=False)  # which needs a step of its own
    assert input_scaler(loaded.network) == InputScaler.fit(1e3 * x)


def test_folds_share_one_step_and_their_programs() -> None:
    cross = nb.cross_fit(
        MODULE, FAR["offset"], Y, 2, epochs=1, standardize_inputs=True, progress=False
    )
    first, *others = [cross.full.network, *(m.network for m in cross.members)]
    assert all(network == first for network in others)


def test_it_can_be_switched_off() -> None:
    training = nb.TrainingOptions(epochs=1, standardize_inputs=False)
    with pytest.warns(InputsWarning, match=r"X\[..., 0\] from .*standardize_inputs=True"):
        model = nb.PartialBNN(MODULE).fit(FAR["offset"], Y, **SHORT | {"training": training})
    assert input_scaler(model.det.network) is None


def test_networks_that_came_trained_are_not_changed() -> None:
    network = nb.as_network(MODULE, example=Z.astype(np.float32))
    params = network.init(jax.random.key(0), jnp.asarray(Z))
    model = nb.PartialBNN(MODULE, params)
    with pytest.warns(InputsWarning, match="came trained is never changed"):
        model.fit(FAR["offset"], Y, **SHORT)
    assert input_scaler(model.posterior.network) is None
    outputs = model.posterior.outputs(FAR["offset"])
    draw = jax.tree.map(lambda a: a[0, 0], model.posterior.draws["weights"])
    merged = model.posterior.split.merge(draw)
    np.testing.assert_allclose(outputs[0], network.apply(merged, FAR["offset"]), rtol=1e-5)


def test_noise_models_read_inputs_in_the_users_units() -> None:
    def noise(x: jax.Array, parameters: dict[str, jax.Array]) -> jax.Array:
        return parameters["slope"] * x[:, 1] / 300

    x = np.stack([Z[:, 0], 300 + 10 * Z[:, 1]], axis=1)
    likelihood = nb.NoiseModel(noise, {"slope": nb.LogNormal(0.1, 0.1)})
    model = nb.PartialBNN(MODULE, likelihood=likelihood).fit(x, Y, **SHORT)
    assert input_scaler(model.posterior.network) is not None
    slope = model.posterior.constrained()["likelihood"]["slope"].ravel()
    expected = np.mean(slope**2) * (x[:, 1] / 300) ** 2
    found = model.predict_distribution(x).aleatoric_variance
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_tokens_and_padded_inputs_are_never_changed() -> None:
    tokens = RNG.integers(1, 9, size=(10, 6))
    transformer = FlaxTransformer(
        vocab_size=9, d_model=4, nhead=2, max_seq_length=6, pad_token_id=0
    )
    network = nb.as_network(transformer, example=tokens)
    assert standardizing(network, tokens) is network
    assert standardizing(network, 1e6 * tokens) is network
    images = nb.as_network(FlaxConvNet(input_dim=1), example=1e3 * Z[..., None])
    once = standardizing(images, 1e3 * Z[..., None])
    assert standardizing(once, 1e9 * Z[..., None]) is once


def test_inputs_without_digits_are_named() -> None:
    with pytest.warns(InputsWarning, match=r"X\[..., 0\] loses its digits in float32"):
        nb.PartialBNN(MODULE).fit(1e8 + Z, Y, **SHORT)
    with pytest.warns(InputsWarning, match="Subtract an offset"):
        nb.DeterministicNN(MODULE).train(2**28 + np.arange(60)[:, None] % 7, Y, 1, progress=False)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (1e39 * Z, "beyond float32"),
        (2**33 + np.arange(120).reshape(60, 2), "beyond int32"),
        (Z.astype(np.longdouble), "astype"),
    ],
)
def test_inputs_that_jax_cannot_hold_are_refused(x: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        nb.PartialBNN(MODULE).fit(x, Y, **SHORT)
