"""Figures of a comparison, one idea each; every function draws on given axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nbcore.compare.plan import Row
from nbcore.compare.standings import cell_name
from nbcore.report.style import CHAINS, INK, QUIET

MARKS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
LONGEST = 36
"""Characters of a name in a legend."""
Curves = Mapping[str, Mapping[str, Any]]
"""Arrays of each cell, by its name."""


def look(i: int) -> dict[str, Any]:
    """Return color and mark of the i-th method: marks differ where colors come again."""
    return {"color": CHAINS[i % len(CHAINS)], "marker": MARKS[i % len(MARKS)]}


def draw_cost(axes: Any, rows: Sequence[Row], cost: str, label: str) -> None:
    """Draw the mean NLPD of each method over its mean cost, and the line of the best at each."""
    points: list[tuple[float, float]] = []
    for i, name in enumerate(methods(rows)):
        own = [r for r in rows if r["backend"] == name and not r["control"] and _has(r, "nlpd")]
        own = [r for r in own if _has(r, cost)]
        if not own:
            continue
        x, y = (float(np.mean([r[column] for r in own])) for column in (cost, "nlpd"))
        points.append((x, y))
        axes.plot([x], [y], linestyle="none", markersize=8, label=name, **look(i))
    front = [(x, y) for x, y in sorted(points) if all(y <= v for u, v in points if u <= x)]
    axes.plot(*zip(*front, strict=True), color=QUIET, linewidth=1, zorder=0) if front else None
    if points and min(x for x, _ in points) > 0:
        axes.set_xscale("log")
    axes.set(xlabel=label, ylabel="NLPD of test examples (mean)")
    above(axes)


def draw_bias(axes: Any, rows: Sequence[Row], curves: Curves, problem: str) -> None:
    """Draw bias over gradients of each method on one reference; 0.1 is a squared bias of 1 %."""
    for i, name in enumerate(methods(rows)):
        own = [r for r in rows if r["backend"] == name and r["problem"] == problem]
        for n, row in enumerate(r for r in own if r["cell"] in curves):
            found = curves[row["cell"]]
            if "bias" in found and np.max(found["gradients"]) > 0:
                axes.plot(
                    found["gradients"], found["bias"], color=look(i)["color"], linewidth=1.2,
                    linestyle="-" if i < len(CHAINS) else "--", label=name if n == 0 else None,
                )  # fmt: skip
    axes.axhline(0.1, color=INK, linewidth=0.8)
    axes.set(
        xscale="log", yscale="log", xlabel="gradients of all chains",
        ylabel="bias, standard deviations of the reference",
    )  # fmt: skip
    above(axes)


def draw_heat(axes: Any, rows: Sequence[Row]) -> None:
    """Draw the mean NLPD of each selector and size."""
    own = [r for r in rows if r["selector"] and r["control"] in ("", "random") and _has(r, "nlpd")]
    names = list(dict.fromkeys(r["selector"] for r in own))
    sizes = sorted({r["size"] for r in own})
    table = np.full((len(names), len(sizes)), np.nan)
    for i, name in enumerate(names):
        for j, size in enumerate(sizes):
            values = [r["nlpd"] for r in own if (r["selector"], r["size"]) == (name, size)]
            table[i, j] = np.mean(values) if values else np.nan
    axes.imshow(table, cmap="cividis_r", aspect="auto")
    middle = np.nanmean(table)
    for (i, j), value in np.ndenumerate(table):
        color = "white" if value > middle else INK
        axes.text(
            j, i, "" if np.isnan(value) else f"{value:.3f}", ha="center", va="center", color=color
        )
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="weights", title="mean NLPD of test examples")
    axes.grid(False)


def draw_calibration(axes: Any, rows: Sequence[Row], curves: Curves) -> None:
    """Draw observed over promised coverage, the mean of each method."""
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.9)
    for i, name in enumerate(methods(rows)):
        own = [r["cell"] for r in rows if r["backend"] == name and not r["control"]]
        found = [curves[cell] for cell in own if "observed" in curves.get(cell, {})]
        if found:
            observed = np.mean([each["observed"] for each in found], axis=0)
            axes.plot(
                found[0]["expected"], observed, label=name, linewidth=1.4,
                color=look(i)["color"], linestyle="-" if i < len(CHAINS) else "--",
            )  # fmt: skip
    axes.set(xlabel="promised coverage", ylabel="observed coverage", aspect="equal")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    above(axes)


def draw_traces(axes: Any, curves: Mapping[str, Any], row: Row) -> None:
    """Draw the worst-mixing prediction of one cell, a line for each chain."""
    for i, chain in enumerate(curves["worst"]):
        axes.plot(chain, color=CHAINS[i % len(CHAINS)], linewidth=0.7)
    axes.set(
        xlabel="draw", ylabel="the prediction that mixes worst",
        title=cell_name(row)[:60],
    )  # fmt: skip


def methods(rows: Sequence[Row]) -> list[str]:
    """Return the names of the samplers, in the order of the alphabet."""
    return sorted({row["backend"] for row in rows if row.get("backend")})


def above(axes: Any) -> None:
    """Put the legend above the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    short = [text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…" for text in labels]
    ncols = 2 if max(map(len, short)) <= LONGEST // 2 else 1
    axes.legend(handles, short, loc="lower left", bbox_to_anchor=(0, 1), ncols=ncols,
                borderaxespad=0.2)  # fmt: skip


def _has(row: Row, column: str) -> bool:
    return isinstance(row.get(column), int | float)
