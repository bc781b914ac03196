"""Data frames, lists and labels of any type: read as arrays, and their names kept and checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import nbcore as nb
from nbcore import errors
from nbcore.networks.tables import as_arrays
from nbcore_flax import FlaxMLP

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {"a": RNG.normal(size=40), "b": RNG.integers(0, 5, 40), "c": RNG.normal(size=40)}
)
Y = pd.Series(2 * FRAME["a"] + 0.1 * RNG.normal(size=40))
PLAIN, TARGETS = FRAME.to_numpy(), Y.to_numpy()
NET = FlaxMLP(hidden_dims=(5,))
SHORT: dict[str, Any] = {"epochs": 2, "progress": False}
STEPS: dict[str, Any] = {
    "num_warmup": 20,
    "num_samples": 20,
    "num_chains": 2,
    "progress": False,
    "backend": "numpyro-nuts",
    "training": nb.TrainingOptions(epochs=2),
    "calibration": "holdout",
}


class Polar:
    """A data frame as polars has it: columns by name, no positions, no dtype of its own."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self._columns[name])

    def to_numpy(self) -> np.ndarray:
        return np.stack([np.asarray(c, object) for c in self._columns.values()], axis=1)


def partial(**options: Any) -> nb.PartialBNN:
    return nb.PartialBNN(NET, probabilistic_layer_names=["Dense1"], **options)


FITS: dict[str, Callable[[Any, Any], Any]] = {
    "deterministic": lambda X, y: nb.DeterministicNN(NET, standardize=True).train(X, y, **SHORT),
    "ensemble": lambda X, y: nb.EnsembleDeterministicNN(NET, num_models=2).train(X, y, **SHORT),
    "cross-fit": lambda X, y: nb.cross_fit(NET, X, y, folds=2, **SHORT).full,
    "partial": lambda X, y: partial().fit(X, y, **STEPS),
    "bnn": lambda X, y: nb.BNN(NET).fit(X, y, **{**STEPS, "calibration": "none"}),
}


@pytest.mark.parametrize("kind", FITS)
def test_tables_and_lists_are_read_as_arrays(kind: str) -> None:
    arrays = np.asarray(FITS[kind](PLAIN, TARGETS).predict(PLAIN))
    frame = FITS[kind](FRAME, Y)
    np.testing.assert_array_equal(np.asarray(frame.predict(FRAME)), arrays)
    np.testing.assert_array_equal(np.asarray(frame.predict(PLAIN)), arrays)
    assert frame.feature_names == ("a", "b", "c")
    lists = FITS[kind](PLAIN.tolist(), TARGETS.tolist())
    np.testing.assert_array_equal(np.asarray(lists.predict(PLAIN.tolist())), arrays)
    assert lists.feature_names is None
    with pytest.raises(errors.DataError, match=r"in another order.*'a', 'b', 'c'"):
        frame.predict(FRAME[["b", "a", "c"]])


