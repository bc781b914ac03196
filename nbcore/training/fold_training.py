"""Training of a network for each fold and of one for all examples, concurrently, in rounds."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from nbcore.common.progress import Progress, Report
from nbcore.networks.names import Names
from nbcore.networks.network import Network
from nbcore.training.deterministic import DeterministicNN
from nbcore.training.folds import Folds, take
from nbcore.training.minibatches import BatchPlan

WORKERS = 2
ROUND_KEY = 2**20  # a number that no fold has


@dataclass(frozen=True, eq=False)
class FoldTraining:
    """Training of the networks of all folds, and of the one of all examples, in threads.

    Args:
        network: the network.
        options: options of `nb.DeterministicNN`.
        X: inputs `(N, ...)`.
        y: targets `(N,)` or `(N, outputs)`; labels `(N,)`, as integers from 0.
        split: the folds.
        plan: shapes of the minibatches.
        key: random key; each network depends on its own alone.
        report: progress of all networks together.
        names: names of features and classes, which the networks get.
    """

    network: Network
    options: Mapping[str, Any]
    X: Any
    y: np.ndarray
    split: Folds
    plan: BatchPlan
    key: jax.Array
    report: Together
    names: Names

    def advanced(
        self,
        epochs: int,
        begun: Sequence[DeterministicNN] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[DeterministicNN]:
        """Return the networks of the folds and, last, of all examples, after training.

        Args:
            epochs: passes over the data.
            begun: the networks whose training goes on; `None` starts from fresh weights.
            options: options of `nb.DeterministicNN` for this round, instead of `self.options`.
        """
        split, every = self.split, np.arange(len(self.y))
        key = self.key if begun is None else jax.random.fold_in(self.key, ROUND_KEY + epochs)
        used = dict(options or self.options)
        networks = [DeterministicNN(self.network, **used) for _ in range(split.count + 1)]
        self.report.begin(epochs)

        def fit(k: int) -> None:
            if k != split.count:
                self.report.compiled.wait()
            indices = split.trained[k] if k < split.count else every
            try:
                networks[k].train(
                    take(self.X, indices), take(self.y, indices), epochs, plan=self.plan,
                    params=None if begun is None else begun[k].params,
                    key=jax.random.fold_in(key, k), progress=self.report.of(k),
                )  # fmt: skip
            finally:
                self.report.compiled.set()

        with ThreadPoolExecutor(WORKERS) as pool:
            for future in [pool.submit(fit, k) for k in reversed(range(split.count + 1))]:
                future.result()
        for det in networks:
            det.names = self.names
        return networks


class Together:
    """Progress of several trainings as one report: the epochs done by all of them.

    `compiled` is set after the first epoch of the first network, so that the others reuse its
    programs.
    """

    def __init__(self, report: Progress, count: int) -> None:
        self.report, self.count = report, count
        self.done: dict[int, int] = {}
        self.before, self.total = 0, 0
        self.compiled = threading.Event()

    def begin(self, epochs: int) -> None:
        """Begin another round of training, of so many epochs."""
        self.before, self.total = self.total, self.total + epochs

    def of(self, k: int) -> Progress:
        """Return the function that network k reports to."""

        def note(report: Report) -> None:
            self.compiled.set()
            self.done[k] = self.before + report.done
            total = self.count * self.total
            networks = f"{self.count} networks, {report.note}"
            self.report(report._replace(done=sum(self.done.values()), total=total, note=networks))

        return note

    def remark(self, note: str) -> None:
        """Report what was found."""
        self.report(Report("training", None, 1, 0, 0, note))
