"""The folder of a run, written by `nbcore run` and read by `nbcore predict`."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import nbcore
from nbcore.cli.inputs import OK, UNLIKE, Inputs, Reading, inputs_from_data
from nbcore.cli.job import Outcome
from nbcore.common.digits import digits_of
from nbcore.datasets import Table
from nbcore.errors import NbcoreError, RunFolderError
from nbcore.estimators.loading import load
from nbcore.estimators.partial_bnn import PartialBNN
from nbcore.posterior.posterior import NetworkPosterior
from nbcore.posterior.prediction import Prediction
from nbcore.report import (
    Predictions,
    ReportData,
    build_report,
    layer_shares,
    partly_sampled,
    worst_traces,
)

FORMAT = "nbcore-run-2"
MARKER = "run.json"
MODEL = "model"
ROWS_AT_ONCE = 1024
LEVELS = (0.025, 0.975)
COLUMNS = (
    "line", "y", "mean", "sd", "q2.5", "q97.5", "epistemic_sd", "aleatoric_sd", "epistemic_share",
    "status",
)  # fmt: skip
OUTSIDE = "more epistemic variance than at 99 % of the training rows"


@dataclass(frozen=True)
class StoredRun:
    """A run that was loaded.

    Args:
        inputs: conversion of rows to inputs.
        target: the column of y.
        model: the fitted model.
    """

    inputs: Inputs
    target: str
    model: PartialBNN

    def predict(self, reading: Reading) -> Iterator[tuple[np.ndarray, Prediction]]:
        """Yield readable rows of a table and their predictions, part by part."""
        for start in range(0, len(reading.rows), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            yield reading.rows[some], self.model.predict_distribution(reading.X[some])


def write_run(outcome: Outcome, folder: Path) -> ReportData:
    """Write a run into an empty folder, and return the contents of its report."""
    job, model = outcome.job, outcome.model
    inputs, target = job.inputs, job.config.data.target
    model.save(folder / MODEL, tokenizer=getattr(inputs, "tokenizer", None))
    facts = {
        "format": FORMAT,
        "version": nbcore.__version__,
        "inputs": inputs.to_data(),
        "target": target,
    }
    _write_json(folder / MARKER, facts)
    (folder / "config.toml").write_text(job.config.source.text, encoding="utf-8")
    _write_json(folder / "metrics.json", metrics(outcome))
    parts = [(np.arange(len(job.test.y)), outcome.prediction)]
    status = inputs.read(job.test.table).status
    text = predictions_csv(job.test.table, inputs, parts, status, job.test.y)
    (folder / "predictions.csv").write_text(text, encoding="utf-8", newline="")
    data = report_data(outcome)
    (folder / "report.html").write_text(build_report(data), encoding="utf-8")
    return data


def read_run(folder: Path) -> StoredRun:
    """Load a run.

    Raises:
        RunFolderError: the folder holds no run, or a damaged one.
    """
    try:
        facts = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        if facts.get("format") != FORMAT:
            raise RunFolderError(
                f"{folder} has the format {facts.get('format')!r}; this version reads {FORMAT!r}."
            )
        model = load(folder / MODEL)
        inputs = inputs_from_data(facts["inputs"], model.tokenizer)
        return StoredRun(inputs, facts["target"], model)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, NbcoreError):
            raise
        raise RunFolderError(
            f"{folder} holds no readable run ({type(error).__name__}: {error}). Runs are made by "
            "nbcore run."
        ) from error


def metrics(outcome: Outcome) -> dict[str, Any]:
    """Return the measurements of a run as JSON data."""
    posteriors = outcome.model.posteriors
    first = posteriors[0]
    return {
        "format": "nbcore-metrics-1",
        "test_rows": len(outcome.job.test.y),
        "results": {way.name: way.to_data() for way in outcome.evaluations},
        "seconds": outcome.seconds,
        "weights": {
            "stochastic": first.split.size,
            "total": first.split.total_size,
        },
        "diagnostics": [_diagnostics(posterior) for posterior in posteriors],
    }


def _diagnostics(posterior: NetworkPosterior) -> dict[str, Any]:
    found = posterior.diagnostics()
    return {
        "worst": [{"name": n, "r_hat": r, "ess_bulk": e} for n, r, e in found.worst(5)],
        "ess_bulk_min": min(float(np.min(v)) for v in found.ess_bulk.values()),
        "ess_tail_min": min(float(np.min(v)) for v in found.ess_tail.values()),
        "divergences": found.num_divergences,
        "acceptance_rate": found.acceptance_rate,
        "verdict": found.verdict(),
    }


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(_finite(data), indent=1), encoding="utf-8")


def _finite(data: Any) -> Any:
    """Return JSON data with null for numbers that are not finite: JSON has no NaN."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]  # pyright: ignore[reportUnknownVariableType]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def predictions_csv(
    table: Table,
    inputs: Inputs,
    parts: Iterator[tuple[np.ndarray, Prediction]] | Sequence[tuple[np.ndarray, Prediction]],
    status: Sequence[str],
    y: np.ndarray | None = None,
) -> str:
    """Return predictions as CSV: a line for each row, with its inputs.

    Args:
        table: the rows.
        inputs: which columns were read.
        parts: rows and their predictions; rows without one keep empty cells.
        status: of every row, see `Reading`.
        y: measured values, NaN if one is not known.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [n if n not in COLUMNS else f"{n} (input)" for n in inputs.columns]
    target = [] if y is None else ["y"]
    writer.writerow(["line", *names, *target, *COLUMNS[2:]])
    predicted: dict[int, list[str]] = {}
    digits: dict[int, int] = {}
    for rows, prediction in parts:
        columns = np.stack(_columns(prediction), axis=1)
        for row, numbers in zip(rows.tolist(), columns, strict=True):
            digits[row] = digits_of(*numbers[:2].tolist())
            predicted[row] = [f"{number:.{digits[row]}g}" for number in numbers]
        status = with_outside(status, rows, prediction)
    missing = [""] * len(COLUMNS[2:-1])
    for row, line in enumerate(table.line_numbers):
        cells = [table.columns[name][row] for name in inputs.columns]
        measured = (
            [] if y is None else ["" if np.isnan(y[row]) else f"{y[row]:.{digits.get(row, 17)}g}"]
        )
        writer.writerow([line, *cells, *measured, *predicted.get(row, missing), status[row]])
    return text.getvalue()


def with_outside(status: Sequence[str], rows: np.ndarray, prediction: Prediction) -> list[str]:
    """Return the status of all rows, with what the prediction says of those that it is of.

    Args:
        status: of every row, see `Reading`.
        rows: the rows that are predicted.
        prediction: their predictions; only those of a mixture know what is unlike training.
    """
    found = list(status)
    if prediction.epistemic_limit is None:
        return found
    for row in rows[prediction.is_outside].tolist():
        begin = f"{UNLIKE}: " if found[row] == OK else f"{found[row]}; "
        found[row] = begin + OUTSIDE
    return found


def _columns(prediction: Prediction) -> list[np.ndarray]:
    """Return the numbers of `COLUMNS`, from the mean on."""
    low, high = prediction.quantile(LEVELS)
    spreads = (prediction.variance, prediction.epistemic_variance, prediction.aleatoric_variance)
    sd, epistemic, aleatoric = (np.sqrt(v) for v in spreads)
    return [prediction.mean, sd, low, high, epistemic, aleatoric, prediction.epistemic_share]


def report_data(outcome: Outcome) -> ReportData:
    """Return the contents of the report of a run."""
    job, model, prediction = outcome.job, outcome.model, outcome.prediction
    low, high = prediction.quantile(LEVELS)
    first = model.posteriors[0]
    settings, seconds = first.info.settings, outcome.seconds
    facts = {
        "training rows": f"{len(job.train.y):,}",
        "network": job.config.network.name,
        "calibration": job.config.calibration.method,
        "sampler": f"{first.info.backend}, {settings['num_chains']} chains of "
        f"{settings['num_warmup']:,} + {settings['num_samples']:,} steps",
        "time": f"training {seconds['training']:.0f} s, sampling {seconds['sampling']:.0f} s",
    }
    status = job.inputs.read(job.test.table).status
    every = with_outside(status, np.arange(len(job.test.y)), prediction)
    known, unlike = (sum(text.startswith(UNLIKE) for text in texts) for texts in (status, every))
    facts["test rows unlike training"] = (
        f"{unlike} of {len(every)}, {known} of them by what was read"
    )
    verdicts = [posterior.diagnostics().verdict() for posterior in model.posteriors]
    members = [f"Member {k}: {verdict}" for k, verdict in enumerate(verdicts)]
    return ReportData(
        title=f"Predicting {job.config.data.target}",
        target=job.config.data.target,
        predictions=Predictions(
            job.test.y, prediction.mean, np.sqrt(prediction.variance), low, high
        ),
        ways=outcome.evaluations,
        traces=worst_traces(model.posteriors),
        layers=layer_shares(first.split) if first.split else [],
        kernels=partly_sampled(first),
        facts=facts,
        verdict=verdicts[0] if len(verdicts) == 1 else "\n".join(members),
    )
