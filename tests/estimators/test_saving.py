"""Fitted models in folders: saved, loaded in another process, and refused where they must be."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn

import nbcore as nb
from nbcore import errors
from nbcore.posterior.posterior import Posterior
from nbcore_flax import FlaxMLP, FlaxTransformer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = 70 + 2 * X[:, 0] + 0.1 * np.random.default_rng(1).normal(size=40)
X_NEW = np.random.default_rng(2).normal(size=(9, 3)).astype(np.float32)
NET = FlaxMLP(hidden_dims=(6,), activation="silu")
STEPS: dict[str, Any] = {
    "num_warmup": 20,
    "num_samples": 20,
    "num_chains": 2,
    "progress": False,
    "backend": "numpyro-nuts",
    "training": nb.TrainingOptions(epochs=2),
}
ONE: dict[str, Any] = {**STEPS, "calibration": "crossfit"}
SHORT: dict[str, Any] = {"epochs": 2, "progress": False}
PARTIAL: dict[str, Any] = {"probabilistic_layer_names": ["Dense1"]}


class Own(nn.Module):
    """A network that no plugin offers by name."""

    activation: str = "tanh"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = getattr(nn, self.activation)(nn.Dense(5)(x))
        return nn.Dense(1)(x)


def ensemble() -> nb.EnsembleDeterministicNN:
    return nb.EnsembleDeterministicNN(NET, num_models=3, standardize=True).train(X, Y, **SHORT)


MODELS: dict[str, Callable[[], Any]] = {
    "deterministic": lambda: nb.DeterministicNN(NET, standardize=True).train(
        X, Y, validation_data=(X_NEW, Y[:9]), **SHORT
    ),
    "classifier": lambda: nb.DeterministicNN(
        FlaxMLP(hidden_dims=(4,), target_dim=3), "classification"
    ).train(X, np.arange(40) % 3, **SHORT),
    "ensemble": ensemble,
    "partial": lambda: nb.PartialBNN(NET, **PARTIAL).fit(X, Y, **ONE),
    "classes": lambda: nb.PartialBNN(FlaxMLP(hidden_dims=(4,), target_dim=3), num_classes=3).fit(
        X, np.arange(40) % 3, calibration="holdout", **STEPS
    ),
    "mixture over folds": lambda: nb.PartialBNN(NET, **PARTIAL).fit(
        X, Y, calibration=nb.CalibrationOptions("crossfit", folds=2, ensemble=True), **STEPS
    ),
    "members": lambda: nb.PartialBNN(NET, ensemble(), **PARTIAL).fit(X, Y, **STEPS),
    "bnn": lambda: nb.BNN(NET).fit(X, Y, **STEPS),
}


@functools.cache
def fitted(name: str) -> Any:
    return MODELS[name]()


def predictions(model: Any) -> np.ndarray:
    return np.asarray(model.predict(X_NEW))


def test_predictions_are_the_same_in_a_new_process(tmp_path: Path) -> None:
    for name in MODELS:
        fitted(name).save(tmp_path / name)
    np.save(tmp_path / "x.npy", X_NEW)
    program = (
        "import sys, numpy as np, nbcore as nb\n"
        "folder, *names = sys.argv[1:]\n"
        "x = np.load(f'{folder}/x.npy')\n"
        "found = {n: np.asarray(nb.load(f'{folder}/{n}').predict(x)) for n in names}\n"
        "np.savez(f'{folder}/found.npz', **found)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path), *MODELS], check=True)
    found = np.load(tmp_path / "found.npz")
    for name in MODELS:
        np.testing.assert_array_equal(found[name], predictions(fitted(name)), err_msg=name)


def test_what_was_learned_about_errors_is_kept(tmp_path: Path) -> None:
    for name in ("deterministic", "ensemble", "mixture over folds"):
        fitted(name).save(tmp_path / name)
    det = nb.load(tmp_path / "deterministic")
    np.testing.assert_array_equal(det.validation_noise, fitted("deterministic").validation_noise)
    assert det.recipe == fitted("deterministic").recipe
    assert det.fit_result.losses == fitted("deterministic").fit_result.losses
    variance = det.trajectory.variance["params"]["Dense0"]["kernel"]
    before = fitted("deterministic").trajectory.variance["params"]["Dense0"]["kernel"]
    np.testing.assert_array_equal(variance, before)
    loaded = nb.load(tmp_path / "ensemble")
    np.testing.assert_array_equal(loaded.noise, fitted("ensemble").noise)
    mixture, before = nb.load(tmp_path / "mixture over folds"), fitted("mixture over folds")
    np.testing.assert_array_equal(
        mixture.mixture_calibration.noise, before.mixture_calibration.noise
    )
    np.testing.assert_array_equal(mixture.cross.predictions, before.cross.predictions)
    np.testing.assert_array_equal(mixture.cross.fold, before.cross.fold)
    assert mixture.cross.nlpd(Y) == before.cross.nlpd(Y)
    assert [p.info for p in mixture.posteriors] == [p.info for p in before.posteriors]
    fresh = mixture.cross.members[1].predict(X_NEW)
    np.testing.assert_array_equal(fresh, before.cross.members[1].predict(X_NEW))


@pytest.mark.parametrize("name", ["partial", "members", "bnn"])
def test_a_loaded_model_can_be_fitted_anew(name: str, tmp_path: Path) -> None:
    fitted(name).save(tmp_path / "model")
    again = nb.load(tmp_path / "model")
    assert type(again) is type(fitted(name))
    again.fit(X, Y, **(ONE if name == "partial" else STEPS))
    np.testing.assert_allclose(predictions(again), predictions(fitted(name)), rtol=1e-5)


def test_a_cross_fit_is_saved_and_its_networks_sampled(tmp_path: Path) -> None:
    cross = nb.cross_fit(NET, X, Y, folds=2, standardize=True, **SHORT)
    cross.save(tmp_path / "cross")
    loaded = nb.load(tmp_path / "cross")
    kept = [nb.PartialBNN(NET, c, **PARTIAL).fit(X, Y, **ONE) for c in (cross, loaded)]
    np.testing.assert_array_equal(*map(predictions, kept))


def test_distributions_that_a_network_predicts_are_kept(tmp_path: Path) -> None:
    net = FlaxMLP(hidden_dims=(4,), target_dim=2)
    loss = nb.Heteroskedastic()
    cross = nb.cross_fit(net, X, Y, folds=2, loss=loss, standardize=True, **SHORT)
    cross.save(tmp_path / "cross")
    assert nb.load(tmp_path / "cross").nlpd(Y) == cross.nlpd(Y)


def test_a_network_of_ones_own_is_given_again(tmp_path: Path) -> None:
    det = nb.DeterministicNN(Own()).train(X, Y, **SHORT)
    det.save(tmp_path / "model")
    with pytest.raises(errors.OptionError, match=r"test_saving\.Own.*network=Own\(\.\.\.\)"):
        nb.load(tmp_path / "model")
    np.testing.assert_array_equal(
        predictions(nb.load(tmp_path / "model", network=Own())), predictions(det)
    )
    with pytest.raises(errors.ShapeError, match=r"computes something else.*same options"):
        nb.load(tmp_path / "model", network=Own(activation="relu"))
    with pytest.raises(errors.ShapeError, match="do not fit this network"):
        nb.load(tmp_path / "model", network=FlaxMLP(hidden_dims=(5,)))
    with pytest.raises(errors.ShapeError, match="2 columns instead of 3"):
        nb.load(tmp_path / "model", network=Own()).predict(X_NEW[:, :2])


def test_the_tokenizer_is_kept(tmp_path: Path) -> None:
    smiles = ["CCO", "CCN", "c1ccccc1", "CCl", "OCC", "NCC"]
    tokenizer = nb.datasets.SmilesTokenizer.fit(smiles)
    net = FlaxTransformer(
        vocab_size=tokenizer.vocab_size, d_model=4, nhead=1, num_layers=1, dim_feedforward=4
    )
    tokens = tokenizer.encode(smiles)
    det = nb.DeterministicNN(net).train(tokens, np.arange(6.0), **SHORT)
    det.save(tmp_path / "model", tokenizer=tokenizer)
    loaded = nb.load(tmp_path / "model")
    assert loaded.tokenizer == tokenizer
    unknown = ["CBr", "C[Si]"]
    np.testing.assert_array_equal(
        loaded.predict(loaded.tokenizer.encode(unknown)), det.predict(tokenizer.encode(unknown))
    )
    loaded.save(tmp_path / "again")
    assert nb.load(tmp_path / "again").tokenizer == tokenizer


def test_files_hold_arrays_and_json_alone(tmp_path: Path) -> None:
    fitted("mixture over folds").save(tmp_path / "model")
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))


def edit(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        facts = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps({**facts, **changes}))

    return damage


def cut(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[: len(raw) - 20])

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "json cut": (cut("model.json"), "no readable model"),
    "arrays cut": (cut("arrays.safetensors"), "no readable model"),
    "draws cut": (cut("posterior-0/arrays.safetensors"), "posterior-0 holds no readable posterior"),
    "no posterior": (lambda f: shutil.rmtree(f / "posterior-0"), "posterior-0 holds no readable"),
    "no arrays": (lambda f: (f / "arrays.safetensors").unlink(), "no readable model"),
    "version": (edit(format="nbcore-model-1"), r"format 'nbcore-model-1'; this version reads"),
    "kind": (edit(kind="forest"), "damaged model.*forest"),
    "code": (edit(state={"os.system": {"command": "true"}}), "damaged model.*os.system"),
    "state": (edit(state={"dict": {"tokenizer": None}}), "damaged model.*'model'"),
    "no facts": (edit(network=None), "damaged model"),
    "a list": (lambda f: (f / "model.json").write_text("[]"), "format None"),
    "empty": (lambda f: (f / "model.json").write_text(""), "no readable model"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused(damage: str, tmp_path: Path) -> None:
    fitted("partial").save(tmp_path / "model")
    apply, says = DAMAGES[damage]
    apply(tmp_path / "model")
    with pytest.raises(errors.RunFolderError, match=says):
        nb.load(tmp_path / "model")


def test_folders_of_other_things_are_told_apart(tmp_path: Path) -> None:
    fitted("partial").posterior.save(tmp_path / "posterior")
    with pytest.raises(errors.RunFolderError, match=r"nb\.Posterior\.load\(folder, network\)"):
        nb.load(tmp_path / "posterior")
    with pytest.raises(errors.RunFolderError, match="nowhere holds no readable model"):
        nb.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(errors.RunFolderError, match="no readable model"):
        nb.load(tmp_path / "file")


def test_what_is_there_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted("deterministic").save(tmp_path / "model")
    before = (tmp_path / "model" / "arrays.safetensors").read_bytes()
    with pytest.raises(errors.RunFolderError, match="overwrite=True"):
        fitted("partial").save(tmp_path / "model")

    def fail(*args: Any, **options: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(Posterior, "save", fail)
        for folder in ("model", "new"):
            with pytest.raises(OSError, match="disk full"):
                fitted("partial").save(tmp_path / folder, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "arrays.safetensors").read_bytes() == before
    fitted("partial").save(tmp_path / "model", overwrite=True)
    assert type(nb.load(tmp_path / "model")) is nb.PartialBNN


class OwnPrior:
    """A prior that is not one of nbcore's."""

    def resolve(self, split: nb.ParameterSplit) -> Any:
        return nb.NormalPrior(0.5).resolve(split)


