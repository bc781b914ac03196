"""The driver: plans, keys and starts, and the run of the chains, for all samplers."""

from __future__ import annotations

import functools
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import jax
from jax.sharding import Mesh

from nbcore.common.keys import as_key
from nbcore.common.options import check_count
from nbcore.common.progress import Progress, Report, progress_from
from nbcore.common.storage import digest
from nbcore.errors import OptionError, did_you_mean
from nbcore.posterior.posterior import NetworkPosterior, Posterior
from nbcore.sampling import programs
from nbcore.sampling.alarms import alarms_of, warn_of
from nbcore.sampling.backend import Backend, Kernel, get_backend
from nbcore.sampling.chains import Chains, Outcome, Steps
from nbcore.sampling.checkpoint import Checkpoint, fingerprint
from nbcore.sampling.climb import value_and_gradient
from nbcore.sampling.contract_checks import check_contract, check_kernel
from nbcore.sampling.cost import estimate_cost
from nbcore.sampling.placement import CHAIN, Placement, placement_for
from nbcore.sampling.provenance import describe_run
from nbcore.sampling.starts import Start, check_start, start_positions
from nbcore.targets.marginal import MarginalTarget, complete
from nbcore.targets.target import NetworkTarget, Target

ChainMethod = Literal["auto", "vectorized", "threads", "sequential"]
CHAIN_METHODS = ("auto", "vectorized", "threads", "sequential")
MANY_EXAMPLES = 1024
"""More examples than this are many for a sampler of minibatches."""


@overload
def sample(
    target: NetworkTarget | MarginalTarget,
    backend: str | Backend = "numpyro-nuts",
    *,
    key: Any = None,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    num_chains: int = 4,
    thin: int = 1,
    init: Start | Any = "auto",
    chain_method: ChainMethod = "auto",
    chunk_size: int | None = None,
    progress: bool | Progress = True,
    checkpoint: str | Path | None = None,
    mesh: Mesh | None = None,
) -> NetworkPosterior: ...


@overload
def sample(
    target: Target,
    backend: str | Backend = "numpyro-nuts",
    *,
    key: Any = None,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    num_chains: int = 4,
    thin: int = 1,
    init: Start | Any = "auto",
    chain_method: ChainMethod = "auto",
    chunk_size: int | None = None,
    progress: bool | Progress = True,
    checkpoint: str | Path | None = None,
    mesh: Mesh | None = None,
) -> Posterior: ...


