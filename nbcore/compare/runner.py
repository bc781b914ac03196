"""Running the cells of a comparison in processes, and reading their table.

FOLDER/cells/DIGEST.json           the row of a cell, written whole or not at all
FOLDER/cells/DIGEST.safetensors    its traces and curves
FOLDER/trained/DIGEST              networks that several cells share
FOLDER/table.csv                   all rows
FOLDER/manifest.json               the plan in words, and versions
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from nbcore.common.options import check_choice, check_count
from nbcore.common.storage import write_text
from nbcore.compare.execution import execute, train
from nbcore.compare.plan import FORMAT, Cell, Plan, Row
from nbcore.errors import MissingExtraError, RunFolderError

PACKAGES = ("nbcore", "jax", "numpy")
SETTINGS = (
    "references", "budget", "seeds", "controls", "num_warmup", "num_chains", "max_draws", "epochs",
    "prior",
)  # fmt: skip
RETRIES = 1
"""How often a cell is tried again whose process died."""

Executor = Literal["processes", "dask"]
Work = Callable[[Cell, Path], Row]
Each = Callable[[Work, list[Cell], Path], Iterator[Row]]
OnRow = Callable[[Row, int, int], None]
"""`(row, cells that are done, all cells)`."""


def run(
    plan: Plan,
    out: str | Path,
    *,
    jobs: int = 1,
    executor: Executor = "processes",
    address: str | None = None,
    on_row: OnRow | None = None,
) -> list[Row]:
    """Run a comparison, or what is missing of it, and write its table.

    Each cell is one posterior, in a process that takes one cell after the other. Networks are
    trained once for each problem and seed. A cell that fails is a row with its error. The same
    call goes on where an interrupted one stopped, and a plan with more cells reuses what is there.

    Args:
        plan: the comparison. It is sent to other processes: networks must be picklable, and a
            script needs `if __name__ == "__main__":`.
        out: folder of the comparison, which is made if it is not there.
        jobs: number of processes.
        executor: `"processes"` of this machine, or `"dask"`, which hands cells to a Dask cluster
            whose workers see the folder under the same path.
        address: that of the Dask scheduler; `None` is the one that Dask's own configuration
            names, or a cluster of this machine.
        on_row: called after each cell that was run now.

    Returns:
        The rows of all cells of the plan, in the order of `plan.cells()`; columns are those of
        docs/comparing.md.

    Raises:
        RunFolderError: the folder cannot be written.
        OptionError: `jobs` is not a number of processes, or there is no such executor.
        MissingExtraError: Dask is not installed.
    """
    check_count(1, jobs=jobs)
    check_choice(get_args(Executor), executor=executor)
    folder = Path(out)
    try:
        (folder / "cells").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{folder} cannot hold a comparison ({error}).") from error
    cells = {cell.digest: cell for cell in plan.cells()}
    write_text(folder / "manifest.json", json.dumps(_manifest(plan), indent=1))
    rows = {digest: row for digest in cells if (row := _stored(folder, digest)) is not None}
    missing = [cell for digest, cell in cells.items() if digest not in rows]
    untrained = {cell.trained_digest: cell for cell in missing if cell.needs_training}
    each = _in_dask(address) if executor == "dask" else _in_processes(jobs)
    for _ in each(train, list(untrained.values()), folder):
        pass
    for row in each(execute, missing, folder):
        write_text(_place(folder, row["cell"]), json.dumps(row))
        rows[row["cell"]] = row
        if on_row is not None:
            on_row(row, len(rows), len(cells))
    table = [rows[digest] for digest in cells]
    _write_table(folder / "table.csv", table)
    return table


def load(folder: str | Path) -> Any:
    """Return the table of a comparison as a pandas data frame, one row for each cell.

    Args:
        folder: what `run` wrote; while it runs, the cells that are done.

    Raises:
        RunFolderError: there is no comparison.
        MissingExtraError: pandas is not installed.
    """
    try:
        import pandas  # noqa: PLC0415  no dependency of the library
    except ImportError as error:
        raise MissingExtraError("nb.compare.load", "compare", "pandas") from error
    return pandas.DataFrame(stored_rows(folder))


def stored_rows(folder: str | Path) -> list[Row]:
    """Return the rows of the cells that are done, in the order of their names.

    Raises:
        RunFolderError: there is no comparison.
    """
    files = sorted(Path(folder, "cells").glob("*.json"))
    if not files:
        raise RunFolderError(f"{folder} holds no comparison. Make one with nb.compare.run.")
    return [json.loads(file.read_text("utf-8")) for file in files]


def _in_processes(jobs: int) -> Each:
    """Return what yields rows as they come from processes of this machine.

    A cell whose process dies is tried once more, and then has failed.
    """
    context = multiprocessing.get_context("spawn")  # JAX has threads, which a fork would break

    def each(work: Work, cells: list[Cell], folder: Path) -> Iterator[Row]:
        waiting, tries = list(reversed(cells)), dict.fromkeys((c.digest for c in cells), 0)
        while waiting:
            running: dict[Future[Row], Cell] = {}
            is_broken = False
            with ProcessPoolExecutor(jobs, context, _end_with_parent) as pool:
                while (waiting and not is_broken) or running:
                    while waiting and len(running) < jobs and not is_broken:
                        cell = waiting.pop()
                        running[pool.submit(work, cell, folder)] = cell
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        cell = running.pop(future)
                        try:
                            yield future.result()
                        except BrokenProcessPool:
                            is_broken = True
                            tries[cell.digest] += 1
                            if tries[cell.digest] > RETRIES:
                                yield _died(cell)
                            else:
                                waiting.append(cell)

    return each


def _in_dask(address: str | None) -> Each:
    """Return what yields rows as they come from the workers of a Dask cluster."""
    try:
        import distributed  # noqa: PLC0415  no dependency of the library
    except ImportError as error:
        raise MissingExtraError("executor='dask'", "cluster", "distributed") from error

    def each(work: Work, cells: list[Cell], folder: Path) -> Iterator[Row]:
        if not cells:
            return
        where = folder.resolve()
        with distributed.Client(address) as client:
            futures = client.map(lambda cell: work(cell, where), cells, pure=False, retries=RETRIES)
            found = dict(zip(futures, cells, strict=True))
            for future in distributed.as_completed(futures):
                try:
                    yield future.result()
                except distributed.KilledWorker:
                    yield _died(found[future])

    return each


def _end_with_parent() -> None:
    """End this process when the one that it works for is gone, killed perhaps."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait_for_it() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_it, daemon=True).start()


def _died(cell: Cell) -> Row:
    return cell.columns() | {
        "status": "failed",
        "error_type": "ProcessDied",
        "error": "Its process died twice, for lack of memory perhaps.",
    }


def _place(folder: Path, digest: str) -> Path:
    return folder / "cells" / f"{digest}.json"


def _stored(folder: Path, digest: str) -> Row | None:
    place = _place(folder, digest)
    return json.loads(place.read_text("utf-8")) if place.exists() else None


def _write_table(path: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _manifest(plan: Plan) -> dict[str, Any]:
    """Return the plan in words, and the versions that figures depend on."""
    return {
        "format": FORMAT,
        "problems": {p.name: [repr(p.network), p.digest] for p in plan.problems},
        "choices": [repr(choice) for choice in plan.choices],
        "methods": [repr(method) for method in plan.methods],
        **{name: repr(getattr(plan, name)) for name in SETTINGS},
        "versions": {package: version(package) for package in PACKAGES},
    }  # fmt: skip
