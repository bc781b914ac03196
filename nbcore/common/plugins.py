"""The plugin registry: plugins are loaded one by one, so that a broken one harms no other."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

import pluggy

from nbcore.common import hookspecs
from nbcore.common.declarations import PluginKind, fault_of_class, fault_of_specs
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

_UNKNOWN: dict[PluginKind, type[PluginError]] = {
    "backend": UnknownBackendError,
    "selector": UnknownSelectorError,
    "network": PluginError,
}
_REGISTER: dict[PluginKind, str] = {
    "backend": "nbcore_register_backends",
    "selector": "nbcore_register_selectors",
    "network": "nbcore_register_networks",
}
HOOKS = (*_REGISTER.values(), "nbcore_as_network")


@dataclass
class Plugin:
    """One entry of the group `nbcore.plugins`, loaded or not.

    Args:
        name: entry-point name.
        distribution: the distribution that it is part of.
        error: why it could not be loaded; empty if it was.
        specs: what it offers, by kind.
    """

    name: str
    distribution: str
    error: str = ""
    specs: dict[PluginKind, list[Spec]] = field(default_factory=dict[PluginKind, list[Spec]])

    @property
    def label(self) -> str:
        """Name and distribution: the name in the manager."""
        return f"{self.name} ({self.distribution})"


class Manager(pluggy.PluginManager):
    """The manager of all plugins: it validates hooks and calls those of one plugin at a time."""

    def __init__(self) -> None:
        super().__init__("nbcore")
        self.add_hookspecs(hookspecs)

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Return the options of a hook; names that a module resolves when asked are left alone.

        Reading such a name would import a library (in pluggy before 1.7).
        """
        return super().parse_hookimpl_opts(plugin, name) if name in vars(plugin) else None

    def ask(self, plugin: Any, hook: str, **arguments: Any) -> list[Any]:
        """Return what the functions of one plugin for a hook return, other than None."""
        others = [other for other in self.get_plugins() if other is not plugin]
        return self.subset_hook_caller(hook, others)(**arguments)

    def hooks_of(self, plugin: Any) -> list[str]:
        """Return the names of the hooks that a plugin implements."""
        return [caller.name for caller in self.get_hookcallers(plugin) or []]


@dataclass
class Registry:
    """The plugins that were found, and the manager that holds those that work."""

    plugins: list[Plugin]
    manager: Manager

    def providers(self, kind: PluginKind) -> dict[str, list[tuple[Plugin, Spec]]]:
        """Return who offers each name of a kind."""
        found: dict[str, list[tuple[Plugin, Spec]]] = {}
        for plugin in self.plugins:
            for spec in plugin.specs.get(kind, []):
                found.setdefault(spec.name, []).append((plugin, spec))
        return found


@functools.cache
def registry() -> Registry:
    """Find and load all plugins, once per process.

    `NBCORE_DISABLE_PLUGINS` names plugins, or distributions, that are left out.
    """
    disabled = {n.strip() for n in os.environ.get("NBCORE_DISABLE_PLUGINS", "").split(",")}
    made = Registry([], Manager())
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        plugin = Plugin(entry.name, entry.dist.name if entry.dist else "unknown distribution")
        if disabled.isdisjoint({plugin.name, plugin.distribution}):
            _load_into(made.manager, plugin, entry)
            made.plugins.append(plugin)
    return made


def _load_into(manager: Manager, plugin: Plugin, entry: EntryPoint) -> None:
    """Load a plugin and register it; whatever fails is written down in it."""
    if manager.has_plugin(plugin.label):
        plugin.error = (
            f"{plugin.distribution!r} has two entry points named {plugin.name!r}. Rename one"
        )
        return
    try:
        module = entry.load()
        _check_module(manager, module)
        manager.register(module, name=plugin.label)
        _check_hooks(manager, module)
        plugin.specs = {kind: _specs_of(manager, module, kind) for kind in _REGISTER}
    except Exception as error:  # a third-party module may raise anything
        plugin.specs = {}
        plugin.error = _told(error)
        if manager.has_plugin(plugin.label):
            manager.unregister(name=plugin.label)


