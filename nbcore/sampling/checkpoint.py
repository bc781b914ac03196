"""Checkpoints: states and draws after each chunk, from which an interrupted run resumes.

    PATH/process-0/checkpoint.json                   everything that the draws depend on
    PATH/process-0/chain-0-state-00012.safetensors   the state after 12 chunks
    PATH/process-0/chain-0-draws-00003.safetensors   the draws of the fourth chunk of sampling

Each process has a folder of its own. A state is deleted once every process has written the next.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nbcore.common.storage import Arrays, digest, read_arrays, write_arrays, write_text
from nbcore.errors import CheckpointError, RunFolderError
from nbcore.sampling.backend import Backend
from nbcore.sampling.placement import Placement
from nbcore.sampling.provenance import plain_options, versions_of

FORMAT = "nbcore-checkpoint-1"
FACTS = "checkpoint.json"


def fingerprint(
    backend: Backend,
    key: jax.Array,
    settings: dict[str, Any],
    place: Placement,
    inputs: dict[str, Any],
) -> dict[str, Any]:
    """Return everything that draws depend on, by name, as JSON data.

    Args:
        backend: the sampler.
        key: the key of the run.
        settings: the arguments of `nb.sample` that are numbers or words.
        place: the devices of the chains.
        inputs: pytrees of arrays and text, by name, of which a hash is compared.
    """
    kinds = sorted({f"{d.platform} {d.device_kind}" for d in place.devices})
    return {
        "format": FORMAT,
        "backend": backend.name,
        **{f"option {name}": value for name, value in plain_options(backend).items()},
        "key": f"{jax.random.key_impl(key)} {np.asarray(jax.random.key_data(key)).tolist()}",
        **settings,
        "mesh": place.sizes,
        "processes": place.num_processes,
        "devices": ", ".join(kinds),
        **{f"version of {name}": value for name, value in versions_of(backend).items()},
        **{name: digest(value) for name, value in inputs.items()},
    }


@dataclass(frozen=True)
class Checkpoint:
    """The part of a checkpoint that belongs to this process.

    Args:
        folder: its folder.
        place: the devices of the chains.
    """

    folder: Path
    place: Placement

    @staticmethod
    def open(path: str | Path, place: Placement, facts: dict[str, Any]) -> Checkpoint:
        """Open the checkpoint at a path, or create one.

        Args:
            path: a folder, which may not exist yet.
            place: the devices of the chains.
            facts: the fingerprint of the run.

        Raises:
            CheckpointError: it is of another run; the differences are named.
            RunFolderError: it cannot be read or written.
        """
        folder = Path(path) / f"process-{jax.process_index()}"
        file = folder / FACTS
        facts = json.loads(json.dumps(facts))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{path} cannot hold a checkpoint ({error}).") from error
        if before is None:
            write_text(file, json.dumps(facts, indent=1))
        elif before != facts:
            names = [n for n in {**before, **facts} if before.get(n) != facts.get(n)]
            differences = "; ".join(
                f"{name} was {before.get(name)!r} and is {facts.get(name)!r}" for name in names
            )
            raise CheckpointError(
                f"{path} is the checkpoint of another run: {differences}. Resume with the "
                "arguments of that run, or give another checkpoint."
            )
        return Checkpoint(folder, place)

    def part(self, name: str) -> Part:
        """Return the part of one chain, or of all that run together."""
        return Part(self.folder, name, self.place.least)


@dataclass
class Part:
    """States and draws of one chain, or of several that run together.

    Args:
        folder: the folder of its files.
        name: the prefix of their names.
        least: returns the least of the numbers of all processes, once all have given theirs.
        states: number of states that were written.
        chunks: number of chunks of draws that were written.
    """

    folder: Path
    name: str
    least: Callable[[int], int]
    states: int = 0
    chunks: int = 0

    def read(self) -> tuple[Arrays, dict[str, Any], list[Arrays]] | None:
        """Return the last state that all processes have, its facts and the draws until then.

        Raises:
            RunFolderError: a file is missing or damaged.
        """
        found = {
            int(file.stem.rpartition("-")[2]): file
            for file in self.folder.glob(f"{self.name}-state-*.safetensors")
        }
        last = self.least(max(found, default=0))
        self.states = last if self.least(int(last in found)) else 0
        for number, file in found.items():
            if number != self.states:
                file.unlink()
        if not self.states:
            return None
        arrays, facts = read_arrays(self._file("state", self.states))
        self.chunks = facts["chunks"]
        chunks = [read_arrays(self._file("draws", n))[0] for n in range(self.chunks)]
        return arrays, facts, chunks

    def write(self, arrays: Arrays, facts: dict[str, Any], draws: Arrays | None) -> None:
        """Write a state, the facts about it and, of a chunk of sampling, its draws.

        Raises:
            RunFolderError: a file cannot be written.
        """
        if draws is not None:
            write_arrays(self._file("draws", self.chunks), draws, {})
            self.chunks += 1
        self.states += 1
        write_arrays(self._file("state", self.states), arrays, {**facts, "chunks": self.chunks})
        self.least(self.states)  # all processes have it, so that none needs the one before
        self._file("state", self.states - 1).unlink(missing_ok=True)

    def _file(self, what: str, number: int) -> Path:
        return self.folder / f"{self.name}-{what}-{number:05}.safetensors"


def named(tree: Any) -> Arrays:
    """Return the leaves of a pytree by their paths."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def unnamed(like: Any, arrays: Arrays) -> Any:
    """Return the pytree with the structure of `like`, from its leaves by path."""
    return jax.tree.map_with_path(lambda path, _: arrays[jax.tree_util.keystr(path)], like)


def filled(like: Any, arrays: Arrays) -> Any:
    """Return the pytree with structure, shapes and dtypes of `like`, from its leaves by path.

    Raises:
        CheckpointError: paths, shapes or dtypes differ.
    """
    stored = {name: (a.shape, str(a.dtype)) for name, a in arrays.items()}
    wanted = {name: (np.shape(a), str(np.asarray(a).dtype)) for name, a in named(like).items()}
    if stored != wanted:
        names = [n for n in {**stored, **wanted} if stored.get(n) != wanted.get(n)]
        raise CheckpointError(
            f"The checkpoint holds another state: {names[0]} is {stored.get(names[0])}, and must "
            f"be {wanted.get(names[0])}. Delete it to start anew."
        )
    return unnamed(like, arrays)
