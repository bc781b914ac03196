"""Statistics that every sampler reports for each step."""

from __future__ import annotations

from typing import Any, NamedTuple


class Stats(NamedTuple):
    """What every sampler reports for each step, under fixed names.

    Args:
        log_density: log density at the position after the step (an estimate for minibatches).
        acceptance_rate: Metropolis acceptance probability, NaN where there is none.
        is_divergent: whether the step diverged.
        num_gradients: gradient evaluations of the step.
        tree_depth: depth of the trajectory tree, 0 where there is none.
        step_size: step size, NaN where there is none.
        energy: Hamiltonian after the step, NaN where there is none.
    """

    log_density: Any
    acceptance_rate: Any = float("nan")
    is_divergent: Any = False
    num_gradients: Any = 1
    tree_depth: Any = 0
    step_size: Any = float("nan")
    energy: Any = float("nan")
