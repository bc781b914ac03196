"""Output on the terminal: errors, remarks, bars and tables, in plain text outside of a terminal."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table

from nbcore.common.digits import shown
from nbcore.common.progress import Lines, Progress, Report
from nbcore.errors import NbcoreError


def out() -> Console:
    """Return the console for results, on the current standard output."""
    return Console(highlight=False)


def err() -> Console:
    """Return the console for everything else, on the current standard error."""
    return Console(stderr=True, highlight=False)


def show_error(error: NbcoreError) -> None:
    """Print an error without a traceback."""
    err().print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True)


def remark(text: str) -> None:
    """Print a remark, on standard error."""
    err().print(f"[yellow]Note:[/] {escape(text)}", soft_wrap=True)


class _Remarks(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        remark(record.getMessage())


@contextmanager
def remarks() -> Generator[None]:
    """Show warnings and log messages of nbcore as remarks, without file names and source lines."""
    handler, logger = _Remarks(logging.INFO), logging.getLogger("nbcore")
    level, as_before = logger.level, warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, UserWarning):
            remark(str(message))
        else:
            as_before(message, category, *place, **more)

    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def progress() -> Generator[Progress]:
    """Yield the function to report progress to: bars in a terminal, otherwise occasional lines."""
    console = err()
    if not console.is_terminal:
        yield Lines()
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )  # fmt: skip
    with RichProgress(*columns, console=console) as bars:
        yield _Bars(bars)


class _Bars:
    """One bar for training and one for each chain, reset at each phase."""

    def __init__(self, bars: RichProgress) -> None:
        self.bars = bars
        self.tasks: dict[str, TaskID] = {}
        self.last: dict[str, Report] = {}
        self.lock = threading.Lock()  # chains report from their own threads

    def __call__(self, report: Report) -> None:
        if not report.total:  # nothing to count: a remark, such as the estimate of the cost
            self.bars.console.print(report.note, markup=False, highlight=False)
            return
        who = "" if report.chain is None else f"chain {report.chain + 1} "
        name = who or report.phase
        with self.lock:
            if name not in self.tasks:
                self.tasks[name] = self.bars.add_task("", note="")
            before = self.last.get(name)
            if before and (before.phase != report.phase or before.done > report.done):
                self.bars.reset(self.tasks[name])
            self.last[name] = report
            self.bars.update(
                self.tasks[name], description=f"{who}{report.phase}", total=report.total,
                completed=report.done, note=report.note,
            )  # fmt: skip


def results_table(results: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Return a table of results: a row for each way of predicting, the Bayesian network last."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("")  # wraps in a narrow terminal; numbers never do
    levels = list(results[0]["coverage"])
    for heading in ("RMSE", "NLPD", *(f"in {level.replace('%', ' %')}" for level in levels)):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("rank (best)", justify="right", no_wrap=True)
    for result in results:
        shares = [f"{100 * share:.1f} %" for share in result["coverage"].values()]
        numbers = [shown(result["rmse"]), shown(result["nlpd"]), *shares, _rank(result)]
        table.add_row(result["name"], *numbers, style="bold" if result is results[-1] else "")
    return table


def _rank(result: Mapping[str, Any]) -> str:
    """Return the rank correlation of deviation and error, and what calibrated errors would give."""
    ranking = result["ranking"]
    if ranking is None:
        return "all alike"
    return f"{ranking['rank_correlation']:.2f} ({ranking['reference']:.2f})"