WRONG: dict[str, tuple[Callable[[pd.DataFrame], Any], str]] = {
    "order": (lambda x: x[["c", "a", "b"]], r"another order.*X\[list\(model\.feature_names\)\]"),
    "missing": (lambda x: x[["a", "c"]], "X lacks 'b': the model was fitted to .*'a', 'b', 'c'"),
    "additional": (lambda x: x.assign(d=1.0), "X has 'd' besides"),
    "renamed": (lambda x: x.rename(columns={"b": "B"}), "X lacks 'b' and has 'B' besides"),
    "numbers as names": (lambda x: x.set_axis(range(3), axis=1), "lacks 'a', 'b', 'c' and has '0'"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_columns_that_differ_are_named(wrong: str, tmp_path: Path) -> None:
    model = partial().fit(FRAME, Y, **STEPS)
    model.save(tmp_path / "model")
    change, says = WRONG[wrong]
    loaded = nb.load(tmp_path / "model")
    assert loaded.feature_names == loaded.det.feature_names == ("a", "b", "c")
    calls: list[Callable[[Any], Any]] = [
        model.predict, model.posterior.predict, model.det.predict, loaded.predict,
        loaded.posterior.outputs,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(errors.DataError, match=says):
            call(change(FRAME))


def test_weights_that_were_given_keep_the_names_of_their_training() -> None:
    det = nb.DeterministicNN(NET).train(FRAME, Y, **SHORT)
    with pytest.raises(errors.DataError, match="another order"):
        partial(deterministic_weights=det).fit(FRAME[["b", "c", "a"]], Y, **STEPS)
    with pytest.raises(errors.DataError, match="validation X lacks 'b'"):
        det.train(FRAME, Y, validation_data=(FRAME[["a", "c"]], Y), **SHORT)
    with pytest.raises(errors.DataError, match="X lacks 'c'"):
        nb.select_bayesian_components(det, X=FRAME[["a", "b"]], y=Y, num_pairs_per_layer=2)


def test_columns_without_numbers_are_all_named() -> None:
    bad = FRAME.assign(
        smiles="CCO", when=pd.Timestamp("2020-01-01"), kind=pd.Categorical([1, 2] * 20)
    )
    with pytest.raises(
        errors.DataError, match=r"(?s)'smiles' holds no numbers.*CCO.*'when'.*'kind'.*encode"
    ) as caught:
        partial().fit(bad, Y, **STEPS)
    assert "'a'" not in str(caught.value)
    with pytest.raises(errors.DataError, match=r"y holds no numbers.*'low'"):
        partial().fit(FRAME, ["low", "high"] * 20, **STEPS)


def test_missing_values_of_tables_are_those_of_their_examples() -> None:
    gaps = FRAME.astype({"b": "Int64"})
    gaps.loc[[3, 7], "b"] = pd.NA
    with pytest.raises(errors.DataError, match="X is not finite in 2 of 40 examples: 3, 7"):
        partial().fit(gaps, Y, **STEPS)
    with pytest.raises(errors.DataError, match="y is not finite in 1 of 40 examples: 0"):
        partial().fit(FRAME, [None, *TARGETS[1:]], **STEPS)


def test_tables_of_any_library_and_type_become_numbers() -> None:
    mixed = FRAME.assign(b=FRAME["b"] > 2).astype({"a": "Float64"})
    expected = np.stack([PLAIN[:, 0], PLAIN[:, 1] > 2, PLAIN[:, 2]], axis=1)
    np.testing.assert_array_equal(as_arrays(mixed), expected)
    np.testing.assert_array_equal(as_arrays(Polar(dict(mixed))), expected)
    twice = pd.concat([FRAME, FRAME.assign(b=FRAME["b"] > 2)], axis=1)  # columns named twice
    assert as_arrays(twice).shape == (40, 6)
    counts = pd.DataFrame({"first": [1, 2], "second": [3, 4]})
    assert as_arrays(counts).dtype.kind == "i"  # token ids stay integers
    pair = {"x": FRAME, "z": [PLAIN, Y]}
    read = as_arrays(pair)
    np.testing.assert_array_equal(read["x"], PLAIN)
    np.testing.assert_array_equal(read["z"][1], TARGETS)
    with pytest.raises(errors.ShapeError, match="rows have 1, 2 numbers"):
        as_arrays([[1.0, 2.0], [3.0]])


LABELS = np.array(["mid", "low", "high"])[np.arange(40) % 3]
ORDER = ["low", "mid", "high"]
KINDS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "from 0": (np.arange(40) % 3, (0, 1, 2)),
    "from 1": (np.arange(40) % 3 + 1, (1, 2, 3)),
    "floats": (np.arange(40) % 3 + 1.0, (1, 2, 3)),
    "texts": (LABELS, ("high", "low", "mid")),
    "list": (LABELS.tolist(), ("high", "low", "mid")),
    "series": (pd.Series(LABELS), ("high", "low", "mid")),
    "categories": (pd.Series(pd.Categorical(LABELS, ORDER)), ("low", "mid", "high")),
    "a column": (LABELS[:, None], ("high", "low", "mid")),
}
THREE = FlaxMLP(hidden_dims=(5,), target_dim=3)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_any_type_are_the_same_classes(kind: str) -> None:
    labels, names = KINDS[kind]
    model = nb.DeterministicNN(THREE, "classification").train(FRAME, labels, **SHORT)
    assert model.classes == names
    codes = np.array([names.index(label) for label in np.ravel(labels).tolist()])
    same = nb.DeterministicNN(THREE, "classification").train(FRAME, codes, **SHORT)
    np.testing.assert_array_equal(model.predict(FRAME), same.predict(FRAME))
    prediction = model.predict_distribution(FRAME)
    assert prediction.nlpd(labels) == same.predict_distribution(FRAME).nlpd(codes)
    expected = [names[code] for code in same.predict(FRAME).argmax(axis=1)]
    assert prediction.labels.tolist() == expected
    assert set(np.unique(prediction.sample(3)).tolist()) <= set(names)
    assert nb.metrics.accuracy(labels if np.ndim(labels) == 1 else labels[:, 0],
        prediction.mean, classes=model.classes,
    ) == np.mean(same.predict(FRAME).argmax(axis=1) == codes)  # fmt: skip
    with pytest.raises(errors.LabelError, match="label 'none' in example 0, and in 39 more"):
        prediction.nlpd(np.array(["none"] * 40))


def fitted_to(labels: Any, kind: str) -> Any:
    if kind == "ensemble":
        ensemble = nb.EnsembleDeterministicNN(THREE, "classification", 2)
        return ensemble.train(FRAME, labels, **SHORT)
    if kind == "bnn":
        model = nb.BNN(THREE, num_classes=3)
        return model.fit(FRAME, labels, **{**STEPS, "calibration": "none"})
    calibration: Any = {
        "holdout": "holdout", "mixture": nb.CalibrationOptions("crossfit", folds=2, ensemble=True),
    }[kind]  # fmt: skip
    model = nb.PartialBNN(THREE, num_classes=3)
    return model.fit(FRAME, labels, **{**STEPS, "calibration": calibration})


@pytest.mark.parametrize("kind", ["ensemble", "bnn", "holdout", "mixture"])
def test_classes_are_kept_by_name_in_every_model_and_its_file(kind: str, tmp_path: Path) -> None:
    model = fitted_to(LABELS, kind)
    codes = np.array([("high", "low", "mid").index(label) for label in LABELS])
    same = fitted_to(codes, kind)
    assert model.classes == ("high", "low", "mid")
    assert same.classes == (0, 1, 2)
    np.testing.assert_array_equal(model.predict(FRAME), same.predict(FRAME))
    model.save(tmp_path / "model")
    for each in (model, nb.load(tmp_path / "model")):
        prediction = each.predict_distribution(FRAME)
        assert prediction.nlpd(LABELS) == same.predict_distribution(FRAME).nlpd(codes)
        assert set(prediction.labels.tolist()) <= {"high", "low", "mid"}
        for posterior in each.posteriors:
            assert posterior.predict(FRAME).nlpd(LABELS) > 0
        if kind != "ensemble" and each.det is not None:
            assert each.det.classes == model.classes
        if kind == "mixture":
            assert each.cross.nlpd(LABELS) == same.cross.nlpd(codes)
    with pytest.raises(errors.LabelError, match="no class of the model"):
        model.predict_distribution(FRAME).log_density(codes)


def test_selections_that_look_at_labels_read_them_by_name() -> None:
    det = nb.DeterministicNN(THREE, "classification").train(FRAME, LABELS, **SHORT)
    codes = np.array([("high", "low", "mid").index(label) for label in LABELS])
    same = nb.DeterministicNN(THREE, "classification").train(FRAME, codes, **SHORT)
    options: dict[str, Any] = {"method": "fisher", "num_pairs_per_layer": 4}
    subset = nb.select_bayesian_components(det, X=FRAME, y=LABELS, **options)
    assert subset == nb.select_bayesian_components(same, X=FRAME, y=codes, **options)
    model = nb.PartialBNN(THREE, num_classes=3, selection=options)
    assert model.fit(FRAME, LABELS, **STEPS).posterior.split.size > 0


YES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "texts": (np.array(["no", "yes"])[np.arange(40) % 2], ("no", "yes")),
    "booleans": (np.arange(40) % 2 == 1, (False, True)),
    "signs": (np.arange(40) % 2 * 2 - 1, (-1, 1)),
}


@pytest.mark.parametrize("kind", YES)
def test_two_labels_of_one_output(kind: str) -> None:
    labels, names = YES[kind]
    model = partial(likelihood=nb.Bernoulli()).fit(FRAME, labels, **STEPS)
    codes = np.arange(40) % 2
    same = partial(likelihood=nb.Bernoulli()).fit(FRAME, codes, **STEPS)
    prediction = model.predict_distribution(FRAME)
    assert model.classes == names
    np.testing.assert_array_equal(prediction.mean, same.predict(FRAME)[0])  # P(second class)
    assert prediction.nlpd(labels) == same.predict_distribution(FRAME).nlpd(codes)
    expected = [names[p > 0.5] for p in prediction.mean.tolist()]
    assert prediction.labels.tolist() == expected


BAD: dict[str, tuple[Any, str]] = {
    "too many": (np.arange(40) % 4, "4 classes, 0, 1, 2, 3, and the network has outputs for 3"),
    "too few": (["a", "b"] * 20, r"2 classes, 'a', 'b'.*outputs for 3.*target_dim=2"),
    "missing": ([None, *LABELS[1:]], "no label in 1 of 40 examples: 0"),
    "NaN": ([np.nan, *(np.arange(39) % 3)], "no label in 1 of 40 examples: 0"),
    "category": (
        pd.Series(LABELS).astype("category").cat.remove_categories(["high"]),
        "no label in 13 of 40",
    ),
    "fractions": (np.arange(40) % 3 / 2, "fraction"),
    "types": ([1, "a", 2, "b"] * 10, "several types"),
    "table": (np.stack([LABELS, LABELS], axis=1), r"Labels have shape \(examples,\)"),
}


@pytest.mark.parametrize("bad", BAD)
def test_labels_that_are_no_classes_of_the_network_are_refused(bad: str) -> None:
    labels, says = BAD[bad]
    with pytest.raises((errors.LabelError, errors.ShapeError), match=says):
        nb.PartialBNN(THREE, num_classes=3).fit(FRAME, labels, **STEPS)


def test_categories_name_classes_that_do_not_occur() -> None:
    known = pd.Series(pd.Categorical(["low", "mid"] * 20, categories=ORDER))
    model = nb.DeterministicNN(THREE, "classification").train(FRAME, known, **SHORT)
    assert model.classes == ("low", "mid", "high")
