"""Programs that run a few times: on a CPU they are compiled in half the time."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
from jax import core
from jax.stages import Lowered, Wrapped

OPTIONS: dict[str, Any] = {
    "xla_backend_optimization_level": 1,
    "xla_cpu_use_fusion_emitters": False,
}
"""Compiler options that halve the time of compiling on a CPU. Most programs are as quick with them;
some take a third longer, so that what runs thousands of times is compiled without them."""


class QuickJit:
    """A function that `jax.jit` compiles quickly, rather than for speed.

    Inside of another traced function it is the function itself. Flags of `XLA_FLAGS` win.

    Args:
        function: the function; jittable.
        num_static: how many of its first arguments are static.

    Examples:
        >>> import jax.numpy as jnp
        >>> twice = QuickJit(lambda x: 2 * x)
        >>> float(twice(3.0)), float(jax.grad(twice)(3.0))
        (6.0, 2.0)
    """

    def __init__(self, function: Callable[..., Any], num_static: int = 0) -> None:
        functools.update_wrapper(self, function)
        self.function, self.num_static = function, num_static

    def __call__(self, *args: Any) -> Any:
        """Call the compiled function."""
        if any(isinstance(leaf, core.Tracer) for leaf in jax.tree.leaves(args[self.num_static :])):
            return self.function(*args)
        return self._on(jax.default_backend())(*args)

    def lower(self, *args: Any) -> Lowered:
        """Return the program for such arguments, before it is compiled."""
        return self._on(jax.default_backend()).lower(*args)

    def eval_shape(self, *args: Any) -> Any:
        """Return the shapes and dtypes of what the function returns for such arguments."""
        compiled: Any = self._on(jax.default_backend())
        return compiled.eval_shape(*args)

    @functools.cache  # noqa: B019  there are as many as decorated functions
    def _on(self, platform: str) -> Wrapped:
        flags = os.environ.get("XLA_FLAGS", "")
        is_asked = platform == "cpu" and not any(name in flags for name in OPTIONS)
        return jax.jit(
            self.function,
            static_argnums=tuple(range(self.num_static)),
            compiler_options=OPTIONS if is_asked else None,
        )
