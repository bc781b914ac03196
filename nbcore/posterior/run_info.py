"""Record of a run: sampler, options, versions, times and gradient counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RunInfo:
    """Record of how draws were made.

    Args:
        backend: name of the sampler.
        options: its options.
        settings: num_warmup, num_samples, num_chains, thin.
        chain_method: how chains were run.
        seconds: wall time of `compile` (with what is computed once for all chains, such as a mode),
            `warmup`, `sampling` and their sum `total`; for a resumed run, since it was resumed.
        num_gradients: gradient evaluations of all chains in `warmup`, with tuning, and `sampling`,
            and before them, to choose their `start`.
        versions: versions of the libraries that the draws depend on.
        mesh: sizes of the axes of the mesh of devices; empty without a mesh.
        acceptance_of_runs: mean acceptance of each run, in order, if restarts were allowed; the
            draws are those of the run with the highest.
        integrated_out: leaves that were integrated out while the rest was sampled, see
            `nb.marginalize`; the statistic `log_density` is then the log density of the rest.
        alarms: signs that the draws are not those of the posterior, a sentence for each finding,
            see `nb.PosteriorWarning`; usually none.
        compile_seconds: wall time of tracing and compiling each program: the `gradient`, what
            chains have in common (`shared`), their `start`, the steps of `warmup` (if they differ
            from those of sampling), `tune` and `sampling`; the last three side by side.
        is_independent: whether the sampler draws independently, as `"laplace"` does.
        start: where chains started: `"trained"`, `"laplace"`, `"prior"`, or `"given"` positions.
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
    alarms: list[str] = field(default_factory=list[str])
    compile_seconds: dict[str, float] = field(default_factory=dict[str, float])
    is_independent: bool = False
    start: str = ""
