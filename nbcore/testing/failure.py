"""The error of a failed check: the measured value, the limit, and common causes."""

from __future__ import annotations


class ConformanceError(AssertionError):
    """A subject of the conformance kit breaks its contract."""


def require(holds: object, what: str, *, measured: object, limit: object, cause: str) -> None:
    """Raise if something does not hold.

    Args:
        holds: whether it does.
        what: the rule, as a sentence without its full stop.
        measured: what was found.
        limit: what is allowed.
        cause: what commonly causes it, and what to do.

    Raises:
        ConformanceError: it does not hold.

    Examples:
        >>> require(True, "One is one", measured=1, limit=1, cause="Arithmetic.")
    """
    if not holds:
        raise ConformanceError(
            f"{what}.\n  measured: {measured}\n  limit:    {limit}\n  often:    {cause}"
        )
