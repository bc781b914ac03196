"""Facts of a run: sampler, options, versions, times and numbers of gradients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RunInfo:
    """How the draws were made.

    Args:
        backend: name of the sampler.
        options: its options.
        settings: num_warmup, num_samples, num_chains, thin.
        chain_method: how chains were run.
        seconds: wall time: compile, warmup, sampling, and their sum, total; of a run that was
            resumed, since then.
        num_gradients: gradient evaluations of all chains: warmup (tuning included), sampling.
        versions: versions of what the draws depend on.
        mesh: sizes of the axes of the mesh of devices; empty where there was none.
        acceptance_of_runs: where restarts were allowed, the mean acceptance of each run, in order;
            the draws are those of the highest.
        integrated_out: leaves that were integrated out while the rest was sampled, see
            `nb.marginalize`; the statistic `log_density` is then that of the rest.
    """

    backend: str
    options: dict[str, Any]
    settings: dict[str, int]
    chain_method: str
    seconds: dict[str, float]
    num_gradients: dict[str, int]
    versions: dict[str, str]
    mesh: dict[str, int] = field(default_factory=dict[str, int])
    acceptance_of_runs: list[float] = field(default_factory=list[float])
    integrated_out: list[str] = field(default_factory=list[str])
