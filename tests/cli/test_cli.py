from __future__ import annotations

import csv
import io
import json
import logging
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress as RichProgress

import nbcore as nb
from nbcore.cli import console, demo, job, main, run_folder
from nbcore.cli.config import read_config
from nbcore.cli.inputs import FeatureInputs, SmilesInputs, encode
from nbcore.common import plugins, storage
from nbcore.common.progress import Report
from nbcore.datasets import Table, read_csv
from nbcore.errors import ConfigError, DataError, RunFolderError
from nbcore.posterior.prediction import Prediction

CONFIG = """\
seed = 3

[data]
path = "rows.csv"
features = ["a", "b"]
target = "y"

[network]
name = "mlp"
hidden_dims = [4]

[training]
epochs = 4

[sample]
num_warmup = 30
num_samples = 20
num_chains = 2

[calibration]
folds = 2
"""
ENSEMBLE = CONFIG + "ensemble = true\n"


def write_rows(path: Path, count: int = 40) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 2))
    y = x[:, 0] - x[:, 1] + 0.2 * rng.normal(size=count)
    lines = [f"{a:.5f},{10 * b + 300:.5f},{t:.5f}" for (a, b), t in zip(x, y, strict=True)]
    path.write_text("\n".join(["a,b,y", *lines]) + "\n", encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_rows(tmp_path / "rows.csv")
    (tmp_path / "config.toml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on numbers, made once: an ensemble, which has everything that a single run has."""
    folder = tmp_path_factory.mktemp("project")
    write_rows(folder / "rows.csv")
    (folder / "config.toml").write_text(ENSEMBLE, encoding="utf-8")
    config, checkpoint = str(folder / "config.toml"), str(folder / "checkpoint")
    out = str(folder / "run")
    assert main(["run", config, "--out", out, "--checkpoint", checkpoint]) == 0
    return folder / "run"


def test_each_member_has_a_checkpoint(run: Path) -> None:
    folders = run.parent.glob("checkpoint/*/*")
    assert sorted(f"{f.parent.name}/{f.name}" for f in folders) == [
        "member-0/process-0",
        "member-1/process-0",
    ]


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    heavy = "{'typer', 'rich', 'jax', 'matplotlib', 'jinja2'}"
    found = python(f"import nbcore.cli, sys; print(sorted({heavy} & set(sys.modules)))")
    assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("rich", "cli", ["plugins"]),
        ("typer", "cli", ["plugins"]),
        ("matplotlib", "report", ["run", "config.toml"]),
        ("flax", "flax", ["run", "config.toml"]),
    ],
)
def test_a_missing_extra_is_named_in_one_line(project, module, extra, arguments) -> None:
    found = python(
        f"import sys, os; os.chdir({str(project)!r}); sys.modules[{module!r}] = None\n"
        f"from nbcore.cli import main; sys.exit(main({arguments!r}))"
    )
    assert found.returncode == 2
    assert f"pip install 'nbcore[{extra}]'" in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
    assert sorted(p.name for p in project.iterdir()) == ["config.toml", "rows.csv"]


def test_a_run_holds_what_its_predictions_say(run: Path) -> None:
    rows = table((run / "predictions.csv").read_text())
    measured = json.loads((run / "metrics.json").read_text())
    assert {row.pop("status") for row in rows} <= {"ok", f"unlike training: {run_folder.OUTSIDE}"}
    column = {name: np.array([float(r[name]) for r in rows]) for name in rows[0]}
    ours = measured["results"]["partially Bayesian ensemble"]
    assert len(rows) == measured["test_rows"] == 8
    y, mean = column["y"], column["mean"]
    assert ours["rmse"] == pytest.approx(np.sqrt(np.mean((y - mean) ** 2)), rel=1e-4)
    assert ours["mae"] == pytest.approx(np.mean(np.abs(y - mean)), rel=1e-4)
    inside = (column["q2.5"] <= y) & (y <= column["q97.5"])
    assert ours["coverage"]["95%"] == np.mean(inside)
    np.testing.assert_allclose(
        column["sd"] ** 2, column["epistemic_sd"] ** 2 + column["aleatoric_sd"] ** 2, rtol=1e-4
    )
    np.testing.assert_allclose(
        column["epistemic_share"], (column["epistemic_sd"] / column["sd"]) ** 2, rtol=1e-4
    )
    assert "test rows unlike training" in (run / "report.html").read_text()
    assert list(measured["results"]) == [
        "deterministic + training noise",
        "deterministic + out-of-fold noise",
        "fold networks, not sampled",
        "partially Bayesian ensemble",
    ]
    assert measured["weights"] == {"stochastic": 17, "total": 17}
    assert (run / "config.toml").read_text() == ENSEMBLE
    assert len(nb.load(run / "model").posteriors) == 2
    assert {p.name for p in run.iterdir()} == {
        "model", "metrics.json", "predictions.csv", "report.html", "config.toml", "run.json",
    }  # fmt: skip


