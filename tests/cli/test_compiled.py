from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from nbcore.cli import main
from nbcore.cli.compiled import cache_folder, keep_compiled

COUNT = """
import jax
from nbcore.cli.compiled import keep_compiled, keep_nothing
{call}()
hits = []
jax.monitoring.register_event_listener(
    lambda event, **about: hits.append(event) if event.endswith("cache_hits") else None)
assert float(jax.jit(lambda x: 3 * x + 1)(2.0)) == 7
print(len(hits))
"""


def hits(cache: Path, call: str = "keep_compiled", **more: str) -> int:
    """Return how many programs a new process finds in a cache folder."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment = {**clean, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(cache), **more}
    done = subprocess.run(
        [sys.executable, "-c", COUNT.format(call=call)], env=environment,
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return int(done.stdout)


def test_a_second_process_finds_what_the_first_compiled(tmp_path: Path) -> None:
    assert hits(tmp_path) == 0
    assert hits(tmp_path) > 0
    elsewhere = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "other")}
    assert hits(tmp_path, **elsewhere) == 0
    assert hits(tmp_path, "keep_nothing", **elsewhere) == 0


@pytest.mark.parametrize("name", ["JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"])
def test_variables_of_jax_win(tmp_path: Path, name: str) -> None:
    before = jax.config.values["jax_compilation_cache_dir"]
    keep_compiled({"XDG_CACHE_HOME": str(tmp_path), name: str(tmp_path / "theirs")})
    assert jax.config.values["jax_compilation_cache_dir"] == before
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    before = jax.config.values["jax_compilation_cache_dir"]
    (tmp_path / "file").write_text("")
    keep_compiled({"XDG_CACHE_HOME": str(tmp_path / "file")})
    assert jax.config.values["jax_compilation_cache_dir"] == before


def test_the_cache_is_shown_and_only_compiled_programs_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache_folder()
    assert folder is not None
    assert folder.is_relative_to(tmp_path)
    assert main(["cache"]) == 0  # nothing was compiled yet
    assert "programs: 0 (" in capsys.readouterr().out
    folder.mkdir(parents=True)
    for name in ("jit_a-1-cache", "jit_a-1-atime", "mine.txt"):
        (folder / name).write_bytes(bytes(2**20))
    assert main(["cache"]) == 0
    assert "programs: 1 (2.0 MiB), kept in" in capsys.readouterr().out
    assert main(["cache", "--clear"]) == 0
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_a_user_without_a_home_gets_an_error_that_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    keep_compiled({})
    assert main(["cache"]) == 2
    assert "JAX_COMPILATION_CACHE_DIR=" in capsys.readouterr().err
