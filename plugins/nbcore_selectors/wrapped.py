"""A selector as an option of another one."""

from __future__ import annotations

from nbcore import Selector
from nbcore.errors import OptionError
from nbcore.extend import ScoringSelector, get_selector


def scoring(selector: str | Selector, who: str) -> ScoringSelector:
    """Return a selector by name, or as it is, that gives scores.

    Raises:
        UnknownSelectorError: no selector has this name.
        OptionError: it chooses sets, and gives no scores.
    """
    found = get_selector(selector)
    if not isinstance(found, ScoringSelector):
        raise OptionError(
            f"{who!r} rearranges the scores of another selector, and {found.name!r} has none. "
            "Type: selector='magnitude'"
        )
    return found
