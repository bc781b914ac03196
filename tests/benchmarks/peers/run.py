"""nbcore beside its peers: one row of `docs/performance.md` at a time.

    python tests/benchmarks/peers/run.py --data FOLDER gradient-FinalDense1
    python tests/benchmarks/peers/run.py --list

Every peer runs in processes of its own, in an environment of its own (made on first use in
`.cache/peers`), in turns: peer, ours, peer, ours. The figure is the median of the rounds' ratios.
FOLDER holds `esol/delaney-processed.csv` and `uci_energy/data.txt` with its index files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from environments import CACHE, HERE, ROOT, interpreter, variables
from rows import ROWS, Figures, Row

MAKERS = {
    "esol": (HERE.parent / "esol_transformer.py", "esol/delaney-processed.csv"),
    "energy": (HERE / "energy_work.py", "uci_energy"),
}


def make_work(name: str, data: Path) -> Path:
    """Make the arrays that the runs read, once."""
    path = CACHE / "work" / f"{name}.npz"
    if not path.exists():
        script, source = MAKERS[name]
        if not (data / source).exists():
            raise SystemExit(f"{data / source} is not there. Type: --data FOLDER, see --help")
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, script, "--data", data / source, "--write", path]
        subprocess.run(command, check=True, env=variables())
    return path


def measure(script: str, task: str, work: Path) -> dict[str, Any]:
    """Run a peer in a process of its own; return what its last line says."""
    command = [interpreter(script), HERE / f"{script}.py", work, task]
    done = subprocess.run(command, env=variables(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script} {task} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run(row: Row, data: Path, rounds: int) -> list[Figures]:
    """Run all rounds of a row, in turns."""
    work = make_work(row.work, data)
    several: list[Figures] = []
    for number in range(rounds):
        figures: Figures = {}
        for label, (script, task) in row.runs.items():
            load = os.getloadavg()[0]
            figures[label] = measure(script, task, work) | {"load_before": load}
            print(f"round {number + 1}, {label}: {shown(figures[label])}", file=sys.stderr)
        several.append(figures)
    return several


def shown(figures: dict[str, Any]) -> str:
    """Return the single numbers of a run as text."""
    parts = (
        f"{k} ({shown(v)})" if isinstance(v, dict) else f"{k} {v:.4g}"
        for k, v in figures.items()
        if isinstance(v, dict | int | float) and k != "versions"
    )
    return ", ".join(parts)


def table(name: str, row: Row, several: list[Figures]) -> str:
    """Return a markdown table of one row, and a line for each further ratio."""
    ratios = [row.ratio(figures) for figures in several]
    figure = statistics.median(ratios)
    spread = f"{min(ratios):,.3g} – {max(ratios):,.3g}" if len(ratios) > 1 else ""
    required, holds = "", ""
    if row.bound is not None:
        required = f"{'≥' if row.at_least else '≤'} {row.bound:,g}{row.unit}"
        holds = "yes" if row.holds(figure) else "NO"
    cells = (name, row.what, f"{figure:,.3g}{row.unit}", spread, required, holds)
    columns = ("row", "what", "figure", "rounds", "required", "holds")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", f"| {' | '.join(cells)} |"]
    for what, ratio in row.also.items():
        other = statistics.median(ratio(figures) for figures in several)
        lines.append(f"| | {what} | {other:,.3g}{row.unit} | | | |")
    return "\n".join(lines)


def keep(name: str, row: Row, several: list[Figures], folder: Path) -> Path:
    """Write all that was measured."""
    ratios = [row.ratio(figures) for figures in several]
    also = {what: [ratio(f) for f in several] for what, ratio in row.also.items()}
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    content = {
        "row": name, "what": row.what, "figure": statistics.median(ratios), "ratios": ratios,
        "also": also, "bound": row.bound, "at_least": row.at_least, "machine": machine,
        "rounds": several,
    }  # fmt: skip
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def main() -> None:
    """Measure rows and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], metavar="ROW")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--rounds", type=int, help="how often; by default as the row says")
    parser.add_argument("--results", type=Path, default=CACHE / "results")
    parser.add_argument("--list", action="store_true", help="list the rows")
    arguments = parser.parse_args()
    if arguments.list or not arguments.rows:
        print("\n".join(f"{name}: {row.what}" for name, row in ROWS.items()))
    for name in arguments.rows:
        row = ROWS[name]
        several = run(row, arguments.data, arguments.rounds or row.rounds)
        print(table(name, row, several))
        path = keep(name, row, several, arguments.results)
        shown_path = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        print(f"Kept in {shown_path}", file=sys.stderr)


if __name__ == "__main__":
    main()
