"""Finding plugins: loaded one by one, so that a broken one is reported and harms nobody."""

from __future__ import annotations

import functools
import importlib
import os
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.metadata import entry_points
from typing import Any, Literal

import pluggy

from nbcore.common import hookspecs
from nbcore.common.hookspecs import GROUP, Spec
from nbcore.errors import (
    MissingExtraError,
    NbcoreError,
    OptionError,
    PluginError,
    UnknownBackendError,
    UnknownSelectorError,
    did_you_mean,
)

PluginKind = Literal["backend", "selector", "network"]

_UNKNOWN: dict[PluginKind, type[PluginError]] = {
    "backend": UnknownBackendError,
    "selector": UnknownSelectorError,
    "network": PluginError,
}


@dataclass
class Plugin:
    """One entry of the group `nbcore.plugins`, loaded or not.

    Args:
        name: entry-point name.
        distribution: the distribution that brings it.
        error: why it could not be loaded; empty where it could.
        specs: what it offers, by kind.
    """

    name: str
    distribution: str
    error: str = ""
    specs: dict[PluginKind, list[Spec]] = field(default_factory=dict[PluginKind, list[Spec]])


@dataclass
class Registry:
    """The plugins that were found, and the pluggy managers that hold those that work."""

    plugins: list[Plugin]
    managers: dict[str, pluggy.PluginManager]

    def providers(self, kind: PluginKind) -> dict[str, list[tuple[Plugin, Spec]]]:
        """Return who offers each name of a kind."""
        found: dict[str, list[tuple[Plugin, Spec]]] = {}
        for plugin in self.plugins:
            for spec in plugin.specs.get(kind, []):
                found.setdefault(spec.name, []).append((plugin, spec))
        return found


@functools.cache
def registry() -> Registry:
    """Find and load all plugins, once per process."""
    disabled = {n.strip() for n in os.environ.get("NBCORE_DISABLE_PLUGINS", "").split(",")}
    found: list[Plugin] = []
    managers: dict[str, pluggy.PluginManager] = {}
    entries = {(e.name, e.value): e for e in entry_points(group=GROUP)}
    for (name, _), entry in sorted(entries.items()):
        if name in disabled:
            continue
        plugin = Plugin(name, entry.dist.name if entry.dist else "unknown distribution")
        label = f"{name} ({plugin.distribution})"
        try:
            manager = pluggy.PluginManager("nbcore")
            manager.add_hookspecs(hookspecs)
            manager.register(entry.load(), name=name)
            manager.check_pending()
            plugin.specs = {
                "backend": _flat(manager.hook.nbcore_register_backends()),
                "selector": _flat(manager.hook.nbcore_register_selectors()),
                "network": _flat(manager.hook.nbcore_register_networks()),
            }
            managers[label] = manager
        except Exception as error:  # a stranger's module may raise anything
            plugin.error = f"{type(error).__name__}: {error}"
        found.append(plugin)
    return Registry(found, managers)


def _flat(answers: list[list[Spec]]) -> list[Spec]:
    offered = [spec for answer in answers for spec in answer]
    for spec in offered:
        if not isinstance(spec, Spec):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a hook returned {spec!r} where a Spec is expected")
    return offered


def specs(kind: PluginKind) -> dict[str, Spec]:
    """Return the spec of every name of a kind, sorted by name.

    Raises:
        PluginError: two plugins offer one name; both distributions are named.
    """
    return {name: _only(kind, name) for name in sorted(registry().providers(kind))}


def _only(kind: PluginKind, name: str) -> Spec:
    offers = registry().providers(kind)[name]
    if len(offers) > 1:
        who = " and ".join(f"{p.name!r} of {p.distribution!r}" for p, _ in offers)
        raise PluginError(
            f"The {kind} {name!r} is offered by plugins {who}. Uninstall one, or switch one off: "
            f"NBCORE_DISABLE_PLUGINS={offers[-1][0].name}"
        )
    return offers[0][1]


def load(kind: PluginKind, name: str) -> type[Any]:
    """Import and return the class behind a name.

    Raises:
        PluginError: the name is unknown (nearest names are suggested; plugins that could not be
            loaded are named), offered twice, or its module is broken.
        MissingExtraError: a library that it needs is not installed.
    """
    known = registry().providers(kind)
    if name not in known:
        broken = [f"{p.name} ({p.error})" for p in registry().plugins if p.error]
        raise _UNKNOWN[kind](
            f"No {kind} is named {name!r}.{did_you_mean(name, known)} "
            f"Possible: {', '.join(sorted(known)) or 'none'}."
            + (f" Plugins that could not be loaded: {'; '.join(broken)}." if broken else "")
        )
    spec = _only(kind, name)
    module, _, attribute = spec.target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except NbcoreError:
        raise
    except ModuleNotFoundError as error:
        own = f"{module}.".startswith(f"{error.name}.")
        if not own and spec.extra:
            raise MissingExtraError(f"The {kind} {name!r}", spec.extra, error.name) from error
        missing = "names a module that does not exist" if own else "needs a module that is missing"
        raise PluginError(f"The {kind} {name!r} {missing}: {error.name!r}.") from error
    except Exception as error:  # a stranger's module may raise anything
        raise PluginError(
            f"The {kind} {name!r} could not be loaded from {spec.target!r}: "
            f"{type(error).__name__}: {error}"
        ) from error


def build(kind: PluginKind, name: str, options: dict[str, Any]) -> Any:
    """Return the object behind a name, made with options.

    Raises:
        OptionError: an option is unknown; the possible ones are listed.
    """
    cls = load(kind, name)
    if is_dataclass(cls):
        known = [f.name for f in fields(cls) if f.init]
        for option in options:
            if option not in known:
                raise OptionError(
                    f"The {kind} {name!r} has no option {option!r}.{did_you_mean(option, known)} "
                    f"Possible: {', '.join(known) or 'none, it has no options'}."
                )
    return cls(**options)


def networks_for(model: Any, *, example: Any = None) -> dict[str, Any]:
    """Return the networks that plugins make of a model, by plugin.

    Raises:
        PluginError: nobody claims it, and a plugin failed when it was asked.
    """
    claims: dict[str, Any] = {}
    failures: dict[str, Exception] = {}
    for label, manager in registry().managers.items():
        try:
            answers: list[Any] = manager.hook.nbcore_as_network(model=model, example=example)
        except NbcoreError:
            raise  # it knows the model, and says what is wrong with it
        except Exception as error:
            failures[label] = error
            continue
        if answers:
            claims[label] = answers[0]
    if failures and not claims:
        label, error = next(iter(failures.items()))
        raise PluginError(
            f"The plugin {label} failed on {type(model).__qualname__}: "
            f"{type(error).__name__}: {error}. Switch it off: "
            f"NBCORE_DISABLE_PLUGINS={label.partition(' (')[0]}"
        ) from error
    return claims
