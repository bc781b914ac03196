"""Chains of a run: they go through init, warmup, tune and sampling, chunk by chunk."""

from __future__ import annotations

import concurrent.futures
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Lowered

from nbcore.common.matrices import factorizes_several
from nbcore.common.progress import Progress, Report, Slowest
from nbcore.errors import CheckpointError, SamplingError
from nbcore.posterior.stats import Stats
from nbcore.sampling import programs
from nbcore.sampling.backend import Kernel
from nbcore.sampling.checkpoint import Checkpoint, filled, named, unnamed
from nbcore.sampling.placement import Placement
from nbcore.sampling.programs import ChainPrograms
from nbcore.targets.target import Target

NAMES = {programs.WARMUP: "warmup", programs.STEP: "sampling"}
FINITE = np.iinfo(np.int32).max


class Steps(NamedTuple):
    """The steps of one phase: its number, the function, draws, chunk length and thinning."""

    phase: int
    function: Callable[..., Any]
    total: int
    chunk: int
    thin: int


@dataclass
class ChainProgress:
    """The progress of one chain, or of several that run together.

    Args:
        state: the state.
        num_gradients: gradients of warmup (tuning included) and of sampling, of each chain.
        phase: the phase that it is in.
        done: draws of that phase that are done.
        chunks: draws and statistics of each chunk of sampling, with a leading draw axis, after
            the chain axis of several chains.
        seconds: own wall time of warmup (tuning included) and of sampling, since it was resumed.
    """

    state: Any
    num_gradients: dict[str, np.ndarray]
    phase: int = programs.WARMUP
    done: int = 0
    chunks: list[tuple[Any, Stats]] = field(default_factory=list[tuple[Any, Stats]])
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NAMES.values(), 0.0))

    def count(self, phase: int, num_gradients: Any, begin: float) -> None:
        """Count the gradients and the seconds of a chunk."""
        name = NAMES[phase]
        self.num_gradients[name] = self.num_gradients[name] + np.asarray(num_gradients, np.int32)
        self.seconds[name] += time.perf_counter() - begin


class Outcome(NamedTuple):
    """The result of all chains.

    Args:
        draws: draws with leading axes `(chain, draw)`.
        stats: their statistics.
        num_gradients: gradients of all chains, by phase.
        seconds: own wall time of the chains of this process, added up, by phase.
        compiling: seconds until all programs were compiled.
        compiled: seconds that each program took, several of them side by side.
    """

    draws: Any
    stats: Stats
    num_gradients: dict[str, int]
    seconds: dict[str, float]
    compiling: float
    compiled: dict[str, float]


@dataclass(frozen=True)
class Chains:
    """All chains of a run.

    Args:
        kernel: the sampler.
        target: the log density, on the devices of the chains.
        shared: what `Kernel.shared` computed for all chains.
        keys: a key for each chain.
        positions: the start of each chain.
        phases: the steps of warmup and of sampling.
        place: the devices of the chains.
        report: receives progress.
        checkpoint: stores states and draws; `None` stores nothing.
    """

    kernel: Kernel
    target: Target
    shared: Any
    keys: list[jax.Array]
    positions: list[Any]
    phases: tuple[Steps, ...]
    place: Placement
    report: Progress
    checkpoint: Checkpoint | None
    stopped: threading.Event = field(default_factory=threading.Event)

    def together(self, over: programs.Over, num_groups: int = 1, num_threads: int = 1) -> Outcome:
        """Run chains as one program: all of them, or equal groups of them in threads."""
        begin = time.perf_counter()
        slowest, size = Slowest(self.report, num_groups), len(self.keys) // num_groups
        calls = self.place.programs(over)
        chains: list[Chain] = []
        for g in range(num_groups):
            members = slice(g * size, (g + 1) * size)
            keys = self.place.by_chain(jnp.stack(self.keys[members]))
            stacked = jax.tree.map(lambda *p: jnp.stack(p), *self.positions[members])
            positions = self.place.by_chain(stacked)
            name = "chains" if num_groups == 1 else f"chains-{g}"
            chains.append(Chain(self, calls, None, keys, positions, name, slowest.of(g)))
        compiled = chains[0].compile()
        compiling = time.perf_counter() - begin
        runs = self._runs(chains, num_threads)
        each = [jax.tree.map(lambda *c: np.concatenate(c, axis=1), *run.chunks) for run in runs]
        draws, stats = self.place.gather(jax.tree.map(lambda *g: np.concatenate(g), *each))
        counts = {n: np.concatenate([run.num_gradients[n] for run in runs]) for n in NAMES.values()}
        num_gradients = {n: int(np.sum(count)) for n, count in self.place.gather(counts).items()}
        return Outcome(draws, stats, num_gradients, _seconds(runs), compiling, compiled)

    def apart(self, num_threads: int) -> Outcome:
        """Run each chain by itself, on the device that they share."""
        begin = time.perf_counter()
        chains = [
            Chain(self, programs.ONE_CHAIN, c, key, position, f"chain-{c}", self.report)
            for c, (key, position) in enumerate(zip(self.keys, self.positions, strict=True))
        ]
        compiled = chains[0].compile()
        compiling = time.perf_counter() - begin
        runs = self._runs(chains, num_threads)
        each = [jax.tree.map(lambda *c: np.concatenate(c), *run.chunks) for run in runs]
        draws, stats = jax.tree.map(lambda *c: np.stack(c), *each)
        num_gradients = {n: sum(int(run.num_gradients[n]) for run in runs) for n in NAMES.values()}
        return Outcome(draws, stats, num_gradients, _seconds(runs), compiling, compiled)

    def _runs(self, chains: list[Chain], num_threads: int) -> list[ChainProgress]:
        runs = [chain.begin() for chain in chains]  # before any moves: progress is of the slowest
        if num_threads == 1 or chains[0].factorizes_several(runs[0].state):
            return [chain.run(run) for chain, run in zip(chains, runs, strict=True)]
        with ThreadPoolExecutor(num_threads) as pool:
            futures = [pool.submit(c.run, run) for c, run in zip(chains, runs, strict=True)]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            finally:
                self.stopped.set()  # if one fails, the others end with their chunk
            return [future.result() for future in futures]


