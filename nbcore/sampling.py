"""The driver: chains, progress, chunks and thinning, once for all samplers."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nbcore import programs
from nbcore.backend import Backend, Kernel, Stats, get_backend
from nbcore.cost import estimate_cost
from nbcore.errors import OptionError, SamplingError, did_you_mean
from nbcore.keys import as_key
from nbcore.posterior import Posterior
from nbcore.programs import Programs
from nbcore.progress import Progress, Report, progress_from
from nbcore.run_info import RunInfo
from nbcore.starts import Start, start_positions
from nbcore.target import NetworkTarget, Target

ChainMethod = Literal["auto", "vectorized", "threads", "sequential"]
CHAIN_METHODS = ("auto", "vectorized", "threads", "sequential")


def sample(
    target: Target,
    backend: str | Backend = "numpyro-nuts",
    *,
    key: Any = None,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    num_chains: int = 4,
    thin: int = 1,
    init: Start | Any = "trained",
    chain_method: ChainMethod = "auto",
    chunk_size: int | None = None,
    progress: bool | Progress = True,
) -> Posterior:
    """Draw from the posterior with several chains.

    The same key, data and configuration give the same draws, for any `chunk_size`. Step t of
    chain c uses the key fold_in(fold_in(fold_in(key, c), phase), t).

    Args:
        target: the log density.
        backend: a name from `nb.list_backends()`, or an instance with options.
        key: random key, typed or old, or an integer; `None` is `jax.random.key(0)`.
        num_warmup: warmup steps of each chain; none of them is kept.
        num_samples: steps of each chain after warmup.
        num_chains: number of chains.
        thin: keep every `thin`-th step: `num_samples // thin` draws of each chain are kept.
        init: where chains start: `"trained"` (the trained weights with a small jitter),
            `"prior"` (draws of the prior), `"laplace"` (draws of the normal with the mode and
            curvature of the density), positions with a leading chain axis, or an
            `nb.EnsembleDeterministicNN`, one member for each chain.
        chain_method: `"vectorized"` (one vectorised program), `"threads"` (one program, called
            for each chain from its own thread), `"sequential"`, or `"auto"`: vectorised for
            samplers of fixed cost, else threads.
        chunk_size: steps between two progress reports; about a twentieth of the run by default.
        progress: whether to report on standard error, or a function that takes a `Report`.

    Returns:
        The posterior: draws with leading axes `(chain, draw)`.

    Raises:
        SamplingError: the density is not finite where a chain starts, or a chain leaves the
            finite numbers.
        OptionError: a count is impossible.

    Examples:
        >>> import jax, jax.numpy as jnp, nbcore as nb
        >>> target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
        >>> posterior = nb.sample(
        ...     target,
        ...     key=jax.random.key(1),
        ...     num_warmup=100,
        ...     num_samples=50,
        ...     num_chains=2,
        ...     progress=False,
        ... )
        >>> posterior.draws.shape
        (2, 50, 2)
    """
    plan = _Plan(num_warmup, num_samples, num_chains, thin, chunk_size)
    plan.check(target)
    chosen = get_backend(backend)
    method = _chain_method(chain_method, chosen, num_chains)
    kernel = _kernel(chosen, num_warmup)
    begin = time.perf_counter()
    chains = _Chains(kernel, target, as_key(key), plan, init, progress_from(progress))
    gradient_seconds = chains.check_start()
    side_by_side = 1 if method == "sequential" else min(num_chains, os.cpu_count() or 1)
    steps = num_chains * (num_warmup + num_samples)
    cost = estimate_cost(target, chosen, gradient_seconds, steps=steps, side_by_side=side_by_side)
    chains.report(Report("sampling", None, num_chains, 0, 0, f"{chosen.name}: {cost}"))
    checking = time.perf_counter() - begin
    runs, compiling = chains.run(method)
    draws, stats = runs[0][:2] if method == "vectorized" else _stacked(runs)
    total = time.perf_counter() - begin
    seconds = _split_seconds(runs, checking + compiling, total)
    num_gradients = {
        name: sum(run.num_gradients[name] for run in runs) for name in ("warmup", "sampling")
    }
    info = RunInfo.describe(
        chosen, plan.settings(), method, {**seconds, "total": total}, num_gradients
    )
    if not isinstance(target, NetworkTarget):
        return Posterior(draws, stats, info)
    return Posterior.of_network(draws, stats, info, target)


@dataclass(frozen=True)
class _Plan:
    """How many steps of what."""

    num_warmup: int
    num_samples: int
    num_chains: int
    thin: int
    chunk_size: int | None

    def check(self, target: Target) -> None:
        if not isinstance(target, Target):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(
                f"sample() needs a target, got {type(target).__name__}. Type: nb.Target.build(...)"
            )
        least = {"num_warmup": 0, "num_samples": 1, "num_chains": 1, "thin": 1, "chunk_size": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or value < low
            ):
                raise OptionError(f"{name} must be an integer of at least {low}, got {value!r}.")
        if self.thin > self.num_samples:
            raise OptionError(
                f"thin={self.thin} keeps none of num_samples={self.num_samples} steps."
            )

    @property
    def num_draws(self) -> int:
        return self.num_samples // self.thin

    def chunk(self, total: int) -> int:
        return min(
            max(total, 1), self.chunk_size or max(1, (self.num_warmup + self.num_draws) // 20)
        )

    def settings(self) -> dict[str, int]:
        names = ("num_warmup", "num_samples", "num_chains", "thin")
        return {name: getattr(self, name) for name in names}


class _Run(NamedTuple):
    """What came of one chain, or of all chains together.

    Args:
        draws: draws, with a leading draw axis (after the chain axis where there is one).
        stats: statistics of the draws.
        seconds: own wall time of warmup (tuning included) and of sampling.
        num_gradients: gradient evaluations of warmup (tuning included) and of sampling.
    """

    draws: Any
    stats: Stats
    seconds: dict[str, float]
    num_gradients: dict[str, int]


class _Chains:
    """Runs all chains through init, warmup, tune and sampling."""

    def __init__(
        self,
        kernel: Kernel,
        target: Target,
        key: jax.Array,
        plan: _Plan,
        init: Any,
        report: Progress,
    ) -> None:
        self.kernel, self.target, self.plan, self.report = kernel, target, plan, report
        self.keys = [jax.random.fold_in(key, c) for c in range(plan.num_chains)]
        streams = [jax.random.fold_in(jax.random.fold_in(k, programs.INIT), 1) for k in self.keys]
        self.positions = start_positions(target, streams, init)
        last = jax.random.fold_in(key, plan.num_chains)
        self.shared_key = jax.random.fold_in(last, programs.SHARED)

    def check_start(self) -> float:
        """Raise where the density or its gradient is not finite; time one gradient."""
        for chain, position in enumerate(self.positions):
            value, gradient_ok = _evaluate(self.target, position)
            if not (np.isfinite(value) and gradient_ok):
                message = _bad_start(self.target, position, chain, float(value), bool(gradient_ok))
                raise SamplingError(message)
        begin = time.perf_counter()
        jax.block_until_ready(_evaluate(self.target, self.positions[0]))
        return time.perf_counter() - begin

    def run(self, method: str) -> tuple[list[_Run], float]:
        """Run every chain; return the runs, and the seconds until all programs were compiled."""
        begin = time.perf_counter()
        shared = programs.make_shared(self.kernel, self.shared_key, self.target, self.positions[0])
        if method == "vectorized":
            positions = jax.tree.map(lambda *p: jnp.stack(p), *self.positions)
            chain = _Chain(self, programs.ALL_CHAINS, jnp.stack(self.keys), shared, positions, None)
            chain.compile()
            compile_seconds = time.perf_counter() - begin
            return [chain.run()], compile_seconds
        chains = [
            _Chain(self, programs.ONE_CHAIN, self.keys[c], shared, self.positions[c], c)
            for c in range(self.plan.num_chains)
        ]
        chains[0].compile()
        compile_seconds = time.perf_counter() - begin
        if method == "sequential":
            return [chain.run() for chain in chains], compile_seconds
        with ThreadPoolExecutor(min(len(chains), os.cpu_count() or 1)) as pool:
            futures = [pool.submit(chain.run) for chain in chains]
            return [future.result() for future in futures], compile_seconds

    def phases(self) -> Iterator[tuple[int, Callable[..., Any], int, int, int]]:
        """Yield phase, step function, draws, chunk length and thinning."""
        plan, kernel = self.plan, self.kernel
        chunk = plan.chunk(max(plan.num_warmup, plan.num_draws))
        if plan.num_warmup:
            yield programs.WARMUP, kernel.warmup, plan.num_warmup, chunk, 1
        yield programs.STEP, kernel.step, plan.num_draws, chunk, plan.thin


class _Chain:
    """One chain, or all chains together as one vectorised program (`number` is None)."""

    def __init__(
        self, all_: _Chains, calls: Programs, key: Any, shared: Any, position: Any, number: Any
    ) -> None:
        self.all, self.calls, self.number = all_, calls, number
        self.key, self.shared, self.position = key, shared, position

    def start(self) -> Any:
        """Return the state at the start."""
        chains = self.all
        return self.calls.start(chains.kernel, self.key, chains.target, self.shared, self.position)

    def compile(self) -> None:
        """Compile every phase with a run of no steps, so that chains start warm together."""
        state = self.start()
        for phase, step, _, chunk, thin in self.all.phases():
            self.advance(step, chunk, thin, state, phase, 0, 0)

    def advance(
        self, step: Any, chunk: int, thin: int, state: Any, phase: int, first: int, count: int
    ) -> tuple[Any, Any, Stats]:
        """Take `count` draws from draw `first` of a phase."""
        chains = self.all
        return self.calls.advance(
            step, chains.kernel.position, chunk, thin,
            self.key, chains.target, self.shared, state, phase, first, count,
        )  # fmt: skip

    def run(self) -> _Run:
        """Run warmup, tune and sampling."""
        begin = time.perf_counter()
        state = self.start()
        seconds, num_gradients = {"warmup": 0.0}, {"warmup": 0}
        parts: list[tuple[Any, Stats]] = []
        for phase, step, total, chunk, thin in self.all.phases():
            name = "warmup" if phase == programs.WARMUP else "sampling"
            if phase == programs.STEP:
                state, tuned = self._tune(state)
                seconds["warmup"] = time.perf_counter() - begin
                num_gradients["warmup"] += tuned
            parts = []
            for done in range(0, total, chunk):
                count = min(chunk, total - done)
                state, draws, stats = self.advance(step, chunk, thin, state, phase, done, count)
                draws, stats = jax.tree.map(self._kept(count), (draws, stats))
                _check_finite(draws, name, self.number, done)
                parts.append((draws, stats))
                num_chains = self.all.plan.num_chains
                self.all.report(Report(name, self.number, num_chains, done + count, total))
            num_gradients[name] = sum(int(np.sum(stats.num_gradients)) for _, stats in parts)
        seconds["sampling"] = time.perf_counter() - begin - seconds["warmup"]
        axis = 1 if self.number is None else 0
        draws, stats = jax.tree.map(lambda *p: np.concatenate(p, axis=axis), *parts)
        return _Run(draws, stats, seconds, num_gradients)

    def _tune(self, state: Any) -> tuple[Any, int]:
        chains = self.all
        if chains.kernel.tune is None:
            return state, 0
        state, stats = self.calls.tune(chains.kernel, self.key, chains.target, self.shared, state)
        return state, int(np.sum(stats.num_gradients))

    def _kept(self, count: int) -> Callable[[Any], np.ndarray]:
        """Return what cuts a buffer to the draws that were taken."""
        if self.number is None:
            return lambda a: np.asarray(a)[:, :count]
        return lambda a: np.asarray(a)[:count]


def _stacked(runs: list[_Run]) -> tuple[Any, Stats]:
    """Return draws and statistics of single chains, with a leading chain axis."""
    return jax.tree.map(lambda *c: np.stack(c), *[(run.draws, run.stats) for run in runs])


def _split_seconds(runs: list[_Run], compiling: float, wall: float) -> dict[str, float]:
    """Split the wall time; chains that ran side by side share theirs in proportion."""
    own = {name: sum(run.seconds[name] for run in runs) for name in ("warmup", "sampling")}
    scale = (wall - compiling) / max(sum(own.values()), 1e-9)
    return {"compile": compiling, **{name: scale * value for name, value in own.items()}}


@functools.lru_cache(maxsize=64)
def _kernel(backend: Backend, num_warmup: int) -> Kernel:
    """Make the kernel once, so that equal runs compile once."""
    return backend.kernel(num_warmup)


def _chain_method(method: str, backend: Backend, num_chains: int) -> str:
    if method not in CHAIN_METHODS:
        raise OptionError(
            f"chain_method is {', '.join(CHAIN_METHODS)}, got {method!r}."
            f"{did_you_mean(method, CHAIN_METHODS)}"
        )
    if method != "auto":
        return method
    if num_chains == 1:
        return "sequential"
    return "vectorized" if "fixed_cost" in backend.capabilities else "threads"


@jax.jit
def _evaluate(target: Target, position: Any) -> tuple[jax.Array, jax.Array]:
    value, gradient = jax.value_and_grad(lambda z: target.log_density(z))(position)
    finite = [jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(gradient)]
    return value, jnp.all(jnp.stack(finite))


def _bad_start(target: Target, position: Any, chain: int, value: float, gradient_ok: bool) -> str:
    what = f"The log density is {value} where chain {chain} starts"
    if not gradient_ok:
        what = f"The gradient of the log density is not finite where chain {chain} starts"
    if isinstance(target, NetworkTarget):
        prior = float(target.log_prior(position))
        rows = np.flatnonzero(~np.isfinite(np.asarray(target.log_likelihood(position))))
        what += f" (log prior {prior:.4g}"
        what += f", log likelihood not finite in rows {rows[:5].tolist()})" if rows.size else ")"
    return f"{what}. Check the network's outputs there, or give other positions: init=..."


def _check_finite(draws: Any, phase: str, chain: int | None, done: int) -> None:
    for leaf in jax.tree.leaves(draws):
        by_draw = leaf if chain is not None else np.swapaxes(leaf, 0, 1)
        bad = ~np.isfinite(by_draw.reshape(len(by_draw), -1)).all(axis=1)
        if bad.any():
            who = "A chain" if chain is None else f"Chain {chain}"
            raise SamplingError(
                f"{who} left the finite numbers at step {done + int(bad.argmax())} of {phase}. "
                "Lower the step size (step_size=...), or use a tighter prior."
            )
