"""The driver: chains, progress, chunks and thinning, once for all samplers."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.backend import Backend, Kernel, Stats, get_backend
from nbcore.cost import estimate_cost
from nbcore.errors import OptionError, SamplingError, did_you_mean
from nbcore.keys import as_key
from nbcore.posterior import Posterior, RunInfo
from nbcore.progress import Progress, Report, progress_from
from nbcore.target import NetworkTarget, Target

ChainMethod = Literal["auto", "vectorized", "threads", "sequential"]
CHAIN_METHODS = ("auto", "vectorized", "threads", "sequential")
_INIT, _WARMUP, _TUNE, _STEP, _SHARED = range(5)


def sample(
    target: Target,
    backend: str | Backend = "numpyro-nuts",
    *,
    key: Any = None,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    num_chains: int = 4,
    thin: int = 1,
    init: Any = None,
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
        init: positions to start from, with a leading chain axis; by default the trained weights
            with a small jitter.
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
    chains = _Chains(kernel, target, as_key(key), plan, init, progress_from(progress))
    start = time.perf_counter()
    gradient_seconds = chains.check_start()
    side_by_side = 1 if method == "sequential" else min(num_chains, os.cpu_count() or 1)
    steps = num_chains * (num_warmup + num_samples)
    cost = estimate_cost(target, chosen, gradient_seconds, steps=steps, side_by_side=side_by_side)
    chains.report(Report("sampling", None, num_chains, 0, 0, f"{chosen.name}: {cost}"))
    run = {
        "vectorized": chains.vectorized,
        "threads": chains.threads,
        "sequential": chains.sequential,
    }
    draws, stats = run[method]()
    info = RunInfo.describe(
        chosen, plan.settings(), method, chains.seconds, time.perf_counter() - start
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
        self.positions = self._positions(init)
        self.shared_key = jax.random.fold_in(jax.random.fold_in(key, plan.num_chains), _SHARED)
        self.seconds = {"compile": 0.0, "warmup": 0.0, "sampling": 0.0}

    def _positions(self, init: Any) -> list[Any]:
        if init is None:
            streams = [jax.random.fold_in(jax.random.fold_in(k, _INIT), 1) for k in self.keys]
            return [self.target.initial_position(k) for k in streams]
        start = self.target.start
        wanted = jax.tree.map(lambda a: (self.plan.num_chains, *a.shape), start)
        got = jax.tree.map(np.shape, init)
        if jax.tree.structure(init) != jax.tree.structure(start) or got != wanted:
            raise OptionError(
                f"init must hold a position for each chain, shapes {wanted}; got {got}. Stack "
                "target.initial_position(key) over chains."
            )
        init = jax.tree.map(lambda a, s: jnp.asarray(a, s.dtype), init, start)
        return [jax.tree.map(lambda a, c=c: a[c], init) for c in range(self.plan.num_chains)]

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

    def sequential(self) -> tuple[Any, Stats]:
        """Run one chain after the other."""
        shared = self._shared()
        self._compile(shared)
        return _stack([self._chain(c, shared) for c in range(self.plan.num_chains)])

    def threads(self) -> tuple[Any, Stats]:
        """Run each chain in its own thread, all through one compiled program."""
        shared = self._shared()
        self._compile(shared)
        with ThreadPoolExecutor(min(self.plan.num_chains, os.cpu_count() or 1)) as pool:
            futures = [pool.submit(self._chain, c, shared) for c in range(self.plan.num_chains)]
            return _stack([future.result() for future in futures])

    def vectorized(self) -> tuple[Any, Stats]:
        """Run all chains as one vectorised program."""
        shared = self._shared()
        keys = jnp.stack(self.keys)
        positions = jax.tree.map(lambda *p: jnp.stack(p), *self.positions)
        begin = time.perf_counter()
        state = _start_all(self.kernel, keys, self.target, shared, positions)
        for phase, step, _, chunk, thin in self._schedule():
            _advance_all(
                step,
                self.kernel.position,
                chunk,
                thin,
                keys,
                self.target,
                shared,
                state,
                phase,
                0,
                0,
            )
        self._count_compile(begin)
        swap = functools.partial(jax.tree.map, lambda a: np.swapaxes(a, 0, 1))
        state = self._phases(_advance_all, _tune_all, keys, state, shared, chain=None)
        return swap(state[0]), swap(state[1])

    def _chain(self, chain: int, shared: Any) -> tuple[Any, Stats]:
        key = self.keys[chain]
        state = _start(self.kernel, key, self.target, shared, self.positions[chain])
        return self._phases(_advance, _tune, key, state, shared, chain=chain)

    def _shared(self) -> Any:
        begin = time.perf_counter()
        shared = _make_shared(self.kernel, self.shared_key, self.target, self.positions[0])
        jax.block_until_ready(shared)
        self._count_compile(begin)
        return shared

    def _compile(self, shared: Any) -> None:
        """Compile every phase with a run of no steps, so that chains start warm together."""
        begin = time.perf_counter()
        state = _start(self.kernel, self.keys[0], self.target, shared, self.positions[0])
        for phase, step, _, chunk, thin in self._schedule():
            _advance(
                step,
                self.kernel.position,
                chunk,
                thin,
                self.keys[0],
                self.target,
                shared,
                state,
                phase,
                0,
                0,
            )
        self._count_compile(begin)

    def _count_compile(self, begin: float) -> None:
        self.seconds["compile"] += time.perf_counter() - begin

    def _schedule(self) -> Iterator[tuple[int, Callable[..., Any], int, int, int]]:
        plan, kernel = self.plan, self.kernel
        chunk = plan.chunk(max(plan.num_warmup, plan.num_draws))
        if plan.num_warmup:
            yield _WARMUP, kernel.warmup, plan.num_warmup, chunk, 1
        yield _STEP, kernel.step, plan.num_draws, chunk, plan.thin

    def _phases(
        self, advance: Any, tune: Any, key: Any, state: Any, shared: Any, *, chain: int | None
    ) -> tuple[Any, Stats]:
        """Run warmup, tune and sampling; return draws and statistics of the sampling steps."""
        parts: list[tuple[Any, Stats]] = []
        for phase, step, total, chunk, thin in self._schedule():
            begin = time.perf_counter()
            if phase == _STEP and self.kernel.tune is not None:
                state = tune(self.kernel, key, self.target, shared, state)
            name = "warmup" if phase == _WARMUP else "sampling"
            for done in range(0, total, chunk):
                count = min(chunk, total - done)
                state, draws, stats = advance(
                    step,
                    self.kernel.position,
                    chunk,
                    thin,
                    key,
                    self.target,
                    shared,
                    state,
                    phase,
                    done,
                    count,
                )
                draws, stats = jax.tree.map(lambda a, n=count: np.asarray(a)[:n], (draws, stats))
                _check_finite(draws, name, chain, done)
                if phase == _STEP:
                    parts.append((draws, stats))
                self.report(Report(name, chain, self.plan.num_chains, done + count, total))
            self.seconds[name] += time.perf_counter() - begin
        return jax.tree.map(lambda *p: np.concatenate(p), *parts)


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


@functools.partial(jax.jit, static_argnums=0)
def _make_shared(kernel: Kernel, key: jax.Array, target: Target, position: Any) -> Any:
    return kernel.shared(key, target, position)


def _start_chain(kernel: Kernel, key: jax.Array, target: Target, shared: Any, position: Any) -> Any:
    return kernel.init(jax.random.fold_in(key, _INIT), target, shared, position)


def _tune_chain(kernel: Kernel, key: jax.Array, target: Target, shared: Any, state: Any) -> Any:
    if kernel.tune is None:
        return state
    return kernel.tune(jax.random.fold_in(key, _TUNE), target, shared, state)[0]


def _advance_chain(
    step: Any,
    position: Any,
    chunk: int,
    thin: int,
    key: jax.Array,
    target: Target,
    shared: Any,
    state: Any,
    phase: int,
    first: int,
    count: int,
) -> tuple[Any, Any, Stats]:
    """Take `count` draws of `thin` steps each; buffers have length `chunk`."""
    stream = jax.random.fold_in(key, phase)

    def one_step(state: Any, t: Any) -> tuple[Any, Stats]:
        state, stats = step(jax.random.fold_in(stream, t), target, shared, state, t)
        return state, Stats(*(jnp.asarray(s) for s in stats))

    def draw(n: Any, state: Any) -> tuple[Any, Stats]:
        begin = (first + n) * thin
        state, stats = one_step(state, begin)

        def more(i: Any, carry: tuple[Any, Stats]) -> tuple[Any, Stats]:
            state, latest = one_step(carry[0], begin + i)
            return state, latest._replace(
                num_gradients=carry[1].num_gradients + latest.num_gradients,
                is_divergent=carry[1].is_divergent | latest.is_divergent,
            )

        return jax.lax.fori_loop(1, thin, more, (state, stats)) if thin > 1 else (state, stats)

    like = jax.eval_shape(lambda s: (position(s), draw(0, s)[1]), state)
    buffers = jax.tree.map(lambda a: jnp.zeros((chunk, *a.shape), a.dtype), like)

    def body(n: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        state, buffers = carry
        state, stats = draw(n, state)
        kept = jax.tree.map(lambda b, a: b.at[n].set(a), buffers, (position(state), stats))
        return state, kept

    state, (draws, stats) = jax.lax.fori_loop(0, count, body, (state, buffers))
    return state, draws, stats


_start = functools.partial(jax.jit, static_argnums=0)(_start_chain)
_tune = functools.partial(jax.jit, static_argnums=0)(_tune_chain)
_advance = functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))(_advance_chain)


@functools.partial(jax.jit, static_argnums=0)
def _start_all(kernel: Kernel, keys: Any, target: Target, shared: Any, positions: Any) -> Any:
    one = functools.partial(_start_chain, kernel)
    return jax.vmap(one, in_axes=(0, None, None, 0))(keys, target, shared, positions)


@functools.partial(jax.jit, static_argnums=0)
def _tune_all(kernel: Kernel, keys: Any, target: Target, shared: Any, states: Any) -> Any:
    one = functools.partial(_tune_chain, kernel)
    return jax.vmap(one, in_axes=(0, None, None, 0))(keys, target, shared, states)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _advance_all(
    step: Any, position: Any, chunk: int, thin: int, keys: Any, target: Target, *rest: Any
) -> tuple[Any, Any, Stats]:
    one = functools.partial(_advance_chain, step, position, chunk, thin)
    shared, states, phase, first, count = rest
    axes = (0, None, None, 0, None, None, None)
    return jax.vmap(one, in_axes=axes, out_axes=(0, 1, 1))(
        keys, target, shared, states, phase, first, count
    )


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
        bad = ~np.isfinite(leaf.reshape(len(leaf), -1)).all(axis=1)
        if bad.any():
            who = "A chain" if chain is None else f"Chain {chain}"
            raise SamplingError(
                f"{who} left the finite numbers at step {done + int(bad.argmax())} of {phase}. "
                "Lower the step size (step_size=...), or use a tighter prior."
            )


def _stack(chains: list[tuple[Any, Stats]]) -> tuple[Any, Stats]:
    return jax.tree.map(lambda *c: np.stack(c), *chains)
