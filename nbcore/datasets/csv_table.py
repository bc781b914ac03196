"""Strict reading of CSV files with a header; errors name file, line and column."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nbcore.errors import DataError, OptionError, did_you_mean

SHOWN = 10
"""How many unreadable cells an error shows."""


@dataclass(frozen=True)
class Table:
    """A table of text cells with the file and the line of every row.

    Attributes:
        path: the file it was read from.
        columns: cells by column name, in the order of the file, spaces at the ends removed.
        line_numbers: for each row, the line of the file on which it starts, from 1.
    """

    path: Path
    columns: dict[str, list[str]]
    line_numbers: list[int]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.line_numbers)

    def text(self, name: str) -> list[str]:
        """Return the cells of one column as they are.

        Args:
            name: a column of the header.

        Raises:
            DataError: no such column, or one of its cells is empty.
        """
        cells = self.cells(name)
        empty = {row: "the cell is empty; expected a value" for row, c in enumerate(cells) if not c}
        self._refuse(name, empty)
        return list(cells)

    def cells(self, name: str) -> list[str]:
        """Return the cells of one column, empty ones included.

        Raises:
            DataError: no such column.
        """
        if name not in self.columns:
            raise DataError(
                f"{self.path}: there is no column {name!r}.{did_you_mean(name, self.columns)} The "
                f"columns are: {', '.join(map(repr, self.columns))}."
            )
        return self.columns[name]

    def numeric(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Return columns as numbers.

        Args:
            names: columns of the header.

        Returns:
            float64 array, shape `(len(table), len(names))`.

        Raises:
            DataError: no such column, or cells that are empty, not a number or not finite; all of
                their lines are named.
        """
        if isinstance(names, str):
            raise DataError(f"Expected a list of columns, got one name. Type [{names!r}].")
        if not names:
            raise DataError(f"{self.path}: no columns were asked for; expected at least one name.")
        columns: list[NDArray[np.float64]] = []
        for name in names:
            numbers, problems = self.numbers(name)
            self._refuse(name, problems)
            columns.append(numbers)
        return np.stack(columns, axis=1)

    def numbers(self, name: str) -> tuple[NDArray[np.float64], dict[int, str]]:
        """Return a column as numbers, NaN in cells that hold none, and what is wrong with those.

        Args:
            name: a column of the header.

        Returns:
            float64 array `(len(table),)`, and the problem of each row that has one.

        Raises:
            DataError: no such column.
        """
        cells = self.cells(name)
        problems = {row: p for row, cell in enumerate(cells) if (p := _problem(cell))}
        numbers = [np.nan if row in problems else float(cell) for row, cell in enumerate(cells)]
        return np.array(numbers, dtype=np.float64), problems

    def _refuse(self, name: str, problems: dict[int, str]) -> None:
        """Raise if any row has a problem, naming all of them."""
        lines = [
            f"{self.path}, line {self.line_numbers[row]}, column {name!r}: {problem}."
            for row, problem in problems.items()
        ]
        if len(lines) > 1:
            more = [f"... and {len(lines) - SHOWN} more."] if len(lines) > SHOWN else []
            header = f"{self.path}: {len(lines)} cells of column {name!r} cannot be read:"
            raise DataError("\n".join([header, *lines[:SHOWN], *more]))
        if lines:
            raise DataError(lines[0])


def _problem(cell: str) -> str:
    """Return why a cell holds no finite number; empty if it does."""
    if not cell:
        return "the cell is empty; expected a value"
    try:
        # float() reads 1_000 as a thousand; in a data file that is a typing error
        number = float(cell.replace("_", "?"))
    except ValueError:
        return f"{cell!r} is not a number; expected one such as -3.18 or 2e-5{_comma_hint(cell)}"
    if not np.isfinite(number):
        return f"{cell!r} is not a finite number; correct the cell or remove the row"
    return ""


