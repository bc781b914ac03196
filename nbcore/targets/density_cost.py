"""What one gradient of a log density costs: before and after hoisting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class DensityCost:
    """What one gradient of the log density costs, and what hoisting did about it.

    Args:
        plain_flops: floating-point operations of a gradient of the plain density, on inputs as
            they were given; by XLA's cost analysis, which counts the body of a loop once.
        flops: those of a gradient as it is computed.
        hoisted_bytes: size of what is computed once, over all examples.
        wanted_bytes: what that would be without a byte budget.
        layers: the layers that are computed in every gradient.
        recomputed: known operations that are done in every gradient all the same, because their
            results would take more than the byte budget.
        blocks: how many rows each program computes, and how many at a time.

    Examples:
        >>> print(DensityCost(2e9, 1e6, 10_000, 10_000, ("Dense1",), 0, ((564, 564),)))
        a gradient takes 1e+06 FLOPs instead of 2e+09 (2,000 times fewer)
        computed once: 0.0 MiB; in every gradient: Dense1
        564 rows
    """

    plain_flops: float
    flops: float
    hoisted_bytes: int
    wanted_bytes: int
    layers: tuple[str, ...]
    recomputed: int
    blocks: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        """Say it in words."""
        times = self.plain_flops / max(self.flops, 1.0)
        lines = [
            f"a gradient takes {self.flops:.2g} FLOPs instead of {self.plain_flops:.2g} "
            f"({times:,.3g} times fewer)"
            if times < 1000
            else f"a gradient takes {self.flops:.2g} FLOPs instead of {self.plain_flops:.2g} "
            f"({times:,.0f} times fewer)",
            f"computed once: {self.hoisted_bytes / 2**20:,.1f} MiB; in every gradient: "
            f"{', '.join(self.layers)}",
        ]
        if self.recomputed:
            lines.append(over_budget(self.wanted_bytes, self.hoisted_bytes, self.recomputed))
        return "\n".join([*lines, ", ".join(_rows(*block) for block in self.blocks)])


def over_budget(wanted: int, kept: int, recomputed: int) -> str:
    """Say that the byte budget made the cut smaller."""
    return (
        f"Hoisted activations would take {wanted / 2**20:,.1f} MiB, more than the byte budget: "
        f"{kept / 2**20:,.1f} MiB are kept, and {recomputed} operations that could be done once "
        f"are done in every gradient. To keep them: byte_budget={wanted}"
    )


def gradient_flops(function: Callable[..., jax.Array], *args: Any) -> float:
    """Return the floating-point operations of the gradient in the first argument.

    Args:
        function: returns a scalar.
        args: arrays, or their shapes and dtypes; nothing is computed or compiled.
    """
    analysis: Any = jax.jit(jax.grad(function)).lower(*args).cost_analysis()
    return float(analysis["flops"])


def _rows(count: int, at_a_time: int) -> str:
    if not at_a_time or at_a_time >= count:
        return f"{count:,} rows"
    return f"{count:,} rows, {at_a_time:,} at a time"
