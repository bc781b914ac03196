"""The SMILES tokenizer: nothing lost, nothing ambiguous, everything odd refused."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcore.datasets import SmilesTokenizer, solubility
from nbcore.datasets.smiles import molecule, tokenize
from nbcore.errors import DataError, OptionError, TokenError

TOKENS = [
    *("B", "C", "N", "O", "P", "S", "F", "I", "H", "Cl", "Br"),
    *("b", "c", "n", "o", "p", "s", "*"),
    *("[nH]", "[C@@H]", "[C@H]", "[O-]", "[N+]", "[Sn]", "[13CH3]", "[se]", "[Cl-]", "[Na+:2]"),
    *("@", "@@", "/", "\\", "-", "=", "#", "$", ":", ".", "~", "(", ")"),
    *("1", "2", "9", "0", "%10", "%99", "%(123)"),
]


def unambiguous(tokens: list[str]) -> bool:
    """Two stereo marks in a row are one mark when joined; every other pair stays apart."""
    return all(not (a == "@" and b.startswith("@")) for a, b in pairwise(tokens))


token_lists = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=40).filter(unambiguous)


ATOMS = [t for t in TOKENS if t[0] in "[*" or t.isalpha()]


@st.composite
def chains(draw: st.DrawFn, depth: int = 2) -> list[str]:
    """Atoms in a chain, with bonds, branches, and rings around two of them."""
    tokens: list[str] = []
    count = draw(st.integers(1, 5))
    ring = draw(st.sampled_from(["", "1", "%10", "%(123)"])) if depth == 2 and count > 2 else ""
    for k in range(count):
        bond = draw(st.sampled_from(["", "", "=", "#", ".", "/", "\\", "-"])) if k else ""
        tokens += [bond] if bond else []
        tokens.append(draw(st.sampled_from(ATOMS)))
        tokens += [ring] if ring and k in (0, count - 1) else []
        if depth and draw(st.booleans()):
            tokens += ["(", *draw(chains(depth - 1)), ")"]
    return tokens


@given(token_lists)
def test_tokenize_inverts_joining(tokens):
    assert tokenize("".join(tokens)) == tokens


@given(st.lists(chains(), min_size=1, max_size=6))
def test_decode_inverts_encode(rows):
    smiles = ["".join(tokens) for tokens in rows]
    tokenizer = SmilesTokenizer.fit(smiles)
    ids = tokenizer.encode(smiles)
    assert ids.shape == (len(rows), max(map(len, rows)))
    assert tokenizer.decode(ids) == smiles
    for sequence, tokens in zip(ids, rows, strict=True):
        assert (sequence[: len(tokens)] > SmilesTokenizer.unknown_id).all()
        assert (sequence[len(tokens) :] == SmilesTokenizer.pad_id).all()


@given(st.lists(chains(), min_size=1, max_size=6))
def test_json_round_trip_is_exact(rows):
    tokenizer = SmilesTokenizer.fit("".join(tokens) for tokens in rows)
    again = SmilesTokenizer.from_json(tokenizer.to_json())
    assert again == tokenizer
    assert hash(again) == hash(tokenizer)
    assert again.to_json() == tokenizer.to_json()
    smiles = ["".join(tokens) for tokens in rows]
    np.testing.assert_array_equal(again.encode(smiles), tokenizer.encode(smiles))


@given(st.lists(chains(), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_vocabulary_does_not_depend_on_the_order_of_the_strings(rows, random):
    smiles = ["".join(tokens) for tokens in rows]
    shuffled = list(smiles)
    random.shuffle(shuffled)
    assert SmilesTokenizer.fit(shuffled) == SmilesTokenizer.fit(smiles)


def test_vocabulary_is_by_frequency_then_alphabet():
    tokenizer = SmilesTokenizer.fit(["OOO", "CCC", "N", "Br", "c"])
    assert tokenizer.tokens == ("C", "O", "Br", "N", "c")
    assert tokenizer.vocab_size == 7
    np.testing.assert_array_equal(tokenizer.encode(["COBrNc"]), [[2, 3, 4, 5, 6]])


@pytest.mark.parametrize(
    ("smiles", "tokens"),
    [
        ("ClCBr", ["Cl", "C", "Br"]),
        ("Sc1ccccc1", ["S", "c", "1", "c", "c", "c", "c", "c", "1"]),
        ("F/C=C\\F", ["F", "/", "C", "=", "C", "\\", "F"]),
        ("N[C@@H](C)C(=O)O", ["N", "[C@@H]", "(", "C", ")", "C", "(", "=", "O", ")", "O"]),
        ("C%12CC%12", ["C", "%12", "C", "C", "%12"]),
        ("C12CC12", ["C", "1", "2", "C", "C", "1", "2"]),
        ("[Na+].[Cl-]", ["[Na+]", ".", "[Cl-]"]),
        ("c1cccn1(H)", ["c", "1", "c", "c", "c", "n", "1", "(", "H", ")"]),
    ],
)
def test_tokens_of_real_spellings(smiles, tokens):
    assert tokenize(smiles) == tokens


def test_every_shipped_molecule_is_the_sum_of_its_tokens():
    data = solubility()
    smiles = [*data.train_smiles, *data.test_smiles]
    assert ["".join(tokenize(text)) for text in smiles] == smiles
    tokenizer = SmilesTokenizer.fit(smiles)
    ids = tokenizer.encode(smiles)
    assert ids.shape[0] == 1282
    assert tokenizer.decode(ids) == smiles
    assert set(tokenizer.tokens) == {
        *("C", "c", "(", ")", "O", "N", "=", "Cl", "n", "S", "F", "Br", "#", "I", "H", "P"),
        *("s", "o", "[Sn]", "1", "2", "3", "4", "5", "6", "7"),
    }


def test_encode_gives_int32_of_the_asked_width():
    tokenizer = SmilesTokenizer.fit(["CCO"])
    ids = tokenizer.encode(["CO", "C"], max_length=5)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, [[2, 3, 0, 0, 0], [2, 0, 0, 0, 0]])


def test_unknown_tokens_get_the_unknown_id_and_decode_to_what_cannot_be_encoded():
    tokenizer = SmilesTokenizer.fit(["CCO"])
    ids = tokenizer.encode(["CN[nH]"])
    np.testing.assert_array_equal(ids, [[2, 1, 1]])
    (text,) = tokenizer.decode(ids)
    assert text == "C??"
    with pytest.raises(TokenError, match=r"'\?' at position 1"):
        tokenizer.encode([text])


def test_tokenizer_is_frozen():
    tokenizer = SmilesTokenizer.fit(["C"])
    with pytest.raises(AttributeError):
        tokenizer.tokens = ("N",)


# Bad input ------------------------------------------------------------------------------------


def test_too_long_names_the_row_and_what_to_type():
    tokenizer = SmilesTokenizer.fit(["CCO"])
    with pytest.raises(TokenError, match=r"row 1 has 4 tokens.*max_length=3.*max_length=6"):
        tokenizer.encode(["CCO", "CClCC", "CCCCCC"], max_length=3)
    assert tokenizer.encode(["CCO"], max_length=3).shape == (1, 3)


@pytest.mark.parametrize("max_length", [0, -1, 2.5, "3"])
def test_max_length_must_be_positive(max_length):
    with pytest.raises(OptionError, match=r"expected a whole number above 0"):
        SmilesTokenizer.fit(["C"]).encode(["C"], max_length=max_length)


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ("CC C", r"row 1: no token begins with ' ' at position 2 of 'CC C'. Strip"),
        ("CCSi", r"'i' at position 3.*\[Si\]"),
        ("C[nH", r"'\[' at position 1.*both brackets"),
        ("C[]", r"'\[' at position 1.*both brackets"),
        ("nH]", r"'\]' at position 2.*both brackets"),
        ("C[C[N]]", r"'\[' at position 1"),
        ("C%1", r"'%' at position 1.*%10"),
        ("C!", r"'!' at position 1"),
        ("C\u0661", "'\u0661' at position 1"),
        ("", "row 1 is empty"),
        (None, "row 1 is None, a NoneType"),
        (3.5, "row 1 is 3.5, a float"),
        (b"CC", "row 1 is b'CC', a bytes"),
    ],
)
def test_unreadable_smiles_name_row_position_and_character(smiles, message):
    with pytest.raises(TokenError, match=message):
        SmilesTokenizer.fit(["C", smiles])
    with pytest.raises(TokenError, match=message):
        SmilesTokenizer.fit(["C"]).encode(["C", smiles])


@given(st.text(min_size=1, max_size=20))
def test_any_text_is_read_whole_or_refused(text):
    try:
        tokens = tokenize(text)
    except TokenError:
        return
    assert "".join(tokens) == text


def test_one_string_is_not_a_list_of_strings():
    with pytest.raises(TokenError, match=r"Type \['CCO'\]"):
        SmilesTokenizer.fit("CCO")
    with pytest.raises(TokenError, match=r"Type \['CCO'\]"):
        SmilesTokenizer.fit(["C"]).encode("CCO")


def test_no_strings_raise():
    with pytest.raises(TokenError, match="no SMILES"):
        SmilesTokenizer.fit([])
    with pytest.raises(TokenError, match="no SMILES"):
        SmilesTokenizer.fit(["C"]).encode([])


def test_vocabulary_must_hold_single_different_tokens():
    with pytest.raises(TokenError, match=r"twice.*'C'"):
        SmilesTokenizer(("C", "N", "C"))
    with pytest.raises(TokenError, match="'CN' is 2 SMILES tokens"):
        SmilesTokenizer(("CN",))
    with pytest.raises(TokenError, match="empty"):
        SmilesTokenizer(("",))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[2, 9]], "Row 0 holds id 9.*from 1 to 3"),
        ([[2, 2], [-1, 2]], "Row 1 holds id -1"),
        ([[2, 0, 2]], "Row 0 holds id 0 before its end"),
        ([2, 3], r"shape \(2,\).*decode\(ids\[None\]\)"),
        ([[2.0]], "float64"),
    ],
)
def test_decode_refuses_what_encode_never_gives(ids, message):
    with pytest.raises(TokenError, match=message):
        SmilesTokenizer.fit(["CCO"]).decode(ids)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[1]", "Expected a JSON object"),
        ("{}", "got the format None"),
        (json.dumps({"format": "nbcore-tokenizer-9", "tokens": []}), "nbcore-tokenizer-9"),
        (json.dumps({"format": "nbcore-tokenizer-1"}), "list of tokens"),
        (json.dumps({"format": "nbcore-tokenizer-1", "tokens": [3]}), "3, a int"),
    ],
)
def test_foreign_json_raises(text, message):
    with pytest.raises(DataError, match=message):
        SmilesTokenizer.from_json(text)


@pytest.mark.parametrize(
    ("smiles", "problem"),
    [
        ("C(C(C", r"2 branches '\(' are not closed"),
        ("CC(C", r"a branch '\(' is not closed"),
        ("c1ccccc", "ring 1 is not closed"),
        ("C1CC%12C", "rings 1, 12 are not closed"),
        (")))(((", r"'\)' closes no branch \(token 1 of 6\)"),
        ("CC)C", r"'\)' closes no branch \(token 3 of 4\)"),
        ("C()C", "a branch is empty"),
        ("(C)C", "a branch begins at no atom"),
        ("C..C", "a '.' separates no parts"),
        ("CC=", "the bond '=' at the end leads nowhere"),
        ("C(=)C", "the bond '=' leads nowhere"),
        ("C==C", "two bonds, '=' and '=', stand side by side"),
        ("1CC1", "the ring closure '1' follows no atom"),
    ],
)
def test_what_is_no_molecule_is_refused(smiles: str, problem: str) -> None:
    for read in (SmilesTokenizer.fit, SmilesTokenizer(("C",)).encode):
        with pytest.raises(TokenError, match=rf"SMILES in row 1 .* is not a molecule: {problem}"):
            read(["CCO", smiles])


@given(chains())
def test_whole_molecules_are_read_and_halves_of_branches_are_not(tokens: list[str]) -> None:
    assert molecule("".join(tokens)) == tokens
    for k, token in enumerate(tokens):
        if token in "()":
            with pytest.raises(TokenError, match="not a molecule"):
                molecule("".join(tokens[:k] + tokens[k + 1 :]))


def test_rings_may_join_parts_and_labels_have_two_spellings() -> None:
    for smiles in ("C1.C1", "C%01CC1", "C%(1)CC1", "C/C=C/C", "N[C@@H](C)C(=O)O", "*C(*)*"):
        molecule(smiles)


def test_outer_spaces_are_stripped_and_all_bad_rows_are_named() -> None:
    tokenizer = SmilesTokenizer.fit(["CCO ", "\tCCl"])
    np.testing.assert_array_equal(tokenizer.encode([" CCO"]), tokenizer.encode(["CCO"]))
    bad = ["C(", "CC", "C1", "C C", "CX"]
    with pytest.raises(TokenError) as caught:
        tokenizer.encode(bad)
    message = str(caught.value)
    assert message.startswith("4 of 5 SMILES cannot be read:")
    assert [f"row {k}" in message for k in range(5)] == [True, False, True, True, True]
    with pytest.raises(TokenError, match=r"\.\.\. and 5 more"):
        tokenizer.encode(["C("] * 15)
