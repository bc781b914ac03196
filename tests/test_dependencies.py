"""What is imported is declared, and docs/dependencies.md has a line for each dependency."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = [ROOT / "nbcore", *(ROOT / "backends").glob("nb*"), *(ROOT / "plugins").glob("nb*")]
OWN = {folder.name for folder in PACKAGES}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", each, maxsplit=1)[0].lower() for each in requirements}


def imported(folder: Path) -> set[str]:
    """Top-level modules that the code of a package imports, wherever in it."""
    found: set[str] = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").partition(".")[0])
    return found - OWN - set(sys.stdlib_module_names)


def test_what_is_imported_is_declared():
    extras = PROJECT["optional-dependencies"]
    declared = names([*PROJECT["dependencies"], *(r for each in extras.values() for r in each)])
    brings = packages_distributions()
    undeclared = {
        (folder.name, module)
        for folder in PACKAGES
        for module in imported(folder)
        if declared.isdisjoint(name.lower() for name in brings.get(module, [module]))
    }
    assert not undeclared


def test_the_page_says_why_each_dependency_is_there():
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    lines = set(re.findall(r"^\| (?:`(\w+)` \| )?([\w-]+)(?:, [\w-]+)* \| ", page, re.M))
    core = {("", name) for name in names(PROJECT["dependencies"])}
    extras = {
        (extra, name)
        for extra, requirements in PROJECT["optional-dependencies"].items()
        if extra not in ("all", "test", "dev")
        for name in names(requirements)
    }
    assert core | extras <= lines
