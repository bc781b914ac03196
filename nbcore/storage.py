"""Folders of arrays (safetensors) and facts (JSON), written whole or not at all; no pickle."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from nbcore.errors import OptionError, RunFolderError

FORMAT = "nbcore-posterior-1"
ARRAYS, FACTS = "arrays.safetensors", "posterior.json"
Arrays = dict[str, np.ndarray]


def write_folder(folder: Path, arrays: Arrays, facts: dict[str, Any], *, overwrite: bool) -> None:
    """Write a folder beside its final place and move it there, so that nothing is half-written.

    Raises:
        RunFolderError: the folder exists and may not be replaced.
    """
    if folder.exists() and not overwrite and (folder.is_file() or any(folder.iterdir())):
        raise RunFolderError(
            f"{folder} already holds something. Give another folder, or overwrite=True."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        contiguous = {k: np.ascontiguousarray(v) for k, v in sorted(arrays.items())}
        save_file(contiguous, temporary / ARRAYS)
        text = json.dumps({"format": FORMAT, **facts}, indent=1, sort_keys=True)
        (temporary / FACTS).write_text(text, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
        folder.chmod(0o755)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_folder(folder: Path) -> tuple[Arrays, dict[str, Any]]:
    """Read what `write_folder` wrote.

    Raises:
        RunFolderError: it is missing, damaged, or of another format.
    """
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        arrays = load_file(folder / ARRAYS)
    except (OSError, ValueError, SafetensorError) as error:
        raise RunFolderError(
            f"{folder} holds no readable posterior ({error}). A posterior folder has {FACTS} and "
            f"{ARRAYS}, written by posterior.save()."
        ) from error
    if facts.get("format") != FORMAT:
        raise RunFolderError(
            f"{folder} has the format {facts.get('format')!r}; this version reads {FORMAT!r}."
        )
    return arrays, facts


def below(arrays: Arrays, prefix: str) -> Arrays:
    """Return the arrays whose names start with a prefix, without it."""
    return {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}


def pack_tree(tree: Any) -> tuple[Any, Arrays]:
    """Return the structure of a pytree of dicts, lists and tuples as JSON data, and its arrays.

    Raises:
        OptionError: there is another kind of container.
    """
    arrays: Arrays = {}

    def pack(node: Any) -> Any:
        if isinstance(node, dict):
            return {"dict": [[k, pack(v)] for k, v in sorted(node.items())]}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        if type(node) in (list, tuple):
            return {type(node).__name__: [pack(v) for v in node]}
        if node is None:
            return {"none": []}
        if not hasattr(node, "dtype") or not np.issubdtype(np.asarray(node).dtype, np.generic):
            raise OptionError(
                f"Parameters are stored as dicts, lists and tuples of arrays; got {type(node).__name__}."
            )
        name = str(len(arrays))
        arrays[name] = np.asarray(node)
        return name

    return pack(tree), arrays


def unpack_tree(data: Any, arrays: Arrays) -> Any:
    """Return the pytree that `pack_tree` packed."""
    if isinstance(data, str):
        return jax.numpy.asarray(arrays[data])
    ((kind, items),) = data.items()
    if kind == "dict":
        return {k: unpack_tree(v, arrays) for k, v in items}
    if kind == "none":
        return None
    values = [unpack_tree(v, arrays) for v in items]
    return values if kind == "list" else tuple(values)
