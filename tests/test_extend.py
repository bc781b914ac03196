"""`nbcore.extend` is what a plugin may import: the table of docs/extending.md, name by name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from nbcore import extend

ROOT = Path(__file__).parents[1]
LINES = {name: line for names in extend.SURFACE.values() for name, line in names.items()}


def test_the_page_lists_every_name_with_its_line():
    """The committed list: whoever adds, removes or describes a name changes the page as well."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    section = page.partition("## All that a plugin may import")[2]
    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.M)) == LINES


def test_editors_see_the_names_that_resolve():
    tree = ast.parse(Path(extend.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (alias.asname, node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {(n, f"nbcore.{home}") for home, names in extend.SURFACE.items() for n in names}
    assert seen == homes


@pytest.mark.parametrize("name", extend.__all__)
def test_every_name_resolves(name):
    assert getattr(extend, name) is not None
    assert name in dir(extend)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(AttributeError, match=r"'nbcore.extend'.*Did you mean 'Whitening'"):
        extend.Whitenin  # noqa: B018
