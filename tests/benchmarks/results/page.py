"""Print the tables of docs/results.md and draw its figure, from what `run.py` kept.

python tests/benchmarks/results/page.py
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl
import numpy as np
from data import SETS, SPLITS

mpl.use("agg")
import matplotlib.pyplot as plt
from run import KEPT

NAMES = {"energy": "UCI energy", "concrete": "UCI concrete", "esol": "ESOL descriptors"}
PAGE = Path(__file__).parents[3] / "docs" / "results.md"
MARKS = ("<!-- tables -->", "<!-- end of tables -->")
PEERS = ("NeuroBayes, BNN", "NeuroBayes, PartialBNN", "GP")
Row = dict[str, float]
Results = dict[str, dict[str, dict[int, Row]]]


def read() -> Results:
    """Return figures by set, model and split, of models with a standard error on every set."""
    results: Results = {name: defaultdict(dict) for name in SETS}
    for line in KEPT.read_text().splitlines():
        row = json.loads(line)
        results[row["set"]][row["model"]][row["split"]] = row
    every = [models.items() for models in results.values()]
    whole = set.intersection(*({m for m, rows in items if len(rows) > 1} for items in every))
    return {name: {m: r for m, r in results[name].items() if m in whole} for name in SETS}


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def coverage(splits: dict[int, Row]) -> float:
    """Return the fraction of all test points that 95 % intervals hold."""
    rows = splits.values()
    return sum(row["inside"] for row in rows) / sum(row["rows"] for row in rows)


def differences(ours: dict[int, Row], theirs: dict[int, Row]) -> np.ndarray:
    """Return NLPD minus NLPD, on the splits that both have."""
    both = sorted(ours.keys() & theirs.keys())
    return np.array([ours[k]["nlpd"] - theirs[k]["nlpd"] for k in both])


def cell(values: np.ndarray) -> str:
    """Return a mean with its standard error."""
    mean, error = mean_and_error(values)
    return f"{mean:.3f} ± {error:.3f}"


def table(models: dict[str, dict[int, Row]]) -> str:
    """Return RMSE, NLPD and coverage of one data set, as markdown."""
    lines = ["| model | RMSE | NLPD | 95 % |", "|---|---|---|---|"]
    order = sorted(models, key=lambda m: np.mean([row["nlpd"] for row in models[m].values()]))
    for model in order:
        splits = models[model]
        columns = [
            cell(np.array([row[name] for row in splits.values()])) for name in ("rmse", "nlpd")
        ]
        few = "" if len(splits) == len(SPLITS) else f" ({len(splits)} splits)"
        columns.append(f"{coverage(splits):.3f}")
        lines.append(f"| {model}{few} | {' | '.join(columns)} |")
    return "\n".join(lines)


def against(results: Results, ours: str) -> str:
    """Return the paired differences of NLPD between our default and its peers."""
    lines = [f"| NLPD of {ours} minus that of | {' | '.join(NAMES.values())} |", "|---" * 4 + "|"]
    for peer in [p for p in PEERS if all(p in models for models in results.values())]:
        cells = [cell(differences(results[name][ours], results[name][peer])) for name in SETS]
        lines.append(f"| {peer} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(results: Results, ours: str, image: Path) -> None:
    """Draw NLPD against our default's, paired by split, and coverage."""
    models = sorted(
        results[SETS[0]],
        key=lambda m: np.mean([differences(results[n][m], results[n][ours]).mean() for n in SETS]),
    )
    height = np.arange(len(models))[::-1]
    figure, axes = plt.subplots(
        2, 3, figsize=(10, 2 + 0.4 * len(models)), sharey=True, layout="constrained"
    )
    for column, name in enumerate(SETS):
        top, bottom = axes[:, column]
        for y, model in zip(height, models, strict=True):
            splits = results[name][model]
            color = "C3" if model == ours else "C0" if model not in PEERS else "0.35"
            mean, error = mean_and_error(differences(splits, results[name][ours]))
            top.errorbar(mean, y, xerr=error, fmt="o", ms=5, color=color, capsize=2)
            bottom.plot(coverage(splits), y, "o", ms=5, color=color)
        top.axvline(0, color="C3", lw=0.8)
        top.locator_params(axis="x", nbins=5)
        top.set_title(NAMES[name])
        top.set_xlabel(f"NLPD minus that of {ours}")
        bottom.axvspan(0.92, 0.98, color="C2", alpha=0.15, lw=0)
        bottom.axvline(0.95, color="C2", lw=0.8)
        bottom.set_xlim(0.8, 1)
        bottom.set_xlabel("coverage of 95 % intervals")
        for axis in (top, bottom):
            axis.grid(axis="y", color="0.92")
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_yticks(height, models)
    figure.savefig(image, dpi=110)


def main() -> None:
    """Put the tables between the marks of the page, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--default", default="full")
    arguments = parser.parse_args()
    results = read()
    parts = [f"{NAMES[name]}:\n\n{table(results[name])}" for name in SETS]
    text = "\n\n".join([against(results, arguments.default), *parts])
    before, _, rest = PAGE.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}")
    draw(results, arguments.default, PAGE.with_name("images") / "results.png")


if __name__ == "__main__":
    main()
