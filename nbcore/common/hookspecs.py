"""The hooks that a plugin implements; our own backends, selectors and networks use the same.

A plugin is a module named in the entry-point group `nbcore.plugins`. Its hooks return *specs*,
which name things and import nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pluggy

GROUP = "nbcore.plugins"
hookspec = pluggy.HookspecMarker("nbcore")
hookimpl = pluggy.HookimplMarker("nbcore")


@dataclass(frozen=True)
class Spec:
    """What a plugin offers under a name, without importing it.

    Args:
        name: the name that users type, such as `"numpyro-nuts"`.
        target: `"module:Class"`; imported when the name is asked for.
        extra: the extra of the distribution that installs what it imports; empty for none.
        capabilities: what it declares: the capabilities of a backend, the needs of a selector,
            in the words of docs/extending.md; empty for networks.
    """

    name: str
    target: str
    extra: str = ""
    capabilities: frozenset[str] = frozenset()


@hookspec
def nbcore_register_backends() -> list[Spec]:
    """Return the specs of the backends (samplers) that this plugin brings."""
    return []


@hookspec
def nbcore_register_selectors() -> list[Spec]:
    """Return the specs of the selectors that this plugin brings."""
    return []


@hookspec
def nbcore_register_networks() -> list[Spec]:
    """Return the specs of the network architectures that configs and the command line name."""
    return []


@hookspec
def nbcore_as_network(model: Any, example: Any) -> Any:  # pyright: ignore[reportUnusedParameter]
    """Return a network for a model of a framework that this plugin knows, else None.

    Detect the framework through `sys.modules`; never import it to find out.
    """
    return None
