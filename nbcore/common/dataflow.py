"""Dependence of the outputs of a traced function on its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def depends_on(jaxpr: Any, marked: Sequence[bool]) -> list[bool]:
    """Return for each output of a jaxpr whether it depends on one of the marked inputs.

    Loops and branches count as a whole: all that they return depends on all that they are given.
    So an output may be said to depend on an input that it does not depend on, never the other way.

    Args:
        jaxpr: what `jax.make_jaxpr(f)(*args).jaxpr` is.
        marked: for each of its inputs, whether it is marked.

    Examples:
        >>> import jax
        >>> traced = jax.make_jaxpr(lambda a, b: (a + 1, jax.jit(lambda c, d: d)(a, b)))(1.0, 2.0)
        >>> depends_on(traced.jaxpr, [True, False])
        [True, False]
    """
    reached = {id(var) for var, is_marked in zip(jaxpr.invars, marked, strict=True) if is_marked}
    for equation in jaxpr.eqns:
        given = [id(var) in reached for var in equation.invars]
        if not any(given):
            continue
        inner = _called(equation)
        outputs = [True] * len(equation.outvars) if inner is None else depends_on(inner, given)
        reached |= {
            id(var) for var, is_reached in zip(equation.outvars, outputs, strict=True) if is_reached
        }
    return [id(var) in reached for var in jaxpr.outvars]


def _called(equation: Any) -> Any:
    """Return the jaxpr that an equation calls once with its inputs, as `jit` does; else None."""
    if equation.primitive.name not in ("jit", "pjit", "closed_call", "custom_jvp_call"):
        return None
    inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
    inner = getattr(inner, "jaxpr", inner)
    if inner is None or len(inner.invars) != len(equation.invars):
        return None
    return inner if len(inner.outvars) == len(equation.outvars) else None