def sample(
    target: Target,
    backend: str | Backend = "numpyro-nuts",
    *,
    key: Any = None,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    num_chains: int = 4,
    thin: int = 1,
    init: Start | Any = "auto",
    chain_method: ChainMethod = "auto",
    chunk_size: int | None = None,
    progress: bool | Progress = True,
    checkpoint: str | Path | None = None,
    mesh: Mesh | None = None,
) -> Posterior:
    """Draw from the posterior with several chains.

    The same key, data and configuration give the same draws, for any `chunk_size`. Step t of
    chain c uses the key fold_in(fold_in(fold_in(key, c), phase), t).

    Args:
        target: the log density.
        backend: a name from `nb.list_backends()`, or an instance with options.
        key: random key, typed or old, or an integer; `None` is `jax.random.key(0)`.
        num_warmup: warmup steps of each chain, none of which is kept.
        num_samples: steps of each chain after warmup, of which every `thin`-th is kept:
            `num_samples // thin` draws, as in Stan and NumPyro.
        num_chains: number of chains.
        thin: see `num_samples`.
        init: start of the chains: `"trained"` (the trained weights with a small jitter),
            `"laplace"` (draws of the normal with the mode and curvature of the density), `"auto"`
            (the former, or the latter if a short climb from the trained weights finds that the
            posterior is elsewhere), `"prior"` (draws of the prior), positions with a leading chain
            axis, or an `nb.EnsembleDeterministicNN`, one member for each chain.
        chain_method: `"vectorized"` (one vectorized program; on a CPU equal groups, no more of them
            than chains in each, have a thread each), `"threads"` (one program, called for each
            chain from its own thread), `"sequential"`, or `"auto"`: vectorized for samplers of
            fixed cost, else threads on a CPU, sequential on each device of a mesh, and vectorized
            on one device of another kind, which threads would only share.
        chunk_size: steps between two progress reports; about a twentieth of the run by default.
        progress: whether to report on standard error (of the first process), or a function that
            takes a `Report`.
        checkpoint: a folder for the state and the draws of every chunk. The same call resumes from
            it, and gives bit for bit the draws of an uninterrupted run. With more `num_samples` it
            extends a finished run, whose draws stay the first.
        mesh: devices for chains and examples, `jax.make_mesh((c, d), ("chain", "data"))` or one
            of the two axes; `None` is the default device. See docs/devices.md.

    Returns:
        The posterior: draws with leading axes `(chain, draw)`.

    Raises:
        SamplingError: the density is not finite at the start of a chain, or a chain produces a
            non-finite value.
        OptionError: a count is impossible, or the mesh does not fit the run.
        PluginError: a function of the sampler returns something else than its contract says.
        CheckpointError: the checkpoint is of another run; the differences are named.

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
    place = placement_for(mesh, num_chains)
    method = _chain_method(chain_method, chosen, place)
    begin = time.perf_counter()
    # A mesh fills up for its devices, and minibatches take examples at random.
    filled = target if "minibatch" in chosen.capabilities else target.on_grid()
    placed = place.target(target if place.sizes else filled)
    key = as_key(key)
    kernel = _kernel(chosen, num_warmup)
    check_contract(chosen, kernel, num_warmup, key, placed)
    keys = [jax.random.fold_in(key, c) for c in range(num_chains)]
    streams = [jax.random.fold_in(jax.random.fold_in(k, programs.INIT), 1) for k in keys]
    at = place.replicate(target.initial_position())
    seconds_of = {
        "gradient": programs.compile_seconds(lambda: value_and_gradient.lower(placed, at))
    }
    positions, started_at, num_looks = start_positions(
        target, streams, _init(init, chosen, target), filled if place.sizes else placed
    )
    place.check_same(lambda: digest((target, keys, positions)))
    settings = {**plan.settings(), "chunk_size": chunk_size, "chain_method": method}
    store = None
    if checkpoint is not None:
        program = value_and_gradient.lower(target, positions[0]).as_text().encode()
        inputs = {"start": positions, "data and weights": target, "log density": program}
        del settings["num_samples"]  # draws do not depend on how many follow
        facts = fingerprint(chosen, key, settings, place, inputs)
        store = Checkpoint.open(checkpoint, place, facts)
    starts = [place.replicate(position) for position in positions]
    gradient_seconds = check_start(target, positions, (placed, starts))
    report = _reporter(progress)
    may_look = progress is not False and place.num_processes == 1  # looking takes gradients
    cost = estimate_cost(
        target, chosen, gradient_seconds,
        num_warmup=num_warmup, num_samples=num_samples, num_chains=num_chains,
        side_by_side=_side_by_side(method, place), start=starts[0],
        gradient=(lambda z: value_and_gradient(placed, z)[2]) if may_look else None,
    )  # fmt: skip
    label = f"{chosen.name}: {cost}{', from Laplace draws' if started_at == 'laplace' else ''}"
    report(Report("sampling", None, num_chains, 0, 0, label, cost.seconds))
    run_key = jax.random.fold_in(key, num_chains)  # for what chains share
    shared_key = jax.random.fold_in(run_key, programs.SHARED)
    alike = (kernel, place.replicate(shared_key), placed, starts[0])
    seconds_of["shared"] = programs.compile_seconds(lambda: programs.make_shared.lower(*alike))
    shared = programs.make_shared(*alike)
    kernel.check(shared)
    expanded_at = kernel.linearized_at(shared)
    chains = Chains(
        kernel, placed, shared, keys, positions, plan.phases(kernel), place, report, store
    )
    preparing = time.perf_counter() - begin
    found = _run(chains, method)
    total = time.perf_counter() - begin
    seconds = _split_seconds(found.seconds, preparing + found.compiling, total)
    draws = complete(target, jax.random.fold_in(run_key, programs.COMPLETE), found.draws)
    sampled = target if expanded_at is None else target.linearized(expanded_at)
    network = sampled.network_target
    alarms: list[str] = []
    if place.num_processes == 1:
        alarms = alarms_of(sampled if network is None else network, draws, found.stats)
    info = describe_run(
        chosen, plan.settings(), method, seconds, {"start": num_looks} | found.num_gradients,
        place.sizes, target.integrated_out, alarms, seconds_of | found.compiled, started_at,
    )  # fmt: skip
    warn_of(alarms)
    if network is None:
        return Posterior(draws, found.stats, info)
    return NetworkPosterior.of(network, draws, found.stats, info)


def check_steps(num_warmup: Any, num_samples: Any, num_chains: Any, thin: Any) -> None:
    """Raise unless chains can take these steps, and keep at least one draw.

    Raises:
        OptionError: a number is impossible.
    """
    check_count(0, num_warmup=num_warmup)
    check_count(1, num_samples=num_samples, num_chains=num_chains, thin=thin)
    if thin > num_samples:
        raise OptionError(f"thin={thin} keeps none of num_samples={num_samples} steps.")


@dataclass(frozen=True)
class _Plan:
    """The numbers of steps, draws and chains of a run."""

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
        check_steps(self.num_warmup, self.num_samples, self.num_chains, self.thin)
        check_count(1, optional=True, chunk_size=self.chunk_size)

    @property
    def num_draws(self) -> int:
        return self.num_samples // self.thin

    def phases(self, kernel: Kernel) -> tuple[Steps, ...]:
        total = max(self.num_warmup, self.num_draws)
        chunk = self.chunk_size or max(1, (self.num_warmup + self.num_draws) // 20)
        chunk = min(total, chunk)
        warmup = Steps(programs.WARMUP, kernel.warmup, self.num_warmup, chunk, 1)
        sampling = Steps(programs.STEP, kernel.step, self.num_draws, chunk, self.thin)
        return (warmup, sampling) if self.num_warmup else (sampling,)

    def settings(self) -> dict[str, int]:
        names = ("num_warmup", "num_samples", "num_chains", "thin")
        return {name: getattr(self, name) for name in names}


def _init(init: Any, backend: Backend, target: Target) -> Any:
    """Return where chains start: some samplers have no use for the climb of `"auto"`.

    One of independent draws climbs to the mode itself, and minibatches are there to avoid gradients
    of many examples.
    """
    if not (isinstance(init, str) and init == "auto"):
        return init
    network = target.network_target
    has_many = network is not None and network.num_examples > MANY_EXAMPLES
    avoids = "minibatch" in backend.capabilities and has_many
    return "trained" if avoids or "independent" in backend.capabilities else init


def _split_seconds(own: dict[str, float], compiling: float, wall: float) -> dict[str, float]:
    """Split the wall time; chains that ran side by side share theirs in proportion."""
    scale = (wall - compiling) / max(sum(own.values()), 1e-9)
    shared = {name: scale * value for name, value in own.items()}
    return {"compile": compiling, **shared, "total": wall}


@functools.lru_cache(maxsize=64)
def _kernel(backend: Backend, num_warmup: int) -> Kernel:
    """Make the kernel once, so that equal runs compile once."""
    kernel = backend.kernel(num_warmup)
    check_kernel(kernel, backend)
    return kernel


def _chain_method(method: str, backend: Backend, place: Placement) -> str:
    if method not in CHAIN_METHODS:
        raise OptionError(
            f"chain_method is {', '.join(CHAIN_METHODS)}, got {method!r}."
            f"{did_you_mean(method, CHAIN_METHODS)}"
        )
    if method == "threads" and place.sizes:
        raise OptionError(
            "chain_method='threads' shares one device, and a mesh was given. Type: "
            "chain_method='auto', which lets each device run its own chains."
        )
    if method != "auto":
        return method
    if place.num_chains == 1:
        return "sequential"
    if "fixed_cost" in backend.capabilities:
        return "vectorized"
    if place.sizes:
        return "sequential"
    return "threads" if place.devices[0].platform == "cpu" else "vectorized"


def _side_by_side(method: str, place: Placement) -> int:
    """Return how many chains run at the same time."""
    if method == "sequential":
        return place.sizes.get(CHAIN, 1)
    if place.devices[0].platform != "cpu":
        return place.num_chains
    return min(place.num_chains, os.cpu_count() or 1)


def _num_groups(place: Placement) -> int:
    """Return how many equal groups of vectorized chains there are: on a CPU as many as they hold.

    It follows from the number of chains alone, since a group of another size rounds differently.
    """
    if place.sizes or place.devices[0].platform != "cpu":
        return 1
    return next(
        count for count in range(math.isqrt(place.num_chains), 0, -1)
        if place.num_chains % count == 0
    )  # fmt: skip


def _run(chains: Chains, method: str) -> Outcome:
    if method == "vectorized":
        groups = _num_groups(chains.place)
        return chains.together(programs.side_by_side, groups, min(groups, os.cpu_count() or 1))
    if chains.place.sizes:
        return chains.together(programs.in_turn)
    count = len(chains.keys)
    return chains.apart(1 if method == "sequential" else min(count, os.cpu_count() or 1))


def _reporter(progress: bool | Progress) -> Progress:
    first = jax.process_index() == 0
    return progress_from(progress if first or callable(progress) else False)
