"""How a posterior was made."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib import metadata
from typing import Any, TypeVar

from nbcore import plugins
from nbcore.backend import Backend

T = TypeVar("T")


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

    @staticmethod
    def describe(
        backend: Backend,
        settings: dict[str, int],
        method: str,
        seconds: dict[str, float],
        num_gradients: dict[str, int],
        mesh: dict[str, int],
        integrated_out: Sequence[str],
    ) -> RunInfo:
        """Describe a run."""
        options, versions = plain_options(backend), versions_of(backend)
        return RunInfo(
            backend.name, options, settings, method, seconds, num_gradients, versions, mesh,
            integrated_out=list(integrated_out),
        )  # fmt: skip


def plain_options(backend: Backend) -> dict[str, Any]:
    """Return the options of a backend, as JSON data."""
    options = asdict(backend) if is_dataclass(backend) else {}  # pyright: ignore[reportArgumentType]
    return {
        k: v if isinstance(v, int | float | str | None) else repr(v) for k, v in options.items()
    }


def versions_of(backend: Backend) -> dict[str, str]:
    """Return the versions of the distributions that draws depend on.

    They are nbcore, JAX and NumPy, the distribution that offers the backend, and the libraries
    of the extra that it needs.
    """
    names = ["nbcore", "jax", "jaxlib", "numpy"]
    for plugin, spec in plugins.registry().providers("backend").get(backend.name, []):
        names.append(plugin.distribution)
        needs = _installed(plugin.distribution, metadata.requires) or []
        wanted = [n for n in needs if re.search(rf"extra == .{re.escape(spec.extra)}.$", n)]
        names += [re.split(r"[^\w.-]", need, maxsplit=1)[0] for need in wanted]
    found = {name: _installed(name, metadata.version) for name in names}
    return {name: version for name, version in found.items() if version}


def _installed(name: str, ask: Callable[[str], T]) -> T | None:
    try:
        return ask(name)
    except metadata.PackageNotFoundError:
        return None
