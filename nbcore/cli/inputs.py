"""Columns of a table as arrays for a network, converted the same way for every table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from nbcore.datasets import SmilesTokenizer, Table
from nbcore.datasets.csv_table import SHOWN
from nbcore.datasets.smiles import molecule
from nbcore.errors import DataError, RunFolderError, TokenError

FAR = 6
"""Deviations from the training mean beyond which a number is unlike anything in training."""
OK = "ok"
UNLIKE = "unlike training"
"""Status of a row like those of training."""


@dataclass(frozen=True)
class Reading:
    """A table as far as it can be read.

    Args:
        X: inputs of the readable rows, in their order.
        rows: indices of the readable rows.
        status: for every row `"ok"`, its difference from the training rows, or why it cannot be
            read.
    """

    X: np.ndarray
    rows: np.ndarray
    status: list[str]


class Inputs(Protocol):
    """A conversion of rows to inputs of a network."""

    kind: ClassVar[str]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        ...

    @property
    def network_options(self) -> dict[str, Any]:
        """Options that the network needs for these inputs, if it has them."""
        ...

    def read(self, table: Table) -> Reading:
        """Return the inputs of the rows that can be read, and the status of all.

        Raises:
            DataError: a column is missing.
        """
        ...

    def to_data(self) -> dict[str, Any]:
        """Return the conversion as JSON data."""
        ...


@dataclass(frozen=True)
class SmilesInputs:
    """Molecules as tokens.

    Args:
        column: the column of SMILES strings.
        tokenizer: the tokenizer, of the training rows.
        max_length: length of the longest molecule that the network can read.
    """

    kind: ClassVar[str] = "smiles"
    column: str
    tokenizer: SmilesTokenizer
    max_length: int

    @staticmethod
    def fit(column: str, training: Table, others: Sequence[Table]) -> SmilesInputs:
        """Return the inputs whose vocabulary is that of the training rows."""
        tokens = [_tokenized(table, column) for table in (training, *others)]
        longest = max((len(row) for rows, _ in tokens for row in rows), default=1)
        smiles = ["".join(row) for row in tokens[0][0] if row]
        if not smiles:
            first = tokens[0][1][0]
            raise DataError(f"{training.path}: column {column!r} holds no molecule. {first}")
        return SmilesInputs(column, SmilesTokenizer.fit(smiles), longest)

    @property
    def columns(self) -> tuple[str, ...]:
        """The column of SMILES strings."""
        return (self.column,)

    @property
    def network_options(self) -> dict[str, Any]:
        """Vocabulary, padding and length."""
        return {
            "vocab_size": self.tokenizer.vocab_size,
            "pad_token_id": self.tokenizer.pad_id,
            "max_seq_length": self.max_length,
        }

    def read(self, table: Table) -> Reading:
        """Return token ids `(readable rows, max_length)`, int32."""
        tokens, problems = _tokenized(table, self.column)
        known = frozenset(self.tokenizer.tokens)
        status: list[str] = []
        for row, molecule_tokens in enumerate(tokens):
            unknown = [t for t in dict.fromkeys(molecule_tokens) if t not in known]
            if row in problems:
                status.append(f"unreadable: {problems[row]}")
            elif len(molecule_tokens) > self.max_length:
                status.append(
                    f"unreadable: {len(molecule_tokens)} tokens; the network reads "
                    f"{self.max_length}"
                )
            else:
                names = " ".join(unknown)
                status.append(f"{UNLIKE}: tokens never seen: {names}" if unknown else OK)
        rows = _readable(status)
        smiles = ["".join(tokens[row]) for row in rows]
        empty = np.zeros((0, self.max_length), np.int32)
        X = self.tokenizer.encode(smiles, self.max_length) if smiles else empty
        return Reading(X, rows, status)

    def to_data(self) -> dict[str, Any]:
        """Return column and length; the tokenizer has its own file."""
        return {"kind": self.kind, "column": self.column, "max_length": self.max_length}


def _tokenized(table: Table, column: str) -> tuple[list[list[str]], dict[int, str]]:
    """Return the tokens of each row, and the problem of each row without tokens."""
    found: list[list[str]] = []
    problems: dict[int, str] = {}
    for row, smiles in enumerate(table.cells(column)):
        try:
            found.append(molecule(smiles))
        except TokenError as error:
            found.append([])
            problems[row] = str(error)
    return found, problems


def _readable(status: Sequence[str]) -> np.ndarray:
    return np.flatnonzero([not text.startswith("unreadable") for text in status])


@dataclass(frozen=True)
class FeatureInputs:
    """Numeric columns, standardized by the training rows.

    Args:
        names: the columns.
        shift: mean of each over the training rows.
        scale: standard deviation of each; 1 for a column that is constant there.
    """

    kind: ClassVar[str] = "features"
    names: tuple[str, ...]
    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @staticmethod
    def fit(names: Sequence[str], training: Table) -> FeatureInputs:
        """Return the inputs that give the training rows mean 0 and deviation 1."""
        values = training.numeric(names).astype(np.float64)
        deviation = values.std(axis=0)
        scale = np.where(deviation > 0, deviation, 1.0)
        return FeatureInputs(
            tuple(names), tuple(values.mean(axis=0).tolist()), tuple(scale.tolist())
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The numeric columns."""
        return self.names

    @property
    def network_options(self) -> dict[str, Any]:
        """None: networks of tables take the width from their inputs."""
        return {}

    def read(self, table: Table) -> Reading:
        """Return standardized features `(readable rows, features)`, float32."""
        columns = [table.numbers(name) for name in self.names]
        values = np.stack([numbers for numbers, _ in columns], axis=1)
        standardized = (values - np.array(self.shift)) / np.array(self.scale)
        status: list[str] = []
        for row in range(len(table)):
            problems = [
                f"column {name!r}: {problems[row]}"
                for name, (_, problems) in zip(self.names, columns, strict=True)
                if row in problems
            ]
            far = [
                f"{name} is {distance:.3g} deviations from the mean"
                for name, distance in zip(self.names, standardized[row], strict=True)
                if abs(distance) > FAR
            ]
            if problems:
                status.append(f"unreadable: {'; '.join(problems)}")
            else:
                status.append(f"{UNLIKE}: {'; '.join(far)}" if far else OK)
        rows = _readable(status)
        return Reading(standardized[rows].astype(np.float32), rows, status)

    def to_data(self) -> dict[str, Any]:
        """Return columns, shifts and scales."""
        return {"kind": self.kind, "names": self.names, "shift": self.shift, "scale": self.scale}


