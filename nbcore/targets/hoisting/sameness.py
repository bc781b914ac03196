"""Equality of traced programs: the same operations, in the same order, on the same constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from nbcore.common.keys import is_key

_RULES = ("custom_jvp_call", "custom_vjp_call")
"""Primitives with a derivative of their own, given by functions that each trace makes anew."""
_COMPARABLE = (jex.ClosedJaxpr, int, tuple)
"""Their other options."""


def same_program(
    first: Callable[..., Any], second: Callable[..., Any], args: Any, more: Any
) -> bool:
    """Whether two functions do the same, in value and gradient, on arguments of any values.

    Traced programs are compared, with the values of all arrays that they captured. A derivative
    that the programs define themselves (`jax.custom_jvp`, `jax.custom_vjp`) is compared through
    the gradient in the first argument.

    Args:
        first: a function of arrays.
        second: another one.
        args: arguments of the first, of which only shapes and dtypes count.
        more: those of the second.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> one, two = (lambda x, c=c: jax.jit(lambda x: x * jnp.full(3, c))(x) for c in (1.0, 2.0))
        >>> x = (jnp.ones(3),)
        >>> same_program(one, one, x, x), same_program(one, two, x, x)
        (True, False)
    """
    values = [jax.make_jaxpr(f)(*a) for f, a in ((first, args), (second, more))]
    found = _Comparison()
    if not found.programs(*values):
        return False
    if not found.has_own_derivatives:
        return True
    gradients = [jax.make_jaxpr(_pulled_back(f))(*a) for f, a in ((first, args), (second, more))]
    return _Comparison().programs(*gradients)


def _pulled_back(function: Callable[..., Any]) -> Callable[..., Any]:
    def pulled_back(x: Any, *rest: Any) -> Any:
        outputs, pull_back = jax.vjp(lambda x: function(x, *rest), x)
        return pull_back(jax.tree.map(jax.numpy.ones_like, outputs))

    return pulled_back


_Numbers = tuple[dict[Any, int], dict[Any, int]]
"""The number of each variable of two programs, in order of definition."""


class _Comparison:
    """Compares two programs, equation by equation."""

    def __init__(self) -> None:
        self.has_own_derivatives = False

    def programs(self, a: jex.ClosedJaxpr, b: jex.ClosedJaxpr) -> bool:
        """Whether two programs are the same, and the arrays that they captured."""
        return self._same(tuple(a.consts), tuple(b.consts)) and self._bodies(a.jaxpr, b.jaxpr)

    def _bodies(self, a: jex.Jaxpr, b: jex.Jaxpr) -> bool:
        numbers: _Numbers = ({}, {})
        return (
            len(a.eqns) == len(b.eqns)
            and self._define((*a.constvars, *a.invars), (*b.constvars, *b.invars), numbers)
            and all(self._equations(x, y, numbers) for x, y in zip(a.eqns, b.eqns, strict=True))
            and self._reads(a.outvars, b.outvars, numbers)
        )

    def _equations(self, a: jex.JaxprEqn, b: jex.JaxprEqn, numbers: _Numbers) -> bool:
        if a.primitive is not b.primitive or a.params.keys() != b.params.keys():
            return False
        compared = list(a.params)
        if a.primitive.name in _RULES:
            self.has_own_derivatives = True
            compared = [name for name in compared if isinstance(a.params[name], _COMPARABLE)]
        return (
            self._reads(a.invars, b.invars, numbers)
            and all(self._same(a.params[name], b.params[name]) for name in compared)
            and self._define(a.outvars, b.outvars, numbers)
        )

    def _define(self, a: Sequence[Any], b: Sequence[Any], numbers: _Numbers) -> bool:
        if [variable.aval for variable in a] != [variable.aval for variable in b]:
            return False
        for variables, known in zip((a, b), numbers, strict=True):
            for variable in variables:
                known[variable] = len(known)
        return True

    def _reads(self, a: Sequence[Any], b: Sequence[Any], numbers: _Numbers) -> bool:
        def read(x: Any, y: Any) -> bool:
            if isinstance(x, jex.Literal) or isinstance(y, jex.Literal):
                return self._same(getattr(x, "val", None), getattr(y, "val", None))
            return numbers[0][x] == numbers[1][y]

        return len(a) == len(b) and all(map(read, a, b))

    def _same(self, a: Any, b: Any) -> bool:
        """Whether two options or constants are the same; arrays by value."""
        if _is_array(a) and _is_array(b):
            return _bits(a) == _bits(b)
        if type(a) is not type(b):
            return False
        if isinstance(a, jex.ClosedJaxpr):
            return self.programs(a, b)
        if isinstance(a, jex.Jaxpr):
            return self._bodies(a, b)
        if isinstance(a, tuple | list):
            return len(a) == len(b) and all(map(self._same, a, b))
        return bool(a == b)


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _bits(array: Any) -> tuple[Any, ...]:
    values = np.asarray(jax.random.key_data(array) if is_key(array) else array)
    return array.shape, array.dtype, values.tobytes()
