"""The demonstration: `nbcore run` on the molecules that ship with nbcore."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from nbcore.datasets import solubility

FULL = {
    "d_model": 16, "num_layers": 2, "dim_feedforward": 64, "epochs": 60,
    "draws": 100, "folds": 5,
}  # fmt: skip
QUICK = {
    "d_model": 8, "num_layers": 1, "dim_feedforward": 8, "epochs": 12,
    "draws": 30, "folds": 2,
}  # fmt: skip
QUICK_ROWS = 100


def write_project(folder: Path, *, seed: int, quick: bool) -> Path:
    """Write the molecules and a configuration into a folder, and return the configuration.

    Args:
        folder: the folder to write.
        seed: seed of everything random.
        quick: a tiny network on a hundred molecules: shows that everything works, no more.
    """
    molecules = solubility()
    (folder / "data").mkdir(parents=True)
    parts = {
        "train": (molecules.train_smiles, molecules.train_y),
        "test": (molecules.test_smiles, molecules.test_y),
    }
    rng = np.random.default_rng(seed)
    for name, (smiles, y) in parts.items():
        every = np.arange(len(y))  # in the order of the file, which sorts them by class
        rows = np.sort(rng.choice(every, QUICK_ROWS, replace=False)) if quick else every
        _write_csv(folder / "data" / f"{name}.csv", [smiles[i] for i in rows], y[rows])
    text = files("nbcore.cli").joinpath("demo.toml").read_text(encoding="utf-8")
    numbers = QUICK if quick else FULL
    path = folder / "config.toml"
    path.write_text(Template(text).substitute(numbers, seed=seed), encoding="utf-8")
    return path


def copy_data(project: Path, folder: Path) -> None:
    """Write the molecules next to the configuration of a run, so that it can be repeated."""
    shutil.copytree(project / "data", folder / "data")


def _write_csv(path: Path, smiles: Sequence[str], y: np.ndarray) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["smiles", "log_solubility"])
        writer.writerows((s, f"{value:.6g}") for s, value in zip(smiles, y, strict=True))
