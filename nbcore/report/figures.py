"""Figures of a report, one idea each; every function draws on given axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nbcore.report.data import LayerShare, PartlySampled, Predictions, Trace
from nbcore.report.evaluation import Evaluation
from nbcore.report.style import CHAINS, FAINT, INK, NAIVE, OTHER, OURS, QUIET, new_figure

MANY_POINTS = 2000
GROUPS = 8
CURVE = np.arange(1, 100) / 100


def draw_parity(axes: Axes, rows: Predictions, target: str) -> None:
    """Draw predicted against measured, with 95 % intervals; misses stand out."""
    inside = (rows.low <= rows.y) & (rows.y <= rows.high)
    for hit, color, word in ((inside, OURS, "inside"), (~inside, NAIVE, "outside")):
        if not hit.any():
            continue
        below, above = rows.mean[hit] - rows.low[hit], rows.high[hit] - rows.mean[hit]
        axes.errorbar(
            rows.y[hit], rows.mean[hit], yerr=np.stack([below, above]), fmt="o",
            markersize=3, color=color, ecolor=color, elinewidth=0.7, alpha=0.55,
            markeredgewidth=0, label=f"{word} the interval: {hit.sum():,}",
            rasterized=len(inside) > MANY_POINTS,
        )  # fmt: skip
    ends = [float(min(rows.y.min(), rows.mean.min())), float(max(rows.y.max(), rows.mean.max()))]
    axes.plot(ends, ends, color=INK, linewidth=0.9, zorder=1)
    axes.set(xlabel=f"measured {target}", ylabel=f"predicted {target}")
    _legend_above(axes)


def draw_calibration(axes: Axes, ways: Sequence[Evaluation]) -> None:
    """Draw observed against promised coverage, one line for each way of predicting."""
    count = len(ways[-1].ranks)
    wobble = 1.96 * np.sqrt(CURVE * (1 - CURVE) / count)
    axes.fill_between(
        CURVE, CURVE - wobble, CURVE + wobble, color=FAINT, linewidth=0,
        label=f"calibrated, {count:,} rows",
    )  # fmt: skip
    for way, (color, line) in zip(ways, _looks(len(ways)), strict=True):
        axes.plot(CURVE, way.coverage(CURVE), line, color=color, linewidth=1.8, label=way.name)
    axes.set(
        xlabel="promised coverage", ylabel="observed coverage", xlim=(0, 1), ylim=(0, 1),
        aspect="equal",
    )  # fmt: skip
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    _legend_above(axes)


def _legend_above(axes: Axes) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderaxespad=0.3, handlelength=1.6,
        labelspacing=0.3,
    )  # fmt: skip


def _looks(count: int) -> list[tuple[str, str]]:
    """Return color and line of each way: ours last, the naive one first."""
    return {
        1: [(OURS, "-")],
        2: [(NAIVE, "--"), (OURS, "-")],
    }.get(count, [(NAIVE, "--"), *[(OTHER, "-.")] * (count - 2), (OURS, "-")])


def draw_errors(axes: Axes, rows: Predictions) -> None:
    """Draw absolute error against predicted standard deviation, and its root mean square."""
    error = np.abs(rows.y - rows.mean)
    axes.plot(
        rows.deviation, error, "o", markersize=3, markeredgewidth=0, color=QUIET, alpha=0.6,
        rasterized=len(error) > MANY_POINTS,
    )  # fmt: skip
    groups = np.array_split(np.argsort(rows.deviation, kind="stable"), min(GROUPS, len(error)))
    centers = [float(np.sqrt(np.mean(rows.deviation[g] ** 2))) for g in groups]
    actual = [float(np.sqrt(np.mean(error[g] ** 2))) for g in groups]
    ends = np.array([rows.deviation.min(), rows.deviation.max()])
    axes.plot(ends, ends, color=INK, linewidth=0.9, label="error = predicted deviation")
    axes.plot(ends, 1.96 * ends, "--", color=INK, linewidth=0.9, label="95 % of examples below")
    axes.plot(
        centers, actual, "s-", color=OURS, markersize=5, linewidth=1.2,
        label="root mean square of each group",
    )  # fmt: skip
    axes.set(xlabel="predicted standard deviation", ylabel="absolute error")
    axes.set_ylim(bottom=0)
    _legend_above(axes)


def trace_figure(traces: Sequence[Trace]) -> Figure:
    """Return one panel for each number: its draws, a line for each chain."""
    figure = new_figure(9, 1.55 * len(traces))
    panels = np.atleast_1d(figure.subplots(len(traces), 1, sharex=True))
    for axes, trace in zip(panels, traces, strict=True):
        for chain, draws in enumerate(trace.draws):
            color = CHAINS[chain % len(CHAINS)]
            axes.plot(
                _thinned(draws), draws[_thinned(draws)], color=color, linewidth=0.6, alpha=0.8
            )
        axes.set_title(f"{trace.label}    R-hat {trace.r_hat:.3f}    ESS {trace.ess:,.0f}")
        axes.margins(x=0)
    panels[-1].set_xlabel("draw")
    return figure


def _thinned(draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return at most 1,000 evenly spaced positions: more cannot be seen."""
    return np.unique(np.linspace(0, len(draws) - 1, min(len(draws), 1000)).astype(np.int64))


