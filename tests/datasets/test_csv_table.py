"""The table reader: exact on good files, precise about bad ones."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcore.datasets import read_csv
from nbcore.errors import DataError, OptionError


@pytest.fixture
def write(tmp_path):
    def write_file(content: str | bytes) -> Path:
        path = tmp_path / "table.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


def test_reads_text_and_numbers_in_the_order_asked(write):
    table = read_csv(write("smiles,a,b\nCCO,1.5,-2e-3\nCl,0,7\n"))
    assert table.text("smiles") == ["CCO", "Cl"]
    numbers = table.numeric(["b", "a"])
    assert numbers.dtype == np.float64
    np.testing.assert_array_equal(numbers, np.array([[-2e-3, 1.5], [7, 0]]))
    assert len(table) == 2
    assert list(table.columns) == ["smiles", "a", "b"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_marks(write, newline, mark):
    table = read_csv(write(mark + newline.join(["x,y", "1,2", "3,4", ""])))
    np.testing.assert_array_equal(table.numeric(["x", "y"]), [[1, 2], [3, 4]])
    assert table.line_numbers == [2, 3]


def test_line_numbers_count_blank_lines_and_quoted_line_breaks(write):
    table = read_csv(write('\nname,y\n\n"two\nlines",1\n  \nplain,oops\n'))
    assert table.text("name") == ["two\nlines", "plain"]
    assert table.line_numbers == [4, 7]
    with pytest.raises(DataError, match="line 7, column 'y': 'oops' is not a number"):
        table.numeric(["y"])


def test_spaces_around_cells_are_removed_and_quotes_hold_delimiters(write):
    table = read_csv(write('smiles , y\n CCO , 1 \n"a,b", 2\n'))
    assert table.text("smiles") == ["CCO", "a,b"]
    np.testing.assert_array_equal(table.numeric(["y"]), [[1], [2]])


def test_characters_that_split_lines_elsewhere_stay_in_their_cell(write):
    table = read_csv(write("name,y\na\u2028b\x0cc,1\n"))
    assert table.text("name") == ["a\u2028b\x0cc"]
    assert table.line_numbers == [2]


def test_other_delimiters(write):
    table = read_csv(write("a;b\n1;2\n"), delimiter=";")
    np.testing.assert_array_equal(table.numeric(["a", "b"]), [[1, 2]])


cells = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)


@given(st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=6))
def test_reads_back_what_the_csv_module_writes(tmp_path_factory, rows):
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([["a", "b", "c"], *rows])
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    path.write_bytes(buffer.getvalue().encode())
    table = read_csv(path)
    assert [table.text(name) for name in "abc"] == [
        list(column) for column in zip(*rows, strict=True)
    ]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_survive_exactly(tmp_path_factory, numbers):
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    path.write_text("\n".join(["y", *map(repr, numbers)]))
    np.testing.assert_array_equal(read_csv(path).numeric(["y"])[:, 0], numbers)


# Bad files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", "  \n"])
def test_empty_file(write, content):
    with pytest.raises(DataError, match=r"table\.csv: the file is empty; expected a header"):
        read_csv(write(content))


def test_header_alone(write):
    with pytest.raises(DataError, match=r"ends after its header; expected at least one row"):
        read_csv(write("smiles,y\n"))


@pytest.mark.parametrize(("row", "count"), [("C,1,2", 3), ("C", 1), ("C,1,", 3)])
def test_ragged_row(write, row, count):
    expected = rf"table\.csv, line 3: the row has {count} cells; expected 2, one for each of"
    with pytest.raises(DataError, match=expected):
        read_csv(write(f"smiles,y\nC,1\n{row}\n"))


def test_duplicate_header(write):
    with pytest.raises(DataError, match="line 1: columns 1 and 3 are all called 'y'"):
        read_csv(write("y,x,y\n1,2,3\n"))


def test_column_without_a_name(write):
    with pytest.raises(DataError, match=r"line 1: column 1 has no name.*index=False"):
        read_csv(write(",smiles,y\n0,C,1\n"))


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_wrong_delimiter_says_which_to_type(write, delimiter):
    with pytest.raises(DataError) as caught:
        read_csv(write(f"smiles{delimiter}y\nC{delimiter}1\n"))
    assert f"type delimiter={delimiter!r}" in str(caught.value)


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n"])
def test_delimiter_must_be_a_character(write, delimiter):
    with pytest.raises(OptionError, match="expected one character"):
        read_csv(write("a,b\n1,2\n"), delimiter=delimiter)


def test_open_quote_names_the_line_where_its_row_starts(write):
    with pytest.raises(DataError, match=r"table\.csv, line 3: the row is malformed"):
        read_csv(write('a,b\n1,2\n3,"4\n5,6\n7,8\n'))


def test_text_after_a_closing_quote(write):
    with pytest.raises(DataError, match="line 2: the row is malformed"):
        read_csv(write('a,b\n"1"x,2\n'))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("name,y\nCafé,1\n".encode("latin-1"), 2),
        ("name,y\nC,1\n".encode("utf-16-le"), 1),
        (b"name,y\nC,1\n\x00\x00", 3),
    ],
)
def test_not_utf8(write, content, line):
    with pytest.raises(DataError, match=rf"line {line}: the text is not UTF-8"):
        read_csv(write(content))


def test_utf_16_and_excel_are_named(write):
    with pytest.raises(DataError, match=r"the text is UTF-16, not UTF-8.*iconv -f UTF-16"):
        read_csv(write("name,y\nC,1\n".encode("utf-16")))
    for start in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1"):
        with pytest.raises(DataError, match=r"an Excel workbook, not a CSV file.*read_excel"):
            read_csv(write(start + b"rest"))
    with pytest.raises(DataError, match=r"a Parquet file, not a CSV file.*read_parquet"):
        read_csv(write(b"PAR1restPAR1"))


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        ("1,234", r"Write it without commas, 1234, or with a point if it separates decimals\."),
        ("1,234,567.8", r"Write it without commas, 1234567\.8\."),
        ("-1.234,5", r"Write decimals with a point and thousands without one, -1234\.5\."),
        ("0,5", r"Write decimals with a point, 0\.5\."),
        ("-12,25", r"Write decimals with a point, -12\.25\."),
        ("a,b", r"2e-5\.$"),
    ],
)
def test_commas_get_the_advice_that_fits(write, cell, hint):
    table = read_csv(write(f'y\n"{cell}"\n'))
    with pytest.raises(DataError, match=rf"is not a number; .*{hint}"):
        table.numeric(["y"])


def test_missing_file_suggests_its_neighbor(write):
    path = write("a\n1\n")
    with pytest.raises(DataError, match=r"no such file\. Did you mean 'table\.csv'\?"):
        read_csv(path.with_name("tabel.csv"))
    with pytest.raises(DataError, match="no such file"):
        read_csv(path.parent / "nowhere" / "table.csv")


def test_folder_is_not_a_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_csv(tmp_path)


# Bad columns and cells ------------------------------------------------------------------------


@pytest.mark.parametrize("lookup", ["text", "numeric"])
def test_missing_column_suggests_the_nearest(write, lookup):
    table = read_csv(write("smiles,solubility\nC,1\n"))
    argument = "solubilty" if lookup == "text" else ["solubilty"]
    with pytest.raises(DataError) as caught:
        getattr(table, lookup)(argument)
    message = str(caught.value)
    assert "no column 'solubilty'. Did you mean 'solubility'?" in message
    assert "The columns are: 'smiles', 'solubility'." in message


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("high", "'high' is not a number; expected one such as"),
        ('"3,14"', "'3,14' is not a number.*decimals with a point"),
        ("1_000", "'1_000' is not a number"),
        ("", "the cell is empty"),
        ("nan", "'nan' is not a finite number"),
        ("-inf", "'-inf' is not a finite number"),
        ("1e309", "'1e309' is not a finite number"),
    ],
)
def test_bad_number_names_file_line_and_column(write, cell, message):
    table = read_csv(write(f"smiles,y\nC,1\nCC,{cell}\n"))
    with pytest.raises(DataError, match=rf"table\.csv, line 3, column 'y': {message}"):
        table.numeric(["y"])


def test_an_empty_text_cell_raises_only_where_it_is_used(write):
    table = read_csv(write("smiles,y,note\nC,1,\nCC,2,fine\n"))
    np.testing.assert_array_equal(table.numeric(["y"]), [[1], [2]])
    with pytest.raises(DataError, match="line 2, column 'note': the cell is empty"):
        table.text("note")


def test_one_name_is_not_a_list_of_names(write):
    table = read_csv(write("y\n1\n"))
    with pytest.raises(DataError, match=r"Type \['y'\]"):
        table.numeric("y")
    with pytest.raises(DataError, match="no columns were asked for"):
        table.numeric([])
