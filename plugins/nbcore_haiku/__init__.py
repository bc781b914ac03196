"""Haiku for nbcore: what `hk.transform` and `hk.transform_with_state` give, as a network.

Importing this package does not import haiku.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from nbcore.extend import hookimpl, lazy_names

if TYPE_CHECKING:
    from nbcore_haiku.adapter import HaikuNetwork

__all__ = ["HaikuNetwork"]


__getattr__ = lazy_names(__name__, {"HaikuNetwork": ".adapter"}, "haiku")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


@hookimpl
def nbcore_as_network(model: Any, example: Any) -> Any:
    """Make a network of a transformed function; None for anything else."""
    haiku = sys.modules.get("haiku")
    known = (haiku.Transformed, haiku.TransformedWithState) if haiku else ()
    return __getattr__("HaikuNetwork")(model, example) if isinstance(model, known) else None