def layer_figure(layers: Sequence[LayerShare]) -> Figure:
    """Return bars: which fraction of each layer is sampled."""
    figure = new_figure(9, 0.6 + 0.27 * len(layers))
    axes = figure.subplots()
    rows = np.arange(len(layers))
    axes.barh(rows, [1.0] * len(layers), color=FAINT, height=0.62)
    axes.barh(rows, [layer.stochastic / layer.total for layer in layers], color=OURS, height=0.62)
    for row, layer in zip(rows, layers, strict=True):
        said = (
            f"{layer.stochastic:,} of {layer.total:,}" if layer.stochastic else f"{layer.total:,}"
        )
        axes.text(
            1.01, float(row), said, va="center", fontsize=8.5,
            color=INK if layer.stochastic else QUIET,
        )  # fmt: skip
    axes.set_yticks(rows, [layer.name for layer in layers])
    axes.set(xlim=(0, 1), ylim=(len(layers) - 0.4, -0.6), xlabel="sampled fraction of the layer")
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    return figure


def kernel_figure(kernels: Sequence[PartlySampled]) -> Figure:
    """Return a map for each kernel: which entries are sampled, colored by their spread."""
    columns = min(2, len(kernels))
    rows = math.ceil(len(kernels) / columns)
    figure = new_figure(9, 3.4 * rows)
    panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    spread = np.concatenate([kernel.deviation for kernel in kernels])
    limits = {"vmin": float(spread.min()), "vmax": float(spread.max())}
    shown = None
    for axes, kernel in zip(panels, kernels, strict=False):
        size = 0.8 * 72 * min(7.2 / columns / kernel.shape[1], 2.6 / kernel.shape[0])
        shown = axes.scatter(
            kernel.pairs[:, 1], kernel.pairs[:, 0], c=kernel.deviation, cmap="cividis_r",
            marker="s", s=float(np.clip(size, 2.0, 14.0)) ** 2, linewidths=0, **limits,
        )  # fmt: skip
        axes.set(
            xlabel=kernel.axes[1], ylabel=kernel.axes[0],
            xlim=(-0.7, kernel.shape[1] - 0.3), ylim=(kernel.shape[0] - 0.3, -0.7),
        )  # fmt: skip
        axes.set_title(f"{kernel.name}    {len(kernel.pairs):,} of {math.prod(kernel.shape):,}")
    for axes in panels[len(kernels) :]:
        axes.set_visible(False)
    if shown is not None:
        figure.colorbar(shown, ax=panels.tolist(), label="posterior deviation", shrink=0.8)
    return figure


def panel(draw: Callable[..., None], *arguments: Any) -> Figure:
    """Return a figure of one panel."""
    figure = new_figure(4.6, 4.3)
    draw(figure.subplots(), *arguments)
    return figure


def pair_of_panels(rows: Predictions, ways: Sequence[Evaluation], target: str) -> Figure:
    """Return parity and calibration side by side."""
    figure = new_figure(9.4, 4.4)
    left, right = figure.subplots(1, 2)
    draw_parity(left, rows, target)
    draw_calibration(right, ways)
    return figure
