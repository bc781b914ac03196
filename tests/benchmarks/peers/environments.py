"""A virtual environment for each peer, made from its requirements where it is missing."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CACHE = ROOT / ".cache" / "peers"
PYTHONS = ("python3.11", "python3.12")
"""Interpreters that the wheels of all peers exist for."""


def interpreter(script: str) -> Path:
    """Return the interpreter for a script: `numpyro_` runs in the environment `numpyro`.

    A script without a trailing underscore runs where this runs.
    """
    if not script.endswith("_"):
        return Path(sys.executable)
    requirements = HERE / "requirements" / f"{script.rstrip('_').rpartition('_')[2]}.txt"
    venv = CACHE / requirements.stem
    python = venv / "bin" / "python"
    stamp = venv / "requirements.sha256"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Making {venv.relative_to(ROOT)}: this takes a few minutes ...", file=sys.stderr)
        subprocess.run([_base(), "-m", "venv", "--clear", venv], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--requirement", requirements], check=True)
        stamp.write_text(wanted)
    return python


def variables() -> dict[str, str]:
    """Return the variables of a measured process: the checkout's packages, no compilation cache."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    paths = (ROOT, ROOT / "backends", ROOT / "plugins")
    return inherited | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "JAX_PLATFORMS": "cpu"}


def _base() -> str:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if version in PYTHONS:
        return sys.executable
    found = next((path for name in PYTHONS if (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit(f"The peers need one of {', '.join(PYTHONS)}; none is on the PATH.")
    return found
