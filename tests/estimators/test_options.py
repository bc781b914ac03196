"""Options of fit: printed, compared, reused, and checked before anything is trained."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from samplers import Spread

import nbcore as nb
from nbcore import errors
from nbcore.estimators.sampler import Sampler, SamplerPreset
from nbcore_flax import FlaxMLP

X = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
NET = nb.as_network(FlaxMLP(hidden_dims=(4,)), example=X[:1])
OPTIONS = (
    nb.TrainingOptions(epochs=3, swa={"schedule": "linear"}),
    nb.SamplingOptions(thin=2, init="prior", checkpoint=Path("run")),
    nb.CalibrationOptions(folds=3),
    nb.PriorScaleSearch(scales=[0.3, 0.1]),
)


def test_fit_has_the_parameters_that_are_documented() -> None:
    names = (
        "self X y num_warmup num_samples num_chains backend groups sampling training calibration "
        "key progress"
    )
    assert list(inspect.signature(nb.PartialBNN.fit).parameters) == names.split()
    assert nb.BNN.fit is nb.PartialBNN.fit


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: type(options).__name__)
def test_options_are_values(options: Any) -> None:
    """Printing them gives them back; equal ones are one key; none can be changed."""
    scope = {name: getattr(nb, name) for name in nb.__all__}
    again = eval(repr(options).replace("PosixPath", "str"), scope)
    assert dataclasses.asdict(again) == dataclasses.asdict(options) | (
        {"checkpoint": "run"} if isinstance(options, nb.SamplingOptions) else {}
    )
    assert pickle.loads(pickle.dumps(options)) == options
    assert len({options, dataclasses.replace(options)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.anything = 1


def test_validation_data_are_neither_printed_nor_compared() -> None:
    options = nb.CalibrationOptions(validation_data=(X, X[:, 0]))
    assert repr(options) == repr(nb.CalibrationOptions())
    assert options == nb.CalibrationOptions()


BAD: dict[str, tuple[Any, str]] = {
    "training name": (lambda: nb.TrainingOptions(learning_rat=1.0), "Did you mean 'learning_rate'"),  # pyright: ignore[reportCallIssue]
    "sampling name": (lambda: nb.SamplingOptions(thining=2), "no option 'thining'.*'thin'"),  # pyright: ignore[reportCallIssue]
    "calibration name": (lambda: nb.CalibrationOptions(fold=2), "Did you mean 'folds'"),  # pyright: ignore[reportCallIssue]
    "search name": (lambda: nb.PriorScaleSearch(scale=2), "Did you mean 'scales'"),  # pyright: ignore[reportCallIssue]
    "epochs": (lambda: nb.TrainingOptions(epochs=0), "epochs is an integer of at least 1, got 0"),
    "rate": (lambda: nb.TrainingOptions(learning_rate=-1), "learning_rate is a positive number"),
    "schedule": (lambda: nb.TrainingOptions(schedule="cosin"), "Did you mean 'cosine'"),  # pyright: ignore[reportArgumentType]
    "swa": (lambda: nb.TrainingOptions(swa=5), "nb.SWA, a dict of its options or None, got 5"),  # pyright: ignore[reportArgumentType]
    "swa name": (lambda: nb.TrainingOptions(swa={"start": 0.5}), "swa has no option 'start'"),
    "thin": (lambda: nb.SamplingOptions(thin=0), "thin is an integer of at least 1 or None"),
    "chains": (lambda: nb.SamplingOptions(chain_method="thread"), "Did you mean 'threads'"),  # pyright: ignore[reportArgumentType]
    "init": (lambda: nb.SamplingOptions(init="laplce"), "Did you mean 'laplace'"),  # pyright: ignore[reportArgumentType]
    "restarts": (lambda: nb.SamplingOptions(max_num_restarts=-1), "of at least 0, got -1"),
    "rate of acceptance": (lambda: nb.SamplingOptions(min_acceptance_rate=55), r"\[0, 1\], got 55"),
    "checkpoint": (lambda: nb.SamplingOptions(checkpoint=True), "a folder or None, got True"),  # pyright: ignore[reportArgumentType]
    "mesh": (lambda: nb.SamplingOptions(mesh=(2, 2)), r"jax\.make_mesh\(\(c, d\)"),  # pyright: ignore[reportArgumentType]
    "method": (lambda: nb.CalibrationOptions("hold-out"), "Did you mean 'holdout'"),  # pyright: ignore[reportArgumentType]
    "folds": (lambda: nb.CalibrationOptions(folds=1), "folds is an integer of at least 2, got 1"),
    "pair": (lambda: nb.CalibrationOptions(validation_data=(X,)), r"a pair \(X, y\).*got 1"),  # pyright: ignore[reportArgumentType]
}


@pytest.mark.parametrize("case", BAD)
def test_impossible_options_are_refused_on_construction(case: str) -> None:
    make, says = BAD[case]
    with pytest.raises(errors.OptionError, match=says):
        make()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a dict": ({"sampling": {"thin": 2}}, r"sampling is an nb.SamplingOptions, got dict"),
    "the other options": ({"training": nb.SamplingOptions()}, "training is an nb.TrainingOptions"),
    "calibration": ({"calibration": "cross-fit"}, "calibration is one of.*Did you mean 'crossfit'"),
    "validation": (
        {"calibration": nb.CalibrationOptions("holdout", validation_data=(X, X[:, 0]))},
        r"nothing to do for validation_data.*CalibrationOptions\('none', validation_data",
    ),
    "thin": (
        {"num_samples": 5, "sampling": nb.SamplingOptions(thin=6)}, "thin=6 keeps none of num_samp"
    ),
    "chains": ({"num_chains": 0}, "num_chains is an integer of at least 1, got 0"),
    "warmup": ({"num_warmup": 1.5}, "num_warmup is an integer of at least 0, got 1.5"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_do_not_fit_are_refused_before_training(case: str) -> None:
    options, says = REFUSED[case]
    reports: list[Any] = []
    with pytest.raises(errors.OptionError, match=says):
        nb.PartialBNN(NET).fit(X, X[:, 0], progress=reports.append, **options)
    assert not reports


@pytest.mark.parametrize(
    ("selection", "error", "says"),
    [
        ({"method": "varience"}, errors.UnknownSelectorError, "Did you mean 'variance'"),
        ({"layer_name": ["Dense0"]}, errors.OptionError, "Did you mean 'layer_names'"),
        ({"method": "magnitude", "threshhold": 1}, errors.OptionError, "Did you mean 'threshold'"),
        ({"num_weights": 5, "fraction": 0.1}, errors.OptionError, "Got 2 budgets"),
        ({"det": 1}, errors.OptionError, "A selection has no option 'det'"),
        (["Dense0"], errors.OptionError, r"mapping of arguments.*got \['Dense0'\]"),
    ],
)
def test_a_selection_is_checked_on_construction(
    selection: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        nb.PartialBNN(NET, selection=selection)


def sampler(preset: SamplerPreset, options: nb.SamplingOptions, **given: Any) -> Sampler:
    names = ("backend", "num_warmup", "num_samples")
    return Sampler.of(preset, *(given.get(name) for name in names), 4, options)


def test_the_own_sampler_of_an_estimator_is_used_as_a_whole_or_not_at_all() -> None:
    own = nb.BNN.default_sampler
    nothing = nb.SamplingOptions()
    used = sampler(own, dataclasses.replace(nothing, checkpoint="run"))
    assert used.backend == nb.get_backend(
        "blackjax-mclmc",
        num_tune=10_000, initial_energy_var=0.5, desired_energy_var=0.01, whiten=False,
        num_moves=1,
    )  # fmt: skip
    assert (used.num_warmup, used.num_samples, used.thin) == (0, 10_000, 20)
    assert used.marginalize == "auto"
    for options, given in (
        (nothing, {"num_warmup": 7}),
        (nothing, {"num_samples": 7}),
        (nothing, {"backend": "numpyro-nuts"}),
        (nb.SamplingOptions(thin=7), {}),
    ):
        used = sampler(own, options, **given)
        assert used.backend == nb.get_backend("numpyro-nuts")
        assert used.num_warmup == given.get("num_warmup", 1000)
        assert used.num_samples == given.get("num_samples", 1000)
        assert used.thin == (options.thin or 1)
        assert used.marginalize is False
    assert sampler(own, nb.SamplingOptions(marginalize=False)).marginalize is False
    assert sampler(SamplerPreset(), nothing).thin == 1


@pytest.mark.filterwarnings("ignore::nbcore.training.cross_fit.CalibrationWarning")
def test_num_samples_counts_steps_of_which_every_thinth_is_kept() -> None:
    model = nb.PartialBNN(NET, NET.init(jax.random.key(0), X[:1]), num_probabilistic_layers=0)
    thinned = nb.SamplingOptions(thin=3)
    model.fit(X, X[:, 0], 0, 10, 2, backend=Spread(), sampling=thinned, progress=False)
    assert model.posterior.num_draws == 10 // 3


@pytest.mark.filterwarnings("ignore::nbcore.training.cross_fit.CalibrationWarning")
@pytest.mark.parametrize(("init", "spread"), [("trained", 0.0), ("prior", 50.0)])
def test_chains_start_where_they_are_told(init: Any, spread: float) -> None:
    params = NET.init(jax.random.key(0), X[:1])
    model = nb.PartialBNN(NET, params, num_probabilistic_layers=0, prior=spread or 1.0)
    starts = nb.SamplingOptions(init=init)
    still = nb.get_backend("sgld", step_size=1e-10)
    model.fit(X, X[:, 0], 0, 1, 40, backend=still, sampling=starts, progress=False)
    kernel = np.asarray(model.posterior.draws["weights"]["params/Dense1/kernel"])[:, 0]
    # 160 draws know their standard deviation to 6 %; the jitter of "trained" is small.
    trained = params["params"]["Dense1"]["kernel"]
    assert np.std(kernel - trained) == pytest.approx(spread, rel=0.25, abs=0.2)
