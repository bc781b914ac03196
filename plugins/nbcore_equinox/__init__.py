"""Equinox for nbcore: any Equinox module as a network.

Importing this package does not import equinox.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from nbcore.extend import hookimpl, lazy_names

if TYPE_CHECKING:
    from nbcore_equinox.adapter import EquinoxNetwork

__all__ = ["EquinoxNetwork"]


__getattr__ = lazy_names(__name__, {"EquinoxNetwork": ".adapter"}, "equinox")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


@hookimpl
def nbcore_as_network(model: Any, example: Any) -> Any:
    """Make a network of an Equinox module, `(module, state)` or a class; None for anything else."""
    base = getattr(sys.modules.get("equinox"), "Module", ())
    module, state = model if isinstance(model, tuple) and len(model) == 2 else (model, None)
    if isinstance(module, base):
        return __getattr__("EquinoxNetwork").from_module(module, state, example)
    built = model.func if isinstance(model, functools.partial) else model
    if isinstance(built, type) and issubclass(built, base):
        return __getattr__("EquinoxNetwork").from_builder(model, example)
    return None
