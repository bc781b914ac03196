"""What does not depend on the position is computed once.

`stage` traces a network for ONE example and classifies every equation: *constant* (depends on
neither the position nor the example), *known* (depends on the example), or *staged* (depends on
the position). The known values that staged equations read, the *residuals*, are computed once per
example; what is left is a small program over the position and the residuals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

BYTE_BUDGET = 2**30
_CONSTANT, _KNOWN, _STAGED = 0, 1, 2
_CHEAP = frozenset({"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "iota", "transpose"})


@dataclass(frozen=True, eq=False)
class Staged:
    """A network for one example, cut into what is computed once and what is staged.

    Compared by identity, so it is a static argument that retraces nothing while it lives.

    Args:
        equations: all equations, calls inlined.
        inputs: variables of position, frozen values and example, in this order.
        outputs: variables of the outputs.
        constants: constant variables that the staged equations read.
        residuals: known variables that the staged equations read, one value per example.
        staged: indices of the equations that are staged.
        example_bytes: size of the residuals of one example.
    """

    equations: tuple[Equation, ...]
    inputs: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    outputs: tuple[Atom, ...]
    constants: tuple[int, ...]
    residuals: tuple[int, ...]
    staged: tuple[int, ...]
    example_bytes: int
    treedef: Any
    closed: tuple[tuple[int, Any], ...] = field(repr=False, default=())

    def constant_values(self, frozen: Any) -> list[jax.Array]:
        """Compute the constants, once."""
        env = dict(self.closed) | dict(zip(self.inputs[1], jax.tree.leaves(frozen), strict=True))
        return self._compute(env, self.constants)

    def residual_values(self, frozen: Any, example: Any) -> list[jax.Array]:
        """Compute the residuals of one example."""
        env = dict(self.closed) | dict(zip(self.inputs[1], jax.tree.leaves(frozen), strict=True))
        env |= dict(zip(self.inputs[2], jax.tree.leaves(example), strict=True))
        return self._compute(env, self.residuals)

    def apply(
        self, position: Any, constants: Sequence[jax.Array], residuals: Sequence[jax.Array]
    ) -> Any:
        """Return the outputs of one example from what was computed once."""
        env: dict[int, Any] = dict(zip(self.inputs[0], jax.tree.leaves(position), strict=True))
        env |= dict(zip(self.constants, constants, strict=True))
        env |= dict(zip(self.residuals, residuals, strict=True))
        _run([self.equations[i] for i in self.staged], env)
        return jax.tree.unflatten(self.treedef, [_read(a, env) for a in self.outputs])

    def _compute(self, env: dict[int, Any], wanted: tuple[int, ...]) -> list[jax.Array]:
        needed = _needed(self.equations, [v for v in wanted if v not in env], set(env))
        _run([self.equations[i] for i in needed], env)
        return [env[v] for v in wanted]


@dataclass(frozen=True, eq=False)
class Literal:
    """A constant written into an equation."""

    value: Any


Atom = int | Literal


@dataclass(frozen=True, eq=False)
class Equation:
    """One primitive operation over numbered variables.

    Args:
        name: name of the primitive.
        run: evaluates it on the values of `inputs`; returns the list of outputs.
        inputs: what it reads.
        outputs: what it writes.
        shapes: shapes of the outputs.
        dtypes: dtypes of the outputs.
    """

    name: str
    run: Callable[..., Sequence[Any]]
    inputs: tuple[Atom, ...]
    outputs: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    @property
    def bytes(self) -> int:
        """Size of the outputs."""
        return sum(
            int(np.prod(s, dtype=np.int64)) * getattr(d, "itemsize", 4)
            for s, d in zip(self.shapes, self.dtypes, strict=True)
        )


def stage(
    function: Callable[[Any, Any, Any], Any],
    position: Any,
    frozen: Any,
    example: Any,
    *,
    byte_budget: int,
) -> Staged:
    """Trace `function(position, frozen, example)` and cut it.

    Args:
        function: the network for one example.
        position: stochastic weights; only shapes and dtypes are read.
        frozen: a pytree of arrays that is constant.
        example: one example, without the example axis.
        byte_budget: bytes that the residuals of one example may take; where they exceed it, the
            cut moves towards the input until they fit: the largest prefix of the known equations
            that does. A function of shapes alone.

    Returns:
        The cut network.
    """
    parts = (position, frozen, example)
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*parts)
    flat = _Inliner()
    ins = [flat.variable(v) for v in closed.jaxpr.invars]
    consts = [
        (flat.variable(v), c) for v, c in zip(closed.jaxpr.constvars, closed.consts, strict=True)
    ]
    flat.inline(closed.jaxpr)
    outputs = tuple(flat.atom(v) for v in closed.jaxpr.outvars)
    sizes = [len(jax.tree.leaves(p)) for p in parts]
    cuts = np.cumsum(sizes)
    inputs = (tuple(ins[: cuts[0]]), tuple(ins[cuts[0] : cuts[1]]), tuple(ins[cuts[1] :]))
    bytes_of = {
        v: int(np.prod(np.shape(x), dtype=np.int64)) * np.dtype(x.dtype).itemsize
        for v, x in zip(inputs[2], jax.tree.leaves(example), strict=True)
    }
    cut = _Cut(flat.equations, inputs, dict(consts), outputs, bytes_of)
    found = cut.within(byte_budget)
    return Staged(
        equations=tuple(flat.equations),
        inputs=inputs,
        outputs=outputs,
        constants=found.constants,
        residuals=found.residuals,
        staged=found.staged,
        example_bytes=found.example_bytes,
        treedef=jax.tree.structure(shape),
        closed=tuple(consts),
    )


class _Inliner:
    """Numbers variables and inlines nested jits into one list of equations."""

    def __init__(self) -> None:
        self.equations: list[Equation] = []
        self._names: dict[Any, Atom] = {}
        self._next = 0

    def variable(self, var: Any) -> int:
        self._names[var] = self._next
        self._next += 1
        return self._next - 1

    def atom(self, var: Any) -> Atom:
        return Literal(var.val) if isinstance(var, jex.Literal) else self._names[var]

    def inline(self, jaxpr: jex.Jaxpr) -> None:
        for eqn in jaxpr.eqns:
            if eqn.primitive.name in ("jit", "pjit", "closed_call"):
                self._inline_call(eqn)
            else:
                reads = list(dict.fromkeys(v for v in eqn.invars if not isinstance(v, jex.Literal)))
                body = jex.Jaxpr((), reads, eqn.outvars, [eqn], debug_info=jaxpr.debug_info)
                run = jex.jaxpr_as_fun(jex.ClosedJaxpr(body, ()))
                inputs = tuple(self.atom(v) for v in reads)
                outputs = tuple(self.variable(v) for v in eqn.outvars)
                avals: list[Any] = [v.aval for v in eqn.outvars]
                shapes = tuple(tuple(a.shape) for a in avals)
                dtypes = tuple(a.dtype for a in avals)
                self.equations.append(
                    Equation(eqn.primitive.name, run, inputs, outputs, shapes, dtypes)
                )

    def _inline_call(self, eqn: jex.JaxprEqn) -> None:
        params = eqn.params
        closed: jex.ClosedJaxpr = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
        arguments = [self.atom(v) for v in eqn.invars]
        saved = dict(self._names)  # one body may be called more than once
        for var, const in zip(closed.jaxpr.constvars, closed.consts, strict=True):
            self._names[var] = Literal(const)
        self._names.update(zip(closed.jaxpr.invars, arguments, strict=True))
        self.inline(closed.jaxpr)
        results = [self.atom(v) for v in closed.jaxpr.outvars]
        self._names = saved
        self._names.update(zip(eqn.outvars, results, strict=True))


@dataclass(frozen=True)
class _Found:
    constants: tuple[int, ...]
    residuals: tuple[int, ...]
    staged: tuple[int, ...]
    example_bytes: int


class _Cut:
    """Decides which equations are staged."""

    def __init__(
        self,
        equations: list[Equation],
        inputs: tuple[tuple[int, ...], ...],
        consts: dict[int, Any],
        outputs: tuple[Atom, ...],
        input_bytes: dict[int, int],
    ) -> None:
        self.equations = equations
        self.outputs = outputs
        self.bytes_of = dict(input_bytes)
        self.level = dict.fromkeys(inputs[0], _STAGED) | dict.fromkeys(inputs[1], _CONSTANT)
        self.level |= dict.fromkeys(inputs[2], _KNOWN) | dict.fromkeys(consts, _CONSTANT)
        for eqn in equations:
            level = max((self.level[a] for a in eqn.inputs if isinstance(a, int)), default=0)
            for var, shape, dtype in zip(eqn.outputs, eqn.shapes, eqn.dtypes, strict=True):
                self.level[var] = level
                itemsize = getattr(dtype, "itemsize", 4)
                self.bytes_of[var] = int(np.prod(shape, dtype=np.int64)) * itemsize

    def within(self, budget: int) -> _Found:
        """Return the deepest cut whose residuals fit the budget per example."""
        known = [i for i, e in enumerate(self.equations) if self._level(e) == _KNOWN]
        found = self._at(set())
        while known and found.example_bytes > budget:
            known.pop()
            found = self._at({i for i in self._all_known() if i > (known[-1] if known else -1)})
        return found

    def _all_known(self) -> list[int]:
        return [i for i, e in enumerate(self.equations) if self._level(e) == _KNOWN]

    def _level(self, eqn: Equation) -> int:
        return max((self.level[v] for v in eqn.outputs), default=0)

    def _at(self, recomputed: set[int]) -> _Found:
        """Return the cut that stages what depends on the position, and `recomputed`."""
        staged = {i for i, e in enumerate(self.equations) if self._level(e) == _STAGED}
        staged |= recomputed
        made_by = {v: i for i, e in enumerate(self.equations) for v in e.outputs}
        wanted = [a for a in self.outputs if isinstance(a, int)]
        kept: set[int] = set()
        read: set[int] = set()
        pending = list(wanted)
        while pending:
            var = pending.pop()
            if var in read:
                continue
            read.add(var)
            maker = made_by.get(var)
            if maker is None:
                continue
            eqn = self.equations[maker]
            if maker in staged or self._is_cheap(eqn):
                kept.add(maker)
                pending.extend(a for a in eqn.inputs if isinstance(a, int))
        made = {v for i in kept for v in self.equations[i].outputs}
        outside = sorted(v for v in read if v not in made)
        constants = tuple(v for v in outside if self.level[v] == _CONSTANT)
        residuals = tuple(v for v in outside if self.level[v] == _KNOWN)
        size = sum(self.bytes_of[v] for v in residuals)
        return _Found(constants, residuals, tuple(sorted(kept)), size)

    def _is_cheap(self, eqn: Equation) -> bool:
        """Whether recomputing costs nothing and storing would cost more than the inputs."""
        if eqn.name not in _CHEAP or self._level(eqn) != _KNOWN:
            return False
        inputs = [self.bytes_of.get(a, 0) for a in eqn.inputs if isinstance(a, int)]
        return eqn.bytes >= sum(inputs)


def _needed(equations: Sequence[Equation], wanted: Sequence[int], have: set[int]) -> list[int]:
    """Return the equations that compute `wanted` from `have`, in order."""
    made_by = {v: i for i, e in enumerate(equations) for v in e.outputs}
    needed: set[int] = set()
    pending = list(wanted)
    while pending:
        maker = made_by[pending.pop()]
        if maker not in needed:
            needed.add(maker)
            inputs = equations[maker].inputs
            pending.extend(a for a in inputs if isinstance(a, int) and a not in have)
    return sorted(needed)


def _read(atom: Atom, env: dict[int, Any]) -> Any:
    return atom.value if isinstance(atom, Literal) else env[atom]


def _run(equations: Sequence[Equation], env: dict[int, Any]) -> None:
    """Evaluate equations in order, writing their results into `env`."""
    for eqn in equations:
        results = eqn.run(*(_read(a, env) for a in eqn.inputs))
        env.update(zip(eqn.outputs, results, strict=True))
