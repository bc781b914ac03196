"""Examples of one group are never split between training and validation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from samplers import Spread

import nbcore as nb
from nbcore import errors
from nbcore.estimators import partial_bnn
from nbcore.training.folds import group_codes
from nbcore_flax import FlaxMLP

pytestmark = [
    pytest.mark.filterwarnings("ignore::nbcore.training.cross_fit.CalibrationWarning"),
    pytest.mark.filterwarnings("ignore::nbcore.subsets.expressiveness.ExpressivenessWarning"),
]

RNG = np.random.default_rng(0)
GROUPS = np.repeat(np.arange(20), 3)
X = RNG.normal(size=(60, 2)).astype(np.float32)
Y = RNG.normal(size=60)
NUMBERS = np.arange(60.0)
NET = nb.as_network(FlaxMLP(hidden_dims=(4,)), example=X[:1])


def model(*weights: Any, **options: Any) -> nb.PartialBNN:
    return nb.PartialBNN(NET, *weights, probabilistic_layer_names=["Dense1"], **options)


def fit(model: nb.PartialBNN, y: Any = Y, **options: Any) -> nb.PartialBNN:
    settings: dict[str, Any] = {
        "num_warmup": 0, "num_samples": 2, "num_chains": 1, "backend": Spread(), "key": 1,
        "groups": GROUPS, "training": nb.TrainingOptions(epochs=1), "progress": False,
        "calibration": "crossfit",
    }  # fmt: skip
    return model.fit(X, y, **(settings | options))


def numbers(target: Any, scaler: Any = None) -> set[int]:
    """Return which examples a target holds, where y numbers them."""
    y = np.concatenate([np.asarray(block.y)[:, 0] for block in target.blocks])
    y = y if scaler is None else scaler.shift + scaler.scale * y
    return set(np.round(y).astype(int).tolist())


def test_cross_fitting_keeps_groups_whole() -> None:
    fitted = fit(model(), calibration=nb.CalibrationOptions(folds=4))
    assert fitted.cross is not None
    fold = fitted.cross.fold.reshape(20, 3)
    np.testing.assert_array_equal(fold, fold[:, :1].repeat(3, axis=1))
    assert len(np.unique(fold)) == 4


def test_the_holdout_keeps_groups_whole() -> None:
    fitted = fit(model(), y=NUMBERS, calibration="holdout")
    sampled = numbers(fitted.posterior.target, fitted.posterior.scaler)
    assert len(sampled) == 12  # a fifth, four groups of three
    assert len({i // 3 for i in sampled}) == 4


def test_a_group_that_the_search_fits_is_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs: list[tuple[set[int], set[int]]] = []
    choose = partial_bnn.choose_scale

    def watched(folds: Any, *arguments: Any) -> Any:
        pairs.extend((numbers(fold.fitted), numbers(fold.scored)) for fold in folds)
        return choose(folds, *arguments)

    monkeypatch.setattr(partial_bnn, "choose_scale", watched)
    det = nb.DeterministicNN(NET).train(X, NUMBERS, 1, progress=False)
    search = nb.PriorScaleSearch(scales=(1.0,))
    fit(nb.BNN(NET, None, det, likelihood=nb.Gaussian(noise=1.0), prior=search), y=NUMBERS)
    assert len(pairs) == 3
    for fitted, scored in pairs:
        assert not {i // 3 for i in fitted} & {i // 3 for i in scored}
        assert fitted | scored == set(range(60))  # 6 or 7 groups of 3: no size is cut


def test_folds_of_a_cross_fit_that_split_groups_are_refused() -> None:
    options: dict[str, Any] = {"folds": 3, "epochs": 1, "progress": False}
    with pytest.raises(errors.OptionError, match=r"split a group.*cross_fit\(..., groups=groups"):
        fit(model(nb.cross_fit(NET, X, Y, **options)))
    whole = nb.cross_fit(NET, X, Y, groups=GROUPS, **options)
    assert fit(model(whole)).cross is whole


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"groups": GROUPS[:7]}, errors.ShapeError, r"shape \(60,\); got \(7,\)"),
        ({"groups": np.arange(60) % 4}, errors.OptionError, "5 folds.*at least 5 groups.*has 4"),
        (
            {"groups": np.arange(60) % 4, "calibration": "holdout"},
            errors.OptionError, r"a fifth of the groups.*has 4\. Give at least 5",
        ),
    ],
)  # fmt: skip
def test_groups_that_do_not_fit_are_refused_before_training(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        fit(model(), **options)


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (np.where(np.arange(60) == 7, np.nan, np.arange(60) % 20), "no label for some examples: 7"),
        ([None, *map(str, range(59))], "no label for some examples: 0"),
        (pd.Series(pd.Categorical(["a", None] * 30)), "no label for some examples: 1, 3, 5"),
        ([*range(30), *map(str, range(30))], "cannot be compared"),
    ],
    ids=["NaN", "None", "category", "types"],
)
def test_groups_without_a_label_are_named(groups: Any, says: str) -> None:
    with pytest.raises(errors.DataError, match=says):
        fit(model(), groups=groups)


@pytest.mark.parametrize(
    "groups",
    [
        pd.Series(GROUPS).map("patient {}".format),
        pd.Categorical(GROUPS.astype(str)),
        pd.DataFrame({"group": GROUPS})["group"].astype("Int64"),
        GROUPS.astype(str).tolist(),
    ],
    ids=["series", "categories", "nullable", "list"],
)
def test_groups_of_any_type_make_the_same_folds(groups: Any) -> None:
    codes = group_codes(groups, 60)
    assert codes is not None
    pairs = set(zip(codes.tolist(), GROUPS.tolist(), strict=True))
    assert len(pairs) == len(np.unique(GROUPS)) == len(np.unique(codes))


def test_groups_of_one_are_no_groups() -> None:
    options: dict[str, Any] = {"folds": 3, "epochs": 1, "progress": False, "key": 2}
    alone = nb.cross_fit(NET, X, Y, groups=np.random.default_rng(0).permutation(60), **options)
    assert np.bincount(alone.fold).tolist() == [20, 20, 20]


def test_a_search_needs_as_many_groups_as_folds() -> None:
    with pytest.raises(errors.OptionError, match="3 folds of whole groups, and they have 1"):
        fit(model(prior="auto"), groups=np.arange(60) % 5, calibration="holdout")
