"""The style of all figures: colors for color-blind readers, plain axes, SVG or PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# The palette of Okabe and Ito (2008), "Color universal design".
OURS = "#0072b2"
NAIVE = "#d55e00"
OTHER = "#009e73"
INK = "#1f2933"
QUIET = "#8a94a0"
FAINT = "#e3e7eb"
CHAINS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")

_SETTINGS: dict[Any, Any] = {
    "axes.edgecolor": QUIET,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "path",
    "svg.hashsalt": "nbcore",
    "text.color": INK,
    "xtick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.color": QUIET,
    "ytick.labelcolor": INK,
}


@contextmanager
def styled() -> Generator[None]:
    """Apply the style within the context."""
    with mpl.rc_context(_SETTINGS):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches; no window and no global state."""
    return Figure(figsize=(width, height), layout="constrained")


def svg_uri(figure: Figure) -> str:
    """Return a figure as a data URI; the same figure gives the same text."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, dpi=180)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def png_bytes(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=180, metadata={"Software": None})
    return buffer.getvalue()


def figure_file(figure: Figure, kind: str) -> bytes:
    """Return a figure as a file of its own, `"svg"` or `"pdf"`."""
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"CreationDate": None}
    with styled():
        figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()
