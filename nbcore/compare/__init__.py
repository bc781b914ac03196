"""Comparisons of samplers, selectors and sizes at equal budgets."""

from __future__ import annotations

from nbcore.compare.pages import figure_bytes, report
from nbcore.compare.plan import (
    Budget,
    Choice,
    DataSet,
    Method,
    Plan,
    Problem,
    Row,
)
from nbcore.compare.runner import load, run
from nbcore.compare.standings import Standing, standings

__all__ = [
    "Budget",
    "Choice",
    "DataSet",
    "Method",
    "Plan",
    "Problem",
    "Row",
    "Standing",
    "figure_bytes",
    "load",
    "report",
    "run",
    "standings",
]
