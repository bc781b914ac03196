"""A limit on unattended run time: one hour, unless the user agrees to more."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from nbcore.common.progress import Progress, Report, duration
from nbcore.errors import OptionError

LIMIT_SECONDS = 3600.0
SETTLED_SECONDS = 60.0
"""Training is judged by its pace only so long after its first epoch, which compiles."""

REMEDIES = {
    "training": 'Make the network smaller ([network]), lower epochs = … ([training]) or train one '
    'network: method = "holdout" ([calibration]).',
    "sampling": 'Sample fewer weights ([select]), lower num_warmup and num_samples, or take a '
    'cheaper sampler: backend = "sgld" or "laplace" ([sample]).',
}  # fmt: skip


@dataclass
class Patience:
    """A progress function that stops a run which would take more than an hour.

    Args:
        progress: the function to report to.
        limit_seconds: longest estimated time of training, or of sampling.

    Raises:
        OptionError: a report estimates more; the message names what to change.
    """

    progress: Progress
    limit_seconds: float = LIMIT_SECONDS
    first: tuple[float, int] | None = field(default=None, init=False)

    def __call__(self, report: Report) -> None:
        """Pass the report on, and check its estimate."""
        self.progress(report)
        seconds = report.seconds
        if report.phase == "training" and report.done:
            now = time.perf_counter()
            began, done = self.first = self.first or (now, report.done)
            passed, epochs = now - began, report.done - done
            is_settled = passed > SETTLED_SECONDS and epochs > 0
            seconds = passed * report.total / epochs if is_settled else None
        if seconds is not None and seconds > self.limit_seconds:
            raise OptionError(
                f"{report.phase.capitalize()} would take about {duration(seconds)}. "
                f"{REMEDIES[report.phase]} To run it all the same, type --yes"
            )
