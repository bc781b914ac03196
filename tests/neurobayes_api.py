"""The public names of NeuroBayes 0.0.14 beside those of the drop-in, which are inspected.

python tests/neurobayes_api.py    # writes what is here into the table, and into docs/migrating.md

The facts about NeuroBayes (modules, names, arguments, defaults) were read off the package itself.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from nbcore_neurobayes import elsewhere

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "tests" / "plugins" / "neurobayes" / "api_0_0_14.json"
PAGE = ROOT / "docs" / "migrating.md"
SAME = "the same"


def table() -> dict[str, Any]:
    """Return the committed table."""
    return json.loads(TABLE.read_text("utf-8"))


def module(name: str) -> Any:
    """Return a module of the drop-in by its name in NeuroBayes."""
    importlib.import_module("nbcore_neurobayes")
    full = f"nbcore_neurobayes.{name}".rstrip(".")
    return importlib.import_module(full)


def names(facts: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Iterate over the names of a table: module, name and entry; methods as `Class.method`."""
    for home, entries in facts["modules"].items():
        for name, entry in entries.items():
            yield home, name, entry
            for method, arguments in entry.get("methods", {}).items():
                yield home, f"{name}.{method}", {"arguments": arguments}


def found(home: str, name: str, entry: dict[str, Any]) -> str:
    """Return what the drop-in has: the same, what it says to use, or how it differs."""
    owner, _, method = name.partition(".")
    here = getattr(module(home), owner, None)
    if here is None:
        return "missing"
    instead = getattr(here, "instead", None)
    if instead is not None:
        return f"instead: {instead}"
    if method == "":
        return compared(here, entry)
    if owner == "DeterministicNN" and method in elsewhere.METHODS:
        return f"instead: {elsewhere.METHODS[method]}"
    if not hasattr(here, method):
        return "missing"
    member = inspect.getattr_static(here, method)
    if entry["arguments"] == "property":
        return "a method" if callable(member) else SAME
    return compared(getattr(here, method), entry, bound=not isinstance(member, classmethod))


def compared(here: Any, entry: dict[str, Any], *, bound: bool = False) -> str:
    """Return whether a class or function takes the arguments of an entry, by name and position."""
    if "members" in entry:
        return SAME if [e.name for e in here] == entry["members"] else "other members"
    parameters = list(inspect.signature(here).parameters.values())[bound:]
    by_name = {p.name for p in parameters}
    for i, (name, *default) in enumerate(entry["arguments"]):
        if name.startswith("*"):
            kind = "VAR_KEYWORD" if name.startswith("**") else "VAR_POSITIONAL"
            if any(p.kind.name == kind for p in parameters) or by_name >= KEYWORDS:
                continue
            return f"no {name}"
        if i >= len(parameters) or parameters[i].name != name:
            return f"argument {i} is no {name}"
        if default and plain(parameters[i].default) != default[0]:
            return f"{name} is {plain(parameters[i].default)!r} by default"
    return SAME


KEYWORDS = {"max_num_restarts", "min_accept_prob", "run_diagnostics"}
"""What NeuroBayes' `fit(**kwargs)` hands on, spelled out here."""


def plain(value: Any) -> Any:
    """Return a default as JSON has it."""
    if isinstance(value, Enum):
        return value.name
    return list(value) if isinstance(value, tuple) else value


def with_ours(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the table with what the drop-in has now."""
    ours = {f"{home}:{name}": found(home, name, entry) for home, name, entry in names(facts)}
    return {**facts, "ours": ours}


def written(facts: dict[str, Any]) -> str:
    """Return a table as text, one line for each name."""

    def lines(entries: dict[str, Any]) -> str:
        return ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in entries.items())

    modules = ",\n".join(
        f" {json.dumps(home)}: {{\n{lines(entries)}\n }}"
        for home, entries in facts["modules"].items()
    )
    return (
        f'{{"about": {json.dumps(facts["about"])},\n"exports": {{\n{lines(facts["exports"])}\n}},\n'
        f'"modules": {{\n{modules}\n}},\n"ours": {{\n{lines(facts["ours"])}\n}}}}\n'
    )


def block(facts: dict[str, Any]) -> str:
    """Return the names by module in Markdown: those that are here, and what to use for others."""
    lines = ["| module | here, with the same arguments | instead of others |", "|---|---|---|"]
    for home, entries in facts["modules"].items():
        told: dict[str, list[str]] = {}
        for name in entries:
            told.setdefault(facts["ours"][f"{home}:{name}"], []).append(f"`{name}`")
        same = ", ".join(told.pop(SAME, [])) or "–"
        others = "; ".join(
            f"{', '.join(each)}: {text.removeprefix('instead: ')}" for text, each in told.items()
        )
        lines.append(f"| `{home}` | {same} | {others or '–'} |")
    return "\n".join(lines)


def with_block(page: str, text: str) -> str:
    """Return a page whose table of names is a given text."""
    marks = r"(<!-- names: .*?-->\n).*?(<!-- end of names -->)"
    return re.sub(marks, lambda m: f"{m[1]}{text}\n{m[2]}", page, flags=re.S)


def main() -> None:
    """Write the table and the page."""
    facts = with_ours(table())
    TABLE.write_text(written(facts), "utf-8")
    PAGE.write_text(with_block(PAGE.read_text("utf-8"), block(facts)), "utf-8")
    for name, told in facts["ours"].items():
        if told != SAME and not told.startswith("instead: "):
            print(name, told, file=sys.stderr)


if __name__ == "__main__":
    main()
