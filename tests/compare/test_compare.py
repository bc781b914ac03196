"""A small comparison, run in a process of its own, read, interrupted and extended."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbcore as nb
from nbcore.common import storage
from nbcore.compare import Budget, Choice, DataSet, Method, Plan, Problem
from nbcore.compare.spending import sample_within
from nbcore_flax import FlaxMLP

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)).astype(np.float32)
Y = np.sin(2 * X[:, 0]) + 0.5 * X[:, 1] + 0.2 * RNG.normal(size=60)
TOY = Problem(DataSet("toy", X, Y), "mlp", FlaxMLP((6,)))
PLAN = Plan(
    problems=(TOY,), choices=(Choice("magnitude", 8),),
    methods=(Method("laplace"), Method("numpyro-nuts", {"max_tree_depht": 3})),
    budget=Budget("gradients", 3000), references=("linear",), seeds=(0,),
    controls=("deterministic",), num_warmup=20, max_draws=200, epochs=20,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    nb.compare.run(PLAN, folder)
    return folder


def rows_of(folder: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = [json.loads(file.read_text()) for file in (folder / "cells").glob("*.json")]
    return {(row["problem"], row["control"], row["backend"]): row for row in rows}


def test_each_cell_is_a_row_and_a_failure_is_one_with_its_error(folder: Path) -> None:
    rows = rows_of(folder)
    wrong = "numpyro-nuts (max_tree_depht=3)"
    assert set(rows) == {
        ("linear", "", "laplace"), ("linear", "", wrong), ("toy, mlp", "deterministic", ""),
        ("toy, mlp", "", "laplace"), ("toy, mlp", "", wrong),
    }  # fmt: skip
    for (_, _, backend), row in rows.items():
        assert row["status"] == ("failed" if backend == wrong else "finished")
    assert "Did you mean 'max_tree_depth'" in rows["toy, mlp", "", wrong]["error"]
    found = nb.compare.load(folder)
    assert len(found) == 5
    assert (folder / "table.csv").read_text().count("\n") == 6


def test_independent_draws_of_a_normal_posterior_are_at_no_distance(folder: Path) -> None:
    row = rows_of(folder)["linear", "", "laplace"]
    assert row["num_draws"] == 200
    assert row["distance_mean"] < 3 * row["distance_mean_error"]
    assert row["distance_deviation"] < 3 * row["distance_deviation_error"]
    assert row["num_stochastic"] == 7


def test_figures_are_those_of_the_same_posterior_without_the_harness(folder: Path) -> None:
    row = rows_of(folder)["toy, mlp", "", "laplace"]
    train, y, test, test_y = TOY.data.split(0)
    (place,) = (path for path in (folder / "trained").iterdir() if path.is_dir())
    cross = nb.load(place, TOY.network)
    subset = nb.select_bayesian_components(
        cross.full, method="magnitude", num_weights=8, X=train, y=y, key=0
    )
    model = nb.PartialBNN(TOY.network, cross, subset=subset)
    model.fit(train, y, 0, 200, 2, backend="laplace", calibration="crossfit", key=0, progress=False)
    prediction = model.predict_distribution(test)
    # Another key, so draws differ by Monte Carlo error.
    assert row["nlpd"] == pytest.approx(prediction.nlpd(test_y), abs=0.02)
    assert row["rmse"] == pytest.approx(nb.metrics.rmse(test_y, prediction.mean), rel=0.02)
    deterministic = rows_of(folder)["toy, mlp", "deterministic", ""]
    error = nb.metrics.rmse(test_y, np.ravel(cross.full.predict(test)))
    assert deterministic["rmse"] == pytest.approx(error, rel=1e-5)


def test_what_is_there_is_not_run_again_and_the_table_is_the_same(folder: Path) -> None:
    before = (folder / "table.csv").read_text()
    ran: list[str] = []
    nb.compare.run(PLAN, folder, on_row=lambda row, done, count: ran.append(row["cell"]))
    assert ran == []
    assert (folder / "table.csv").read_text() == before
    lost = rows_of(folder)["linear", "", "laplace"]
    (folder / "cells" / f"{lost['cell']}.json").unlink()
    nb.compare.run(PLAN, folder, on_row=lambda row, done, count: ran.append(row["cell"]))
    assert ran == [lost["cell"]]
    again = rows_of(folder)["linear", "", "laplace"]
    changing = {name for name in lost if name.startswith(TIMES)}
    assert {k: v for k, v in again.items() if k not in changing} == {
        k: v for k, v in lost.items() if k not in changing
    }


def test_a_cell_is_named_by_all_that_its_figures_depend_on() -> None:
    def digests(plan: Plan) -> set[str]:
        return {cell.digest for cell in plan.cells() if cell.method and cell.choice}

    own = digests(PLAN)
    other = DataSet("toy", X, Y + 1e-6)
    for change in (
        {"budget": Budget("gradients", 3001)}, {"seeds": (1,)}, {"num_warmup": 21}, {"epochs": 21},
        {"num_chains": 3}, {"prior": 0.5}, {"choices": (Choice("magnitude", 9),)},
        {"problems": (Problem(other, "mlp", FlaxMLP((6,))),)},
        {"problems": (Problem(TOY.data, "mlp", FlaxMLP((7,))),)},
        {"problems": (Problem(TOY.data, "mlp", FlaxMLP((6,)), nb.StudentT()),)},
    ):  # fmt: skip
        assert not own & digests(dataclasses.replace(PLAN, **change))
    more = dataclasses.replace(PLAN, seeds=(0, 1), controls=("random", "deterministic"))
    assert own < digests(more)


BACKENDS = [
    pytest.param(name, marks=() if name in ("sgld", "blackjax-hmc") else pytest.mark.slow)
    for name in nb.list_backends()
    if name != "laplace"
]


@pytest.mark.parametrize("name", BACKENDS)
def test_the_budget_is_spent_but_for_less_than_a_step(name: str, tmp_path: Path) -> None:
    target, backend = nb.references.load("linear").target, nb.get_backend(name)
    plan: dict[str, Any] = {"key": 0, "num_warmup": 40, "num_chains": 2}
    whole = sample_within(
        target, backend, Budget("draws", 150), folder=tmp_path / "whole", max_draws=150, **plan
    )
    before = sum(v for k, v in whole.info.num_gradients.items() if k != "sampling")
    spent = before + np.cumsum(np.asarray(whole.stats.num_gradients).sum(axis=0))
    budget = int(spent[120]) - 1  # 121 draws take one more than it allows
    found = sample_within(
        target,
        backend,
        Budget("gradients", budget),
        folder=tmp_path / "cut",
        max_draws=1000,
        **plan,
    )
    assert found.num_draws == 120
    assert sum(found.info.num_gradients.values()) == spent[119] <= budget < spent[120]
    for path, draws in found.draws["weights"].items():
        np.testing.assert_array_equal(draws, whole.draws["weights"][path][:, :120])


def test_a_budget_that_warmup_exceeds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(nb.errors.OptionError, match="Lower num_warmup, or raise the budget"):
        sample_within(
            nb.references.load("linear").target, nb.get_backend("sgld"), Budget("gradients", 50),
            key=0, num_warmup=40, num_chains=2, max_draws=1000, folder=tmp_path,
        )  # fmt: skip


def test_wrong_plans_are_refused_before_anything_runs() -> None:
    with pytest.raises(nb.errors.OptionError, match="Did you mean 'random'"):
        dataclasses.replace(PLAN, controls=("randm",))
    with pytest.raises(nb.errors.OptionError, match="named twice"):
        dataclasses.replace(PLAN, methods=(Method("sgld"), Method("sgld")))
    with pytest.raises(nb.errors.DataError, match="60 rows of X and 59 of y"):
        DataSet("toy", X, Y[:-1])
    with pytest.raises(nb.errors.RunFolderError, match="holds no comparison"):
        nb.compare.load("nowhere")


TIMES = ("seconds", "peak", "ess_per_second")


@pytest.mark.slow
def test_a_cluster_gives_the_same_table_and_a_worker_may_die(tmp_path: Path) -> None:
    from distributed import LocalCluster

    plan = dataclasses.replace(
        PLAN, methods=(Method("laplace"), Method("sgld")), seeds=(0, 1, 2), choices=(), problems=()
    )
    wanted = nb.compare.run(plan, tmp_path / "here")
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        killed: list[int] = []

        def kill(row: Any, done: int, count: int) -> None:
            if not killed:
                killed.append(cluster.workers[0].pid)
                os.kill(killed[0], signal.SIGKILL)

        found = nb.compare.run(
            plan, tmp_path / "there", executor="dask", address=cluster.scheduler_address,
            on_row=kill,
        )  # fmt: skip
    assert killed
    for one, other in zip(wanted, found, strict=True):
        assert {k: v for k, v in one.items() if not k.startswith(TIMES)} == {
            k: v for k, v in other.items() if not k.startswith(TIMES)
        }


def test_curves_are_kept_for_the_report(folder: Path) -> None:
    row = rows_of(folder)["linear", "", "laplace"]
    arrays, _ = storage.read_arrays(folder / "cells" / f"{row['cell']}.safetensors")
    assert arrays["log_density"].shape == arrays["worst"].shape == (2, 200)
    assert arrays["bias"].shape == arrays["gradients"].shape == (200,)
