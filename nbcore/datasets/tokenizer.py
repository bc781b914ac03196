"""SMILES strings to token ids and back, one token per atom, bond, branch or ring closure."""

from __future__ import annotations

import json
import operator
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbcore.datasets.smiles import tokenize, tokenize_all
from nbcore.errors import DataError, OptionError, TokenError

_FORMAT = "nbcore-tokenizer-1"
_UNKNOWN = "?"  # not a token: what decodes from an unknown cannot be encoded by accident


@dataclass(frozen=True)
class SmilesTokenizer:
    """A vocabulary of SMILES tokens; ids 0 and 1 are kept for padding and unknown tokens.

    Make one with `fit`. Token `tokens[k]` has id `k + 2`.

    Args:
        tokens: the vocabulary in the order of its ids.

    Raises:
        TokenError: duplicated tokens, or one that is not a single SMILES token.

    Examples:
        >>> tokenizer = SmilesTokenizer.fit(["CCO", "CCl"])
        >>> tokenizer.tokens
        ('C', 'Cl', 'O')
        >>> tokenizer.encode(["CCl", "CN", "OCC"])
        array([[2, 3, 0],
               [2, 1, 0],
               [4, 2, 2]], dtype=int32)
        >>> tokenizer.decode(tokenizer.encode(["CCl", "OCC"]))
        ['CCl', 'OCC']
    """

    tokens: tuple[str, ...]
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    pad_id: ClassVar[int] = 0
    unknown_id: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Check the vocabulary and index it."""
        object.__setattr__(self, "tokens", tuple(self.tokens))
        for token in self.tokens:
            if tokenize(token) != [token]:
                raise TokenError(f"{token!r} is {len(tokenize(token))} SMILES tokens, not one.")
        repeated = [token for token, count in Counter(self.tokens).items() if count > 1]
        if repeated:
            raise TokenError(f"Tokens appear twice in the vocabulary: {repeated}.")
        first = self.unknown_id + 1
        object.__setattr__(self, "_ids", {t: i for i, t in enumerate(self.tokens, first)})

    @classmethod
    def fit(cls, smiles: Iterable[str]) -> SmilesTokenizer:
        """Collect the vocabulary of these strings: most frequent first, then alphabetical.

        Args:
            smiles: SMILES strings; their order does not matter.

        Raises:
            TokenError: no strings, or one that cannot be read (its row is named).
        """
        counts: Counter[str] = Counter()
        for tokens in tokenize_all(smiles):
            counts.update(tokens)
        return cls(tuple(sorted(counts, key=lambda token: (-counts[token], token))))

    @property
    def vocab_size(self) -> int:
        """How many ids exist, padding and unknown included."""
        return len(self.tokens) + 2

    def encode(self, smiles: Iterable[str], max_length: int | None = None) -> NDArray[np.int32]:
        """Turn strings into rows of ids, padded with 0 at the end.

        Args:
            smiles: n SMILES strings. Tokens outside the vocabulary get `unknown_id`.
            max_length: number of columns; None means as many as the longest string needs.

        Returns:
            int32 array, shape `(n, max_length)`.

        Raises:
            TokenError: no strings, one that cannot be read or is longer than `max_length`.
            OptionError: `max_length` is not a positive whole number.
        """
        rows = tokenize_all(smiles)
        longest = max(map(len, rows))
        length = longest if max_length is None else _checked_length(max_length)
        ids = np.full((len(rows), length), self.pad_id, dtype=np.int32)
        for row, tokens in enumerate(rows):
            if len(tokens) > length:
                raise TokenError(
                    f"SMILES in row {row} has {len(tokens)} tokens, more than max_length={length}. "
                    f"Leave the row out, or type max_length={longest} (the longest of these)."
                )
            ids[row, : len(tokens)] = [self._ids.get(token, self.unknown_id) for token in tokens]
        return ids

    def decode(self, ids: ArrayLike) -> list[str]:
        """Turn rows of ids back into strings; an unknown token is written `?`.

        Args:
            ids: integers, shape `(n, length)`, padding only at the end of a row.

        Raises:
            TokenError: not a table of integers, an id outside the vocabulary, or padding
                between tokens.
        """
        table = np.asarray(ids)
        if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
            raise TokenError(
                f"decode got {table.dtype} of shape {table.shape}; expected integers of shape "
                "(n, length). For one sequence type decode(ids[None])."
            )
        words = ("", _UNKNOWN, *self.tokens)
        strings: list[str] = []
        for row, sequence in enumerate(table):
            used = np.flatnonzero(sequence != self.pad_id)
            tokens: list[int] = sequence[: used[-1] + 1].tolist() if used.size else []
            outside = [token for token in tokens if not self.pad_id < token < self.vocab_size]
            if outside:
                raise TokenError(
                    f"Row {row} holds id {outside[0]} before its end; expected ids from 1 to "
                    f"{self.vocab_size - 1}, and 0 only as padding after the last token."
                )
            strings.append("".join(words[token] for token in tokens))
        return strings

    def to_json(self) -> str:
        """Write the vocabulary as JSON; `from_json` gives an equal tokenizer."""
        return json.dumps({"format": _FORMAT, "tokens": self.tokens})

    @classmethod
    def from_json(cls, text: str) -> SmilesTokenizer:
        """Read what `to_json` wrote.

        Raises:
            DataError: not JSON, or not that of a tokenizer.

        Examples:
            >>> tokenizer = SmilesTokenizer.fit(["c1ccccc1Br"])
            >>> SmilesTokenizer.from_json(tokenizer.to_json()) == tokenizer
            True
        """
        try:
            content: Any = json.loads(text)
        except ValueError as error:
            raise DataError(f"The tokenizer's JSON cannot be read: {error}.") from error
        if not isinstance(content, dict):
            raise DataError(f"Expected a JSON object with format {_FORMAT!r}, got {text[:60]!r}.")
        fields = cast(dict[str, Any], content)
        if fields.get("format") != _FORMAT or not isinstance(fields.get("tokens"), list):
            raise DataError(
                f"Expected the format {_FORMAT!r} and a list of tokens, got the format "
                f"{fields.get('format')!r} and the keys {sorted(fields)}."
            )
        return cls(tuple(fields["tokens"]))


def _checked_length(max_length: int) -> int:
    try:
        length = operator.index(max_length)
    except TypeError:
        length = 0
    if length < 1:
        raise OptionError(f"max_length is {max_length!r}; expected a whole number above 0 or None.")
    return length
