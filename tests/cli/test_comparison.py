"""The configuration of a comparison, and the command that runs it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import nbcore as nb
from nbcore.cli import main
from nbcore.cli.comparison import read_plan
from nbcore.compare import Choice

QUICK = Path(__file__).parents[2] / "docs" / "examples" / "compare_quick.toml"
SMALL = """\
seeds = [0]
references = ["linear"]
[budget]
kind = "draws"
amount = 50
[[method]]
backend = "laplace"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "compare.toml"
    path.write_text(text)
    return path


def test_the_example_has_at_most_16_cells_of_two_data_sets() -> None:
    plan = read_plan(QUICK)
    cells = list(plan.cells())
    assert len(cells) == len({cell.digest for cell in cells}) == 14
    molecules, counts = plan.problems
    assert molecules.data.X.shape[0] == counts.data.X.shape[0] == 150
    assert np.issubdtype(molecules.data.X.dtype, np.integer)
    assert counts.data.X.shape == (150, 4)
    np.testing.assert_array_equal(molecules.data.y, counts.data.y)
    data = nb.datasets.solubility()
    known = dict(zip(data.train_smiles, data.train_y, strict=True))
    with (QUICK.parent / "molecules.csv").open(newline="") as file:
        for row, y in zip(csv.DictReader(file), counts.data.y, strict=True):
            assert y == pytest.approx(known[row["smiles"]], abs=1e-3)


def test_arrays_are_data_too(tmp_path: Path) -> None:
    X, y = np.eye(6, 3, dtype=np.float32), np.arange(6.0)
    np.savez(tmp_path / "mine.npz", X=X, y=y, test_X=X[:2], test_y=y[:2])
    text = SMALL + (
        '[[choice]]\nselector = "magnitude"\nsizes = [2, 3]\n'
        '[[data]]\npath = "mine.npz"\n[data.network]\nname = "mlp"\nhidden_dims = [4]\n'
    )
    plan = read_plan(written(tmp_path, text))
    (problem,) = plan.problems
    assert problem.name == "mine, mlp"
    np.testing.assert_array_equal(problem.data.split(7)[3], y[:2])
    assert plan.choices == (Choice("magnitude", 2), Choice("magnitude", 3))
    np.savez(tmp_path / "mine.npz", X=X)
    with pytest.raises(nb.errors.ConfigError, match=r"np.savez\(path, X=X, y=y\)"):
        read_plan(written(tmp_path, text))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("budget]", "bugdet]"), "Did you mean 'budget'"),
        (('"draws"', '"steps"'), "'gradients' or 'draws'"),
        (('"laplace"', '"laplac"'), "Did you mean 'laplace'"),
        (('"linear"', '"liner"'), "Did you mean 'linear'"),
        (("[[method]]", "[method]"), r"write \[\[method\]\]"),
        (("seeds = [0]", "seeds = [0]\nnum_chains = 1"), "num_chains"),
        (("seeds = [0]", 'seeds = [0]\ncontrols = ["randm"]'), "Did you mean 'random'"),
        (("[[method]]", '[[data]]\npath = "x.csv"\n[[method]]'), r"a network in \[data.network\]"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(nb.errors.ConfigError, match=message):
        read_plan(written(tmp_path, SMALL.replace(*change)))


def test_the_command_runs_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(written(tmp_path, SMALL))
    out = tmp_path / "out"
    for words in ("1/1 linear, laplace, seed 0", ""):
        assert main(["compare", config, "--out", str(out), "--no-cache"]) == 0
        printed = capsys.readouterr()
        assert words in printed.err
        assert "1 cells, 0 of them failed" in printed.out
    (row,) = csv.DictReader((out / "table.csv").open(newline=""))
    assert float(row["distance_mean"]) < 0.3
    assert row["num_draws"] == "50"
