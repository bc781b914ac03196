"""Equations over numbered variables, in which a traced function is cut and evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

_CHEAP = frozenset(
    {"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "iota", "transpose", "copy"}
)


class Literal(NamedTuple):
    """A constant written into an equation."""

    value: Any


Atom = int | Literal


class Shaped(NamedTuple):
    """Shape and dtype of a variable."""

    shape: tuple[int, ...]
    dtype: Any

    @property
    def bytes(self) -> int:
        """Size; keys have the size of their data."""
        return int(np.prod(self.shape, dtype=np.int64)) * getattr(self.dtype, "itemsize", 4)


@dataclass(frozen=True, eq=False)
class Equation:
    """One operation over numbered variables.

    Args:
        name: name of the primitive.
        run: evaluates it on the values of `inputs`; returns the list of outputs.
        inputs: atoms that it reads.
        outputs: variables that it writes.
        avals: shapes and dtypes of the outputs.
        work: bytes that it writes, including those inside loops, which a gradient remembers.
    """

    name: str
    run: Callable[..., Sequence[Any]]
    inputs: tuple[Atom, ...]
    outputs: tuple[int, ...]
    avals: tuple[Shaped, ...]
    work: int

    @property
    def bytes(self) -> int:
        """Size of the outputs."""
        return sum(aval.bytes for aval in self.avals)

    @property
    def reads(self) -> tuple[int, ...]:
        """The variables among the inputs."""
        return tuple(a for a in self.inputs if isinstance(a, int))


def needed(
    equations: Sequence[Equation], wanted: Iterable[Atom], computes: Callable[[Equation], bool]
) -> tuple[list[int], list[int]]:
    """Return the equations that compute `wanted`, and the variables that they need as inputs.

    Args:
        equations: in order.
        wanted: atoms to compute.
        computes: whether an equation may be used; results of the others become inputs.
    """
    made_by = {v: i for i, e in enumerate(equations) for v in e.outputs}
    pending = [a for a in wanted if isinstance(a, int)]
    seen: set[int] = set()
    kept: set[int] = set()
    while pending:
        var = pending.pop()
        if var in seen:
            continue
        seen.add(var)
        maker = made_by.get(var)
        if maker is not None and computes(equations[maker]):
            kept.add(maker)
            pending.extend(equations[maker].reads)
    made = {v for i in kept for v in equations[i].outputs}
    return sorted(kept), sorted(seen - made)


def run_equations(equations: Iterable[Equation], env: dict[int, Any]) -> None:
    """Evaluate equations in order, writing their results into `env`."""
    for eqn in equations:
        results = eqn.run(*(value_of(a, env) for a in eqn.inputs))
        env.update(zip(eqn.outputs, results, strict=True))


def value_of(atom: Atom, env: dict[int, Any]) -> Any:
    """Return the value of an atom."""
    return atom.value if isinstance(atom, Literal) else env[atom]


def cheap(eqn: Equation, aval: dict[int, Shaped]) -> bool:
    """Whether an equation is free to recompute, and its result larger than its inputs."""
    read = sum(aval[v].bytes for v in eqn.reads if v in aval)
    return eqn.name in _CHEAP and eqn.bytes >= read