def test_a_setting_that_files_cannot_hold_is_named_before_another_fit(tmp_path: Path) -> None:
    model = nb.PartialBNN(NET, fitted("deterministic"), prior=OwnPrior(), **PARTIAL)
    model.fit(X, Y, **STEPS).save(tmp_path / "model")
    loaded = nb.load(tmp_path / "model")
    np.testing.assert_array_equal(predictions(loaded), predictions(model))
    with pytest.raises(errors.OptionError, match=r"its prior could not be stored.*prior=\.\.\."):
        loaded.fit(X, Y, **STEPS)


def noise(x: jax.Array, parameters: dict[str, jax.Array]) -> jax.Array:
    return parameters["floor"] + parameters["slope"] * abs(x[:, 0])


def test_a_likelihood_that_files_cannot_hold_is_given_again(tmp_path: Path) -> None:
    priors = {"floor": nb.HalfNormal(0.1), "slope": nb.HalfNormal(1.0)}
    model = nb.PartialBNN(NET, likelihood=nb.NoiseModel(noise, priors), **PARTIAL)
    model.fit(X, Y, **STEPS, calibration="holdout").save(tmp_path / "model")
    with pytest.raises(errors.OptionError, match="likelihood="):
        nb.load(tmp_path / "model")
    loaded = nb.load(tmp_path / "model", likelihood=nb.NoiseModel(noise, priors))
    np.testing.assert_array_equal(predictions(loaded), predictions(model))
    again = loaded.fit(X, Y, **STEPS, calibration="holdout")
    np.testing.assert_allclose(predictions(again), predictions(model), rtol=1e-5)


def test_models_that_are_not_fitted_are_not_saved(tmp_path: Path) -> None:
    for model in (nb.DeterministicNN(NET), nb.EnsembleDeterministicNN(NET), nb.PartialBNN(NET)):
        with pytest.raises(errors.TrainingError, match=r"not (fitted|trained) yet"):
            model.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())
