"""The report of a comparison: one HTML page that needs no other file, or Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from nbcore.common import storage
from nbcore.common.digits import shown
from nbcore.common.options import check_choice
from nbcore.compare.conclusions import sentences
from nbcore.compare.plan import Row
from nbcore.compare.runner import stored_rows
from nbcore.compare.standings import Standing, cell_name, standings

Format = Literal["html", "md"]
COLUMNS = {
    "problem": "problem", "selector": "selector", "size": "size", "control": "control",
    "backend": "sampler", "seed": "seed", "rmse": "RMSE", "accuracy": "accuracy", "nlpd": "NLPD",
    "coverage_95": "in 95 %", "spearman": "rank corr.", "distance_mean": "bias",
    "distance_deviation": "deviations off", "r_hat_predictions": "R-hat", "ess_predictions": "ESS",
    "gradients": "gradients", "seconds_total": "seconds",
}  # fmt: skip


def report(folder: str | Path, format: Format = "html") -> Path:
    """Write the report of a comparison into its folder.

    Conclusions in words come first, then figures, all cells in a table that can be sorted, the
    failures, and the exact configuration.

    Args:
        folder: what `nb.compare.run` wrote.
        format: `"html"`, one page with its figures inside, or `"md"`, Markdown without figures.

    Returns:
        The file: `report.html` or `report.md`.

    Raises:
        RunFolderError: there is no comparison, or the file cannot be written.
        MissingExtraError: figures need the extra `report`.
    """
    check_choice(get_args(Format), format=format)
    rows, folder = stored_rows(folder), Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    text = _markdown(rows, manifest) if format == "md" else _html(rows, folder, manifest)
    path = folder / f"report.{format}"
    storage.write_text(path, text)
    return path


def figure_bytes(folder: str | Path, name: str, kind: Literal["svg", "pdf"] = "svg") -> bytes:
    """Return one figure of the report as SVG or PDF, for papers.

    Args:
        folder: what `nb.compare.run` wrote.
        name: `"cost"`, `"seconds"`, `"bias"`, `"heat"`, `"calibration"` or `"traces"`.
        kind: file format.

    Raises:
        OptionError: there is no such figure of this comparison.
        MissingExtraError: figures need the extra `report`.
    """
    rows, folder = stored_rows(folder), Path(folder)
    drawn = _figures(rows, _curves(rows, folder))
    check_choice(tuple(drawn), name=name)
    from nbcore.report.style import figure_file  # noqa: PLC0415  needs the extra

    return figure_file(drawn[name], kind)


def _html(rows: Sequence[Row], folder: Path, manifest: dict[str, Any]) -> str:
    from nbcore.report.page import environment  # noqa: PLC0415  needs the extra
    from nbcore.report.style import styled, svg_uri  # noqa: PLC0415

    template = files("nbcore.compare").joinpath("comparison.html.j2").read_text(encoding="utf-8")
    with styled():
        figures = {k: svg_uri(f) for k, f in _figures(rows, _curves(rows, folder)).items()}
    columns = _columns(rows)
    return environment().from_string(template).render(
        sentences=sentences(rows), methods=standings(rows), behind=_behind, figures=figures,
        columns=columns, rows=rows, cell=_cell, name=cell_name, manifest=manifest,
        failed=[row for row in rows if row["status"] != "finished"],
    )  # fmt: skip


def _curves(rows: Sequence[Row], folder: Path) -> dict[str, Any]:
    places = {row["cell"]: folder / "cells" / f"{row['cell']}.safetensors" for row in rows}
    return {cell: storage.read_arrays(place)[0] for cell, place in places.items() if place.exists()}


def _figures(rows: Sequence[Row], curves: dict[str, Any]) -> dict[str, Any]:
    """Return the figures for which there is something to draw."""
    from nbcore.compare import figures  # noqa: PLC0415  needs the extra
    from nbcore.report.style import new_figure  # noqa: PLC0415

    def panel(draw: Callable[..., None], *arguments: Any) -> Any:
        figure = new_figure(4.2, 3.6)
        draw(figure.add_subplot(), *arguments)
        return figure

    found: dict[str, Any] = {}
    if any(row.get("nlpd") is not None and row["backend"] for row in rows):
        for name, column in (("cost", "gradients"), ("seconds", "seconds_sampling")):
            label = "gradients of all chains" if name == "cost" else "seconds of sampling"
            found[name] = panel(figures.draw_cost, rows, column, f"{label} (mean)")
    with_bias = [row for row in rows if "bias" in curves.get(row["cell"], {})]
    if with_bias:
        hardest = max(with_bias, key=lambda row: row["distance_mean"])["problem"]
        found["bias"] = panel(figures.draw_bias, with_bias, curves, hardest)
    if len({(r["selector"], r["size"]) for r in rows if r["selector"] and r.get("nlpd")}) > 1:
        found["heat"] = panel(figures.draw_heat, rows)
    if any("observed" in each for each in curves.values()):
        found["calibration"] = panel(figures.draw_calibration, rows, curves)
    with_traces = [
        row for row in rows if "worst" in curves.get(row["cell"], {}) and row["r_hat_predictions"]
    ]
    if with_traces:
        worst = max(with_traces, key=lambda row: row["r_hat_predictions"])
        found["traces"] = panel(figures.draw_traces, curves[worst["cell"]], worst)
    return found


def _markdown(rows: Sequence[Row], manifest: dict[str, Any]) -> str:
    parts = ["# Comparison", *sentences(rows), "## Samplers"]
    lines = ["| place | sampler | mean rank | blocks | behind the first | against it |"]
    lines.append("|---|---|---|---|---|---|")
    lines += [
        f"| {one.place} | {_plain(one.name)} | {_cell(one.mean_rank)} | {one.num_blocks} | "
        f"{_behind(one)} | {_plain('; '.join(one.reasons))} |"
        for one in standings(rows)
    ]
    parts.append("\n".join(lines))
    columns = _columns(rows)
    lines = [f"| {' | '.join(columns.values())} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(_plain(_cell(row.get(c))) for c in columns)} |" for row in rows]
    parts += ["## Cells", "\n".join(lines)]
    failed = [row for row in rows if row["status"] != "finished"]
    if failed:
        parts.append("## Failures")
        parts.append("\n".join(f"- {_plain(cell_name(r))}: {_plain(r['error'])}" for r in failed))
    parts += ["## Configuration", f"```json\n{json.dumps(manifest, indent=1)}\n```"]
    return "\n\n".join(parts) + "\n"


def _columns(rows: Sequence[Row]) -> dict[str, str]:
    """Return the columns in which some row has something."""
    return {k: v for k, v in COLUMNS.items() if any(row.get(k) not in (None, "") for row in rows)}


def _behind(one: Standing) -> str:
    return "" if one.behind is None else str(one.behind)


def _cell(value: Any) -> str:
    if value is None or value != value:  # NaN
        return ""
    return shown(value) if isinstance(value, float) else str(value)


def _plain(text: str) -> str:
    """Return a text that ends no cell of a table, and no line."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
