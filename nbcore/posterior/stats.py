"""Statistics that every sampler reports for each step."""

from __future__ import annotations

from typing import Any, NamedTuple


class Stats(NamedTuple):
    """Statistics of each step, under the same names for every sampler.

    Args:
        log_density: log density at the position after the step (an estimate for minibatches).
        acceptance_rate: Metropolis acceptance probability, NaN if there is none.
        is_divergent: whether the step diverged.
        num_gradients: gradient evaluations of the step.
        tree_depth: depth of the trajectory tree, 0 if there is none.
        step_size: step size, NaN if there is none.
        energy: Hamiltonian after the step, NaN if there is none.
    """

    log_density: Any
    acceptance_rate: Any = float("nan")
    is_divergent: Any = False
    num_gradients: Any = 1
    tree_depth: Any = 0
    step_size: Any = float("nan")
    energy: Any = float("nan")
