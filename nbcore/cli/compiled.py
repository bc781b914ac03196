"""Compiled programs, kept in the user's cache folder so that the next command starts with them."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

FOLDER = "JAX_COMPILATION_CACHE_DIR"
OURS = {
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}
"""Every program is kept: a fit has a hundred small ones beside the few that take seconds."""
ENDINGS = ("-cache", "-atime")


def keep_compiled(environment: Mapping[str, str] = os.environ) -> None:
    """Let JAX keep what it compiles in the user's cache folder.

    Environment variables win: with `JAX_COMPILATION_CACHE_DIR` or `JAX_ENABLE_COMPILATION_CACHE`
    nothing is changed. Nor is anything if there is no folder to write to.
    """
    folder = cache_folder(environment)
    if folder is None or FOLDER in environment or "JAX_ENABLE_COMPILATION_CACHE" in environment:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    import jax  # noqa: PLC0415  commands that compute nothing do without it

    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in OURS.items():
        if name.upper() not in environment:
            jax.config.update(name, value)


def keep_nothing() -> None:
    """Compile everything anew and keep nothing, whatever the environment says."""
    import jax  # noqa: PLC0415  see above

    jax.config.update("jax_enable_compilation_cache", False)


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder of compiled programs; `None` if the user has no home.

    It is the one that `JAX_COMPILATION_CACHE_DIR` names, else a folder for processors of this kind
    in the user's cache folder: `$XDG_CACHE_HOME` or `~/.cache`, `~/Library/Caches` on macOS,
    `%LOCALAPPDATA%` on Windows. Programs are machine code, and homes are shared between machines.

    Examples:
        >>> cache_folder({"JAX_COMPILATION_CACHE_DIR": "programs"}).name
        'programs'
        >>> cache_folder({"XDG_CACHE_HOME": "cache"}).parts[-3:-1]
        ('nbcore', 'compiled')
    """
    if environment.get(FOLDER):
        return Path(environment[FOLDER])
    try:
        return _user_cache(environment) / "nbcore" / "compiled" / _processor()
    except RuntimeError:  # no home
        return None


def stored_programs(folder: Path) -> Iterator[Path]:
    """Return the files of a folder that hold compiled programs."""
    return (path for path in folder.glob("*") if path.name.endswith(ENDINGS))


def _user_cache(environment: Mapping[str, str]) -> Path:
    if environment.get("XDG_CACHE_HOME"):
        return Path(environment["XDG_CACHE_HOME"])
    if sys.platform == "win32" and environment.get("LOCALAPPDATA"):
        return Path(environment["LOCALAPPDATA"])
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")


def _processor() -> str:
    """Return a name for processors with the same instructions."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    words = " ".join(sorted(features.split())) or platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"
