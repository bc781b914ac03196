"""The rooms of nbcore: their order, what each is for, and a picture of them.

python tests/benchmarks/rooms.py    # writes docs/images/rooms.svg
"""

from __future__ import annotations

import ast
import re
import tomllib
from html import escape
from pathlib import Path

import nbcore as nb

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "images" / "rooms.svg"
OUTSIDE = ("backends", "plugins")


def room_order() -> list[str]:
    """Return the rooms of nbcore, each imported only by those after it."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["id"] == "rooms")
    rooms = [room for layer in reversed(layers) for room in layer.split(" | ")]
    return [room for room in rooms if room != "extend"]  # it names what is in them


def purpose(room: str) -> str:
    """Return the first sentence of the docstring of a room, such as `targets/hoisting`."""
    folder = ROOT / "nbcore" / room
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=[.:?!])\s*\n\n|(?<=\.)\s", text, maxsplit=1)[0]


def public_names(room: str) -> list[str]:
    """Return the names of `nbcore` that are defined in a room."""
    homes = {name: getattr(getattr(nb, name), "__module__", "") for name in nb.__all__}
    return [f"nb.{name}" for name, home in homes.items() if home.split(".")[:2] == ["nbcore", room]]


def packages(folder: str) -> list[str]:
    """Return the packages of `backends` or `plugins`."""
    return sorted(path.parent.name for path in (ROOT / folder).glob("*/__init__.py"))


def table() -> str:
    """Return the rooms and what each is for, each above those that it imports, in Markdown."""
    inner = {"targets": ["targets/hoisting"]}
    rooms = [name for room in reversed(room_order()) for name in [room, *inner.get(room, [])]]
    lines = [f"| `{room}` | {purpose(room)} |" for room in rooms]
    return "\n".join(["| room | purpose |", "|---|---|", *lines])


def with_block(text: str, name: str, block: str) -> str:
    """Return a page in which a block stands between its marks."""
    begin, rest = re.split(rf"(?<=<!-- {name}: )(.*?-->)\n", text, maxsplit=1)[0:3:2]
    mark = text[len(begin) : len(text) - len(rest)]
    return f"{begin}{mark}{block}\n{rest[rest.index('<!-- end of ' + name) :]}"


GROUND, ROOF = ("errors", "metrics", "datasets", "common"), ("report", "testing", "cli")
FILLS = {
    "common": "#e5e7eb",
    "networks": "#dbeafe",
    "subsets": "#dbeafe",
    "distributions": "#dcfce7",
    "targets": "#dcfce7",
    "posterior": "#fef3c7",
    "sampling": "#fef3c7",
    "selection": "#fae8ff",
    "training": "#fae8ff",
    "estimators": "#fee2e2",
}
WIDTH, HEIGHT, GAP, HOUSE = 960, 46, 6, 700
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
SANS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def picture() -> str:
    """Return the picture: opaque boxes, so that it reads on a light page and on a dark one."""
    order = room_order()
    floors = [room for room in reversed(order) if room not in (*GROUND, *ROOF)]
    floors.append("common")
    shapes: list[str] = []
    y = 10.0
    for n, room in enumerate(ROOF):
        width = (HOUSE - 2 * GAP) / 3
        shapes += _box(10 + n * (width + GAP), y, width, HEIGHT, "#ede9fe", room)
    y += HEIGHT + GAP
    top = y
    for room in floors:
        shapes += _floor(y, room)
        y += HEIGHT + GAP
    for n, room in enumerate(r for r in GROUND if r != "common"):
        width = (HOUSE - 2 * GAP) / 3
        shapes += _box(10 + n * (width + GAP), y, width, 32, "#e5e7eb", room)
    x = HOUSE + 10 + 3 * GAP
    each = (y - top - GAP) / 2
    for n, folder in enumerate(OUTSIDE):
        shapes += _outside(x, top + n * (each + GAP / 2), WIDTH - x - 10, each - GAP / 2, folder)
    shapes += [
        _rectangle(x, y, WIDTH - x - 10, 32, "#f3f4f6"),
        _text(x + 14, y + 20, "A room imports only from below.", 12),
    ]
    height = y + 32 + 10
    text = "\n".join(f"  {shape}" for shape in shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
        f'width="{WIDTH}" height="{height:g}" role="img">\n'
        "  <title>The rooms of nbcore; each imports only rooms below it. Backends and plugins "
        f"import nbcore and nbcore.extend.</title>\n{text}\n</svg>\n"
    )


def _rectangle(x: float, y: float, width: float, height: float, fill: str) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{fill}" '
        'stroke="#6b7280"/>'
    )


def _text(x: float, y: float, text: str, size: float, *, mono: bool = False, bold: bool = False,
          fill: str = "#111827") -> str:  # fmt: skip
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-family="{MONO if mono else SANS}" font-size="{size:g}"'
        f'{weight} fill="{fill}">{escape(text)}</text>'
    )


def _box(x: float, y: float, width: float, height: float, fill: str, room: str) -> list[str]:
    return [
        _rectangle(x, y, width, height, fill),
        _text(x + 12, y + height / 2 + 5, room, 15, mono=True, bold=True),
    ]


def _floor(y: float, room: str) -> list[str]:
    inner = sorted(path.parent.name for path in (ROOT / "nbcore" / room).glob("*/__init__.py"))
    chips: list[str] = []
    for n, name in enumerate(inner):
        x = HOUSE - 98 - 108 * n
        chips += [
            _rectangle(x, y + 12, 98, 22, "#f9fafb"),
            _text(x + 10, y + 27, name, 12, mono=True),
        ]
    names = ", ".join(public_names(room))
    limit = 60 if inner else 84
    shown = names if len(names) <= limit else names[: names.rindex(",", 0, limit)] + ", …"
    line = purpose(room).replace("`", "")
    return [
        *_box(10, y, HOUSE, HEIGHT, FILLS.get(room, "#ede9fe"), room),
        _text(160, y + (19 if names else 28), line, 13),
        *([_text(160, y + 36, shown, 10.5, mono=True, fill="#374151")] if names else []),
        *chips,
    ]


def _outside(x: float, y: float, width: float, height: float, folder: str) -> list[str]:
    lines = [_text(x + 14, y + 54 + 19 * n, name, 12, mono=True)
             for n, name in enumerate(packages(folder))]  # fmt: skip
    return [
        _rectangle(x, y, width, height, "#f3f4f6"),
        _text(x + 14, y + 24, f"{folder}/", 15, mono=True, bold=True),
        *lines,
        _text(x + 14, y + height - 14, "import nbcore, nbcore.extend", 12),
    ]


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_block(text, "rooms", table()), encoding="utf-8")
