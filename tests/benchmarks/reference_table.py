"""Every backend on every reference posterior: bias, error of deviations, and gradients.

    python tests/benchmarks/reference_table.py --results results.jsonl
    python tests/benchmarks/reference_table.py --results results.jsonl --backends sgld
    python tests/benchmarks/reference_table.py --results results.jsonl --write

Runs that `--results` holds already are not repeated. `--write` puts the list of references and the
table of results into docs/references.md. Each run has the same settings, which are printed.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import jax

import nbcore as nb
from nbcore.errors import NbcoreError

PLAN = {"num_warmup": 1000, "num_samples": 2000, "num_chains": 4, "key": 0}
PAGE = Path(__file__).parents[2] / "docs" / "references.md"


def run(reference: nb.references.Reference, backend: str) -> dict[str, Any]:
    """Sample a reference with a backend; return what is measured, or the error."""
    row: dict[str, Any] = {"reference": reference.name, "backend": backend}
    begin = time.perf_counter()
    try:
        posterior = nb.sample(reference.target, backend, progress=False, **PLAN)
        found = reference.distance(posterior)
    except NbcoreError as error:
        return {**row, "error": f"{type(error).__name__}: {error}"}
    return row | {
        "bias": found.mean_bias,
        "bias_error": found.mean_bias_error,
        "deviation_error": found.deviation_error,
        "deviation_error_error": found.deviation_error_error,
        "sliced": found.sliced,
        "sliced_error": found.sliced_error,
        "gradients": sum(posterior.info.num_gradients.values()),
        "gradients_to": reference.gradients_to(posterior),
        "seconds": time.perf_counter() - begin,
    }


def listing() -> str:
    """Return the table of the references."""
    lines = ["| name | stochastic weights | posterior | how it was made |", "|---|---|---|---|"]
    for name in nb.references.list():
        one = nb.references.load(name)
        lines.append(
            f"| `{name}` | {one.target.split.size} | {one.problem.description} | {one.status} |"
        )
    return "\n".join(lines)


def cell(row: dict[str, Any] | None) -> str:
    """Return a cell: bias / error of deviations, and thousands of gradients to a bias of 0.1."""
    if row is None:
        return ""
    if "error" in row:
        return f"{row['error'].partition(':')[0]}"
    settled = row["gradients_to"]
    gradients = "–" if settled is None else f"{settled / 1000:,.0f} k"
    return (
        f"{row['bias']:.2f} ({row['bias_error']:.2f}) / {row['deviation_error']:.2f}, {gradients}"
    )


def table(rows: dict[tuple[str, str], dict[str, Any]]) -> str:
    """Return the table of the results."""
    backends = nb.list_backends()
    lines = [
        f"| reference | {' | '.join(f'`{b}`' for b in backends)} |",
        "|---" * (len(backends) + 1) + "|",
    ]
    for name in nb.references.list():
        cells = [cell(rows.get((name, backend))) for backend in backends]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def put(page: str, part: str, text: str) -> str:
    """Return the page with a part between its marks replaced."""
    first, last = f"<!-- {part} -->\n", f"\n<!-- end of {part} -->"
    head, rest = page.split(first)
    return head + first + text + last + rest.split(last)[1]


def main() -> None:
    """Run what is missing, and print or write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--references", nargs="+", default=list(nb.references.list()))
    parser.add_argument("--backends", nargs="+", default=list(nb.list_backends()))
    parser.add_argument("--write", action="store_true", help="into docs/references.md, run nothing")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    if arguments.results.exists():
        for line in arguments.results.read_text().splitlines():
            row = json.loads(line)
            rows[row["reference"], row["backend"]] = row
    for name in [] if arguments.write else arguments.references:
        jax.clear_caches()  # each program takes memory maps, of which there is a limit
        for backend in arguments.backends:
            if (name, backend) not in rows:
                row = rows[name, backend] = run(nb.references.load(name), backend)
                with arguments.results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{name} {backend}: {cell(row)}", flush=True)
    if arguments.write:
        page = put(PAGE.read_text(), "list", listing())
        PAGE.write_text(put(page, "results", table(rows)))
    else:
        print(f"{PLAN}\n{table(rows)}")


if __name__ == "__main__":
    main()
