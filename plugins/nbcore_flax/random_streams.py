"""The random streams of a linen module: dropout, and those with names of their own."""

from __future__ import annotations

import functools
import inspect
import re
import types
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
from flax import errors as flax_errors
from flax import linen as nn

T = TypeVar("T")


@dataclass(frozen=True)
class RandomStreams:
    """The names of the random streams that a linen module draws from.

    Flax tells the name of a stream only when a module draws from it without a key, so names are
    learned from that error. A module that first asks `has_rng(name)` never raises it; every text
    in the code that asks, and in the fields of the module, is then taken for a name.

    Args:
        names: the names that are known so far; `"dropout"` is among them.
    """

    names: set[str] = field(default_factory=lambda: {"dropout"})

    def call(self, call: Callable[[dict[str, jax.Array]], T], key: jax.Array) -> T:
        """Call with a key for every stream; the key of `"dropout"` is the given one.

        Args:
            call: calls the module with these keys.
            key: the key that the others are derived from.
        """
        while True:
            asked: set[str] = set()
            try:
                with nn.intercept_methods(functools.partial(_note, asked)):
                    result = call({name: _key_of(name, key) for name in sorted(self.names)})
                if asked <= self.names:
                    return result
            except flax_errors.InvalidRngError as error:
                found = re.search('needs PRNG for "(.+)"', str(error))
                if found is None or found[1] in self.names:
                    raise
                asked.add(found[1])
            self.names.update(asked)


def _key_of(name: str, key: jax.Array) -> jax.Array:
    return key if name == "dropout" else jax.random.fold_in(key, zlib.crc32(name.encode()))


def _note(
    asked: set[str], call: Callable[..., Any], args: Any, kwargs: dict[str, Any], context: Any
) -> Any:
    """Intercept calls: note the streams that a module asks for."""
    module = context.module
    if mentioned := _mentioned(type(module)):
        own = (value for value in vars(module).values() if isinstance(value, str))
        asked.update(mentioned, own)
    return call(*args, **kwargs)


@functools.lru_cache(maxsize=256)
def _mentioned(cls: type) -> frozenset[str]:
    """Return the texts in the methods of a class that call `has_rng`."""
    functions = [inspect.unwrap(f) for f in vars(cls).values() if callable(f)]
    codes = [c for f in functions if hasattr(f, "__code__") for c in _nested(f.__code__)]
    return frozenset(
        text
        for code in codes
        if "has_rng" in code.co_names
        for text in code.co_consts
        if isinstance(text, str)
    )


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _nested(part)
