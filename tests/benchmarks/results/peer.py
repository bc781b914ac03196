"""Fit NeuroBayes with its defaults to every split, in its own environment.

    python tests/benchmarks/results/peer.py --data FOLDER [--models BNN PartialBNN] [--splits 0 ...]

y is standardised for it, which it does not do itself and which its priors, of scale 1, are made
for; its draws are scored in the units of y, by the same functions as all others.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from data import SETS, SPLITS, Split, load
from run import CACHE, add, figures, kept

import nbcore as nb

sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))
from environments import interpreter, variables

NAMES = {"BNN": "NeuroBayes, BNN", "PartialBNN": "NeuroBayes, PartialBNN"}
SCRIPT = Path(__file__).with_name("neurobayes_.py")


def draws(split: Split, folder: Path, model: str) -> dict[str, np.ndarray]:
    """Return the outputs, noise and seconds of one fit."""
    mean, deviation = split.units
    work, result = folder / "split.npz", folder / "draws.npz"
    y = ((split.y - mean) / deviation).astype(np.float32)
    np.savez(work, X=split.X, y=y, test_X=split.test_X)
    command = [interpreter(SCRIPT.stem), SCRIPT, model, work, result]
    subprocess.run(command, check=True, env=variables())
    return dict(np.load(result))


def prediction(split: Split, found: dict[str, np.ndarray]) -> nb.Prediction:
    """Return the mixture of normals that the draws are, in the units of y."""
    mean, deviation = split.units
    means = mean + deviation * found["outputs"][..., None]
    return nb.Prediction(means, (deviation * found["noise"])[:, None, None] ** 2)


def main() -> None:
    """Fit what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--splits", type=int, nargs="+", default=list(SPLITS))
    arguments = parser.parse_args()
    folder = CACHE / "neurobayes"
    folder.mkdir(parents=True, exist_ok=True)
    done = kept()
    for number in arguments.splits:
        for name in arguments.sets:
            split = load(arguments.data, name, number)
            for model in arguments.models:
                if (NAMES[model], name, number) in done:
                    continue
                found = draws(split, folder, model)
                row = figures(prediction(split, found), split.test_y)
                add(NAMES[model], name, number, row, float(found["seconds"]))


if __name__ == "__main__":
    main()