def test_test_rows_were_never_trained_on(run: Path) -> None:
    source = read_csv(run.parent / "rows.csv")
    held_out = {int(row["line"]) for row in table((run / "predictions.csv").read_text())}
    inputs = run_folder.read_run(run).inputs
    kept = [i for i, line in enumerate(source.line_numbers) if line not in held_out]
    values = source.numeric(["a", "b"])[kept].astype(np.float64)
    assert isinstance(inputs, FeatureInputs)
    np.testing.assert_allclose(inputs.shift, values.mean(axis=0))
    np.testing.assert_allclose(inputs.scale, values.std(axis=0))


def test_predict_repeats_the_run(run: Path, capsys) -> None:
    output = run.parent / "again.csv"
    source = run.parent / "rows.csv"
    assert main(["predict", str(run), "--input", str(source), "--output", str(output)]) == 0
    by_line = {row["line"]: row for row in table(output.read_text())}
    assert len(by_line) == 40
    for row in table((run / "predictions.csv").read_text()):
        again = by_line[row["line"]]
        assert list(again) == list(row)
        assert again.pop("status") == row.pop("status")
        assert [float(v) for v in again.values()] == pytest.approx(
            [float(v) for v in row.values()], rel=1e-4, abs=1e-6
        )
    capsys.readouterr()
    assert main(["predict", str(run), "--input", str(source)]) == 0
    assert capsys.readouterr().out == output.read_text()


def test_predict_works_without_a_target_and_says_what_is_unlike_training(run, capsys) -> None:
    new = run.parent / "new.csv"
    new.write_text("b,a,other\n300,0.1,x\n99999,0.1,x\n", encoding="utf-8")
    assert main(["predict", str(run), "--input", str(new)]) == 0
    said = capsys.readouterr()
    rows = table(said.out)
    assert list(rows[0])[:4] == ["line", "a", "b", "mean"]
    assert rows[0]["b"] == "300"
    assert "1 of 2 rows are unlike anything in training" in said.err
    assert rows[0]["status"] == "ok"
    why = rf"unlike training: b is .* deviations from the mean; {run_folder.OUTSIDE}"
    assert re.fullmatch(why, rows[1]["status"])
    assert float(rows[1]["sd"]) > 0


def test_a_run_is_replaced_only_when_told(run: Path, capsys) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    config = str(run.parent / "config.toml")
    assert main(["run", config, "--out", str(run)]) == 2
    assert "already holds something" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("damage", ["{", '{"format": "other"}', '{"format": "nbcore-run-2"}'])
def test_a_damaged_run_is_refused(run: Path, tmp_path: Path, capsys, damage: str) -> None:
    (tmp_path / "run.json").write_text(damage, encoding="utf-8")
    assert main(["predict", str(tmp_path), "--input", str(run.parent / "rows.csv")]) == 2
    assert capsys.readouterr().err.startswith("Error: ")
    with pytest.raises(RunFolderError):
        run_folder.read_run(tmp_path / "missing")


