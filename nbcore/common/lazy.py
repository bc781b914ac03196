"""Names of a package that are imported when they are first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from nbcore.errors import MissingExtraError, did_you_mean


def lazy_names(package: str, homes: Mapping[str, str], extra: str = "") -> Callable[[str], Any]:
    """Return the `__getattr__` of a module whose names live in modules not yet imported.

    Args:
        package: the module's own `__name__`.
        homes: per public name, the module that defines it; `".adapter"` is one of the package.
        extra: the extra that installs the library, named like the library's module; empty for
            none.

    Raises:
        AttributeError: by the function returned, for a name that the package does not have.
        MissingExtraError: by the function returned, if the library is not installed.

    Examples:
        >>> load = lazy_names("my_package", {"sqrt": "math"})
        >>> load("sqrt")(4.0)
        2.0
    """

    def load(name: str) -> Any:
        if name not in homes:
            hint = did_you_mean(name, homes)
            raise AttributeError(f"module {package!r} has no attribute {name!r}.{hint}")
        try:
            return getattr(importlib.import_module(homes[name], package), name)
        except ModuleNotFoundError as error:
            if not extra or (error.name or "").partition(".")[0] != extra:
                raise
            raise MissingExtraError(f"{package}.{name}", extra, error.name) from error

    return load
