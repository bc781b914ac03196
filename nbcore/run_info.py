"""How a posterior was made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

import jax
import numpy as np

from nbcore.backend import Backend


@dataclass(frozen=True)
class RunInfo:
    """How the draws were made.

    Args:
        backend: name of the sampler.
        options: its options.
        settings: num_warmup, num_samples, num_chains, thin.
        chain_method: how chains were run.
        seconds: wall time: compile, warmup, sampling, and their sum, total.
        num_gradients: gradient evaluations of all chains: warmup (tuning included), sampling.
        versions: versions of what the draws depend on.
        acceptance_of_runs: where restarts were allowed, the mean acceptance of each run, in order;
            the draws are those of the highest.
    """

    backend: str
    options: dict[str, Any]
    settings: dict[str, int]
    chain_method: str
    seconds: dict[str, float]
    num_gradients: dict[str, int]
    versions: dict[str, str]
    acceptance_of_runs: list[float] = field(default_factory=list[float])

    @staticmethod
    def describe(
        backend: Backend,
        settings: dict[str, int],
        method: str,
        seconds: dict[str, float],
        num_gradients: dict[str, int],
    ) -> RunInfo:
        """Describe a run."""
        options = asdict(backend) if is_dataclass(backend) else {}  # pyright: ignore[reportArgumentType]
        plain = {
            k: v if isinstance(v, int | float | str | None) else repr(v) for k, v in options.items()
        }
        versions = {"jax": jax.__version__, "numpy": np.__version__}
        return RunInfo(backend.name, plain, settings, method, seconds, num_gradients, versions)