def test_predict_skips_what_cannot_be_read_and_says_why(run: Path, tmp_path, capsys) -> None:
    new, output = tmp_path / "new.csv", tmp_path / "out.csv"
    new.write_text("a,b,y\n1,310,5\n1,two,\n,300,2\n1,310,x\n", encoding="utf-8")
    assert main(["predict", str(run), "--input", str(new), "--output", str(output)]) == 0
    said = capsys.readouterr().err
    assert "2 of 4 rows cannot be read and have no prediction" in said
    rows = table(output.read_text())
    assert [row["line"] for row in rows] == ["2", "3", "4", "5"]
    assert [row["y"] for row in rows] == ["5", "", "2", ""]
    assert rows[1]["status"].startswith("unreadable: column 'b': 'two' is not a number")
    assert rows[2]["status"].startswith("unreadable: column 'a': the cell is empty")
    for row in (rows[1], rows[2]):
        assert {row[name] for name in ("mean", "sd", "q2.5", "q97.5", "epistemic_sd")} == {""}
    assert rows[0]["mean"] == rows[3]["mean"]
    assert rows[0]["status"] == rows[3]["status"]


def test_rows_unlike_training_are_told_by_what_was_read_and_by_what_is_predicted() -> None:
    spread = np.array([0.1, 3.0, 3.0, 0.1])
    means = np.stack([spread, -spread])[..., None]
    prediction = Prediction.normal(means, np.ones((1, 1, 1)))
    status = ["ok", "ok", "unreadable: empty", "unlike training: a is 9", "ok"]
    rows = np.array([0, 1, 3, 4])
    assert run_folder.with_outside(status, rows, prediction) == status
    prediction = replace(prediction, epistemic_limit=np.ones(1))
    assert run_folder.with_outside(status, rows, prediction) == [
        "ok",
        f"unlike training: {run_folder.OUTSIDE}",
        "unreadable: empty",
        f"unlike training: a is 9; {run_folder.OUTSIDE}",
        "ok",
    ]


