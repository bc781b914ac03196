"""Imports caused by listing the plugins, observed in a separate interpreter."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from dataclasses import dataclass

from nbcore.errors import PluginError

_PROBE = """
import json, sys
from importlib.metadata import entry_points
import nbcore.sampling.backend, nbcore.selection.selector
from nbcore.common import plugins
from nbcore.common.hookspecs import GROUP

def tops():
    return {m.partition(".")[0] for m in sys.modules}

brings = {}
for entry in entry_points(group=GROUP):
    before = tops()
    try:
        entry.load()
    except Exception:
        continue
    own = entry.module.partition(".")[0]
    brings[entry.name] = sorted(tops() - before - {own} - set(sys.stdlib_module_names))
targets = {}
for kind in ("backend", "selector"):
    for name, offers in plugins.registry().providers(kind).items():
        plugin, spec = offers[0]
        module = spec.target.partition(":")[0]
        own = module.partition(".")[0]
        targets[f"{kind} {name}"] = {
            "loaded": module in sys.modules,
            "brought": [m for m in brings.get(plugin.name, []) if m != own],
        }
print(json.dumps(targets))
"""


@dataclass(frozen=True)
class Listing:
    """What listing imports on behalf of one name.

    Args:
        loaded: whether the module of its class was imported.
        brought: libraries that its plugin imported when it was found.
    """

    loaded: bool
    brought: tuple[str, ...]


@functools.cache
def listings() -> dict[str, Listing]:
    """Return what listing imports, by kind and name, such as `"backend sgld"`."""
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True)
    if done.returncode:
        raise PluginError(f"Listing the plugins failed: {done.stderr.strip()[-1000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {k: Listing(v["loaded"], tuple(v["brought"])) for k, v in found.items()}
