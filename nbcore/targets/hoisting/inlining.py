"""The inlined trace: one flat list of equations, each with a level.

Nested jits are inlined, so that known values inside them are seen. A loop (`lax.scan`) of which a
part is known becomes two loops: a known one, and one that reads what it stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from nbcore.targets.hoisting import first_layer, products
from nbcore.targets.hoisting.equations import (
    Atom,
    Equation,
    Literal,
    Shaped,
    cheap,
    needed,
    run_equations,
    value_of,
)

CONSTANT, KNOWN, STAGED = 0, 1, 2
"""Levels of a variable: constant, dependent on the example, dependent on the position."""
_CALLS = frozenset({"jit", "pjit", "closed_call", "core_call"})
_REMATERIALIZED = frozenset({"checkpoint", "remat", "remat2"})


class Inliner:
    """The equations of a function, with a number and a level for each variable."""

    def __init__(self) -> None:
        self.all: list[Equation] = []
        self.level: dict[int, int] = {}
        self.aval: dict[int, Shaped] = {}
        self.marked: dict[int, first_layer.Marked] = {}
        self.sums: dict[int, tuple[Atom, Atom]] = {}
        self._names: dict[Any, Atom] = {}

    def variable(self, shape: Sequence[int], dtype: Any, level: int) -> int:
        """Return a new variable."""
        number = len(self.level)
        self.level[number] = level
        self.aval[number] = Shaped(tuple(shape), dtype)
        return number

    def bind(self, variables: Iterable[Any], atoms: Iterable[Atom]) -> None:
        """Map the variables of a jaxpr to variables or literals of this list."""
        self._names.update(zip(variables, atoms, strict=True))

    def atom(self, var: Any) -> Atom:
        """Return the variable or literal that a variable of a jaxpr is mapped to."""
        return Literal(var.val) if isinstance(var, jex.Literal) else self._names[var]

    def level_of(self, atoms: Iterable[Atom]) -> int:
        """Return the highest level among some atoms."""
        return max((self.level[a] for a in atoms if isinstance(a, int)), default=CONSTANT)

    def add(
        self,
        name: str,
        run: Callable[..., Sequence[Any]],
        inputs: Sequence[Atom],
        avals: Sequence[Any],
        *,
        work: int | None = None,
    ) -> tuple[int, ...]:
        """Append an equation; return its outputs."""
        level = self.level_of(inputs)
        outputs = tuple(self.variable(a.shape, a.dtype, level) for a in avals)
        shaped = tuple(self.aval[v] for v in outputs)
        work = sum(a.bytes for a in shaped) if work is None else work
        self.all.append(Equation(name, run, tuple(inputs), outputs, shaped, work))
        return outputs

    def inline(self, jaxpr: jex.Jaxpr) -> None:
        """Append the equations of a jaxpr whose inputs are bound."""
        for eqn in jaxpr.eqns:
            inputs = [self.atom(v) for v in eqn.invars]
            body = self._body_to_inline(eqn, inputs)
            if body is not None:
                outputs: Sequence[Atom] = self._inline_call(body, inputs)
                marked = first_layer.mark_of(eqn, inputs)
                if marked is not None and isinstance(outputs[0], int):
                    self.marked[outputs[0]] = marked
            else:
                outputs = (
                    self._split_loop(eqn, inputs)
                    or self._rewritten(eqn, inputs)
                    or self._regrouped(eqn, inputs)
                    or self._opaque(eqn, jaxpr)
                )
            self.bind(eqn.outvars, outputs)

    def _body_to_inline(self, eqn: jex.JaxprEqn, inputs: Sequence[Atom]) -> Any:
        """Return the body of a call; of a rematerialized one only if a part of it is known."""
        name, params = eqn.primitive.name, eqn.params
        if name in _CALLS:
            return params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
        if name in _REMATERIALIZED and self.level_of(inputs) == STAGED:
            body = jex.ClosedJaxpr(params["jaxpr"], ())
            return body if _has_known_part(body, self._levels(inputs)) else None
        return None

    def aval_of(self, atom: Atom) -> Shaped:
        """Return shape and dtype of an atom."""
        if isinstance(atom, int):
            return self.aval[atom]
        value = np.asarray(atom.value)
        return Shaped(value.shape, getattr(atom.value, "dtype", value.dtype))

    def _levels(self, atoms: Sequence[Atom]) -> list[int]:
        return [self.level_of([atom]) for atom in atoms]

    def _inline_call(self, body: jex.ClosedJaxpr, inputs: Sequence[Atom]) -> list[Atom]:
        saved = dict(self._names)  # one body may be called more than once
        self.bind(body.jaxpr.constvars, [Literal(c) for c in body.consts])
        self.bind(body.jaxpr.invars, inputs)
        self.inline(body.jaxpr)
        results = [self.atom(v) for v in body.jaxpr.outvars]
        self._names = saved
        return results

    def _opaque(self, eqn: jex.JaxprEqn, jaxpr: jex.Jaxpr) -> Sequence[Atom]:
        """Append an equation unchanged."""
        reads = list(dict.fromkeys(v for v in eqn.invars if not isinstance(v, jex.Literal)))
        alone = jex.Jaxpr((), reads, eqn.outvars, [eqn], debug_info=jaxpr.debug_info)
        run = jex.jaxpr_as_fun(jex.ClosedJaxpr(alone, ()))
        if eqn.primitive.name == "dot_general" and len(reads) == 2:
            options = products.options_of(eqn)
            run = lambda x, kernel: [products.product(x, kernel, **options)]  # noqa: E731
        avals: list[Any] = [v.aval for v in eqn.outvars]
        return self.add(
            eqn.primitive.name, run, [self.atom(v) for v in reads], avals, work=_work(eqn)
        )

    def _rewritten(self, eqn: jex.JaxprEqn, inputs: Sequence[Atom]) -> Sequence[Atom] | None:
        """Append a product with a partly stochastic leaf as a known product and a correction."""
        marked = [i for i, a in enumerate(inputs) if isinstance(a, int) and a in self.marked]
        others = [a for i, a in enumerate(inputs) if i not in marked]
        if len(marked) != 1 or self.level_of(others) == STAGED:
            return None
        leaf = self.marked[inputs[marked[0]]]  # pyright: ignore[reportArgumentType]
        steps = first_layer.corrected(eqn, marked[0], leaf)
        if steps is None:
            return None
        made: list[Atom] = [*inputs, *leaf.atoms]
        for step in steps:
            reads = [made[i] for i in step.reads]
            structs = [jax.ShapeDtypeStruct(*self.aval_of(a)) for a in reads]
            avals = jax.eval_shape(step.run, *structs)
            made.extend(self.add(step.name, step.run, reads, avals, work=step.work))
        known, correction = (made[i] for i in steps[-1].reads)
        self.sums[made[-1]] = (known, correction)  # pyright: ignore[reportArgumentType]
        return made[-1:]

    def _regrouped(self, eqn: jex.JaxprEqn, inputs: Sequence[Atom]) -> Sequence[Atom] | None:
        """Append what is added to a known sum and a correction to the one of them that it is like.

        One known array is stored then, not two: `(x K + b) + x` of a residual layer is computed
        once, and so is a sum with a bias; a stochastic bias belongs to the correction.
        """
        if eqn.primitive.name != "add":
            return None
        sums = [i for i, a in enumerate(inputs) if isinstance(a, int) and a in self.sums]
        if len(sums) != 1:
            return None
        known, correction = self.sums[inputs[sums[0]]]  # pyright: ignore[reportArgumentType]
        other, avals = inputs[1 - sums[0]], [v.aval for v in eqn.outvars]
        if self.level_of([other]) == STAGED:
            (correction,) = self.add("add", first_layer.plus, [correction, other], avals, work=0)
        else:
            (known,) = self.add("add", first_layer.plus, [known, other], avals)
        (out,) = self.add("add", first_layer.plus, [known, correction], avals)
        self.sums[out] = (known, correction)
        return [out]

    def _split_loop(self, eqn: jex.JaxprEqn, inputs: Sequence[Atom]) -> Sequence[Atom] | None:
        """Append a scan of which a part is known as two scans."""
        if eqn.primitive.name != "scan" or self.level_of(inputs) != STAGED:
            return None
        return _Loop(self, eqn, inputs).split()


class _Loop:
    """A scan that is cut into a known and a staged one.

    Values of its body that are the same in each step have the level CONSTANT there, and are
    computed before the loop.
    """

    def __init__(self, outer: Inliner, eqn: jex.JaxprEqn, inputs: Sequence[Atom]) -> None:
        params = eqn.params
        self.outer, self.inputs = outer, inputs
        self.body: jex.ClosedJaxpr = params["jaxpr"]
        self.first, self.after = params["num_consts"], params["num_consts"] + params["num_carry"]
        self.num_carry = params["num_carry"]
        self.options = {name: params[name] for name in ("length", "reverse", "unroll")}

    def split(self) -> Sequence[Atom] | None:
        """Append both loops to the outer equations, unless nothing is known."""
        inner = self._levelled()
        ins = [inner.atom(v) for v in self.body.jaxpr.invars]
        outs = [inner.atom(v) for v in self.body.jaxpr.outvars]
        is_staged = [inner.level_of([a]) == STAGED for a in outs]
        for i in range(self.num_carry):
            is_staged[i] = inner.level_of([ins[self.first + i]]) == STAGED
        useful = any(inner.level_of(e.outputs) != STAGED and not cheap(e, {}) for e in inner.all)
        if not useful and all(is_staged):
            return None
        self.ins, self.outs, self.is_staged, self.inner = ins, outs, is_staged, inner
        outside = self._before()
        kept, read = needed(
            inner.all,
            [a for a, staged in zip(outs, is_staged, strict=True) if staged],
            lambda e: inner.level_of(e.outputs) == STAGED or _recomputed(inner, e),
        )
        residuals = [
            v
            for v in read
            if inner.level[v] == KNOWN and v not in ins[self.after :] and v not in outside
        ]
        known, stacked = self._known_loop(outside, residuals)
        staged = self._staged_loop(outside, kept, read, dict(zip(residuals, stacked, strict=True)))
        results = [staged if is_staged[i] else known for i in range(len(outs))]
        return [source[i] for i, source in enumerate(results)]

    def _levelled(self) -> Inliner:
        """Return the equations of the body, with the final levels of the carried values."""
        levels = [self.outer.level_of([a]) for a in self.inputs]
        levels = [
            level if level == STAGED else (CONSTANT if i < self.first else KNOWN)
            for i, level in enumerate(levels)
        ]
        while True:
            inner = Inliner()
            jaxpr = self.body.jaxpr
            inner.bind(jaxpr.constvars, [Literal(c) for c in self.body.consts])
            for var, level in zip(jaxpr.invars, levels, strict=True):
                inner.bind([var], [inner.variable(var.aval.shape, var.aval.dtype, level)])
            inner.inline(jaxpr)
            carried = [inner.level_of([inner.atom(v)]) for v in jaxpr.outvars[: self.num_carry]]
            settled = list(levels)
            for i, level in enumerate(carried, start=self.first):
                settled[i] = max(settled[i], level)
            if settled == levels:
                return inner
            levels = settled

    def _before(self) -> dict[int, Atom]:
        """Append, before the loop, what is the same in each step; return it by inner variable."""
        found: dict[int, Atom] = dict(zip(self.ins[: self.first], self.inputs, strict=False))  # pyright: ignore[reportAssignmentType]
        for eqn in self.inner.all:
            if self.inner.level_of(eqn.outputs) == CONSTANT:
                inputs = [found[a] if isinstance(a, int) else a for a in eqn.inputs]
                made = self.outer.add(eqn.name, eqn.run, inputs, eqn.avals, work=eqn.work)
                found.update(zip(eqn.outputs, made, strict=True))
        return found

    def _known_loop(
        self, outside: dict[int, Atom], residuals: list[int]
    ) -> tuple[dict[int, Atom], list[Atom]]:
        """Append the known loop; return its results and the stacked residuals."""
        carries = [i for i in range(self.num_carry) if not self.is_staged[i]]
        ys = [i for i in range(self.num_carry, len(self.outs)) if not self.is_staged[i]]
        wanted = [self.outs[i] for i in [*carries, *ys]] + list(residuals)
        kept, read = needed(
            self.inner.all, wanted, lambda e: self.inner.level_of(e.outputs) == KNOWN
        )
        if not carries and not ys and not residuals:
            return {}, []
        made = self._add_loop(
            outside, kept, read, {}, carries, [self.outs[i] for i in ys] + list(residuals)
        )
        results: dict[int, Atom] = dict(zip([*carries, *ys], made, strict=False))
        return results, list(made[len(carries) + len(ys) :])

    def _staged_loop(
        self, outside: dict[int, Atom], kept: list[int], read: list[int], stacked: dict[int, Atom]
    ) -> dict[int, Atom]:
        carries = [i for i in range(self.num_carry) if self.is_staged[i]]
        ys = [i for i in range(self.num_carry, len(self.outs)) if self.is_staged[i]]
        made = self._add_loop(outside, kept, read, stacked, carries, [self.outs[i] for i in ys])
        return dict(zip([*carries, *ys], made, strict=True))

    def _add_loop(
        self,
        outside: dict[int, Atom],
        kept: list[int],
        read: list[int],
        stacked: dict[int, Atom],
        carries: list[int],
        ys: list[Atom],
    ) -> tuple[int, ...]:
        """Append a scan over some of the carried values, some equations and some outputs."""
        inner, first = self.inner, self.first
        carried = [self.ins[first + i] for i in carries]
        sliced = dict(zip(self.ins[self.after :], self.inputs[self.after :], strict=True)) | stacked
        consts = [v for v in read if v in outside]
        xs = [v for v in read if v in sliced]
        equations = [inner.all[i] for i in kept]
        ends = [self.outs[i] for i in carries]
        sizes = np.cumsum([len(consts), len(carried)])

        def run(*values: Any) -> list[Any]:
            fixed = dict(zip(consts, values[: sizes[0]], strict=True))

            def body(carry: Any, x: Any) -> Any:
                env = fixed | dict(zip(carried, carry, strict=True)) | dict(zip(xs, x, strict=True))
                run_equations(equations, env)
                return [value_of(a, env) for a in ends], [value_of(a, env) for a in ys]

            start, sequence = list(values[sizes[0] : sizes[1]]), list(values[sizes[1] :])
            final, stack = jax.lax.scan(body, start, sequence, **self.options)
            return [*final, *stack]

        length = self.options["length"]
        avals = [inner.aval[v] for v in carried]  # pyright: ignore[reportArgumentType]
        for atom in ys:
            one = inner.aval_of(atom)
            avals.append(Shaped((length, *one.shape), one.dtype))
        inputs = [outside[v] for v in consts]
        inputs += [self.inputs[first + i] for i in carries] + [sliced[v] for v in xs]
        work = length * sum(e.work for e in equations) + sum(a.bytes for a in avals)
        return self.outer.add("scan", run, inputs, avals, work=work)


def _recomputed(inner: Inliner, eqn: Equation) -> bool:
    return inner.level_of(eqn.outputs) == KNOWN and cheap(eqn, inner.aval)


def _has_known_part(body: jex.ClosedJaxpr, levels: Sequence[int]) -> bool:
    """Whether some equation of a body does not depend on the position, and costs something."""
    inner = Inliner()
    inner.bind(body.jaxpr.constvars, [Literal(c) for c in body.consts])
    for var, level in zip(body.jaxpr.invars, levels, strict=True):
        inner.bind([var], [inner.variable(var.aval.shape, var.aval.dtype, level)])
    inner.inline(body.jaxpr)
    return any(inner.level_of(e.outputs) == KNOWN and not cheap(e, {}) for e in inner.all)


def _work(eqn: jex.JaxprEqn) -> int:
    """Return how many bytes an equation writes, including those inside its bodies."""
    avals: list[Any] = [v.aval for v in eqn.outvars]
    own = sum(Shaped(aval.shape, aval.dtype).bytes for aval in avals)
    times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
    return own + times * sum(
        _work(inner) for body in jex.jaxprs_in_params(eqn.params) for inner in body.eqns
    )
