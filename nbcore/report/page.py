"""The report as one HTML text, and its summary picture."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from nbcore.common.digits import shown
from nbcore.report import figures
from nbcore.report.data import ReportData
from nbcore.report.evaluation import LEVELS
from nbcore.report.style import png_bytes, styled, svg_uri


def build_report(data: ReportData) -> str:
    """Return a report as one HTML page, with its figures inside.

    Args:
        data: its contents.

    Returns:
        The page; the same data give the same text.
    """
    template = files("nbcore.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    page = environment().from_string(template)
    rows = data.predictions
    inside = int(np.sum((rows.low <= rows.y) & (rows.y <= rows.high)))
    return page.render(
        data=data,
        inside=inside,
        count=len(rows.y),
        levels=LEVELS,
        shown=shown,
        results=[{"name": way.name, **way.to_data()} for way in data.ways],
        stochastic=sum(layer.stochastic for layer in data.layers),
        total=sum(layer.total for layer in data.layers),
        figures=_figures(data),
    )


def environment() -> Environment:
    """Return the settings of all pages: what comes from data is escaped."""
    return Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def summary_picture(data: ReportData) -> bytes:
    """Return a PNG: predictions with intervals, and coverage of the first way against the last.

    Args:
        data: its contents; the first of several ways of predicting is the naive one.
    """
    ways = [data.ways[0], data.ways[-1]] if len(data.ways) > 1 else list(data.ways)
    with styled():
        return png_bytes(figures.pair_of_panels(data.predictions, ways, data.target))


def _figures(data: ReportData) -> dict[str, Any]:
    rows = data.predictions
    with styled():
        drawn = {
            "parity": figures.panel(figures.draw_parity, rows, data.target),
            "calibration": figures.panel(figures.draw_calibration, data.ways),
            "errors": figures.panel(figures.draw_errors, rows),
            "layers": figures.layer_figure(data.layers),
        }
        if data.traces:
            drawn["traces"] = figures.trace_figure(data.traces)
        if data.kernels:
            drawn["kernels"] = figures.kernel_figure(data.kernels)
        return {name: svg_uri(figure) for name, figure in drawn.items()}