def _told(error: Exception) -> str:
    """Return type and message of an error on one line; our own say enough without the type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"


def _check_module(manager: Manager, module: Any) -> None:
    """Raise if hooks cannot be found in what an entry point names."""
    if not isinstance(module, ModuleType):
        raise PluginError(
            f"The entry point names {module!r}. Name the module with the hooks: "
            'my_plugin = "my_plugin"'
        )
    registered = manager.get_name(module)
    if registered is not None:
        raise PluginError(
            f"The module {module.__name__!r} is registered as {registered} already. "
            "Keep one entry point for it"
        )
    for name, value in vars(module).items():
        is_hook = name in HOOKS or name.startswith("nbcore_register_")
        if is_hook and inspect.isfunction(value) and not manager.parse_hookimpl_opts(module, name):
            hint = "" if name in HOOKS else f" There is no hook of that name.{_possible(name)}"
            raise PluginError(
                f"{module.__name__}.{name} has no @hookimpl, and would never be called.{hint} Type "
                "`from nbcore.extend import hookimpl`, and @hookimpl above the function"
            )


def _check_hooks(manager: Manager, module: ModuleType) -> None:
    """Raise if a registered module implements no hook, or one that does not exist."""
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        unknown = next(name for name in manager.hooks_of(module) if name not in HOOKS)
        raise PluginError(
            f"{module.__name__}.{unknown} is not a hook of nbcore.{_possible(unknown)}"
        ) from error
    if not manager.hooks_of(module):
        raise PluginError(f"{module.__name__} implements no hook.{_possible('')}")


def _possible(name: str) -> str:
    return f"{did_you_mean(name, HOOKS)} Possible: {', '.join(HOOKS)}"


def _specs_of(manager: Manager, module: ModuleType, kind: PluginKind) -> list[Spec]:
    """Return the specs of a kind that a plugin offers.

    Raises:
        PluginError: its hook failed, or returned something else than a list of Spec.
    """
    hook = _REGISTER[kind]
    if hook not in manager.hooks_of(module):
        return []
    try:
        answers = manager.ask(module, hook)
    except Exception as error:  # a third-party hook may raise anything
        raise PluginError(f"{hook}() failed: {type(error).__name__}: {error}") from error
    for answer in answers or [None]:  # pluggy leaves out what is None
        fault = fault_of_specs(kind, answer)
        if fault:
            raise PluginError(f"{hook}() {fault}")
    return [spec for answer in answers for spec in answer]


def specs(kind: PluginKind) -> dict[str, Spec]:
    """Return the spec of every name of a kind, sorted by name.

    Raises:
        PluginError: two plugins offer one name; both distributions are named.
    """
    return {name: _only(kind, name)[1] for name in sorted(registry().providers(kind))}


def _only(kind: PluginKind, name: str) -> tuple[Plugin, Spec]:
    offers = registry().providers(kind)[name]
    if len(offers) > 1:
        who = " and ".join(f"{p.name!r} of {p.distribution!r}" for p, _ in offers)
        last = offers[-1][0]
        alone = last.name != offers[0][0].name
        raise PluginError(
            f"The {kind} {name!r} is offered by plugins {who}. Uninstall one, or switch one off: "
            f"NBCORE_DISABLE_PLUGINS={last.name if alone else last.distribution}"
        )
    return offers[0]


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
    plugin, spec = _only(kind, name)
    who = _who(kind, name, plugin)
    try:
        return _imported(spec.target, who)
    except NbcoreError:
        raise
    except ModuleNotFoundError as error:
        if spec.extra:
            raise MissingExtraError(f"The {kind} {name!r}", spec.extra, error.name) from error
        raise PluginError(
            f"{who} needs a module that is missing: {error.name!r}. Install it; if an extra of the "
            "distribution installs it, name that in the Spec: extra='...'"
        ) from error
    except Exception as error:  # a third-party module may raise anything
        raise PluginError(
            f"{who} could not be loaded from {spec.target!r}: {type(error).__name__}: {error}"
        ) from error


def _who(kind: PluginKind, name: str, plugin: Plugin) -> str:
    return f"The {kind} {name!r} of plugin {plugin.name!r} of {plugin.distribution!r}"


def _imported(target: str, who: str) -> type[Any]:
    """Return the class that a spec names.

    Raises:
        PluginError: there is no such module, or no such class in it.
    """
    module, _, attribute = target.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, and needs another one
        raise PluginError(
            f"{who} names a module that does not exist: {error.name!r}, of the target {target!r} "
            "of its Spec. Type: target='module:Class'"
        ) from error
    if not hasattr(found, attribute):
        raise PluginError(
            f"{who} names a class that does not exist: {attribute!r}, of the target {target!r} "
            f"of its Spec.{did_you_mean(attribute, dir(found))} Type: target='module:Class'"
        )
    return getattr(found, attribute)


def build(kind: PluginKind, name: str, options: dict[str, Any]) -> Any:
    """Return the object behind a name, made with options.

    Raises:
        OptionError: an option is unknown; the possible ones are listed.
        PluginError: what the class declares is wrong, or differs from its spec.
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
    made = cls(**options)
    plugin, spec = _only(kind, name)
    fault = fault_of_class(kind, made, spec)
    if fault:
        raise PluginError(f"{_who(kind, name, plugin)}: {fault}.")
    return made


def describe(kind: PluginKind, made: Any) -> tuple[str, dict[str, Any]] | None:
    """Return the name and the options with which `build` makes an equal object, as JSON data.

    `None`: no plugin offers its class, or its options are no JSON data.

    Args:
        kind: kind of plugin.
        made: the object, of a dataclass.
    """
    cls = type(made)
    for name, offers in registry().providers(kind).items():
        is_named = [spec.target.rpartition(":")[2] == cls.__qualname__ for _, spec in offers]
        if is_named != [True] or load(kind, name) is not cls or not is_dataclass(cls):
            continue
        shown = [(f, getattr(made, f.name)) for f in fields(cls) if f.init and f.repr]
        try:
            given = {f.name: value for f, value in shown if value != f.default}
            options = json.loads(json.dumps(given))
            if build(kind, name, options) == made:
                return name, options
        except (TypeError, ValueError):  # options that are no JSON data, or refuse to be compared
            continue
    return None


def networks_for(model: Any, *, example: Any = None) -> dict[str, Any]:
    """Return the networks that plugins make of a model, by plugin.

    Raises:
        PluginError: no plugin claims it, and one failed when it was asked.
    """
    claims: dict[str, Any] = {}
    failures: dict[str, Exception] = {}
    manager = registry().manager
    for label, module in manager.list_name_plugin():
        try:
            answers = manager.ask(module, "nbcore_as_network", model=model, example=example)
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
