"""The report of made-up comparisons: words, figures, escaped names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbcore as nb
from nbcore.common import storage
from nbcore.compare.conclusions import sentences

EVIL = "<script>alert(1)</script>|x"


def made_up(folder: Path, seeds: int = 4) -> list[dict[str, Any]]:
    """Write a comparison of two samplers and two selectors; `slow` is worse by 0.5 in NLPD."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    (folder / "cells").mkdir(parents=True)
    for seed in range(seeds):
        shared = rng.normal()
        for selector in ("magnitude", "variance"):
            for size in (10, 20):
                for backend, worse in (("good", 0.0), ("slow", 0.5)):
                    cell = f"{len(rows):024x}"
                    rows.append({
                        "cell": cell, "problem": EVIL, "selector": selector, "size": size,
                        "control": "", "backend": backend, "seed": seed, "budget": 1000,
                        "budget_kind": "gradients", "status": "finished", "error": "",
                        "task": "regression", "rmse": 1.0, "gradients": 990,
                        "nlpd": shared + worse + 0.01 * rng.normal(), "seconds_sampling": 1.0,
                        "r_hat_predictions": 1.0 + worse / 100, "ess_predictions": 50.0,
                    })  # fmt: skip
                    curves = {
                        "worst": rng.normal(size=(2, 30)).astype(np.float32),
                        "expected": np.linspace(0.1, 0.9, 9, dtype=np.float32),
                        "observed": np.linspace(0.2, 0.8, 9, dtype=np.float32),
                    }
                    storage.write_arrays(folder / "cells" / f"{cell}.safetensors", curves, {})
        own = {**rows[-1], "backend": "", "control": "deterministic", "selector": "", "size": None}
        own |= {"cell": f"{len(rows):024x}", "nlpd": shared + 1.0, "r_hat_predictions": None}
        rows.append(own)
    rows.append({**rows[0], "cell": "f" * 24, "seed": 99, "status": "failed", "error": "<b>No.",
                 "nlpd": None})  # fmt: skip
    for row in rows:
        (folder / "cells" / f"{row['cell']}.json").write_text(json.dumps(row))
    (folder / "manifest.json").write_text(json.dumps({"format": "x", "problem": EVIL}))
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "up"
    made_up(folder)
    return folder


def test_the_page_stands_alone_and_escapes_what_comes_from_data(folder: Path) -> None:
    page = nb.compare.report(folder).read_text()
    assert "<script>alert" not in page
    assert "<b>No" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert page.count('<img src="data:image/svg+xml;base64,') == 5
    assert "prefers-color-scheme: dark" in page
    assert page == nb.compare.report(folder).read_text()


def test_markdown_says_the_same_in_tables_that_no_name_breaks(folder: Path) -> None:
    text = nb.compare.report(folder, "md").read_text()
    assert "take good" in text
    assert "<script>" not in text.partition("## Configuration")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines[2:] if "magnitude" in line}
    assert len(widths) == 1


def test_conclusions_name_the_first_the_ties_and_the_controls(folder: Path) -> None:
    rows = [json.loads(file.read_text()) for file in sorted((folder / "cells").glob("*.json"))]
    first, second, *others = sentences(rows)
    assert first.startswith("At 1,000 gradients, take good: mean rank 1.00 of 2")
    assert "Detectably behind it: slow." in first
    assert second.startswith("Of the weights, take")
    assert "cannot be told from it at this number of seeds" in second
    (control,) = (text for text in others if "control" in text)
    assert "lower by 0.7" in control  # 1.0 less the mean of 0 and 0.5
    assert "better in 4 of 4 pairs" in control
    assert others[-1] == "1 of 37 cells failed; their errors are below."


def test_one_seed_concludes_nothing(tmp_path: Path) -> None:
    rows = made_up(tmp_path / "one", seeds=1)
    assert "with one seed; another seed may say otherwise" in sentences(rows)[0]


def test_figures_are_files_for_papers(folder: Path) -> None:
    assert nb.compare.figure_bytes(folder, "cost").startswith(b"<?xml")
    assert nb.compare.figure_bytes(folder, "heat", "pdf").startswith(b"%PDF")
    with pytest.raises(nb.errors.OptionError, match="cost"):
        nb.compare.figure_bytes(folder, "bias")
    with pytest.raises(nb.errors.OptionError):
        nb.compare.report(folder, "pdf")  # pyright: ignore[reportArgumentType]
