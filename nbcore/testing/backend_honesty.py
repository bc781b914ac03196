"""Fast checks of a sampler's randomness, acceptance and invariance: seconds, no long runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from nbcore.errors import PluginError
from nbcore.sampling.backend import Backend
from nbcore.sampling.contract_checks import check_contract, check_kernel
from nbcore.testing import runs
from nbcore.testing.backend_truth import is_exact
from nbcore.testing.cases import check
from nbcore.testing.exact_starts import SCALES, Kept, kept_banana, kept_posterior
from nbcore.testing.failure import ConformanceError, require
from nbcore.testing.oracle import oracle

STANDARD_ERRORS = 5.0
NUM_KEYS = 64
ACCEPTANCE_GAP = 0.02


@check("backend")
def check_functions_return_what_the_driver_expects(backend: Backend) -> None:
    """Each function of the kernel takes and returns what the contract says."""
    try:
        kernel = backend.kernel(runs.NUM_WARMUP)
        check_kernel(kernel, backend)
        check_contract(backend, kernel, runs.NUM_WARMUP, jax.random.key(0), oracle().target)
    except PluginError as error:
        raise ConformanceError(str(error)) from error


@check("backend")
def check_every_key_gives_another_step(backend: Backend) -> None:
    """From one state, every key leads to another position, unless the proposal is rejected."""
    check_functions_return_what_the_driver_expects(backend)
    target, key = oracle().target, jax.random.key(0)
    kernel = backend.kernel(runs.NUM_WARMUP)
    shared = jax.jit(kernel.shared)(key, target, target.start)
    state = jax.jit(kernel.init)(key, target, shared, target.start)

    def position_after(key: jax.Array, target: Any, shared: Any, state: Any) -> Any:
        return kernel.position(kernel.step(key, target, shared, state, 0)[0])

    traces = [jax.make_jaxpr(position_after)(key, target, shared, state) for _ in range(2)]
    require(
        str(traces[0]) == str(traces[1])
        and all(np.array_equal(a, b) for a, b in zip(*(t.consts for t in traces), strict=True)),
        "The step is the same program, however often it is traced",
        measured="two traces of `step` hold different numbers",
        limit="the same program",
        cause="numbers from numpy.random, from a generator or from a clock: they are drawn once, "
        "while the step is traced, and repeated in every step. Write jax.random.normal(key, ...).",
    )
    keys = jax.random.split(jax.random.key(1), NUM_KEYS)
    after = jax.jit(jax.vmap(position_after, (0, None, None, None)))(keys, target, shared, state)
    flat = np.concatenate([np.reshape(a, (NUM_KEYS, -1)) for a in jax.tree.leaves(after)], axis=1)
    before = np.concatenate([np.ravel(a) for a in jax.tree.leaves(kernel.position(state))])
    moved = flat[np.any(flat != before, axis=1)]
    different = len(np.unique(moved, axis=0))
    require(
        2 * different >= len(moved),  # small moves may coincide
        "From one state, every key leads to another position",
        measured=f"{NUM_KEYS} keys led to {len(moved)} moves, to {different} different positions",
        limit="a position for each move",
        cause="a key of the sampler's own, such as jax.random.key(0) in `step`, or one kept in "
        "`shared`; numbers from numpy.random, frozen while the step was traced; a momentum that "
        "is not drawn anew.",
    )


@check("backend")
def check_every_parameter_moves(backend: Backend) -> None:
    """Every parameter takes many values."""
    posterior = runs.short_run(backend)
    still = [
        label
        for path, draws in posterior.flat_draws().items()
        for label, values in zip(
            posterior.labels()[path], draws.reshape(*draws.shape[:2], -1).T, strict=True
        )
        if len(np.unique(values)) <= runs.NUM_CHAINS
    ]
    require(
        not still,
        "Every parameter moves",
        measured=f"never moved: {', '.join(still)}",
        limit="more values than chains",
        cause="a step that changes one leaf of the position, or one entry of each leaf; flatten "
        "the position with jax.flatten_util.ravel_pytree.",
    )


@check("backend", applies=lambda declared: "exact" in declared)
def check_acceptance_is_what_it_claims(backend: Backend) -> None:
    """A step moves as often as `Stats.acceptance_rate` says."""
    for kept in (kept_posterior(backend), *_bananas(backend)):
        stats = jax.tree.map(np.asarray, kept.posterior.stats)
        rate = np.asarray(stats.acceptance_rate, np.float64)[:, 1:]
        if np.isnan(rate).all() or stats.tree_depth.any():  # a rate of no single decision
            continue
        rate = np.nan_to_num(rate)
        excess = kept.moved - rate
        is_high = rate > np.median(rate)
        for chosen, which in ((rate >= 0, "all steps"), (is_high, "steps of high acceptance"),
                              (~is_high, "steps of low acceptance")):  # fmt: skip
            if not chosen.any():
                continue
            p = np.clip(rate[chosen], 0, 1)
            gap = float(excess[chosen].mean())
            noise = float(np.sqrt(np.sum(p * (1 - p)))) / p.size
            require(
                abs(gap) < ACCEPTANCE_GAP + STANDARD_ERRORS * noise,
                "A step is accepted as often as Stats.acceptance_rate says",
                measured=f"on {kept.what}, {p.mean() + gap:.1%} of {which} moved, and the "
                f"acceptance_rate of these is {p.mean():.1%}",
                limit=f"within {ACCEPTANCE_GAP:.0%}",
                cause="a proposal that is accepted whatever its rate; a uniform number that does "
                "not come from the key; a rate that is not the probability of this decision. A "
                "step without a decision of its own reports NaN.",
            )


@check("backend", applies=lambda declared: "exact" in declared)
def check_known_moments_are_kept(backend: Backend) -> None:
    """Chains that start at exact draws of a bent normal keep its moments, at three scales."""
    for kept in _bananas(backend):
        _check_kept(kept)


@check("backend", applies=is_exact)
def check_closed_form_is_kept(backend: Backend) -> None:
    """Chains that start at exact draws of the closed-form posterior keep it."""
    _check_kept(kept_posterior(backend))


@check("backend", applies=lambda declared: {"exact", "adaptive"} <= declared)
def check_step_does_not_adapt(backend: Backend) -> None:
    """After warmup the step size is that of the key and not of the past."""
    for kept in _bananas(backend):
        size = np.asarray(kept.posterior.stats.step_size, np.float64)
        if np.isnan(size).any():
            continue
        # What an adaptation changes by the acceptance it keeps: the sizes of a chain stay near
        # each other and wander. Sizes that are drawn anew in every step are not correlated.
        logs = np.log(size) - np.log(size).mean(axis=1, keepdims=True)
        total = float(np.sum(logs**2))
        if total < 1e-8 * size.size:
            continue
        lag = float(np.sum(logs[:, 1:] * logs[:, :-1])) / total
        require(
            lag < 0.5,
            "`step` does not adapt",
            measured=f"on {kept.what} the step size of a chain goes from {size[0, 0]:.3g} to "
            f"{size[0, -1]:.3g} while it samples (correlation of neighbors {lag:.2f})",
            limit="one step size, or sizes drawn anew in every step",
            cause="`step` and `warmup` are the same function, so that the adaptation goes on.",
        )


def _bananas(backend: Backend) -> Iterator[Kept]:
    return (kept_banana(backend, scale) for scale in SCALES)


def _check_kept(kept: Kept) -> None:
    errors = kept.errors
    worst = int(np.abs(errors).argmax())
    every = " Every step was accepted." if kept.moved.all() else ""
    require(
        abs(errors[worst]) < STANDARD_ERRORS,
        f"Chains that start at draws of {kept.what} keep its moments",
        measured=f"the mean of {kept.names[worst]} is off by "
        f"{kept.values[..., worst].mean():+.3g}, {abs(errors[worst]):.1f} Monte Carlo standard "
        f"errors.{every}",
        limit=f"{STANDARD_ERRORS:.0f} standard errors, at any step size",
        cause="a step without an accept-reject decision (unadjusted Langevin), one that always "
        "accepts, or a ratio that leaves out the proposal or the momentum; another density than "
        "the target's (without its prior, at a temperature).",
    )