def read_csv(path: str | PathLike[str], *, delimiter: str = ",") -> Table:
    r"""Read a CSV file whose first line names the columns.

    The file is UTF-8, with or without a byte order mark. Quoted cells may hold delimiters and line
    breaks; blank lines are skipped. Cells stay text until a column is asked for as numbers.

    Args:
        path: the file.
        delimiter: the character between cells.

    Returns:
        The table, with at least one row.

    Raises:
        DataError: the file is missing, unreadable or empty; its header has unnamed or duplicate
            columns; a row has more or fewer cells than the header; a quote is not closed.
        OptionError: the delimiter is not a single character.

    Examples:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "molecules.csv"
        >>> _ = path.write_text("smiles,y\nCCO,1.1\nCCCCC,-3.18\n")
        >>> table = read_csv(path)
        >>> table.text("smiles")
        ['CCO', 'CCCCC']
        >>> table.numeric(["y"]).shape
        (2, 1)
    """
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise OptionError(f"delimiter is {delimiter!r}; expected one character, such as ';'.")
    path = Path(path)
    rows = _rows(path, _decoded(path), delimiter)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path}: the file is empty; expected a header and at least one row.")
    line, header = first
    _check_header(path, line, header, delimiter)
    columns: dict[str, list[str]] = {name: [] for name in header}
    line_numbers: list[int] = []
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(
                f"{path}, line {line}: the row has {len(cells)} cells; expected {len(header)}, one "
                f"for each of {', '.join(map(repr, header))}. A cell that holds {delimiter!r} "
                'needs quotes: "…".'
            )
        line_numbers.append(line)
        for name, cell in zip(header, cells, strict=True):
            columns[name].append(cell)
    if not line_numbers:
        raise DataError(f"{path}: the file ends after its header; expected at least one row.")
    return Table(path, columns, line_numbers)


def _decoded(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise DataError(
            f"{path}: there is no such file.{did_you_mean(path.name, sorted(siblings))}"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read ({error.strerror}).") from error
    _refuse_other_formats(path, data)
    text = ""
    unreadable = data.find(b"\0")  # binary files can decode, with zeros between
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        unreadable = error.start
    if unreadable >= 0:
        line = data.count(b"\n", 0, unreadable) + 1
        raise DataError(
            f"{path}, line {line}: the text is not UTF-8. Save the "
            "file as UTF-8, or type: iconv -f <its encoding> -t UTF-8 in.csv > out.csv"
        )
    return text


def _refuse_other_formats(path: Path, data: bytes) -> None:
    if data.startswith(b"PAR1"):
        raise DataError(
            f"{path}: this is a Parquet file, not a CSV file. Type: "
            "pandas.read_parquet(path).to_csv('data.csv', index=False)"
        )
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise DataError(
            f"{path}: this is an Excel workbook, not a CSV file. In Excel, save the sheet as 'CSV "
            "UTF-8'; or type: pandas.read_excel(path).to_csv('data.csv', index=False)"
        )
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(
            f"{path}: the text is UTF-16, not UTF-8. Save the file as UTF-8, or type: iconv -f "
            "UTF-16 -t UTF-8 in.csv > out.csv"
        )


def _comma_hint(cell: str) -> str:
    if re.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?", cell):
        decimal = ", or with a point if it separates decimals" if cell.count(",") == 1 else ""
        return f". Write it without commas, {cell.replace(',', '')}{decimal}"
    if re.fullmatch(r"[+-]?\d*,\d+([eE][+-]?\d+)?", cell):
        return f". Write decimals with a point, {cell.replace(',', '.')}"
    if re.fullmatch(r"[+-]?[1-9]\d{0,2}(\.\d{3})+,\d+", cell):
        plain = cell.replace(".", "").replace(",", ".")
        return f". Write decimals with a point and thousands without one, {plain}"
    return ""


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line on which the row starts, its cells) for every row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}, line {line}: the row is malformed ({error}).") from error
        if any(cells) or len(cells) > 1:
            yield line, cells


def _check_header(path: Path, line: int, header: list[str], delimiter: str) -> None:
    if len(header) == 1:
        for other in (",", ";", "\t"):
            if other in header[0]:
                raise DataError(
                    f"{path}, line {line}: no {delimiter!r} separates the columns of "
                    f"{header[0]!r}; type delimiter={other!r}."
                )
    if "" in header:
        raise DataError(
            f"{path}, line {line}: column {header.index('') + 1} has no name; expected a name for "
            "each column. (pandas writes its index so: use to_csv(..., index=False).)"
        )
    for name, count in Counter(header).items():
        if count > 1:
            positions = [i for i, other in enumerate(header, 1) if other == name]
            raise DataError(
                f"{path}, line {line}: columns {' and '.join(map(str, positions))} are all called "
                f"{name!r}; expected a different name for each."
            )
