"""Folders and files of arrays (safetensors) and facts (JSON), written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from nbcore.common.keys import is_key
from nbcore.errors import NbcoreError, RunFolderError

ARRAYS = "arrays.safetensors"
VERSION = 2
"""Version of what the files hold; another one is refused."""
Arrays = dict[str, np.ndarray]


def check_free(folder: Path, marker: str, *, overwrite: bool, remedy: str) -> None:
    """Check that a folder can be written; only folders that nbcore wrote are ever replaced.

    Args:
        folder: the folder to write.
        marker: the file that identifies a folder written earlier.
        overwrite: whether such a folder may be replaced.
        remedy: what to type in order to replace it.

    Raises:
        RunFolderError: the folder holds something, or cannot be made.
    """
    if folder.resolve() == Path.cwd():
        raise RunFolderError(
            f"{folder} is the current folder, which cannot be moved into place. Give a name, such "
            f"as {folder / 'run'}."
        )
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        if not (folder / marker).is_file():
            raise RunFolderError(
                f"{folder} already holds something, and no {marker}, so it is not replaced. Give "
                "another folder."
            )
        if not overwrite:
            raise RunFolderError(
                f"{folder} already holds something. Give another folder, or {remedy}."
            )
    parent = next(p for p in folder.absolute().parents if p.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise RunFolderError(f"{folder} cannot be made: {parent} is not a writable folder.")


@contextmanager
def whole_folder(
    folder: Path, marker: str, *, overwrite: bool, remedy: str = "overwrite=True"
) -> Generator[Path]:
    """Give a temporary folder to write, and move it to its final place if nothing failed.

    Arguments are those of `check_free`.

    Raises:
        RunFolderError: the folder holds something, or cannot be made.
    """
    check_free(folder, marker, overwrite=overwrite, remedy=remedy)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    written, replaced = temporary / "new", temporary / "old"
    written.mkdir()
    try:
        yield written
        if folder.exists():
            os.replace(folder, replaced)
        os.replace(written, folder)
    finally:
        if replaced.exists() and not folder.exists():
            os.replace(replaced, folder)
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a temporary file and move it to its place, so that it is never half-written.

    Raises:
        RunFolderError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, path)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written ({error.strerror}).") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_folder(
    folder: Path, arrays: Arrays, facts: dict[str, Any], *, overwrite: bool, kind: str = "posterior"
) -> None:
    """Write arrays and facts into a folder, whole or not at all.

    Args:
        folder: the folder to write.
        arrays: arrays by name.
        facts: JSON data.
        overwrite: whether a folder of this kind may be replaced.
        kind: kind of contents; the facts are in the file of that name.

    Raises:
        RunFolderError: the folder exists and may not be replaced.
    """
    with whole_folder(folder, f"{kind}.json", overwrite=overwrite) as written:
        write_files(written, arrays, facts, kind=kind)


def write_files(folder: Path, arrays: Arrays, facts: dict[str, Any], *, kind: str) -> None:
    """Write arrays and facts into a folder that is there; see `write_folder`."""
    save_file(_in_rows(arrays), folder / ARRAYS)
    text = json.dumps({"format": _format(kind), **facts}, indent=1, sort_keys=True)
    (folder / f"{kind}.json").write_text(text, encoding="utf-8")


def read_folder(folder: Path, *, kind: str = "posterior") -> tuple[Arrays, dict[str, Any]]:
    """Read what `write_folder` wrote.

    Raises:
        RunFolderError: it is missing, damaged, or of another format.
    """
    try:
        facts = json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))
        arrays = load_file(folder / ARRAYS)
    except (OSError, ValueError, SafetensorError) as error:
        raise RunFolderError(
            f"{folder} holds no readable {kind} ({error}). Its folder has {kind}.json and "
            f"{ARRAYS}, written by {kind}.save()."
        ) from error
    found = facts.get("format") if isinstance(facts, dict) else None
    if found != _format(kind):
        raise RunFolderError(
            f"{folder} has the format {found!r}; this version reads {_format(kind)!r}."
        )
    return arrays, facts


@contextmanager
def told_as_damage(folder: Path, kind: str = "posterior") -> Generator[None]:
    """Turn errors about facts or arrays that are missing or malformed into a RunFolderError."""
    try:
        yield
    except NbcoreError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"{folder} holds a damaged {kind} ({type(error).__name__}: {error}). Write it again."
        ) from error


def write_arrays(path: Path, arrays: Arrays, facts: dict[str, Any]) -> None:
    """Write one file of arrays with facts in its header, whole or not at all.

    Raises:
        RunFolderError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        save_file(_in_rows(arrays), temporary, metadata={"facts": json.dumps(facts)})
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # on disk before its name is
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"{path} cannot be written ({error}).") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_arrays(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Read what `write_arrays` wrote.

    Raises:
        RunFolderError: it is missing or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as stored:
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  no dict
            return arrays, json.loads(stored.metadata()["facts"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}).") from error


def _in_rows(arrays: Arrays) -> Arrays:
    """Return arrays in row-major memory order, which safetensors writes."""
    return {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}


def digest(tree: Any) -> str:
    """Return a hash of arrays (keys included) and texts, with their names, shapes and dtypes."""
    found = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf, order="C")
        found.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype};".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _format(kind: str) -> str:
    return f"nbcore-{kind}-{VERSION}"


def below(arrays: Arrays, prefix: str) -> Arrays:
    """Return the arrays whose names start with a prefix, without it."""
    return {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}
