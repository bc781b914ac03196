"""Axes of the parameters that are stacks of layers, read off the traced network.

An axis of a leaf is a stack if the network takes it apart before the leaf meets data: it is the
axis that a loop runs along (`scan`), it is indexed with numbers that do not depend on the inputs
(`kernel[i]`), or it is a batch axis of the products of the leaf with data (`vmap`). Other leaves
that share a batch axis with such a leaf are stacked along it, too: in a `vmap` over networks,
the first layers meet data that have no such axis yet.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jax.extend import core as jex

from nbcore.networks.axis_rules import (
    INDEXING,
    RULES,
    Axis,
    Marks,
    StackAxis,
    Value,
    elementwise,
    indexed_axes,
    shape_of,
    takes_several,
)
from nbcore.networks.layers import StackOrder
from nbcore.networks.tracing import Traced, body_of


def stack_axes(traced: Traced) -> dict[str, tuple[StackAxis, ...]]:
    """Return the stack axes of each leaf that has some, by path, in storage order.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> def apply(params, x):
        ...     return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["w"])[0]
        >>> stack_axes(Traced.of(apply, {"w": jnp.ones((3, 4, 4))}, jnp.ones((5, 4))))
        {'w': (StackAxis(axis=0, order='forward', group=0),)}
    """
    walker = _Walker()
    count = len(traced.paths)
    leaves = [
        Value(tuple((i, a) for a in range(len(shape_of(var)))))
        for i, var in enumerate(traced.jaxpr.invars[:count])
    ]
    data = [Value((None,) * len(shape_of(var)), True) for var in traced.jaxpr.invars[count:]]
    walker.walk(traced.jaxpr, [*leaves, *data])
    found: dict[str, tuple[StackAxis, ...]] = {}
    for i, path in enumerate(traced.paths):
        axes = (walker.marks.of((i, a)) for a in range(leaves[i].ndim))
        if stacks := tuple(axis for axis in axes if axis is not None):
            found[path] = stacks
    return found


class _Walker:
    """Walks a jaxpr and marks what happens to the axes of the leaves."""

    def __init__(self) -> None:
        self.marks = Marks()
        self.groups = itertools.count()
        self.depth = 0

    def walk(self, jaxpr: jex.Jaxpr, inputs: Sequence[Value]) -> list[Value]:
        values: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Value:
            known = None if isinstance(atom, jex.Literal) else values.get(atom)
            return Value((None,) * len(shape_of(atom))) if known is None else known

        for eqn in jaxpr.eqns:
            outs = self._results(eqn, [read(v) for v in eqn.invars])
            values.update(zip(eqn.outvars, outs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _results(self, eqn: jex.JaxprEqn, ins: list[Value]) -> list[Value]:
        name, params = eqn.primitive.name, eqn.params
        if name == "scan":
            return self._scan(eqn, ins)
        if name == "while":
            ins = ins[params["cond_nconsts"] :]
            return self._loop(params["body_jaxpr"].jaxpr, ins, params["body_nconsts"], len(ins))
        if name == "cond":
            branches = [self.walk(b.jaxpr, ins[1:]) for b in params["branches"]]
            return [
                replace(_joined([ins[0], *vs]), axes=vs[0].axes)
                for vs in zip(*branches, strict=True)
            ]
        body = body_of(eqn)
        if body is not None:
            return self.walk(body, ins)
        joined = _joined(ins)
        if name in INDEXING:
            joined = self._note_indexed(eqn, ins[0], joined)
        elif joined.is_data:
            self._note_whole(ins)
        rule = RULES.get(name, elementwise)
        return [replace(joined, axes=axes) for axes in rule(self.marks, eqn, ins)]

    def _note_whole(self, ins: list[Value]) -> None:
        """Note which axes meet data as they are, and in which order numbers along stacks do."""
        seen = {key for v in ins if v.is_data for key in v.slices}
        for value in ins:
            if value.is_data:
                continue
            self.marks.whole.update(axis for axis in value.axes if axis is not None)
            for axis, number in value.slices:
                before = [n for other, n in seen if other == axis and n != number]
                if before and self.marks.indexed[axis].order == "parallel":
                    order: StackOrder = "forward" if before[0] < number else "reverse"
                    self.marks.indexed[axis] = StackAxis(axis[1], order)

    def _note_indexed(self, eqn: jex.JaxprEqn, operand: Value, out: Value) -> Value:
        """Note which axes are indexed, and with which number if that is known."""
        for place, number in indexed_axes(eqn):
            axis = operand.axes[place]
            if operand.is_data or axis is None or operand.ndim < 2:  # numbers are no layers
                continue
            if out.is_data or takes_several(eqn):  # as an embedding looks tokens up
                self.marks.contracted.add(axis)
                continue
            order: StackOrder = "forward" if self.depth else "parallel"
            self.marks.indexed.setdefault(axis, StackAxis(axis[1], order))
            if number is not None:
                out = replace(out, slices=out.slices | {(axis, number)})
        return out

    def _scan(self, eqn: jex.JaxprEqn, ins: list[Value]) -> list[Value]:
        consts, carry = eqn.params["num_consts"], eqn.params["num_carry"]
        group = next(self.groups)
        order: StackOrder = "reverse" if eqn.params["reverse"] else "forward"
        along: list[Value] = []
        for value in ins[consts + carry :]:
            axis = value.axes[0]
            if axis is not None and not value.is_data:
                self.marks.scanned.setdefault(axis, StackAxis(axis[1], order, group))
            along.append(replace(value, axes=value.axes[1:]))
        body = eqn.params["jaxpr"].jaxpr
        outs = self._loop(body, [*ins[: consts + carry], *along], consts, consts + carry)
        return [*outs[:carry], *(replace(v, axes=(None, *v.axes)) for v in outs[carry:])]

    def _loop(self, body: jex.Jaxpr, ins: list[Value], consts: int, carry: int) -> list[Value]:
        """Walk the body of a loop, which carries `ins[consts:carry]` around."""
        self.depth += 1
        marks, self.marks = self.marks, Marks()  # a first round tells what is carried around
        first = self.walk(body, ins)
        self.marks = marks
        around = zip(ins[consts:carry], first, strict=False)
        carried = [replace(a, is_data=a.is_data or b.is_data) for a, b in around]
        outs = self.walk(body, [*ins[:consts], *carried, *ins[carry:]])
        self.depth -= 1
        return outs


def _joined(ins: Sequence[Value]) -> Value:
    """Return what is known of all that depends on some values, but for its axes."""
    slices = frozenset[tuple[Axis, int]]().union(*(v.slices for v in ins))
    return Value((), any(v.is_data for v in ins), slices)
