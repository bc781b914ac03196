"""A separate distribution, built and installed offline: found, run and held to the contract."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import nbcore
import nbcore_selectors
import nbcore_sgmcmc

SOURCE = Path(__file__).parents[1] / "external_plugin"


class World:
    """An environment that sees this one's packages, and distributions of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv = folder / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        self.python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        own = Path(self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        ours = sysconfig.get_path("purelib")
        under_test = {
            str(Path(module.__file__ or "").parents[1])
            for module in (nbcore, nbcore_selectors, nbcore_sgmcmc)
        }
        # addsitedir, so that the .pth file of an editable install is read as well.
        lines = [*sorted(under_test), f"import site; site.addsitedir({ours!r})"]
        (own / "ours.pth").write_text("\n".join(lines) + "\n")
        self.own = own

    def install(self, project: Path) -> None:
        """Build a project and install it, without an index."""
        subprocess.run(
            [
                sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
                "--no-build-isolation", "--disable-pip-version-check", "--target", self.own,
                project,
            ],
            check=True,
        )  # fmt: skip

    def copy_of(self, name: str, **changes: str) -> Path:
        """Return a copy of the plugin's project under another name, with texts replaced."""
        project = self.folder / name
        shutil.copytree(SOURCE, project, ignore=shutil.ignore_patterns("__pycache__"))
        (project / "acme_nbcore").rename(project / name)
        for file in (project / "pyproject.toml", *project.glob(f"{name}/*.py")):
            text = file.read_text().replace("acme_nbcore", name).replace("acme-nbcore", name)
            text = text.replace('acme = "', f'{name} = "')
            for old, new in changes.items():
                text = text.replace(old, new)
            file.write_text(text)
        return project

    def run(self, *arguments: str, status: int = 0, **environment: str) -> str:
        """Run the environment's Python, away from the source tree; return what it prints."""
        done = subprocess.run(
            [self.python, *arguments],
            capture_output=True,
            text=True,
            timeout=600,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": "", **environment},
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The plugin, and next to it one that breaks when it is imported."""
    pytest.importorskip("hatchling")
    made = World(tmp_path_factory.mktemp("world"))
    made.install(SOURCE)
    made.install(
        made.copy_of(
            "rotten", **{"from nbcore.extend import Spec": "raise OSError('rot')\nimport Spec"}
        )
    )
    return made


@pytest.mark.parametrize(
    "file",
    [
        "pyproject.toml",
        "acme_nbcore/__init__.py",
        "acme_nbcore/barker.py",
        "acme_nbcore/saliency.py",
        "test_acme.py",
    ],
)
def test_the_page_shows_the_project_as_it_is(file: str) -> None:
    page = (SOURCE.parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
    assert (SOURCE / file).read_text(encoding="utf-8") in page


def test_a_sampler_that_adapts_takes_forty_lines() -> None:
    """Without imports, blank lines and docstrings, options and state included."""
    source = (SOURCE / "acme_nbcore" / "barker.py").read_text(encoding="utf-8")
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text or isinstance(node, ast.Import | ast.ImportFrom):
            left_out |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = enumerate(source.splitlines(), 1)
    assert sum(bool(line.strip()) for number, line in lines if number not in left_out) <= 40


def test_the_plugin_is_found_and_the_broken_one_reported(world: World) -> None:
    code = "from nbcore.cli import main; main(['plugins'])"
    shown = " ".join(world.run("-c", code, COLUMNS="200").split())
    assert "acme-barker" in shown
    assert "acme-saliency" in shown
    assert "numpyro-nuts" in shown
    assert "rotten" in shown
    assert "rot" in shown


def test_a_strangers_sampler_and_selector_run(world: World) -> None:
    out = world.run(
        "-c",
        "import jax.numpy as jnp, nbcore as nb\n"
        "target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))\n"
        "p = nb.sample(target, 'acme-barker', num_warmup=50, num_samples=20, progress=False)\n"
        "print(p.draws.shape, 'acme-saliency' in nb.list_selectors())",
    )
    assert out.strip() == "(4, 20, 2) True"


@pytest.mark.slow
def test_the_kit_holds_a_stranger_to_the_contract(world: World) -> None:
    out = world.run(
        "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider",
        "--pyargs", "nbcore.testing", "--nbcore-backend", "acme-barker",
        "--nbcore-selector", "acme-saliency",
    )  # fmt: skip
    assert " passed" in out
    assert "failed" not in out


@pytest.mark.slow
def test_the_tests_of_the_project_pass(world: World) -> None:
    out = world.run(
        "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider", "-m", "not slow",
        str(SOURCE / "test_acme.py"),
    )  # fmt: skip
    assert " passed" in out


def test_two_plugins_with_one_name_are_an_error_that_names_both(world: World) -> None:
    world.install(world.copy_of("emca"))
    code = "import nbcore as nb; nb.list_backends()"
    out = world.run("-c", code, status=1)
    assert "PluginError" in out
    assert "'acme' of 'acme-nbcore' and 'emca' of 'emca'" in out
    world.run("-c", code, NBCORE_DISABLE_PLUGINS="emca")
