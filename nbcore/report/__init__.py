"""The report of a run: figures and tables in one HTML file that needs no other file.

Reports are made from plain data (`ReportData`), so that they can be tried without sampling.
"""

from __future__ import annotations

from nbcore.errors import MissingExtraError
from nbcore.report.data import (
    LayerShare,
    PartlySampled,
    Predictions,
    ReportData,
    Trace,
    layer_shares,
    partly_sampled,
    worst_traces,
)
from nbcore.report.evaluation import LEVELS, Evaluation, evaluation_of

try:
    from nbcore.report.page import build_report, summary_picture
except ModuleNotFoundError as error:
    raise MissingExtraError("A report", "report", error.name) from error

__all__ = [
    "LEVELS",
    "Evaluation",
    "LayerShare",
    "PartlySampled",
    "Predictions",
    "ReportData",
    "Trace",
    "build_report",
    "evaluation_of",
    "layer_shares",
    "partly_sampled",
    "summary_picture",
    "worst_traces",
]
