"""Data that run without an error and mean something else, and runs that take too long."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nbcore.cli import job, main
from nbcore.cli.audit import audit
from nbcore.cli.config import DataSection, read_config
from nbcore.cli.patience import Patience
from nbcore.common.progress import Report
from nbcore.datasets import Table, read_csv
from nbcore.errors import ConfigError, OptionError

RNG = np.random.default_rng(0)
A, Y = RNG.normal(size=(2, 20))


def read(path: Path, **columns: object) -> Table:
    """Write columns as CSV, and read them."""
    rows = zip(*(np.asarray(c).tolist() for c in columns.values()), strict=True)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_csv(path)


def remarks(tmp_path: Path, data: DataSection, **columns: object) -> list[str]:
    """Return the remarks on the first fifteen rows as training, the others as test."""
    cut = {name: (np.asarray(c)[:15], np.asarray(c)[15:]) for name, c in columns.items()}
    training = read(tmp_path / "train.csv", **{k: v[0] for k, v in cut.items()})
    test = read(tmp_path / "test.csv", **{k: v[1] for k, v in cut.items()})
    return audit(data, training, test)


def section(*features: str, **more: object) -> DataSection:
    return DataSection(Path("d.csv"), "y", features=features, **more)  # pyright: ignore[reportArgumentType]


def test_ordinary_data_get_no_remark(tmp_path: Path) -> None:
    counts = RNG.integers(0, 5, size=20)
    assert remarks(tmp_path, section("a", "n"), a=A, n=counts, y=Y) == []


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"y": np.full(20, 3.0)}, "train.csv: the target 'y' is 3 in all 15 training rows"),
        ({"a": np.full(20, 2.5)}, "the feature 'a' is 2.5 in all training rows"),
        ({"a": 1.8 * Y + 32}, "the feature 'a' determines the target"),
        ({"a": np.arange(100, 120)}, "the feature 'a' numbers the rows (100 to 114, each once)"),
        ({"a": RNG.permutation(np.arange(20))}, "the feature 'a' numbers the rows"),
    ],
)
def test_what_means_something_else_is_named(tmp_path: Path, columns, said: str) -> None:
    found = remarks(tmp_path, section("a"), **({"a": A, "y": Y} | columns))
    assert said in found[-1]
    assert len(found) == 1 or "test rows have the inputs" in found[0]  # constants share all


def test_test_rows_that_were_trained_on_are_named(tmp_path: Path) -> None:
    a = A.copy()
    a[[15, 17]] = a[[3, 0]]
    (found,) = remarks(tmp_path, section("a"), a=a, y=Y)
    assert "test.csv: 2 of 5 test rows have the inputs of a training row" in found
    assert "(line 2 as line 5, line 4 as line 2)" in found
    assert 'groups = "column"' in found


def test_groups_in_both_parts_are_named(tmp_path: Path) -> None:
    who = np.array(["p", "q"])[np.arange(20) % 2]
    (found,) = remarks(tmp_path, section("a", groups="who"), a=A, who=who, y=Y)
    assert "2 groups of 'who' are in the training rows too ('p', 'q')" in found


CONFIG = """\
[data]
path = "rows.csv"
{inputs}
target = "y"
{more}
[network]
name = "{name}"
"""


def configured(tmp_path: Path, inputs: str, name: str = "mlp", more: str = "") -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.format(inputs=inputs, name=name, more=more), encoding="utf-8")
    return path


def test_groups_are_never_split(tmp_path: Path) -> None:
    who = RNG.integers(0, 12, size=60)
    read(tmp_path / "rows.csv", a=RNG.normal(size=60), who=who, y=RNG.normal(size=60))
    shares: list[float] = []
    for seed in range(8):
        more = f'groups = "who"\nseed = {seed}'
        config = read_config(configured(tmp_path, 'features = ["a"]', more=more))
        train, test = job.split_tables(config)
        assert not set(train.text("who")) & set(test.text("who"))
        assert sorted(train.line_numbers + test.line_numbers) == list(range(2, 62))
        shares.append(len(test) / 60)
    assert 0.1 < np.mean(shares) < 0.3
    assert len(set(shares)) > 1


def test_token_ids_are_no_numbers(tmp_path: Path) -> None:
    read(tmp_path / "rows.csv", smiles=["CCO", "CC", "CCl", "CN"], y=[1, 2, 3, 4])
    config = read_config(configured(tmp_path, 'smiles = "smiles"'))
    with pytest.raises(ConfigError, match=r"'mlp' reads numbers, .*'smiles'.*\"transformer\""):
        job.prepare(config)


def test_sizes_that_were_not_given_suit_a_small_table(tmp_path: Path) -> None:
    read(tmp_path / "rows.csv", smiles=["CCO", "CC", "CCl", "CN"] * 3, y=np.arange(12.0))
    path = configured(tmp_path, 'smiles = "smiles"', name="transformer")
    network = job.prepare(read_config(path)).network[0]
    assert (network.d_model, network.nhead, network.num_layers) == (32, 4, 2)
    path.write_text(path.read_text() + "d_model = 64\n", encoding="utf-8")
    network = job.prepare(read_config(path)).network[0]
    assert (network.d_model, network.num_layers) == (64, 4)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('target = "y"', "target = y", 'Text needs quotes. Type: target = "y"'),
        ('target = "y"', "target = [y, z 1,]", 'Texts need quotes. Type: target = ["y", "z 1"]'),
        ('path = "rows.csv"', 'file = "rows.csv"', "unknown key 'file'. Did you mean 'path'?"),
    ],
)
def test_slips_of_a_beginner_are_understood(tmp_path: Path, capsys, old, new, said) -> None:
    path = configured(tmp_path, 'features = ["a"]')
    path.write_text(path.read_text().replace(old, new), encoding="utf-8")
    assert main(["run", str(path), "--out", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err


def test_a_sampler_is_suggested_by_half_of_its_name(tmp_path: Path, capsys) -> None:
    read(tmp_path / "rows.csv", a=A, y=Y)
    path = configured(tmp_path, 'features = ["a"]')
    path.write_text(path.read_text() + '[sample]\nbackend = "nuts"\n', encoding="utf-8")
    assert main(["run", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "Did you mean 'blackjax-nuts' or 'numpyro-nuts'?" in capsys.readouterr().err


def test_what_takes_days_is_refused_before_it_starts() -> None:
    seen: list[Report] = []
    patience = Patience(seen.append)
    patience(Report("sampling", None, 4, 0, 0, "numpyro-nuts: about 59 min", 3540.0))
    slow = Report("sampling", None, 4, 0, 0, "numpyro-nuts: about 5.0 days", 433_594.0)
    with pytest.raises(OptionError, match=r"Sampling would take about 5\.0 days.*--yes"):
        patience(slow)
    assert seen[-1] == slow
    Patience(seen.append, limit_seconds=np.inf)(slow)


def test_training_is_judged_by_its_pace() -> None:
    patience = Patience(lambda report: None)
    patience(Report("training", None, 1, 1, 100_000))  # it compiles, however long that takes
    patience.first = (patience.first[0] - 100.0, 1)
    patience(Report("training", None, 1, 1, 100_000))
    patience(Report("training", None, 1, 11, 300))
    with pytest.raises(OptionError, match=r"Training would take about 5\.6 h.*epochs"):
        patience(Report("training", None, 1, 11, 2000))
