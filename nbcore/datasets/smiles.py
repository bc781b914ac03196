"""The grammar of SMILES strings: tokens, and whether branches, bonds and rings fit together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from nbcore.errors import TokenError

SHOWN = 10
"""How many unreadable strings an error shows."""

# OpenSMILES, plus two habits of real files: hydrogens written without brackets (n(H)) and
# stereo marks that stand alone.
_TOKEN = re.compile(
    r"""\[[^\[\]\s]+\]            # bracket atom, whole: [nH], [C@@H], [O-], [Sn]
      | Br | Cl                   # the two-letter elements that need no brackets
      | [BCNOPSFIH] | [bcnops]    # other elements, aromatic atoms
      | \* | @@? | [/\\]          # any atom, stereo marks
      | %[0-9]{2} | %\([0-9]+\) | [0-9]  # ring closures
      | [-=\#$:.~()]              # bonds, the dot between parts, branches
    """,
    re.VERBOSE,
)


def tokenize(smiles: str, *, row: int | None = None) -> list[str]:
    r"""Cut one SMILES string into tokens; joined, they give the string back without outer spaces.

    Args:
        smiles: a SMILES string.
        row: position of the string in its list, for the error message.

    Raises:
        TokenError: not a string, empty, or a character that belongs to no token.

    Examples:
        >>> tokenize("C[C@@H](Cl)c1ccccc1")[:5]
        ['C', '[C@@H]', '(', 'Cl', ')']
    """
    where = "" if row is None else f" in row {row}"
    if not isinstance(smiles, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        kind = type(smiles).__name__
        raise TokenError(f"SMILES{where} is {smiles!r}, a {kind}; expected a string.")
    smiles = smiles.strip()
    if not smiles:
        raise TokenError(f"SMILES{where} is empty; remove the row or write the molecule.")
    tokens: list[str] = []
    position = 0
    while position < len(smiles):
        match = _TOKEN.match(smiles, position)
        if match is None:
            raise TokenError(_unreadable(smiles, position, where))
        tokens.append(match.group())
        position = match.end()
    return tokens


def _unreadable(smiles: str, position: int, where: str) -> str:
    character = smiles[position]
    if character.isspace():
        hint = "Strip spaces: smiles.strip()"
    elif character in "[]":
        hint = "A bracket atom needs both brackets and a content, such as [nH]"
    elif character == "%":
        hint = "A two-digit ring closure is written %10"
    elif character.isalpha():
        hint = (
            "Outside brackets only B C N O P S F I H Cl Br and aromatic b c n o p s can stand; "
            "write other elements in brackets, such as [Si]"
        )
    else:
        hint = "See opensmiles.org for what a SMILES string may hold"
    return (
        f"SMILES{where}: no token begins with {character!r} at position {position} "
        f"of {smiles!r}. {hint}."
    )


def check_structure(tokens: Sequence[str]) -> str | None:
    """Return the fault of tokens (an open branch or ring, a bond without an atom), or None.

    Valences and aromaticity are not checked: that takes a chemistry toolkit.

    Examples:
        >>> check_structure(["C", "(", "C", "(", "C"])
        "2 branches '(' are not closed"
        >>> check_structure(["c", "1", "c", "c", "c", "c", "c", "1"])
    """
    depth, rings, before = 0, dict[str, int](), ""
    for position, token in enumerate(tokens):
        problem = _misplaced(token, before)
        if problem:
            return f"{problem} (token {position + 1} of {len(tokens)})"
        if token == "(":
            depth += 1
        elif token == ")":
            depth -= 1
            if depth < 0:
                return f"')' closes no branch (token {position + 1} of {len(tokens)})"
        elif _is_ring(token):
            label = token.strip("%()").lstrip("0") or "0"
            rings[label] = 1 - rings.get(label, 0)
        before = token
    if depth:
        return f"{depth} branches '(' are not closed" if depth > 1 else "a branch '(' is not closed"
    still = [label for label, is_open in rings.items() if is_open]
    if still:
        rings_are = f"rings {', '.join(still)} are" if len(still) > 1 else f"ring {still[0]} is"
        return f"{rings_are} not closed"
    return f"the bond {before!r} at the end leads nowhere" if before in _BONDS else None


_BONDS = frozenset("-=#$:~/\\")


def _is_ring(token: str) -> bool:
    return token[0] == "%" or token.isdigit()


def _misplaced(token: str, before: str) -> str | None:
    """Return what is wrong with a token behind another one; stereo marks may stand alone."""
    follows_atom = before not in ("", "(", ".")
    if token in _BONDS and token not in "/\\" and before in _BONDS and before not in "/\\":
        return f"two bonds, {before!r} and {token!r}, stand side by side"
    if token == ")" and (before == "(" or before in _BONDS):
        return "a branch is empty" if before == "(" else f"the bond {before!r} leads nowhere"
    if token in ("(", ".") and before in ("", "."):
        return "a branch begins at no atom" if token == "(" else "a '.' separates no parts"
    if _is_ring(token) and not follows_atom:
        return f"the ring closure {token!r} follows no atom"
    return None


def tokenize_all(smiles: Iterable[str]) -> list[list[str]]:
    """Cut SMILES strings into tokens, each checked to be a whole molecule.

    Raises:
        TokenError: no strings, or some that cannot be read: all of their rows are named.
    """
    if isinstance(smiles, str):
        raise TokenError(f"Expected a list of SMILES, got one string. Type [{smiles!r}].")
    rows: list[list[str]] = []
    problems: list[str] = []
    for row, text in enumerate(smiles):
        try:
            rows.append(molecule(text, row=row))
        except TokenError as error:
            rows.append([])
            problems.append(str(error))
    if not rows:
        raise TokenError("Got no SMILES; expected at least one.")
    if len(problems) == 1:
        raise TokenError(problems[0])
    if problems:
        more = f"\n... and {len(problems) - SHOWN} more." if len(problems) > SHOWN else ""
        shown = "\n".join(problems[:SHOWN])
        raise TokenError(f"{len(problems)} of {len(rows)} SMILES cannot be read:\n{shown}{more}")
    return rows


def molecule(smiles: str, *, row: int | None = None) -> list[str]:
    """Cut one SMILES string into tokens, and check that they are a whole molecule.

    Args:
        smiles: a SMILES string.
        row: position of the string in its list, for the error message.

    Raises:
        TokenError: it cannot be cut, or its branches, bonds or rings do not fit together.

    Examples:
        >>> molecule("CCO ")
        ['C', 'C', 'O']
    """
    tokens = tokenize(smiles, row=row)
    problem = check_structure(tokens)
    if problem:
        where = "" if row is None else f" in row {row}"
        raise TokenError(f"SMILES{where} {smiles.strip()!r} is not a molecule: {problem}.")
    return tokens