def test_strict_names_every_line_and_writes_nothing(run: Path, tmp_path, capsys) -> None:
    new, output = tmp_path / "new.csv", tmp_path / "out.csv"
    new.write_text("a,b\n1,2\n1,two\nx,3\n", encoding="utf-8")
    command = ["predict", str(run), "--input", str(new), "--output", str(output)]
    assert main([*command, "--strict"]) == 2
    said = capsys.readouterr().err
    assert "2 of 3 rows cannot be read" in said
    assert "line 3: column 'b': 'two' is not a number" in said
    assert "line 4: column 'a': 'x' is not a number" in said
    new.write_text("a,b\n1,two\n", encoding="utf-8")
    assert main(command) == 2  # nothing is left to predict
    assert "line 2: column 'b': 'two' is not a number" in capsys.readouterr().err
    output.write_text("mine", encoding="utf-8")
    assert main(command) == 2
    assert output.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.csv", "out.csv"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs = 4", "epoch = 4", ["line 13, [training]", "'epoch'", "Did you mean 'epochs'?"]),
        ("epochs = 4", 'epochs = "4"', ["line 13, [training]", "'4'", "a whole number"]),
        ("epochs = 4", "epochs = true", ["line 13", "True", "a whole number"]),
        ("epochs = 4", "epochs = 0", ["[training]", "epochs is an integer of at least 1, got 0"]),
        ("[sample]", "[sampling]", ["line 15", "'sampling'", "Did you mean 'sample'?"]),
        ("seed = 3", "seed = 3.5", ["line 1", "3.5", "a whole number"]),
        ("[data]", "[data", ["not valid TOML", "line 3"]),
        ('target = "y"', "", ["[data]", "'target' is missing", "a string"]),
        ('target = "y"', 'target = "z"', ["rows.csv", "no column 'z'"]),
        ('target = "y"', 'target = "a"', ["[data]", "among the inputs"]),
        ('features = ["a", "b"]', 'features = ["a", 2]', ["line 5", "a list, each a string"]),
        ('features = ["a", "b"]', "", ["[data]", "smiles", "features"]),
        ('path = "rows.csv"', 'path = "row.csv"', ["row.csv", "Did you mean 'rows.csv'?"]),
        ('target = "y"', 'target = "y"\ntest_fraction = 1.5', ["[data]", "between 0 and 1"]),
        ('target = "y"', 'target = "y"\ntest_fraction = 0.001', ["[data]", "no row"]),
        ('name = "mlp"', 'name = "mpl"', ["line 8, [network]", "Did you mean 'mlp'?"]),
        ("hidden_dims = [4]", "hidden_dim = [4]", ["[network]", "Did you mean 'hidden_dims'"]),
        ("hidden_dims = [4]", "target_dim = 'one'", ["line 10, [network]", "a whole number"]),
        ("num_chains = 2", 'backend = "numpyro_nut"', ["[sample]", "Did you mean 'numpyro-nuts'"]),
        ("num_chains = 2", 'chain_method = "fast"', ["line 18", "'vectorized'"]),
        ("num_chains = 2", "mesh = {chain = 64}", ["[sample]", "needs 64 devices"]),
        ("num_chains = 2", "options = {max_tree_dept = 5}", ["[sample]", "max_tree_depth"]),
        ("[sample]", "[likelihood]\nname = 'cauchy'\n[sample]", ["line 16", "'student-t'"]),
        ("[sample]", "[likelihood]\nname = 'poisson'\n[sample]", ["[likelihood]", "non-negative"]),
        ("[sample]", "[likelihood]\ndf = 4\n[sample]", ["[likelihood]", 'name = "student-t"']),
        (
            "[sample]",
            "[likelihood]\nname = 'heteroskedastic'\n[sample]",
            ["[likelihood]", "two outputs for each target", "target_dim=2"],
        ),
        ("folds = 2", "folds = 1", ["[calibration]", "at least 2"]),
        ("folds = 2", 'method = "cv"', ["line 21", "'crossfit'"]),
        ("folds = 2", 'method = "none"\nensemble = true', ["[calibration]", "'mixture'"]),
        ("folds = 2", "[select]\nlast = 1\neverything = true", ["[select]", "last, everything"]),
        ("folds = 2", '[select]\nlayers = ["Dense7"]', ["[select]", "Dense7", "Dense1"]),
        ("folds = 2", "[select]\nnum_pairs_per_layer = 3", ["[select]", "method"]),
        ("folds = 2", '[select]\nmethod = "varience"', ["[select]", "'variance'"]),
        ("folds = 2", '[select]\nmethod = "random"\nnum_weights = 999', ["[select]", "999"]),
        ("folds = 2", '[select]\nmethod = "random"\nfraction = 5.0', ["[select]", "0.05"]),
        (
            "folds = 2",
            '[select]\nmethod = "clustering"\nnum_weights = 5',
            ["[select]", "clustering", "num_pairs_per_layer"],
        ),
        (
            "folds = 2",
            '[select]\nmethod = "magnitude"\nlayer_names = ["Dense1"]\nnum_pairs_per_layer = 99',
            ["[select]", "Dense1", "99"],
        ),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_named(project, capsys, old, new, said) -> None:
    path = project / "config.toml"
    assert CONFIG.count(old) == 1
    path.write_text(CONFIG.replace(old, new), encoding="utf-8")
    assert main(["run", str(path), "--out", str(project / "run")]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Error: ")
    assert "Traceback" not in shown
    for part in said:
        assert part in shown
    assert sorted(p.name for p in project.iterdir()) == ["config.toml", "rows.csv"]


@given(
    section=st.sampled_from(["data", "training", "select", "sample", "calibration"]),
    key=st.from_regex(r"[a-z]{3,9}_zz", fullmatch=True),
)
def test_any_unknown_key_is_named_with_file_line_and_section(tmp_path_factory, section, key):
    path = tmp_path_factory.mktemp("config") / "c.toml"
    text = CONFIG if f"[{section}]" in CONFIG else f"{CONFIG}\n[{section}]"
    text = text.replace(f"[{section}]", f"[{section}]\n{key} = 1")
    path.write_text(text, encoding="utf-8")
    line = text.splitlines().index(f"{key} = 1") + 1
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert f"{path}, line {line}, [{section}]: unknown key {key!r}." in str(caught.value)


@pytest.mark.parametrize("arguments", [["run"], ["demo", "--seed", "x"], ["nothing"]])
def test_wrong_usage_ends_with_2(arguments: list[str], capsys) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err


def test_nothing_half_written_remains(project: Path, monkeypatch, capsys) -> None:
    def fail(outcome: object, folder: Path) -> None:
        (folder / "metrics.json").write_text("{}")
        raise DataError("the last file fails")

    monkeypatch.setattr(job, "execute", lambda job, progress, checkpoint: None)
    monkeypatch.setattr(run_folder, "write_run", fail)
    path = str(project / "config.toml")
    assert main(["run", path, "--out", str(project / "deep" / "run")]) == 2
    assert "the last file fails" in capsys.readouterr().err
    assert not (project / "deep" / "run").exists()
    assert list((project / "deep").iterdir()) == []


def test_folders_are_written_whole_and_only_own_ones_replaced(tmp_path: Path) -> None:
    ours, strange = tmp_path / "ours", tmp_path / "strange"
    with storage.whole_folder(ours, "mark", overwrite=False) as folder:
        (folder / "mark").write_text("1")
    with pytest.raises(RunFolderError, match="overwrite=True"):
        storage.check_free(ours, "mark", overwrite=False, remedy="overwrite=True")
    with (
        pytest.raises(ZeroDivisionError),
        storage.whole_folder(ours, "mark", overwrite=True) as folder,
    ):
        (folder / "mark").write_text(str(1 / 0))
    assert (ours / "mark").read_text() == "1"
    with storage.whole_folder(ours, "mark", overwrite=True) as folder:
        (folder / "mark").write_text("2")
    assert (ours / "mark").read_text() == "2"
    strange.mkdir()
    (strange / "thesis.txt").write_text("years of work")
    with pytest.raises(RunFolderError, match="not replaced"):
        storage.check_free(strange, "mark", overwrite=True, remedy="")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours", "strange"]


@pytest.mark.slow
def test_molecules_from_csv_to_predictions_and_back(tmp_path: Path, capsys) -> None:
    atoms = ["C", "N", "O", "Cl", "Br"]
    smiles = [f"C{a}C{b}C" for a in atoms for b in atoms[:3]]
    rows = [f"{s},{len(s) / 3 + s.count('N')}" for s in smiles]
    (tmp_path / "m.csv").write_text("\n".join(["smiles,y", *rows]), encoding="utf-8")
    (tmp_path / "c.toml").write_text(
        CONFIG.replace('path = "rows.csv"', 'path = "m.csv"')
        .replace('features = ["a", "b"]', 'smiles = "smiles"')
        .replace('"mlp"', '"transformer"')
        .replace("hidden_dims = [4]", "d_model = 4\nnhead = 1\nnum_layers = 1\ndim_feedforward = 4")
        .replace("folds = 2", 'method = "holdout"\n[select]\nlayers = ["FinalDense2"]'),
        encoding="utf-8",
    )
    out = tmp_path / "run"
    assert main(["run", str(tmp_path / "c.toml"), "--out", str(out)]) == 0
    assert set(nb.load(out / "model").tokenizer.tokens) == set(atoms)
    results = json.loads((out / "metrics.json").read_text())["results"]
    assert list(results) == ["deterministic + held-out noise", "partially Bayesian"]
    rows = table((out / "predictions.csv").read_text())
    assert all(row["smiles"] in smiles for row in rows)
    new = tmp_path / "new.csv"
    lines = [f"{row['smiles']},{row['y']}" for row in rows]
    new.write_text("\n".join(["smiles,y", *lines, "C[Si]C,1"]), encoding="utf-8")
    capsys.readouterr()
    assert main(["predict", str(out), "--input", str(new)]) == 0
    said = capsys.readouterr()
    assert f"1 of {len(rows) + 1} rows" in said.err
    for again, row in zip(table(said.out), rows, strict=False):
        assert float(again["sd"]) == pytest.approx(float(row["sd"]), rel=1e-4)
        assert float(again["aleatoric_sd"]) == pytest.approx(float(row["aleatoric_sd"]), rel=1e-5)
    assert table(said.out)[-1]["status"] == "unlike training: tokens never seen: [Si]"
    new.write_text("smiles\nCCO\nC#C.C#C.C#C\nC(C\n", encoding="utf-8")
    assert main(["predict", str(out), "--input", str(new)]) == 0
    status = [row["status"] for row in table(capsys.readouterr().out)]
    assert status[:2] == ["ok", "unreadable: 11 tokens; the network reads 5"]
    assert "'C(C' is not a molecule: a branch '(' is not closed" in status[2]


def test_molecules_are_read_with_the_line_of_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("smiles\nCCO\nCCl\nC!C\n\nC(\n", encoding="utf-8")
    inputs = SmilesInputs.fit("smiles", read_csv(path), [])
    with pytest.raises(DataError, match="2 of 4 rows cannot be read") as caught:
        encode(inputs, read_csv(path))
    assert "line 4: SMILES: no token begins with '!'" in str(caught.value)
    assert "line 6: SMILES 'C(' is not a molecule" in str(caught.value)
    path.write_text("smiles\nC!C\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"column 'smiles' holds no molecule.*begins with '!'"):
        SmilesInputs.fit("smiles", read_csv(path), [])
    path.write_text("smiles\nCCO\nCClO\n", encoding="utf-8")
    inputs = SmilesInputs.fit("smiles", read_csv(path), [])
    assert encode(inputs, read_csv(path))[0].tolist() == [[2, 2, 3], [2, 4, 3]]
    options = {"vocab_size": 5, "pad_token_id": 0, "max_seq_length": 3}
    assert inputs.network_options == options


def test_unreadable_rows_are_named_whether_they_are_trained_on_or_not(tmp_path) -> None:
    smiles = ["CCO", "C(C(C", "CCN", "c1ccccc", "CCCl", ")))(((", "CC=", "CCC", "CCBr", "COC"]
    rows = [f"{s},{k}" for k, s in enumerate(smiles)]
    (tmp_path / "m.csv").write_text("\n".join(["smiles,y", *rows]), encoding="utf-8")
    (tmp_path / "c.toml").write_text(
        '[data]\npath = "m.csv"\nsmiles = "smiles"\ntarget = "y"\n'
        '[network]\nname = "transformer"\n',
        encoding="utf-8",
    )
    for seed in range(3):  # other rows are held out
        text = (tmp_path / "c.toml").read_text(encoding="utf-8")
        (tmp_path / "seeded.toml").write_text(f"seed = {seed}\n{text}", encoding="utf-8")
        with pytest.raises(DataError, match="4 of 10 rows cannot be read") as caught:
            job.prepare(read_config(tmp_path / "seeded.toml"))
        assert re.findall(r"line (\d+): SMILES", str(caught.value)) == ["3", "5", "7", "8"]


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2), min_size=2))
def test_training_features_get_mean_0_and_deviation_1(tmp_path_factory, rows) -> None:
    path = tmp_path_factory.mktemp("features") / "t.csv"
    path.write_text("\n".join(["a,b", *(f"{a!r},{b!r}" for a, b in rows)]), encoding="utf-8")
    inputs = FeatureInputs.fit(["a", "b"], read_csv(path))
    X = encode(inputs, read_csv(path))[0].astype(np.float64)
    np.testing.assert_allclose(X.mean(axis=0), 0, atol=1e-3)
    constant = np.ptp(np.array(rows), axis=0) == 0
    np.testing.assert_allclose(X.std(axis=0)[~constant], 1, rtol=1e-3)
    np.testing.assert_allclose(X[:, constant], 0, atol=1e-3)


