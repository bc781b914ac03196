"""Seconds per leapfrog step of NumPyro's own NUTS, run as its users run it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpyro.infer import MCMC, NUTS, init_to_uniform

DEPTH = 5
FEW, MANY = 1, 6


def seconds_per_leapfrog(
    model: Callable[..., None], arguments: tuple[Any, ...], start: Any = init_to_uniform
) -> dict[str, Any]:
    """Time leapfrog steps, as a slope between a short and a longer run.

    The step size is tiny, so that every trajectory is as long as is allowed: 31 steps.

    Returns:
        `seconds`, with the progress bar that is its default (a compiled step for each draw), and
        `seconds_quiet`, without it (one compiled loop for all draws).
    """
    kernel = NUTS(
        model, step_size=1e-6, adapt_step_size=False, adapt_mass_matrix=False,
        max_tree_depth=DEPTH, init_strategy=start,
    )  # fmt: skip

    def run(draws: int, bar: bool) -> tuple[float, int]:
        mcmc = MCMC(kernel, num_warmup=0, num_samples=draws, progress_bar=bar)
        begin = time.perf_counter()
        mcmc.run(jax.random.PRNGKey(0), *arguments, extra_fields=("num_steps",))
        steps = np.asarray(mcmc.get_extra_fields()["num_steps"])
        return time.perf_counter() - begin, int(steps.sum())

    run(FEW, True)  # what is compiled once for all runs

    def slope(bar: bool) -> float:
        (few, few_steps), (many, many_steps) = run(FEW, bar), run(MANY, bar)
        return (many - few) / (many_steps - few_steps)

    return {"seconds": slope(True), "seconds_quiet": slope(False), "steps": 2**DEPTH - 1}
