"""The computation of a network on an example, traced once for all that is read off it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend import core as jex

from nbcore.common.paths import leaf_paths


@dataclass(frozen=True, eq=False)
class Traced:
    """A traced network; made by `Traced.of`.

    Args:
        jaxpr: what it computes; the first inputs are the leaves of the parameters.
        paths: path of each leaf.
    """

    jaxpr: jex.Jaxpr
    paths: tuple[str, ...]

    @staticmethod
    def of(apply: Callable[[Any, Any], Any], params: Any, example: Any) -> Traced:
        """Trace a network; nothing is computed.

        Args:
            apply: `(params, x) -> outputs`.
            params: pytree of arrays, or of their shapes and dtypes.
            example: input with a leading example axis.
        """
        return Traced(jax.make_jaxpr(apply)(params, example).jaxpr, tuple(leaf_paths(params)))


def body_of(eqn: jex.JaxprEqn) -> jex.Jaxpr | None:
    """Return the body of an equation that is a call with the same inputs, such as a nested jit."""
    for value in eqn.params.values():
        body = value.jaxpr if isinstance(value, jex.ClosedJaxpr) else value
        if isinstance(body, jex.Jaxpr) and len(body.invars) == len(eqn.invars):
            return body
    return None
