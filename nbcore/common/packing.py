"""Values as JSON data and arrays, which files hold, and back; reading them runs no code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.keys import is_key
from nbcore.errors import OptionError

Types = Mapping[str, type[Any]]
"""The dataclasses that may be written and made again, by name."""


def pack(value: Any, types: Types | None = None) -> tuple[Any, dict[str, np.ndarray]]:
    """Return a value as JSON data, and its arrays by name.

    Args:
        value: numbers, texts, arrays, and dicts, lists, tuples and dataclasses of them.
        types: the dataclasses that are known.

    Raises:
        OptionError: something else is in it; its place is named.

    Examples:
        >>> data, arrays = pack({"a": (1.5, None), "b": np.arange(3)})
        >>> data
        {'dict': {'a': {'tuple': [1.5, None]}, 'b': {'numpy': 'b'}}}
        >>> unpack(data, arrays)["a"]
        (1.5, None)
    """
    packer = _Packer(types or {})
    return packer.pack(value, ""), packer.arrays


def unpack(data: Any, arrays: Mapping[str, np.ndarray], types: Types | None = None) -> Any:
    """Return the value that `pack` described; only known dataclasses are made.

    Args:
        data: JSON data.
        arrays: arrays by name.
        types: the dataclasses that are known.

    Raises:
        KeyError, TypeError, ValueError: the data are not those of `pack`.
    """
    if data is None or isinstance(data, bool | int | float | str):
        return data
    ((kind, content),) = data.items()
    if kind in ("array", "numpy"):
        return jnp.asarray(arrays[content]) if kind == "array" else arrays[content]
    if kind == "float":
        return float(content)
    if kind == "dict":
        return {key: unpack(item, arrays, types) for key, item in content.items()}
    if kind == "pairs":
        return {key: unpack(item, arrays, types) for key, item in content}
    if kind in ("list", "tuple"):
        items = [unpack(item, arrays, types) for item in content]
        return items if kind == "list" else tuple(items)
    made = (types or {})[kind]
    return made(**{name: unpack(item, arrays, types) for name, item in content.items()})


class _Packer:
    """Arrays that were found so far, by the path at which they are."""

    def __init__(self, types: Types) -> None:
        self.types = types
        self.arrays: dict[str, np.ndarray] = {}

    def pack(self, value: Any, path: str) -> Any:
        value = value.item() if isinstance(value, np.generic) else value
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if type(value) is dict:
            items = self._items(value.items(), path)
            is_plain = all(isinstance(key, str) for key in items)
            return (
                {"dict": items} if is_plain else {"pairs": [list(pair) for pair in items.items()]}
            )
        if type(value) in (list, tuple):
            return {type(value).__name__: list(self._items(enumerate(value), path).values())}
        if self.types.get(type(value).__name__) is type(value):
            named = [(f.name, getattr(value, f.name)) for f in fields(value) if f.init]
            return {type(value).__name__: self._items(named, path)}
        if isinstance(value, jax.Array | np.ndarray) and not is_key(value):
            array = np.asarray(value)
            if array.dtype != object:
                return {
                    "array" if isinstance(value, jax.Array) else "numpy": self._add(array, path)
                }
        where = f" at {path!r}" if path else ""
        raise OptionError(
            f"Files hold numbers, texts and arrays, in dicts, lists and tuples; got a "
            f"{type(value).__module__}.{type(value).__qualname__}{where}."
        )

    def _items(self, items: Any, path: str) -> dict[Any, Any]:
        return {k: self.pack(item, f"{path}/{k}" if path else str(k)) for k, item in items}

    def _add(self, array: np.ndarray, path: str) -> str:
        name = path or "value"
        while name in self.arrays:
            name += "'"
        self.arrays[name] = array
        return name
