"""Networks that `nb.BNN` trains for its chains to start at."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from samplers import Stay

import nbcore as nb
from nbcore import errors
from nbcore.estimators.pretraining import EPOCHS
from nbcore.training.folds import CalibrationWarning
from nbcore_flax import FlaxMLP

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
Y = 50 + 10 * X @ np.array([1.0, -2.0, 0.5])
NET = nb.as_network(FlaxMLP(hidden_dims=(5,)), example=X[:1])
HEADS = nb.as_network(FlaxMLP(hidden_dims=(5,), target_dim=2), example=X[:1])
SHORT = nb.TrainingOptions(epochs=3)
STAY: dict[str, Any] = {
    "num_warmup": 0, "num_samples": 4, "num_chains": 3, "backend": Stay(), "training": SHORT,
    "key": 5, "progress": False,
}  # fmt: skip


def weights(model: nb.PartialBNN, chain: int) -> dict[str, np.ndarray]:
    return {path: a[chain, 0] for path, a in model.posteriors[0].draws["weights"].items()}


@pytest.mark.parametrize(
    ("net", "likelihood"), [(NET, None), (HEADS, nb.Heteroskedastic())], ids=["one head", "two"]
)
def test_each_chain_starts_at_a_network_of_its_own(net: Any, likelihood: Any) -> None:
    """They are the members of an ensemble that is trained with the same options and key."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        model = nb.BNN(net, likelihood=likelihood).fit(X, Y, **STAY)
    used = SHORT.network_options(likelihood or nb.Gaussian())
    ensemble = nb.EnsembleDeterministicNN(net, num_models=3, **used)
    train_key, _ = jax.random.split(jax.random.key(5))
    ensemble.train(X, Y, 3, 32, key=train_key, estimate_noise=False, progress=False)
    split = model.posteriors[0].split
    for chain, member in enumerate(ensemble.members):
        wanted = split.select(member.params)
        jax.tree.map(np.testing.assert_array_equal, weights(model, chain), wanted)
    first, second = weights(model, 0), weights(model, 1)
    assert any(np.any(first[path] != second[path]) for path in first)


def test_a_number_of_epochs_that_is_not_given_is_that_of_a_single_network() -> None:
    steps = {**STAY, "num_chains": 2}
    found, told = (
        nb.BNN(NET).fit(X, Y, **{**steps, "training": training})
        for training in (nb.TrainingOptions(), nb.TrainingOptions(epochs=EPOCHS))
    )
    assert found.det is not None
    assert told.det is not None
    jax.tree.map(np.testing.assert_array_equal, found.det.params, told.det.params)


def test_chains_that_do_not_start_at_trained_weights_train_one_network() -> None:
    model = nb.BNN(NET).fit(X, Y, **STAY, sampling=nb.SamplingOptions(init="prior"))
    one = nb.BNN(NET).fit(X, Y, **{**STAY, "num_chains": 1})
    assert model.det is not None
    assert one.det is not None
    jax.tree.map(np.testing.assert_array_equal, model.det.params, one.det.params)


def test_weights_that_were_given_are_where_all_chains_start() -> None:
    det = nb.DeterministicNN(NET).train(X, Y, 2, progress=False)
    model = nb.BNN(NET, pretrained_priors=det).fit(X, Y, **STAY)
    for chain in range(3):
        got, wanted = weights(model, chain), model.posteriors[0].split.select(det.params)
        for path in got:
            np.testing.assert_allclose(got[path], wanted[path], atol=0.2)


def test_the_same_key_gives_the_same_draws_after_saving_and_resuming(tmp_path: Path) -> None:
    steps = {
        **STAY, "num_warmup": 5, "num_samples": 8, "num_chains": 2,
        "backend": nb.get_backend("blackjax-mclmc", num_tune=100, whiten=False),
    }  # fmt: skip
    sampling = nb.SamplingOptions(checkpoint=tmp_path / "checkpoint")
    first = nb.BNN(NET).fit(X, Y, **steps, sampling=sampling)
    shorter = nb.SamplingOptions(checkpoint=tmp_path / "other")
    nb.BNN(NET).fit(X, Y, **{**steps, "num_samples": 4}, sampling=shorter)
    resumed = nb.BNN(NET).fit(X, Y, **steps, sampling=shorter)
    first.save(tmp_path / "model")
    loaded = nb.load(tmp_path / "model", NET)
    again = loaded.fit(X, Y, **steps)
    for model in (resumed, again):
        jax.tree.map(
            np.testing.assert_array_equal, model.posteriors[0].draws, first.posteriors[0].draws
        )
    np.testing.assert_array_equal(again.predict(X), first.predict(X))


def test_verdicts_judge_chains_by_what_they_predict() -> None:
    model = nb.BNN(NET).fit(X, Y, **STAY)
    assert model.posterior.diagnostics().has_symmetry
    assert not model.posterior.diagnostics(X).has_symmetry
    partial = nb.PartialBNN(NET, model.det, probabilistic_layer_names=["Dense1"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not partial.fit(X, Y, **STAY).posterior.diagnostics().has_symmetry
    line = nb.BNN(FlaxMLP(hidden_dims=())).fit(X, Y, **STAY)
    assert not line.posterior.diagnostics().has_symmetry


def test_an_ensemble_without_noise_does_not_predict() -> None:
    ensemble = nb.EnsembleDeterministicNN(NET, num_models=2)
    ensemble.train(X, Y, 1, estimate_noise=False, progress=False)
    with pytest.raises(errors.TrainingError, match=r"Type: ensemble.train\(X, y\)"):
        ensemble.predict(X)
