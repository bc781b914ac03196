"""The three data sets, their splits, and the units that every model gets them in."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

SETS = ("energy", "concrete", "esol")
SPLITS = range(5)


class Split(NamedTuple):
    """Training and test rows of one split; X standardized by the training rows, y in its units."""

    X: np.ndarray
    y: np.ndarray
    test_X: np.ndarray
    test_y: np.ndarray

    @property
    def units(self) -> tuple[float, float]:
        """Mean and standard deviation of the training targets."""
        return float(self.y.mean()), float(self.y.std())


def load(data: Path, name: str, split: int) -> Split:
    """Read one split: of `uci_*` the published one, of ESOL half of the rows, by seed."""
    if name == "esol":
        arrays = np.load(data / "esol" / "esol.npz")
        X, y = arrays["features"], arrays["targets"]
        order = np.random.default_rng(split).permutation(len(y))
        train, test = order[: len(y) // 2], order[len(y) // 2 :]
    else:
        folder = data / f"uci_{name}"
        table = np.loadtxt(folder / "data.txt")
        X = table[:, _indices(folder / "index_features.txt")]
        y = table[:, int(_indices(folder / "index_target.txt"))]
        train = _indices(folder / f"index_train_{split}.txt")
        test = _indices(folder / f"index_test_{split}.txt")
    shift, scale = X[train].mean(axis=0), X[train].std(axis=0)
    X, y = ((X - shift) / scale).astype(np.float32), y.astype(np.float32)
    return Split(X[train], y[train], X[test], y[test])


def _indices(path: Path) -> np.ndarray:
    return np.loadtxt(path).astype(int)
