"""The cut of a traced network into a part that is computed once and the staged rest.

`cut` traces a network for ONE example and classifies every equation: *constant* (depends on
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

from nbcore.targets.hoisting.equations import Atom, Equation, cheap, needed, run_equations, value_of
from nbcore.targets.hoisting.inlining import CONSTANT, KNOWN, STAGED, Inliner

BYTE_BUDGET = 2**30


@dataclass(frozen=True, eq=False)
class CutNetwork:
    """A network for one example, cut into a part that is computed once and a staged part.

    Compared by identity, so that as a static argument it retraces nothing while it lives.

    Args:
        equations: all equations, calls inlined.
        inputs: variables of position, frozen values and example, in this order.
        outputs: variables of the outputs.
        constants: constant variables that the staged equations read.
        residuals: known variables that the staged equations read, one value per example.
        staged: indices of the equations that are staged.
        example_bytes: size of the residuals of one example.
        wanted_bytes: their size without a byte budget.
        example_work: bytes that the staged equations write for one example: about the memory
            that a gradient takes for it.
        recomputed: number of known equations that are staged because their results would take more
            than the byte budget.
        frozen_read: places of the frozen leaves that the staged equations depend on.
    """

    equations: tuple[Equation, ...]
    inputs: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    outputs: tuple[Atom, ...]
    constants: tuple[int, ...]
    residuals: tuple[int, ...]
    staged: tuple[int, ...]
    example_bytes: int
    wanted_bytes: int
    example_work: int
    recomputed: int
    frozen_read: tuple[int, ...]
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
        """Return the outputs of one example from its constants and residuals."""
        env: dict[int, Any] = dict(zip(self.inputs[0], jax.tree.leaves(position), strict=True))
        env |= dict(zip(self.constants, constants, strict=True))
        env |= dict(zip(self.residuals, residuals, strict=True))
        run_equations([self.equations[i] for i in self.staged], env)
        return jax.tree.unflatten(self.treedef, [value_of(a, env) for a in self.outputs])

    def _compute(self, env: dict[int, Any], wanted: tuple[int, ...]) -> list[jax.Array]:
        kept, _ = needed(self.equations, wanted, lambda _: True)
        run_equations([self.equations[i] for i in kept], env)
        return [env[v] for v in wanted]


def cut(
    function: Callable[[Any, Any, Any], Any],
    position: Any,
    frozen: Any,
    example: Any,
    *,
    byte_budget: int | None = None,
) -> CutNetwork:
    """Trace `function(position, frozen, example)` and cut it.

    Args:
        function: the network for one example.
        position: stochastic weights; only shapes and dtypes are read.
        frozen: a pytree of arrays that is constant.
        example: one example, without the example axis.
        byte_budget: bytes that the residuals of one example may take. If they exceed it, the cut
            moves towards the input until they fit, a function of shapes alone. `None` is no limit.

    Returns:
        The cut network.
    """
    parts = (position, frozen, example)
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*parts)
    flat = Inliner()
    levels = (STAGED, CONSTANT, KNOWN)
    sizes = [len(jax.tree.leaves(part)) for part in parts]
    variables = iter(closed.jaxpr.invars)
    inputs: list[tuple[int, ...]] = []
    for level, size in zip(levels, sizes, strict=True):
        some = [next(variables) for _ in range(size)]
        numbers = tuple(flat.variable(v.aval.shape, v.aval.dtype, level) for v in some)
        flat.bind(some, numbers)
        inputs.append(numbers)
    consts = [
        (flat.variable(np.shape(c), c.dtype, CONSTANT), c)
        for c in map(jax.numpy.asarray, closed.consts)
    ]
    flat.bind(closed.jaxpr.constvars, [number for number, _ in consts])
    flat.inline(closed.jaxpr)
    outputs = tuple(flat.atom(v) for v in closed.jaxpr.outvars)
    cut = _Cut(flat, outputs)
    found = cut.within(byte_budget)
    return CutNetwork(
        equations=tuple(flat.all),
        inputs=(inputs[0], inputs[1], inputs[2]),
        outputs=outputs,
        constants=found.constants,
        residuals=found.residuals,
        staged=found.staged,
        example_bytes=found.example_bytes,
        wanted_bytes=cut.within(None).example_bytes,
        example_work=cut.work(found, inputs[2]),
        recomputed=found.recomputed,
        frozen_read=cut.sources(found, inputs[1]),
        treedef=jax.tree.structure(shape),
        closed=tuple(consts),
    )


@dataclass(frozen=True)
class _Found:
    constants: tuple[int, ...]
    residuals: tuple[int, ...]
    staged: tuple[int, ...]
    example_bytes: int
    recomputed: int


class _Cut:
    """Decides which equations are staged."""

    def __init__(self, flat: Inliner, outputs: tuple[Atom, ...]) -> None:
        self.flat, self.equations, self.outputs = flat, flat.all, outputs
        self.place = {v: i for i, e in enumerate(flat.all) for v in e.outputs}

    def within(self, budget: int | None) -> _Found:
        """Return the deepest cut whose residuals fit the budget per example."""
        found = self._at(len(self.equations))
        while budget is not None and found.example_bytes > budget:
            computed = [self.place[v] for v in found.residuals if v in self.place]
            if not computed:
                break  # the inputs themselves are left
            found = self._at(max(computed))
        return found

    def work(self, found: _Found, example: tuple[int, ...]) -> int:
        """Return how many bytes the staged equations write for one example."""
        varies = {*example, *found.residuals}
        total = 0
        for i in found.staged:
            if varies.intersection(self.equations[i].reads):
                varies.update(self.equations[i].outputs)
                total += self.equations[i].work
        return total

    def sources(self, found: _Found, frozen: tuple[int, ...]) -> tuple[int, ...]:
        """Return the places of the frozen leaves that the staged equations depend on."""
        _, read = needed(self.equations, found.constants, lambda _: True)
        return tuple(i for i, v in enumerate(frozen) if v in read)

    def _at(self, end: int) -> _Found:
        """Return the cut that stages equations of the position, and all known ones after `end`."""
        flat = self.flat

        def computes(eqn: Equation) -> bool:
            level = flat.level_of(eqn.outputs)
            again = level == KNOWN and (self.place[eqn.outputs[0]] >= end or cheap(eqn, flat.aval))
            return level == STAGED or again

        kept, read = needed(self.equations, self.outputs, computes)
        constants = tuple(v for v in read if flat.level[v] == CONSTANT)
        residuals = tuple(v for v in read if flat.level[v] == KNOWN)
        recomputed = [
            i
            for i in kept
            if flat.level_of(self.equations[i].outputs) == KNOWN
            and not cheap(self.equations[i], flat.aval)
        ]
        size = sum(flat.aval[v].bytes for v in residuals)
        return _Found(constants, residuals, tuple(kept), size, len(recomputed))
