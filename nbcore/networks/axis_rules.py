"""Rules of how the axes of parameters move through the operations of a traced network.

Each axis of a traced array comes from at most one axis of the parameters, or from several that
are aligned. `Marks` notes what happens to them: summed over in a product, a batch axis of a
product with data, indexed, run along by a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core as jex

from nbcore.networks.layers import StackOrder

Axis = tuple[int, int]
"""A leaf, by its number, and one of its storage axes."""
Axes = tuple[Axis | None, ...]
"""For each axis of an array, the axis of a leaf that it comes from, if any."""


class StackAxis(NamedTuple):
    """A storage axis of a leaf along which layers are stacked.

    Args:
        axis: the axis.
        order: how the network calls the layers.
        group: the same for leaves that one loop runs along.
    """

    axis: int
    order: StackOrder = "parallel"
    group: int = -1


@dataclass(frozen=True)
class Value:
    """What is known of a traced array.

    Args:
        axes: for each of its axes, the axis of a leaf that it comes from, if any.
        is_data: whether it depends on the inputs.
        slices: which numbers along stacked axes it depends on.
    """

    axes: Axes
    is_data: bool = False
    slices: frozenset[tuple[Axis, int]] = frozenset()

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.axes)


@dataclass
class Marks:
    """What the network does with the axes of the leaves."""

    scanned: dict[Axis, StackAxis] = field(default_factory=dict[Axis, StackAxis])
    indexed: dict[Axis, StackAxis] = field(default_factory=dict[Axis, StackAxis])
    batched: set[Axis] = field(default_factory=set[Axis])
    whole: set[Axis] = field(default_factory=set[Axis])
    contracted: set[Axis] = field(default_factory=set[Axis])
    alike: dict[Axis, Axis] = field(default_factory=dict[Axis, Axis])

    def root(self, axis: Axis) -> Axis:
        """Return the axis that stands for all those that are aligned with one."""
        while axis in self.alike:
            axis = self.alike[axis]
        return axis

    def align(self, axes: Sequence[Axis | None]) -> Axis | None:
        """Note that axes of several leaves are one axis of a value; return one of them."""
        known = [axis for axis in axes if axis is not None]
        for other in known[1:]:
            first, second = self.root(known[0]), self.root(other)
            if first != second:
                self.alike[second] = first
        return known[0] if known else None

    def of(self, axis: Axis) -> StackAxis | None:
        """Return what stack an axis is, if it is one."""
        if axis in self.scanned:
            return self.scanned[axis]
        if axis in self.contracted:
            return None
        if axis in self.indexed:
            return None if axis in self.whole else self.indexed[axis]
        is_shared = self.root(axis) in {self.root(other) for other in self.batched}
        return StackAxis(axis[1]) if is_shared else None


Rule = Callable[[Marks, jex.JaxprEqn, list[Value]], list[Axes]]
"""From the inputs of an equation to the axes of each of its results."""


def shape_of(atom: Any) -> tuple[int, ...]:
    """Return the shape of a variable or literal of a jaxpr."""
    return tuple(atom.aval.shape)


def indexed_axes(eqn: jex.JaxprEqn) -> list[tuple[int, int | None]]:
    """Return the axes of which one number is taken, with the number if that is known."""
    shape, params = shape_of(eqn.invars[0]), eqn.params
    if eqn.primitive.name == "gather":
        numbers = params["dimension_numbers"]
        return [(a, None) for a in numbers.collapsed_slice_dims if shape[a] > 1]
    if eqn.primitive.name == "dynamic_slice":
        sizes = params["slice_sizes"]
        return [(a, None) for a, n in enumerate(shape) if sizes[a] == 1 < n]
    starts, limits = params["start_indices"], params["limit_indices"]
    return [(a, starts[a]) for a, n in enumerate(shape) if limits[a] - starts[a] == 1 < n]


def takes_several(eqn: jex.JaxprEqn) -> bool:
    """Return whether an equation looks several numbers up at once."""
    return eqn.primitive.name == "gather" and any(n > 1 for n in shape_of(eqn.invars[1])[:-1])


def elementwise(marks: Marks, eqn: jex.JaxprEqn, ins: list[Value]) -> list[Axes]:
    """Axes of operations on arrays of one shape; of operations that are not known, none."""
    shapes = [shape_of(var) for var in eqn.invars]
    found: list[Axes] = []
    for var in eqn.outvars:
        out = shape_of(var)
        whole = [(v, s) for v, s in zip(ins, shapes, strict=True) if s]
        fits = all(
            len(s) == len(out) and all(n in (1, m) for n, m in zip(s, out, strict=True))
            for _, s in whole
        )
        found.append(
            tuple(
                marks.align([v.axes[a] for v, s in whole if s[a] == n]) if fits else None
                for a, n in enumerate(out)
            )
        )
    return found


def _product(marks: Marks, eqn: jex.JaxprEqn, ins: list[Value]) -> list[Axes]:
    contracted, batch = eqn.params["dimension_numbers"]
    for value, axes in zip(ins, contracted, strict=True):
        if not value.is_data:
            marks.contracted.update(axis for a in axes if (axis := value.axes[a]) is not None)
    if ins[0].is_data != ins[1].is_data:
        weight = 1 if ins[0].is_data else 0
        batched = (ins[weight].axes[a] for a in batch[weight])
        marks.batched.update(axis for axis in batched if axis is not None)
    shared = [marks.align([ins[0].axes[a], ins[1].axes[b]]) for a, b in zip(*batch, strict=True)]
    free = [
        value.axes[a]
        for value, gone in zip(ins, zip(contracted, batch, strict=True), strict=True)
        for a in range(value.ndim)
        if a not in (*gone[0], *gone[1])
    ]
    return [(*shared, *free)]


def _convolution(marks: Marks, eqn: jex.JaxprEqn, ins: list[Value]) -> list[Axes]:
    numbers = eqn.params["dimension_numbers"]
    out: list[Axis | None] = [None] * ins[0].ndim
    out[numbers.out_spec[0]] = ins[0].axes[numbers.lhs_spec[0]]
    out[numbers.out_spec[1]] = ins[1].axes[numbers.rhs_spec[0]]
    marks.contracted.update(
        axis for a, axis in enumerate(ins[1].axes) if axis is not None and a != numbers.rhs_spec[0]
    )
    return [tuple(out)]


def _gather(marks: Marks, eqn: jex.JaxprEqn, ins: list[Value]) -> list[Axes]:
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    operand, shape = ins[0], shape_of(eqn.invars[0])
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [
        operand.axes[a] if sizes[a] == shape[a] else None
        for a in range(operand.ndim)
        if a not in gone
    ]
    out: list[Axis | None] = [None] * len(shape_of(eqn.outvars[0]))
    for place, axis in zip(numbers.offset_dims, kept, strict=True):
        out[place] = axis
    others = [a for a in range(len(out)) if a not in numbers.offset_dims]
    for a, b in zip(
        numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True
    ):
        axis = operand.axes[a]
        out[others[b]] = axis
        if axis is not None and ins[1].is_data and not operand.is_data:
            marks.batched.add(axis)
    return [tuple(out)]


def _reshape(marks: Marks, eqn: jex.JaxprEqn, ins: list[Value]) -> list[Axes]:
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    ends = {int(np.prod(before[: a + 1])): a for a, n in enumerate(before) if n > 1}
    out: list[Axis | None] = []
    for a, n in enumerate(after):
        from_axis = ends.get(int(np.prod(after[: a + 1])))
        is_same = n > 1 and from_axis is not None and before[from_axis] == n
        out.append(ins[0].axes[from_axis] if is_same and from_axis is not None else None)
    return [tuple(out)]


def _broadcast(marks: Marks, eqn: jex.JaxprEqn, ins: list[Value]) -> list[Axes]:
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    out: list[Axis | None] = [None] * len(after)
    for a, place in enumerate(eqn.params["broadcast_dimensions"]):
        out[place] = ins[0].axes[a] if before[a] == after[place] else None
    return [tuple(out)]


def _without(name: str) -> Rule:
    """Return the rule of an operation that takes the axes away which a parameter of it names."""

    def rule(marks: Marks, eqn: jex.JaxprEqn, ins: list[Value]) -> list[Axes]:
        gone = eqn.params[name]
        kept = tuple(axis for a, axis in enumerate(ins[0].axes) if a not in gone)
        return [kept] * len(eqn.outvars)

    return rule


def _transpose(marks: Marks, eqn: jex.JaxprEqn, ins: list[Value]) -> list[Axes]:
    return [tuple(ins[0].axes[a] for a in eqn.params["permutation"])]


def _of_same_length(marks: Marks, eqn: jex.JaxprEqn, ins: list[Value]) -> list[Axes]:
    """Axes of an operation that keeps axes in their places; those that change length are others."""
    before = shape_of(eqn.invars[0])
    return [
        tuple(ins[0].axes[a] if n == before[a] else None for a, n in enumerate(shape_of(var)))
        for var in eqn.outvars
    ]


INDEXING = ("dynamic_slice", "gather", "slice")
_REDUCTIONS = ("max", "min", "sum", "prod", "and", "or")
RULES: dict[str, Rule] = {
    "dot_general": _product,
    "conv_general_dilated": _convolution,
    "gather": _gather,
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "squeeze": _without("dimensions"),
    "transpose": _transpose,
    **dict.fromkeys(("dynamic_slice", "slice", "split", "pad", "concatenate"), _of_same_length),
    **{f"reduce_{name}": _without("axes") for name in _REDUCTIONS},
    **dict.fromkeys(("argmax", "argmin"), _without("axes")),
}
