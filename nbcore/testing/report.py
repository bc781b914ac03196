"""The conformance figures of a backend as a row of a table."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from nbcore.common import plugins
from nbcore.errors import MissingExtraError
from nbcore.sampling.backend import Backend, get_backend
from nbcore.testing.backend_truth import figures
from nbcore.testing.failure import ConformanceError
from nbcore.testing.oracle import oracle
from nbcore.testing.runs import settle

_HEAD = ("backend", "largest error of a mean", "deviations", "ESS", "gradients", "seconds")


@dataclass(frozen=True)
class OracleRow:
    """How a backend did on the closed-form posterior.

    Args:
        backend: its name.
        mean_error: largest error of a mean over 20 directions, in Monte Carlo standard errors.
        deviation_ratios: smallest and largest standard deviation, over the true one.
        ess: smallest effective sample size of a direction and its square.
        num_gradients: gradient evaluations of the draws, warmup apart.
        seconds: wall time, compilation included.
    """

    backend: str
    mean_error: float
    deviation_ratios: tuple[float, float]
    ess: float
    num_gradients: int
    seconds: float

    def __str__(self) -> str:
        """Return the row of a markdown table."""
        low, high = self.deviation_ratios
        return (
            f"| {self.backend} | {self.mean_error:.1f} s.e. | {low:.3f} to {high:.3f} "
            f"| {self.ess:,.0f} | {self.num_gradients:,} | {self.seconds:.1f} |"
        )


def oracle_report(backend: str | Backend) -> OracleRow:
    """Sample the closed-form posterior until the ESS is 1,000, and return the figures.

    Args:
        backend: a name from `nb.list_backends()`, or an instance.

    Raises:
        ConformanceError: the backend mixes too slowly to be judged.
        UnknownBackendError, MissingExtraError: see `nb.get_backend`.

    Examples:
        >>> row = oracle_report("laplace")
        >>> row.backend, row.ess >= 1000, row.mean_error < 4
        ('laplace', True, True)
    """
    chosen = get_backend(backend)
    truth = oracle()
    begin = time.perf_counter()
    settled = settle(truth.target, chosen, truth.standardized)
    seconds = time.perf_counter() - begin
    errors, ratios = figures(settled)
    return OracleRow(
        chosen.name,
        float(np.abs(errors).max()),
        (float(ratios.min()), float(ratios.max())),
        float(settled.ess.min()),
        settled.num_gradients,
        seconds,
    )


def oracle_table() -> str:
    """Return the markdown table of all installed backends; those without library are left out."""
    rule = ["---", *["---:"] * (len(_HEAD) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in (_HEAD, rule)]
    for name in plugins.specs("backend"):
        try:
            lines.append(str(oracle_report(name)))
        except MissingExtraError:
            continue
        except ConformanceError as error:
            lines.append(f"| {name} | {str(error).splitlines()[0]} | | | | |")
    return "\n".join(lines)
