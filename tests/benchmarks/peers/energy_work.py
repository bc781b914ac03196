"""The arrays of the row `energy`: UCI energy efficiency, split 0, and a trained MLP 32-16.

    python tests/benchmarks/peers/energy_work.py --data uci_energy --write energy.npz

The folder has `data.txt` with `index_features.txt`, `index_target.txt`, `index_train_0.txt` and
`index_test_0.txt`, as they come with Gal and Ghahramani (2016). Inputs and targets are
standardized by the training rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import nbcore as nb
from nbcore_flax import FlaxMLP

HIDDEN = (32, 16)


def split(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs and targets of training, and inputs of the test."""
    data = np.loadtxt(folder / "data.txt")
    index = {
        name: np.loadtxt(folder / f"index_{name}.txt").astype(int)
        for name in ("features", "target", "train_0", "test_0")
    }
    X, y = data[:, index["features"]], data[:, index["target"]].ravel()
    train, test = index["train_0"], index["test_0"]
    center, scale = X[train].mean(axis=0), X[train].std(axis=0)
    X = ((X - center) / np.where(scale > 0, scale, 1)).astype(np.float32)
    y = ((y - y[train].mean()) / y[train].std()).astype(np.float32)
    return X[train], y[train], X[test]


def main() -> None:
    """Train the network and write the arrays."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("uci_energy"))
    parser.add_argument("--write", default="energy.npz")
    arguments = parser.parse_args()
    X, y, test_X = split(arguments.data)
    network = FlaxMLP(hidden_dims=HIDDEN, activation="silu")
    trained = nb.DeterministicNN(network, learning_rate=3e-3)
    trained.train(X, y, epochs=500, batch_size=64, key=0, progress=False)
    weights = trained.params["params"].items()
    params = {
        f"params/{layer}/{k}": np.asarray(v) for layer, leaf in weights for k, v in leaf.items()
    }
    np.savez(arguments.write, X=X, y=y, test_X=test_X, **params)


if __name__ == "__main__":
    main()
