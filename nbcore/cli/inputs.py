"""From columns of a table to the arrays that a network reads, the same way for every table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from nbcore.datasets import SmilesTokenizer, Table
from nbcore.datasets.smiles import molecule
from nbcore.errors import DataError, RunFolderError, TokenError

FAR = 6
"""Deviations from the training mean beyond which a number is unlike anything in training."""


class Inputs(Protocol):
    """How rows become inputs of a network."""

    kind: ClassVar[str]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        ...

    @property
    def network_options(self) -> dict[str, Any]:
        """Options that the network needs for these inputs, where it has them."""
        ...

    def encode(self, table: Table) -> np.ndarray:
        """Return the inputs of all rows.

        Raises:
            DataError: a cell cannot be read (file, line and column are named).
        """
        ...

    def unseen(self, table: Table) -> list[int]:
        """Return the lines that hold something which training has never met."""
        ...

    def to_data(self) -> dict[str, Any]:
        """Return all this as JSON data."""
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
        tokenizer = SmilesTokenizer.fit(training.text(column))
        return SmilesInputs(column, tokenizer, max(len(row) for rows in tokens for row in rows))

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

    def encode(self, table: Table) -> np.ndarray:
        """Return token ids `(rows, max_length)`, int32."""
        for line, row in zip(table.line_numbers, _tokenized(table, self.column), strict=True):
            if len(row) > self.max_length:
                raise DataError(
                    f"{table.path}, line {line}, column {self.column!r}: the molecule has "
                    f"{len(row)} tokens; the network was made for at most {self.max_length}. "
                    "Remove the row, or train with molecules of that size."
                )
        return self.tokenizer.encode(table.text(self.column), self.max_length)

    def unseen(self, table: Table) -> list[int]:
        """Return the lines with a token that is not in the vocabulary."""
        known = frozenset(self.tokenizer.tokens)
        rows = zip(table.line_numbers, _tokenized(table, self.column), strict=True)
        return [line for line, row in rows if not known.issuperset(row)]

    def to_data(self) -> dict[str, Any]:
        """Return column and length; the tokenizer has a file of its own."""
        return {"kind": self.kind, "column": self.column, "max_length": self.max_length}


def _tokenized(table: Table, column: str) -> list[list[str]]:
    found: list[list[str]] = []
    for line, smiles in zip(table.line_numbers, table.text(column), strict=True):
        try:
            found.append(molecule(smiles))
        except TokenError as error:
            raise DataError(f"{table.path}, line {line}, column {column!r}: {error}") from error
    return found


@dataclass(frozen=True)
class FeatureInputs:
    """Numeric columns, standardized with what the training rows say.

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

    def encode(self, table: Table) -> np.ndarray:
        """Return standardized features `(rows, features)`, float32."""
        values = table.numeric(self.names).astype(np.float64)
        return ((values - np.array(self.shift)) / np.array(self.scale)).astype(np.float32)

    def unseen(self, table: Table) -> list[int]:
        """Return the lines further than `FAR` deviations from the training mean in some column."""
        far: np.ndarray = np.max(np.abs(self.encode(table)), axis=1) > FAR
        return [line for line, is_far in zip(table.line_numbers, far, strict=True) if is_far]

    def to_data(self) -> dict[str, Any]:
        """Return columns, shifts and scales."""
        return {"kind": self.kind, "names": self.names, "shift": self.shift, "scale": self.scale}


def inputs_from_data(data: dict[str, Any], tokenizer: SmilesTokenizer | None) -> Inputs:
    """Return the inputs that `to_data` described.

    Raises:
        RunFolderError: they are described in another way.
    """
    if data["kind"] == FeatureInputs.kind:
        columns = (tuple(data[name]) for name in ("names", "shift", "scale"))
        return FeatureInputs(*columns)
    if data["kind"] == SmilesInputs.kind and tokenizer is not None:
        return SmilesInputs(data["column"], tokenizer, data["max_length"])
    raise RunFolderError(f"The run folder describes inputs that cannot be read: {data}.")
