"""The tree is as docs/architecture.md says: its rooms, what each is for, and the walks."""

from __future__ import annotations

import ast
import functools
from html import escape
from pathlib import Path

import pytest
import rooms
import walks

import nbcore

NBCORE = rooms.ROOT / "nbcore"
PAGE = rooms.PAGE.read_text(encoding="utf-8")
AGAIN = "Run python tests/benchmarks/rooms.py, and python tests/benchmarks/walks.py --write"
MODULES = sorted(
    path
    for folder in ("nbcore", *rooms.OUTSIDE)
    for path in (rooms.ROOT / folder).rglob("*.py")
)  # fmt: skip
HOUSE = rooms.room_order()[rooms.room_order().index("common") :]
VAGUE = ("", "What", "Where", "How", "Whether", "When", "Which", "Who", "From", "If", "This", "It")
CODE_IN_INIT = ("references", "report", "testing", "compare", "cli")


def test_the_tree_is_the_rooms():
    found = {path.name.removesuffix(".py") for path in NBCORE.iterdir()} - {"__pycache__"}
    assert found == {*rooms.room_order(), "__init__", "extend", "py.typed"}


def test_a_module_has_at_most_400_lines():
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in MODULES}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_the_docstring_of_a_module_says_what_it_is():
    """Its first sentence is no question, and does not begin as a part of one."""
    texts = {path: ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "" for path in MODULES}
    first = {path: text.split(None, 1)[0] if text else "" for path, text in texts.items()}
    assert {path: word for path, word in first.items() if word in VAGUE} == {}


def docstrings(path: Path) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [ast.get_docstring(node) or "" for node in nodes if isinstance(node, kinds)]


def test_num_samples_and_thin_mean_the_same_wherever_they_stand():
    sentence = (
        "steps of each chain after warmup, of which every `thin`-th is kept: `num_samples // thin` "
        "draws, as in Stan and NumPyro"
    )
    texts = [(path, text) for path in MODULES for text in docstrings(path)]
    texts += [(path, path.read_text(encoding="utf-8")) for path in rooms.ROOT.glob("docs/*.md")]
    words = ("num_samples // thin", "`num_samples` counts", "every `thin`-th")
    about = [
        (path, " ".join(text.split())) for path, text in texts if any(w in text for w in words)
    ]
    assert len(about) > 6
    assert [path.name for path, text in about if sentence not in text] == []


@pytest.mark.parametrize("room", [room for room in HOUSE if room not in CODE_IN_INIT])
def test_the_init_of_a_room_is_a_docstring(room: str):
    (statement,) = ast.parse((NBCORE / room / "__init__.py").read_text(encoding="utf-8")).body
    assert isinstance(statement, ast.Expr)


def test_the_page_lists_the_rooms_as_they_are():
    assert rooms.with_block(PAGE, "rooms", rooms.table()) == PAGE, AGAIN


def test_the_picture_shows_the_rooms_and_the_packages():
    text = rooms.PICTURE.read_text(encoding="utf-8")
    for name in [*rooms.room_order(), *map(rooms.packages, rooms.OUTSIDE)]:
        for shown in [name] if isinstance(name, str) else name:
            assert f">{shown}</text>" in text, AGAIN
    for room in HOUSE:
        if room not in rooms.ROOF:
            assert escape(rooms.purpose(room)) in text, AGAIN


@functools.cache
def counted(name: str) -> walks.Walk:
    """Take a walk."""
    return getattr(walks, name)()


@pytest.mark.parametrize("name", [walk.__name__ for walk in walks.WALKS])
def test_the_page_shows_the_walks_as_they_are(name: str):
    assert f"\n{counted(name)}\n" in PAGE, AGAIN


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("position", 3),
        ("params_through_fit", 8),
        ("inputs_through_fit", 8),
        ("inputs_through_training", 8),
    ],
)
def test_a_walk_hardly_climbs(name: str, most: int):
    assert len(counted(name).climbs) <= most


def test_a_climb_is_a_step_to_a_room_that_imports_the_one_left():
    target, prior = walks.Place("targets", "target"), walks.Place("distributions", "priors")
    backend = walks.Place("nbcore_numpyro", "adapter")
    walk = walks.Walk("There and back", (backend, target, prior, target, prior, target, backend))
    assert walk.climbs == ((prior, target), (prior, target), (target, backend))
    assert walk.num_files == 3


def test_the_rooms_are_those_that_are_imported():
    assert Path(nbcore.__file__).parent == NBCORE
