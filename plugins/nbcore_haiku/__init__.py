"""Haiku for nbcore: what `hk.transform` and `hk.transform_with_state` give, as a network.

Importing this package does not import haiku.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from nbcore.errors import MissingExtraError
from nbcore.hookspecs import hookimpl

if TYPE_CHECKING:
    from nbcore_haiku.adapter import HaikuNetwork

__all__ = ["HaikuNetwork"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.adapter"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "haiku":
            raise
        raise MissingExtraError(f"{__name__}.{name}", "haiku", error.name) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


@hookimpl
def nbcore_as_network(model: Any, example: Any) -> Any:
    """Make a network of a transformed function; None for anything else."""
    haiku = sys.modules.get("haiku")
    known = (haiku.Transformed, haiku.TransformedWithState) if haiku else ()
    return __getattr__("HaikuNetwork")(model, example) if isinstance(model, known) else None