def test_layers_names_what_a_configuration_can_select(project: Path, capsys) -> None:
    assert main(["layers", str(project / "config.toml")]) == 0
    by_config = capsys.readouterr().out
    assert "Dense1" in by_config
    assert "total                                             17" in by_config
    options = ["--network", "mlp", "-o", "hidden_dims=[4]"]
    assert main(["layers", *options, "--features", "2"]) == 0
    assert capsys.readouterr().out == by_config
    assert main(["layers", *options]) == 2
    assert "--features" in capsys.readouterr().err
    assert main(["layers"]) == 2
    assert main(["layers", *options, "-o", "4"]) == 2


def test_plugins_lists_everything_and_what_is_broken(monkeypatch, capsys) -> None:
    real = plugins.registry()
    broken = plugins.Plugin("stranger", "some-package", error="ImportError: no [such] thing")
    fake = plugins.Registry([*real.plugins, broken], real.manager)
    monkeypatch.setattr(plugins, "registry", lambda: fake)
    assert main(["plugins"]) == 0
    said = capsys.readouterr().out
    for kind in ("backend", "selector", "network"):
        for name in plugins.specs(kind):
            assert name in said
    assert "broken stranger of some-package: ImportError: no [such] thing" in said


def test_bars_show_each_chain_and_start_anew_with_each_phase() -> None:
    shown = Console(file=io.StringIO(), force_terminal=True, width=100)
    with RichProgress("{task.description} {task.completed}", console=shown) as bars:
        report = console._Bars(bars)
        report(Report("training", None, 1, 5, 10, "loss 1.0"))
        report(Report("estimate", None, 2, 0, 0, "about 12 s"))
        for chain in (0, 1):
            report(Report("warmup", chain, 2, 30, 30))
        report(Report("sampling", 1, 2, 7, 20))
        tasks = {task.description: (task.completed, task.total) for task in bars.tasks}
    assert tasks == {
        "training": (5, 10), "chain 1 warmup": (30, 30), "chain 2 sampling": (7, 20),
    }  # fmt: skip
    assert "about 12 s" in shown.file.getvalue()


