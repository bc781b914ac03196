"""Fit and predict of a partially Bayesian network, and what bad input is told."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers import Still

import nbcore as nb
from nbcore import errors
from nbcore_flax import FlaxMLP, FlaxTransformer

pytestmark = pytest.mark.filterwarnings("ignore::nbcore.training.folds.CalibrationWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
Y = 50 + 10 * X @ np.array([1.0, -2.0, 0.5])
LABELS = (Y > 50).astype(int) + (Y > 70)
NET = nb.as_network(FlaxMLP(hidden_dims=(6,)), example=X[:1])
CLASSES = nb.as_network(FlaxMLP(hidden_dims=(6,), target_dim=3), example=X[:1])
TOKENS = RNG.integers(1, 9, size=(40, 7), dtype=np.int32)
TOKENS[::3, 4:] = 0


def fit(model: nb.PartialBNN, *data: Any, **options: Any) -> nb.PartialBNN:
    settings: dict[str, Any] = {
        "num_warmup": 0, "num_samples": 3, "num_chains": 1, "backend": Still(),
        "calibration": "holdout", "training": nb.TrainingOptions(epochs=2), "key": 1,
        "progress": False,
    }  # fmt: skip
    X_, y = data or (X, Y)
    return model.fit(X_, y, **(settings | options))


def head(net: Any = NET, *weights: Any, **options: Any) -> nb.PartialBNN:
    return nb.PartialBNN(net, *weights, probabilistic_layer_names=["Dense1"], **options)


def trained(net: Any = NET, data: tuple[Any, Any] = (X, Y), **options: Any) -> nb.DeterministicNN:
    return nb.DeterministicNN(net, **options).train(*data, 3, 16, progress=False)


@pytest.fixture(scope="module")
def det() -> nb.DeterministicNN:
    """A standardized regression."""
    return trained(standardize=True)


@pytest.mark.parametrize("standardize", [True, False])
def test_at_its_frozen_weights_it_predicts_what_the_network_predicts(standardize: bool) -> None:
    network = trained(standardize=standardize)
    model = fit(head(NET, network))
    split = model.posterior.split
    assert split is not None
    start = {k: np.broadcast_to(v, (1, 3, *v.shape)) for k, v in split.stochastic.items()}
    draws = {**model.posterior.draws, "weights": start}
    frozen = dataclasses.replace(model.posterior, draws=draws)
    np.testing.assert_allclose(frozen.predict(X).mean, network.predict(X), rtol=2e-6, atol=1e-6)
    # Still gives the same draws, so the model itself agrees.
    np.testing.assert_allclose(model.predict(X)[0], network.predict(X), rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(model.predict_distribution(X).epistemic_variance, 0, atol=1e-6)


def test_a_transformer_at_its_frozen_weights_agrees_too() -> None:
    tokens = np.maximum(TOKENS, 1)
    net = FlaxTransformer(vocab_size=9, d_model=4, nhead=1, num_layers=0, dim_feedforward=4)
    network = trained(nb.as_network(net), (tokens, Y))
    names = ["TokenEmbed", "FinalDense1"]
    model = nb.PartialBNN(network.network, network, probabilistic_layer_names=names)
    mean, _ = fit(model, tokens, Y).predict(tokens)
    np.testing.assert_allclose(mean, network.predict(tokens), rtol=1e-5, atol=1e-6)


def test_classes_at_the_frozen_weights_have_the_probabilities_of_the_network() -> None:
    network = trained(CLASSES, (X, LABELS), loss="classification")
    for model in (head(CLASSES, network), head(CLASSES, network.params, num_classes=3)):
        probabilities, variance = fit(model, X, LABELS).predict(X)
        np.testing.assert_allclose(probabilities, network.predict(X), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(variance, probabilities * (1 - probabilities), rtol=1e-4)


def test_classes_are_fitted_from_scratch() -> None:
    model = fit(
        head(CLASSES, num_classes=3),
        X,
        LABELS,
        training=nb.TrainingOptions(epochs=60, learning_rate=0.05),
    )
    probabilities = model.predict(X)[0]
    assert probabilities.shape == (40, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert np.mean(probabilities.argmax(axis=1) == LABELS) > 0.8
    assert isinstance(model.posterior.likelihood, nb.Categorical)


def test_a_second_fit_trains_anew_what_it_trained_itself() -> None:
    model = fit(head())
    first, weights = model.det, model.predict(X)[0]
    assert first is not None
    fit(model)
    assert model.det is not first
    np.testing.assert_array_equal(model.predict(X)[0], weights)  # same key, same rows
    fit(model, X, Y + 30)
    assert np.abs(model.predict(X)[0] - weights).min() > 10


def test_a_second_fit_keeps_weights_that_were_given(det: nb.DeterministicNN) -> None:
    model = head(NET, det)
    for y in (Y, Y + 30):
        fit(model, X, y)
        assert model.det is det
        assert model.posterior.split is not None
        jax.tree.map(np.testing.assert_array_equal, model.posterior.split.params, det.params)


def test_options_of_training_and_selection_reach_the_network() -> None:
    selection = {"method": "variance", "layer_names": ["Dense0"], "num_pairs_per_layer": 4}
    model = nb.PartialBNN(NET, selection=selection, prior=0.3)
    training = nb.TrainingOptions(
        epochs=4, learning_rate=0.02, batch_size=8, sigma=3.0,
        swa={"schedule": "linear", "start_pct": 0.5},
    )  # fmt: skip
    fit(model, training=training)
    assert model.det is not None
    recipe = model.det.recipe
    assert (recipe.learning_rate, recipe.sigma) == (0.02, 3.0)
    assert recipe.swa == nb.SWA("linear", 0.5)
    assert len(model.det.fit_result.losses) == 4
    # 32 rows in batches of 8 are 16 steps; half of them are before the window
    assert model.det.trajectory is not None
    assert 2 <= int(model.det.trajectory.count) <= 8
    split = model.posterior.split
    assert split is not None
    assert split.shapes["params/Dense0/kernel"] == (4,)
    assert set(split.paths) == {"params/Dense0/kernel", "params/Dense0/bias"}


def test_the_prior_of_the_weights_is_around_the_trained_values(det: nb.DeterministicNN) -> None:
    known: dict[str, Any] = {"likelihood": nb.Gaussian(noise=1e9)}
    densities = [
        fit(head(NET, det, **known, prior=sigma)).posterior.stats.log_density[0, 0]
        for sigma in (1.0, 0.1)
    ]
    # At the center, log N(0; 0, s^2) of 7 weights differs by 7 log 10.
    assert densities[1] - densities[0] == pytest.approx(7 * np.log(10), rel=1e-4)
    far = fit(head(NET, det, **known, prior=nb.NormalPrior(scale=0.1, center="zero")))
    assert far.posterior.stats.log_density[0, 0] < densities[1] - 1


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({"probabilistic_layer_names": ["Dense0"]}, ["Dense0/bias", "Dense0/kernel"]),
        ({"num_probabilistic_layers": 0}, ["Dense1/bias", "Dense1/kernel"]),
        ({"probabilistic_neurons": {"Dense0": [(0, 1)]}}, ["Dense0/bias", "Dense0/kernel"]),
        ({"subset": nb.ProbabilisticSubset.layers("Dense1")}, ["Dense1/bias", "Dense1/kernel"]),
        ({}, ["Dense0/bias", "Dense0/kernel", "Dense1/bias", "Dense1/kernel"]),
    ],
)
def test_each_way_of_choosing(
    options: dict[str, Any], paths: list[str], det: nb.DeterministicNN
) -> None:
    split = fit(nb.PartialBNN(NET, det, **options)).posterior.split
    assert split is not None
    assert list(split.paths) == [f"params/{path}" for path in paths]


def test_the_default_is_logged(det: nb.DeterministicNN, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="nbcore"):
        fit(nb.PartialBNN(NET, det))
    assert re.search(r"first and output layers: Dense0, Dense1 \(31 weights\)", caplog.text)


def test_a_default_that_is_too_large_is_refused_with_what_to_type() -> None:
    wide = nb.as_network(FlaxMLP(hidden_dims=(2500,)), example=X[:1])
    params = wide.init(jax.random.key(0), X[:1])  # 3 * 2500 + 2500 + 2500 + 1 weights
    with pytest.raises(
        errors.SubsetError,
        match=r"12,501 weights.*10,000.*selection=\{.*'layer_names': \['Dense0'",
    ):
        fit(nb.PartialBNN(wide, params))


@pytest.mark.slow
def test_an_unknown_noise_of_y_is_learned_in_its_own_units() -> None:
    """NUTS on a linear network: the noise is that of the data, whatever their scale."""
    noisy = Y + 4 * np.random.default_rng(5).normal(size=40)
    model = nb.PartialBNN(FlaxMLP(hidden_dims=()), probabilistic_layer_names=["Dense0"])
    fit(
        model, X, noisy, calibration="none", training=nb.TrainingOptions(epochs=100),
        num_warmup=200, num_samples=300, num_chains=2, backend="numpyro-nuts",
    )  # fmt: skip
    design = np.concatenate([np.ones((40, 1)), X], axis=1)
    residual = noisy - design @ np.linalg.lstsq(design, noisy, rcond=None)[0]
    expected = np.sqrt(residual @ residual / (40 - 4))
    prediction = model.predict_distribution(X)
    noise = float(np.sqrt(prediction.aleatoric_variance.mean()))
    assert noise == pytest.approx(expected, rel=0.15)
    mean, variance = model.predict(X)
    np.testing.assert_allclose(mean, noisy - residual, atol=0.5 * expected)
    np.testing.assert_allclose(
        variance, prediction.aleatoric_variance + prediction.epistemic_variance, rtol=1e-6
    )
    assert prediction.coverage(noisy) > 0.85


def test_same_key_same_predictions() -> None:
    first, second = (fit(head()).predict(X) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.any(fit(head(), key=2).predict(X)[0] != first[0])


def test_backends_are_given_by_name_with_options_or_as_instances(det: nb.DeterministicNN) -> None:
    with pytest.raises(errors.UnknownBackendError, match="Did you mean 'numpyro-nuts'"):
        fit(head(NET, det), backend="numpyro_nuts")
    with pytest.raises(errors.OptionError, match="max_tree_depth"):
        fit(head(NET, det), backend=nb.get_backend("numpyro-nuts", max_treedepth=3))
    shallow = nb.get_backend("numpyro-nuts", max_tree_depth=3)
    info = fit(head(NET, det), backend=shallow).posterior.info
    assert info.options["max_tree_depth"] == 3


TRANSFORMER = FlaxTransformer(
    vocab_size=9, d_model=4, nhead=2, num_layers=1, dim_feedforward=4, max_seq_length=7
)
PAIRS = nb.ProbabilisticSubset.pairs
LAYERS = nb.ProbabilisticSubset.layers
PLAIN = (lambda key, x: {"a": {"kernel": jnp.ones((3, 1))}}, lambda p, x: x @ p["a"]["kernel"])


def with_nan(array: np.ndarray, *rows: int) -> np.ndarray:
    array = array.copy()
    array[list(rows)] = np.nan
    return array


def sub(subset: nb.ProbabilisticSubset) -> Any:
    params = NET.init(jax.random.key(0), X[:1])
    return lambda folder: subset.split(NET, params)


def attention(subset: nb.ProbabilisticSubset) -> Any:
    network = nb.as_network(TRANSFORMER)
    shapes = jax.eval_shape(network.init, jax.random.key(0), TOKENS[:1])
    return lambda folder: subset.masks(network.layers(shapes))


def sequences(tokens: np.ndarray) -> Any:
    return lambda folder: fit(nb.PartialBNN(TRANSFORMER), tokens, Y)


def no_example(folder: Path) -> Any:
    network = nb.Network.from_functions(*PLAIN)
    return nb.ProbabilisticSubset.last(0).split(network, PLAIN[0](None, None))


def saved_twice(folder: Path) -> None:
    posterior = fit(head(NET, NET.init(jax.random.key(0), X[:1]))).posterior
    for _ in range(2):
        posterior.save(folder / "run")


def malformed_table(folder: Path) -> None:
    (folder / "data.csv").write_text("smiles,y\nCCO,1.0\nCC,abc\n")
    nb.datasets.read_csv(folder / "data.csv").numeric(["y"])


BAD: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "unknown layer": (sub(LAYERS("Dens1")), errors.UnknownLayerError, "Did you mean 'Dense1'"),
    "pattern": (sub(LAYERS("Conv*")), errors.UnknownLayerError, r"'Conv\*'.*Dense0, Dense1"),
    "pair out of range": (sub(PAIRS({"Dense0": [(3, 0)]})), errors.PairError, "possible 0 to 2"),
    "pair twice": (
        lambda folder: PAIRS({"Dense0": [(0, 1), (0, 1)]}), errors.PairError, r"\(0, 1\).*twice"
    ),
    "flat attention": (
        attention(PAIRS({"Block0_Attention": [(0, 0, 0)]})), errors.PairError, "dict by component"
    ),
    "empty subset": (sub(LAYERS("*") - LAYERS("*")), errors.SubsetError, "empty.*Dense0"),
    "no layers": (lambda folder: LAYERS(), errors.SubsetError, r"Type: .*layers\('Dense0'\)"),
    "no pairs": (lambda folder: PAIRS({}), errors.PairError, "no layer"),
    "two ways": (
        lambda folder: nb.PartialBNN(NET, num_probabilistic_layers=1, subset=LAYERS("Dense0")),
        errors.OptionError, "2 ways.*subset, num_probabilistic_layers",
    ),
    "two ways, one a selection": (
        lambda folder: head(selection={"method": "magnitude"}),
        errors.OptionError, "2 ways.*probabilistic_layer_names, selection",
    ),
    "name as a string": (
        lambda folder: nb.PartialBNN(NET, probabilistic_layer_names="Dense1"),
        errors.OptionError, r"\['Dense1'\]",
    ),
    "no example": (no_example, errors.NetworkError, r"example=X\[:1\]"),
    "nan in X": (
        lambda folder: fit(head(), with_nan(X, 3, 7), Y), errors.DataError, "X .* examples: 3, 7"
    ),
    "nan in y": (lambda folder: fit(head(), X, with_nan(Y, 5)), errors.DataError, "y .*: 5"),
    "lengths": (lambda folder: fit(head(), X, Y[:7]), errors.ShapeError, "40 examples and y has 7"),
    "no row": (lambda folder: fit(head(), X[:0], Y[:0]), errors.ShapeError, "no example"),
    "float tokens": (sequences(TOKENS.astype(float)), errors.TokenError, r"astype\('int32'\)"),
    "token": (sequences(np.where(TOKENS == 8, 9, TOKENS)), errors.TokenError, "vocab_size=10"),
    "negative token": (sequences(TOKENS - 1), errors.TokenError, "token -1"),
    "long": (sequences(np.tile(TOKENS, 2)), errors.TokenError, "max_seq_length=14"),
    "labels": (
        lambda folder: fit(head(CLASSES, num_classes=3), X, np.arange(len(X)) % 4),
        errors.LabelError, "4 classes, 0, 1, 2, 3, and .* outputs for 3",
    ),
    "fractions": (
        lambda folder: fit(head(CLASSES, num_classes=3), X, LABELS + 0.5),
        errors.LabelError, "Labels are integers, texts or booleans, got the fraction 0.5",
    ),
    "outputs": (
        lambda folder: fit(head(), X, np.stack([Y, Y], axis=1)), errors.ShapeError, "1 output"
    ),
    "folder": (saved_twice, errors.RunFolderError, "overwrite=True"),
    "table": (malformed_table, errors.DataError, "line 3, column 'y'.*'abc' is not a number"),
    "calibration": (
        lambda folder: fit(head(), calibration="cross-fit"), errors.OptionError, "'crossfit'"
    ),
    "ensemble": (
        lambda folder: nb.CalibrationOptions("none", ensemble=True),
        errors.OptionError, r"CalibrationOptions\('mixture'\)",
    ),
    "bare weights": (
        lambda folder: nb.PartialBNN(
            NET, NET.init(jax.random.key(0), X[:1]), selection={"method": "magnitude"}
        ),
        errors.OptionError, "deterministic_weights=det",
    ),
    "likelihood": (
        lambda folder: head(likelihood=nb.Gaussian(), noise_prior=nb.HalfNormal()),
        errors.OptionError, "likelihood=",
    ),
    "epochs": (lambda folder: nb.TrainingOptions(epochs=0), errors.OptionError, "epochs.*got 0"),
    "batch": (lambda folder: nb.TrainingOptions(batch_size=0), errors.OptionError, "batch_size"),
    "not fitted": (lambda folder: head().predict(X), errors.TrainingError, r"model\.fit\(X, y\)"),
    "no posterior": (lambda folder: head().posterior, errors.TrainingError, "not fitted"),
    "no network": (lambda folder: nb.PartialBNN(3).fit(X, Y), errors.NetworkError, "builtins.int"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("ignore:X looks padded")
def test_bad_input_is_told_what_was_got_and_what_to_type(case: str, tmp_path: Path) -> None:
    call, error, message = BAD[case]
    with pytest.raises(errors.NbcoreError, match=re.compile(message, re.S)) as raised:
        call(tmp_path)
    assert type(raised.value) is error
    assert "\n" not in str(raised.value)