def inputs_from_data(data: dict[str, Any], tokenizer: SmilesTokenizer | None) -> Inputs:
    """Return the inputs that `to_data` described.

    Raises:
        RunFolderError: the description is unknown.
    """
    if data["kind"] == FeatureInputs.kind:
        columns = (tuple(data[name]) for name in ("names", "shift", "scale"))
        return FeatureInputs(*columns)
    if data["kind"] == SmilesInputs.kind and tokenizer is not None:
        return SmilesInputs(data["column"], tokenizer, data["max_length"])
    raise RunFolderError(f"The run folder describes inputs that cannot be read: {data}.")


def encode(inputs: Inputs, *tables: Table) -> list[np.ndarray]:
    """Return the inputs of all rows of each table.

    Raises:
        DataError: rows cannot be read; the lines of all of them are named, whatever the table.
    """
    readings = [inputs.read(table) for table in tables]
    bad = sorted(
        (str(table.path), line, status.partition(": ")[2])
        for table, reading in zip(tables, readings, strict=True)
        for line, status in zip(table.line_numbers, reading.status, strict=True)
        if status.startswith("unreadable")
    )
    if not bad:
        return [reading.X for reading in readings]
    paths = list(dict.fromkeys(path for path, _, _ in bad))
    columns = ", ".join(map(repr, inputs.columns))
    where = {path: f"{path}, line" if len(paths) > 1 else "line" for path in paths}
    lines = [f"{where[path]} {line}: {problem}" for path, line, problem in bad]
    if len(bad) == 1:
        raise DataError(f"{paths[0]}, column {columns}, {lines[0]}")
    rows = sum(len(table) for table in tables if str(table.path) in paths)
    more = [f"... and {len(bad) - SHOWN} more."] if len(bad) > SHOWN else []
    header = f"{', '.join(paths)}, column {columns}: {len(bad)} of {rows} rows cannot be read:"
    raise DataError("\n".join([header, *lines[:SHOWN], *more]))
