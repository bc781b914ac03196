"""Progress reports of the driver, and their plain lines on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

PHASES = ("warmup", "tuning", "sampling")
"""Of a chain, in their order."""


class Report(NamedTuple):
    """The progress of one phase.

    Args:
        phase: `"training"`, `"warmup"`, `"tuning"` or `"sampling"`.
        chain: which chain; `None` if all advance together.
        num_chains: number of chains.
        done: steps or epochs done.
        total: steps or epochs in all; 0 for a remark, which is in `note`.
        note: further information, such as a loss.
        seconds: estimate of the wall time of the phase, given before it starts; else `None`.
    """

    phase: str
    chain: int | None
    num_chains: int
    done: int
    total: int
    note: str = ""
    seconds: float | None = None


Progress = Callable[[Report], None]


def duration(seconds: float) -> str:
    """Return a duration as text, in a suitable unit.

    Examples:
        >>> duration(42.4), duration(400), duration(9000), duration(433594)
        ('42 s', '6.7 min', '2.5 h', '5.0 days')
    """
    for unit, size, limit in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < limit * size:
            return f"{seconds / size:,.0f} {unit}" if size == 1 else f"{seconds / size:,.1f} {unit}"
    return f"{seconds / 86400:,.1f} days"


def progress_from(progress: bool | Progress) -> Progress:
    """Return the function to report to: the one given, lines on standard error, or nothing."""
    if callable(progress):
        return progress
    return Lines() if progress else lambda report: None


@dataclass
class Lines:
    """One line for each phase: rewritten in a terminal, every ten seconds in a log."""

    every_s: float = 10.0
    _done: dict[tuple[str, int | None], int] = field(
        default_factory=dict[tuple[str, int | None], int]
    )
    _last: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, report: Report) -> None:
        """Write the report, if it is time."""
        if report.total == 0:
            sys.stderr.write(f"{report.note}\n")
            return
        with self._lock:
            self._done[report.phase, report.chain] = report.done
            chains = [n for (phase, _), n in self._done.items() if phase == report.phase]
            expected = 1 if report.chain is None else report.num_chains
            finished = len(chains) == expected and all(n >= report.total for n in chains)
            is_terminal = sys.stderr.isatty()
            if not (finished or is_terminal or time.monotonic() - self._last > self.every_s):
                return
            self._last = time.monotonic()
            each = " ".join(f"{n}/{report.total}" for n in chains)
            end = "\n" if finished or not is_terminal else "\r"
            sys.stderr.write(f"{report.phase} {each} {report.note}".rstrip() + end)
            sys.stderr.flush()


@dataclass
class Slowest:
    """Reports of concurrent groups of chains as one report, of the slowest group.

    Every group reports its state before its first step, or after it.

    Args:
        report: the function to report to.
        num_groups: number of groups.
    """

    report: Progress
    num_groups: int
    _at: dict[int, Report] = field(default_factory=dict[int, Report])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, group: int) -> Progress:
        """Return the function that a group reports to."""

        def note(report: Report) -> None:
            with self._lock:
                before = self._slowest()
                self._at[group] = report
                after = self._slowest()
                if after is not None and (before is None or _place(after) > _place(before)):
                    self.report(after)

        return note

    def _slowest(self) -> Report | None:
        return min(self._at.values(), key=_place) if len(self._at) == self.num_groups else None


def _place(report: Report) -> tuple[int, int]:
    return PHASES.index(report.phase), report.done
