"""Python blocks of README.md, docs/ and READMEs in nbcore/ run, one namespace for each file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<words>[^\n]*)\n(?P<code>.*?)^(?P=indent)```\s*?$", re.M | re.S
)


class Snippet(NamedTuple):
    """A block of code and the line it starts at."""

    line: int
    code: str


def snippets(text: str) -> list[Snippet]:
    """Return the blocks fenced as `python`; those marked `python no-run` are left out."""
    found: list[Snippet] = []
    for match in FENCE.finditer(text):
        words = match["words"].split()
        if words[:1] == ["python"] and "no-run" not in words:
            code = re.sub(f"^{match['indent']}", "", match["code"], flags=re.M)
            found.append(Snippet(text[: match.start("code")].count("\n") + 1, code))
    return found


def run(page: Path) -> dict[str, Any]:
    """Run the blocks of a page in order, and return what they define."""
    scope: dict[str, Any] = {"__name__": page.stem}
    for line, code in snippets(page.read_text(encoding="utf-8")):
        # Blank lines before it, so that a traceback names the line of the page; the annotations
        # of a page are not those of this file, whose `from __future__` would be inherited.
        text = "\n" * (line - 1) + code
        exec(compile(text, str(page), "exec", dont_inherit=True), scope)
    return scope


PAGES = [
    page
    for page in [
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("**/*.md")),
        *sorted((ROOT / "nbcore").glob("**/README.md")),
    ]
    if page.is_file() and snippets(page.read_text(encoding="utf-8"))
]


FAST = ("README.md", "extending.md")


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[] if p.name in FAST else [pytest.mark.slow]) for p in PAGES],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_every_block_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(page)


def test_blocks_are_found_where_they_are() -> None:
    text = "# A\n```python\nx = 1\n```\ntext\n```sh\nls\n```\n"
    text += "- item\n  ```python\n  if x:\n      y = 2\n  ```\n"
    text += "```python no-run\nboom\n```\n```\nz\n```\n"
    assert snippets(text) == [Snippet(3, "x = 1\n"), Snippet(11, "if x:\n    y = 2\n")]
