"""Checks that backends and selectors share: frozen options, honest specs, light listing."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal

from nbcore.common import plugins
from nbcore.common.hookspecs import Spec
from nbcore.errors import OptionError
from nbcore.testing.failure import ConformanceError, require
from nbcore.testing.listing import listings


def spec_of(kind: Literal["backend", "selector"], subject: Any) -> Spec | None:
    """Return the spec under which the class of a subject is installed, if it is."""
    cls = type(subject)
    for spec in plugins.specs(kind).values():
        if spec.target == f"{cls.__module__}:{cls.__qualname__}":
            return spec
    return None


def check_options(subject: Any) -> None:
    """Options are the fields of a frozen dataclass, with defaults, equal by content."""
    cls = type(subject)
    params = getattr(cls, "__dataclass_params__", None)
    require(
        is_dataclass(cls) and params is not None and params.frozen,
        f"{cls.__name__} keeps its options in a frozen dataclass",
        measured=repr(params),
        limit="@dataclass(frozen=True)",
        cause="a missing decorator, or frozen=True left out.",
    )
    missing = [f.name for f in fields(subject) if f.init and _has_no_default(f)]
    require(
        not missing,
        "Every option has a default, so that the name alone is enough",
        measured=f"no default: {', '.join(missing)}",
        limit="none without",
        cause="a field without `= value`; use None and choose a value in kernel().",
    )
    twin = cls(**options_of(subject))
    try:
        same = twin == subject and hash(twin) == hash(subject)
    except TypeError as error:
        raise ConformanceError(
            f"The options of {cls.__name__} cannot be hashed: {error}.\n"
            "  limit:    equal options, equal hash: compiled programs are shared by them\n"
            "  often:    a list, a dict or an array as an option; keep a tuple."
        ) from error
    require(
        same,
        "Equal options make equal objects",
        measured=f"{twin!r} and {subject!r} differ",
        limit="== and the same hash",
        cause="eq=False, or a __post_init__ that stores something new in a field.",
    )


def options_of(subject: Any) -> dict[str, Any]:
    """Return the options of a backend or selector: the fields that `__init__` takes."""
    return {f.name: getattr(subject, f.name) for f in fields(subject) if f.init}


def _has_no_default(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def check_unknown_option(kind: Literal["backend", "selector"], subject: Any) -> None:
    """An unknown option of an installed name is refused, and the nearest one suggested."""
    spec = spec_of(kind, subject)
    if spec is None:
        return
    known = list(options_of(subject))
    wrong = f"{known[0]}_" if known else "no_such_option"
    try:
        plugins.build(kind, spec.name, {wrong: 1})
    except OptionError as error:
        hinted = not known or f"Did you mean {known[0]!r}" in str(error)
        message = str(error)
    else:
        hinted, message = False, "no error"
    require(
        hinted,
        f"The unknown option {wrong!r} is refused and the nearest one suggested",
        measured=message,
        limit="an OptionError with 'Did you mean ...'",
        cause="a class that is not a dataclass, or takes **options.",
    )


def check_spec(
    kind: Literal["backend", "selector"],
    subject: Any,
    declared: frozenset[str],
    known: frozenset[str],
) -> None:
    """Name and declarations are known, and those that the plugin announced."""
    word = "capabilities" if kind == "backend" else "needs"
    require(
        isinstance(subject.name, str) and bool(subject.name),
        f"A {kind} has a name",
        measured=repr(subject.name),
        limit="a string that is not empty",
        cause="`name: ClassVar[str]` left out.",
    )
    require(
        isinstance(declared, frozenset) and declared <= known,  # pyright: ignore[reportUnnecessaryIsInstance]
        f"The {word} of {subject.name!r} are known ones",
        measured=sorted(declared),
        limit=f"a frozenset of some of {sorted(known)}",
        cause="a misspelt word.",
    )
    spec = spec_of(kind, subject)
    if spec is None:
        return
    require(
        (spec.name, spec.capabilities) == (subject.name, declared),
        "The spec announces what the class declares",
        measured=f"spec {spec.name!r} {sorted(spec.capabilities)}",
        limit=f"class {subject.name!r} {sorted(declared)}",
        cause=f"{word} changed in one of the two places.",
    )


def check_lazy(kind: Literal["backend", "selector"], subject: Any) -> None:
    """Listing imports neither the module of an installed class nor a library for it."""
    spec = spec_of(kind, subject)
    if spec is None:
        return
    found = listings()[f"{kind} {spec.name}"]
    require(
        not found.loaded and not found.brought,
        f"Listing does not import what {spec.name!r} needs",
        measured=f"imported: {', '.join([spec.target] * found.loaded + list(found.brought))}",
        limit="nothing but the module with the hooks",
        cause="an import at the top of the plugin's module; name the class as 'module:Class' "
        "in the Spec, in a separate module.",
    )