def _seconds(runs: list[ChainProgress]) -> dict[str, float]:
    return {name: sum(run.seconds[name] for run in runs) for name in NAMES.values()}


class Chain:
    """One chain, or several as one program (`number` is None)."""

    def __init__(
        self, all_: Chains, calls: ChainPrograms, number: int | None, key: Any, position: Any,
        name: str, report: Progress,
    ) -> None:  # fmt: skip
        self.all, self.calls, self.number = all_, calls, number
        self.key, self.position, self.report = key, position, report
        self.part = all_.checkpoint.part(name) if all_.checkpoint else None

    def start(self) -> Any:
        """Return the state at the start."""
        a = self.all
        return self.calls.start(a.kernel, self.key, a.target, a.shared, self.position)

    def compile(self) -> dict[str, float]:
        """Compile every phase, side by side; return the seconds of each program."""
        a = self.all
        start = functools.partial(
            self.calls.start.lower, a.kernel, self.key, a.target, a.shared, self.position
        )
        seconds = {"start": programs.compile_seconds(start)}
        state = self.start()
        lowered: dict[Any, tuple[str, Callable[[], Lowered]]] = {}
        if a.kernel.tune is not None:
            lower = functools.partial(self.calls.tune.lower, a.kernel, self.key, a.target, a.shared)
            lowered[a.kernel.tune] = ("tune", functools.partial(lower, state))
        for steps in reversed(a.phases):  # one program if warmup takes the same steps as sampling
            arguments = self._arguments(steps, state, 0, 0)
            lower = functools.partial(self.calls.advance.lower, *arguments)
            lowered.setdefault(arguments[:4], (NAMES[steps.phase], lower))

        with ThreadPoolExecutor(len(lowered)) as pool:
            futures = {
                name: pool.submit(programs.compile_seconds, lower)
                for name, lower in lowered.values()
            }
            return seconds | {name: future.result() for name, future in futures.items()}

    def advance(self, steps: Steps, state: Any, first: int, count: int) -> tuple[Any, Any, Stats]:
        """Take `count` draws from draw `first` of a phase."""
        return self.calls.advance(*self._arguments(steps, state, first, count))

    def factorizes_several(self, state: Any) -> bool:
        """Return whether its programs, from a state like this one, factorize several matrices."""
        a = self.all
        traced = [
            self.calls.advance.trace(*self._arguments(steps, state, 0, 0)) for steps in a.phases
        ]
        if a.kernel.tune is not None:
            traced.append(self.calls.tune.trace(a.kernel, self.key, a.target, a.shared, state))
        return any(factorizes_several(each.jaxpr.jaxpr) for each in traced)

    def _arguments(self, steps: Steps, state: Any, first: int, count: int) -> tuple[Any, ...]:
        a = self.all
        return (
            steps.function, a.kernel.position, steps.chunk, steps.thin,
            self.key, a.target, a.shared, state, steps.phase, first, count,
        )  # fmt: skip

    def begin(self) -> ChainProgress:
        """Return the progress at the start, or that of the checkpoint."""
        state = self.start()
        stored = self.part.read() if self.part else None
        if stored is None:
            none = np.zeros(self._own(self.key).shape[:-1], np.int32)  # of each chain of ours
            return ChainProgress(state, dict.fromkeys(NAMES.values(), none))
        arrays, facts, chunks = stored
        state = self.all.place.joined(filled(self._own(state), arrays), state)
        counts = {k: np.asarray(v, np.int32) for k, v in facts["num_gradients"].items()}
        kept = [unnamed((self.position, Stats(0)), chunk) for chunk in chunks]
        total = next(steps.total for steps in self.all.phases if steps.phase == facts["phase"])
        if facts["done"] > total:
            raise CheckpointError(
                f"The checkpoint holds {facts['done']} draws of a chain, and this run is to have "
                f"{total}. Ask for as many num_samples as before, and take the first: "
                f"jax.tree.map(lambda a: a[:, :{total}], posterior.draws)"
            )
        self._report(NAMES[facts["phase"]], facts["done"], total)
        return ChainProgress(state, counts, facts["phase"], facts["done"], kept)

    def run(self, run: ChainProgress) -> ChainProgress:
        """Run the rest of warmup, tune and sampling."""
        for steps in self.all.phases:
            if steps.phase < run.phase:
                continue
            if steps.phase == programs.STEP and run.phase != programs.STEP:
                self._tune(run)
            while run.done < steps.total:
                if self.all.stopped.is_set():
                    raise concurrent.futures.CancelledError
                self._chunk(run, steps)
        return run

    def _chunk(self, run: ChainProgress, steps: Steps) -> None:
        begin, count = time.perf_counter(), min(steps.chunk, steps.total - run.done)
        run.state, *kept = self.advance(steps, run.state, run.done, count)
        draws, stats = jax.tree.map(self._first(count), self._own(kept))
        self._check_finite(draws, NAMES[steps.phase], run.done)
        run.done += count
        run.count(steps.phase, np.sum(stats.num_gradients, axis=-1), begin)
        is_kept = steps.phase == programs.STEP
        if is_kept:
            run.chunks.append((draws, stats))
        self._write(run, (draws, stats) if is_kept else None)
        self._report(NAMES[steps.phase], run.done, steps.total)

    def _tune(self, run: ChainProgress) -> None:
        """Tune, as one chunk, and begin to sample."""
        a = self.all
        run.phase, run.done = programs.STEP, 0
        if a.kernel.tune is None:
            return
        self._report("tuning", 0, 1)
        begin = time.perf_counter()
        run.state, stats = self.calls.tune(a.kernel, self.key, a.target, a.shared, run.state)
        run.count(programs.WARMUP, self._own(stats).num_gradients, begin)
        self._write(run, None)
        self._report("tuning", 1, 1)

    def _report(self, phase: str, done: int, total: int) -> None:
        self.report(Report(phase, self.number, len(self.all.keys), done, total))

    def _own(self, tree: Any) -> Any:
        return self.all.place.own(tree)

    def _first(self, count: int) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function that cuts a buffer to the draws that were taken."""
        return (lambda a: a[:, :count]) if self.number is None else (lambda a: a[:count])

    def _write(self, run: ChainProgress, kept: Any) -> None:
        if self.part is None:
            return
        counts = {name: np.asarray(count).tolist() for name, count in run.num_gradients.items()}
        facts = {"phase": run.phase, "done": run.done, "num_gradients": counts}
        self.part.write(named(self._own(run.state)), facts, None if kept is None else named(kept))

    def _check_finite(self, draws: Any, phase: str, done: int) -> None:
        own = min(map(self._first_bad, jax.tree.leaves(draws)), default=FINITE)
        bad = self.all.place.least(own)
        if bad < FINITE:
            who = "A chain" if self.number is None else f"Chain {self.number}"
            raise SamplingError(
                f"{who} produced a non-finite value at step {done + bad} of {phase}. "
                "Lower the step size (step_size=...), or use a tighter prior."
            )

    def _first_bad(self, leaf: np.ndarray) -> int:
        by_draw = leaf if self.number is not None else np.swapaxes(leaf, 0, 1)
        bad = ~np.isfinite(by_draw.reshape(len(by_draw), -1)).all(axis=1)
        return int(bad.argmax()) if bad.any() else FINITE
