"""Sampling until a budget is spent, and not beyond it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nbcore.compare.plan import Budget
from nbcore.errors import OptionError
from nbcore.posterior.posterior import NetworkPosterior
from nbcore.sampling.backend import Backend
from nbcore.sampling.driver import sample
from nbcore.targets.target import NetworkTarget

CHUNK = 25
"""Draws of a chunk: the same for any number of draws, so that an extended run compiles nothing."""
FIRST = 100
"""Draws of each chain by which the cost of the next ones is estimated."""
MARGIN = 1.02
LEAST_DRAWS = 4


def sample_within(
    target: NetworkTarget,
    backend: Backend,
    budget: Budget,
    *,
    key: Any,
    num_warmup: int,
    num_chains: int,
    max_draws: int,
    folder: Path,
) -> NetworkPosterior:
    """Sample a target until a budget is spent.

    A run is extended, from its checkpoint, until the gradients of all chains exceed the budget,
    and cut to the last draw that is within it: less than one step of all chains is left.

    Args:
        target: the log density.
        backend: the sampler.
        budget: gradients of all chains, with those of start, warmup and tuning; or draws.
        key: random key.
        num_warmup: warmup steps of each chain.
        num_chains: number of chains.
        max_draws: draws of each chain at most.
        folder: where the checkpoint is kept; an interrupted run goes on there.

    Raises:
        OptionError: start and warmup take all of the budget, or all but fewer than 4 draws.
        SamplingError: a chain fails.

    Returns:
        The posterior; `info.num_gradients` are those of what is kept.
    """
    if "independent" in backend.capabilities:
        num_warmup = 0

    def run(count: int) -> NetworkPosterior:
        return sample(
            target, backend, key=key, num_warmup=num_warmup, num_samples=count,
            num_chains=num_chains, chunk_size=CHUNK, progress=False, checkpoint=folder,
        )  # fmt: skip

    if budget.kind == "draws":
        return run(budget.amount)
    count = min(FIRST, max_draws)
    while True:
        posterior = run(count)
        spent, before = _spent(posterior)
        left = budget.amount - before
        if count >= max_draws or spent[-1] > left:
            break
        needed = math.ceil(MARGIN * left * count / max(int(spent[-1]), 1)) + 1
        count = min(max_draws, max(count + 1, needed))
    kept = int(np.searchsorted(spent, left, side="right"))
    if kept < LEAST_DRAWS:
        raise OptionError(
            f"Warmup ({num_warmup} steps of {num_chains} chains) and tuning took {before:,} of "
            f"{budget.amount:,} gradients, and a step takes {spent[-1] / count:,.0f}. Lower "
            "num_warmup, or raise the budget."
        )
    return _first(posterior, kept, int(spent[kept - 1]))


def _spent(posterior: NetworkPosterior) -> tuple[np.ndarray, int]:
    """Return gradients of all chains after each draw, and those before the first."""
    phases = posterior.info.num_gradients
    before = sum(count for phase, count in phases.items() if phase != "sampling")
    each = np.asarray(posterior.stats.num_gradients, np.int64).sum(axis=0)
    return np.cumsum(each), before


def _first(posterior: NetworkPosterior, kept: int, spent: int) -> NetworkPosterior:
    """Return the first draws of a posterior."""
    draws, stats = jax.tree.map(lambda a: a[:, :kept], (posterior.draws, posterior.stats))
    counted = {**posterior.info.num_gradients, "sampling": spent}
    settings = {**posterior.info.settings, "num_samples": kept}
    info = replace(posterior.info, num_gradients=counted, settings=settings)
    return replace(posterior, draws=draws, stats=stats, info=info)
