"""Fit NeuroBayes with its defaults to every split, in its own environment.

    python tests/benchmarks/results/peer.py --data FOLDER [--models "NeuroBayes, BNN"]

y is standardized for it, which it does not do itself and which its priors, of scale 1, are made
for; its draws are scored in the units of y, by the same functions as all others.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
from data import Split
from run import fit_missing

import nbcore as nb

sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))
from environments import CACHE, interpreter, variables

SCRIPT = Path(__file__).with_name("neurobayes_.py")
FOLDER = CACHE / "work" / "results"


def fit(model: str, split: Split, _: int) -> nb.Prediction:
    """Return the mixture of normals that its draws are, in the units of y."""
    mean, deviation = split.units
    FOLDER.mkdir(parents=True, exist_ok=True)
    work, result = FOLDER / "split.npz", FOLDER / "draws.npz"
    y = ((split.y - mean) / deviation).astype(np.float32)
    np.savez(work, X=split.X, y=y, test_X=split.test_X)
    command = [interpreter(SCRIPT.stem), SCRIPT, model, work, result]
    subprocess.run(command, check=True, env=variables())
    found = dict(np.load(result))
    means = mean + deviation * found["outputs"][..., None]
    return nb.Prediction.normal(means, (deviation * found["noise"])[:, None, None] ** 2)


if __name__ == "__main__":
    names = ("BNN", "PartialBNN")
    fit_missing({f"NeuroBayes, {n}": functools.partial(fit, n) for n in names}, __doc__)
