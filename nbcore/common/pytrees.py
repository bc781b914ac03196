"""Dataclasses as pytrees whose types JAX keeps apart."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax
from jax.tree_util import GetAttrKey

T = TypeVar("T", bound=type[Any])


def register_pytree(cls: T) -> T:
    """Register a dataclass as a pytree: its fields are leaves, those marked static are not.

    Use it instead of `jax.tree_util.register_dataclass`. JAX (0.10 and before) compares what that
    registers by fields and static values alone: two types with the same fields, such as two
    likelihoods without parameters, have equal structures. `jax.jit` then runs the program of the
    other type in about 2 % of the processes that use both, silently.

    Args:
        cls: a dataclass; a field with `metadata={"static": True}` is part of the structure, so it
            must be hashable.

    Examples:
        >>> import dataclasses, jax
        >>> @register_pytree
        ... @dataclasses.dataclass(frozen=True)
        ... class Scaled:
        ...     scale: float
        ...     name: str = dataclasses.field(default="sd", metadata={"static": True})
        >>> jax.tree.map(lambda a: 2 * a, Scaled(1.5))
        Scaled(scale=3.0, name='sd')
    """
    fields = dataclasses.fields(cls)
    static = tuple(f.name for f in fields if f.metadata.get("static", False))
    data = tuple(f.name for f in fields if f.name not in static)
    keys = tuple(map(GetAttrKey, data))

    def flatten(node: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(node, n) for n in data), tuple(getattr(node, n) for n in static)

    def flatten_with_keys(node: Any) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        values, meta = flatten(node)
        return tuple(zip(keys, values, strict=True)), meta

    def unflatten(meta: tuple[Any, ...], values: Any) -> Any:
        named = zip((*static, *data), (*meta, *values), strict=True)
        return cls(**dict(named))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
