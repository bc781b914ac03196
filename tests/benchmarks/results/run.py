"""Fit every model to every split, and keep the figures as one JSON line each.

    python tests/benchmarks/results/run.py --data FOLDER [--models full GP ...] [--splits 0 1 ...]

The folder has `uci_energy`, `uci_concrete` and `esol`. Lines that exist are kept, so that a run
that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from data import SETS, SPLITS, load
from models import MODELS, Model

import nbcore as nb

KEPT = Path(__file__).with_name("figures.jsonl")


def figures(prediction: nb.Prediction, y: np.ndarray) -> dict[str, float]:
    """Return error, NLPD of the mixture over draws, and how many y a 95 % interval holds."""
    return {
        "rmse": nb.metrics.rmse(y, prediction.mean),
        "nlpd": prediction.nlpd(y),
        "inside": round(prediction.coverage(y, 0.95) * len(y)),
        "rows": len(y),
    }


def kept() -> set[tuple[str, str, int]]:
    """Return which model, data set and split are done."""
    lines = KEPT.read_text().splitlines() if KEPT.exists() else []
    return {(r["model"], r["set"], r["split"]) for r in map(json.loads, lines)}


def add(model: str, name: str, split: int, row: dict[str, float], seconds: float) -> None:
    """Keep one line."""
    line = json.dumps({"model": model, "set": name, "split": split, **row, "seconds": seconds})
    with KEPT.open("a") as file:
        file.write(f"{line}\n")
    print(line, flush=True)


def fit_missing(models: Mapping[str, Model], description: str) -> None:
    """Fit the models that the command line asks for, where no line is kept of them.

    Args:
        models: by the name that is kept.
        description: what `--help` says.
    """
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=models, default=list(models))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--splits", type=int, nargs="+", default=list(SPLITS))
    arguments = parser.parse_args()
    done = kept()
    for number in arguments.splits:
        for name in arguments.sets:
            split = load(arguments.data, name, number)
            for model in arguments.models:
                if (model, name, number) in done:
                    continue
                begin = time.perf_counter()
                row = figures(models[model](split, number), split.test_y)
                add(model, name, number, row, time.perf_counter() - begin)
                jax.clear_caches()  # a process has room for a few thousand programs


if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)
    fit_missing(MODELS, __doc__)