def test_log_messages_and_warnings_are_remarks(capsys) -> None:
    with console.remarks():
        logging.getLogger("nbcore").info("chose [these] weights")
        warnings.warn("intervals may be narrow", UserWarning, stacklevel=1)
    logging.getLogger("nbcore").info("not shown")
    assert capsys.readouterr().err == (
        "Note: chose [these] weights\nNote: intervals may be narrow\n"
    )


@pytest.mark.parametrize("quick", [True, False])
def test_the_demo_is_a_configuration_that_can_be_run(tmp_path: Path, quick: bool) -> None:
    config = read_config(demo.write_project(tmp_path, seed=7, quick=quick))
    train, test = job.split_tables(config)
    assert config.seed == 7
    assert (len(train), len(test)) == ((100, 100) if quick else (1025, 257))
    assert sum("O" in smiles for smiles in train.text("smiles")) > len(train) // 3
    inputs = SmilesInputs.fit("smiles", train, [test])
    network, section = job.make_network(config, inputs)
    widths = {X.shape[1] for X in encode(inputs, train, test)}
    assert widths == {network.max_seq_length}
    assert (network.pad_token_id, network.vocab_size) == (0, inputs.tokenizer.vocab_size)
    assert section.options["pooling"] == "sum"


@pytest.mark.slow
def test_the_demo_ends_with_a_table_a_report_and_a_picture(tmp_path: Path, capsys) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--quick", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "100 test rows" in said
    assert "partially Bayesian" in said
    assert (out / "summary.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "report.html").read_text().rstrip().endswith("</html>")
    job.prepare(read_config(out / "config.toml"))  # its paths hold where it lies now


def test_predictions_far_from_zero_keep_the_digits_that_differ() -> None:
    means = np.array([[[1e8], [1e8 + 1]]])
    prediction = Prediction.normal(means, np.full((1, 1, 1), 0.25))
    rows = Table(Path("rows.csv"), {"a": ["1", "2"]}, [2, 3])
    inputs = FeatureInputs.fit(("a",), rows)
    parts = [(np.arange(2), prediction)]
    lines = table(
        run_folder.predictions_csv(rows, inputs, parts, ["ok", "ok"], np.array([1e8 + 0.5, 1e8]))
    )
    assert [float(line["mean"]) for line in lines] == [1e8, 1e8 + 1]
    assert [float(line["y"]) for line in lines] == [1e8 + 0.5, 1e8]
