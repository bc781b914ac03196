"""Provenance of draws: the sampler, its options, and the versions of the libraries."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from importlib import metadata
from typing import Any, TypeVar

from nbcore.common import plugins
from nbcore.posterior.run_info import RunInfo
from nbcore.sampling.backend import Backend

T = TypeVar("T")


def describe_run(
    backend: Backend,
    settings: dict[str, int],
    method: str,
    seconds: dict[str, float],
    num_gradients: dict[str, int],
    mesh: dict[str, int],
    integrated_out: Sequence[str],
    alarms: Sequence[str],
    compile_seconds: dict[str, float],
    start: str,
) -> RunInfo:
    """Return how a run was made: its sampler, settings, cost and versions, and its alarms."""
    options, versions = plain_options(backend), versions_of(backend)
    return RunInfo(
        backend.name, options, settings, method, seconds, num_gradients, versions, mesh,
        integrated_out=list(integrated_out), alarms=list(alarms), compile_seconds=compile_seconds,
        is_independent="independent" in backend.capabilities, start=start,
    )  # fmt: skip


def plain_options(backend: Backend) -> dict[str, Any]:
    """Return the options of a backend, as JSON data."""
    options = asdict(backend) if is_dataclass(backend) else {}  # pyright: ignore[reportArgumentType]
    return {
        k: v if isinstance(v, int | float | str | None) else repr(v) for k, v in options.items()
    }


def versions_of(backend: Backend) -> dict[str, str]:
    """Return the versions of the distributions that draws depend on.

    These are nbcore, JAX and NumPy, the distribution that offers the backend, and the libraries of
    the extra that it needs.
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
