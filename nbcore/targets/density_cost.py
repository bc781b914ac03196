"""The cost of one gradient of a log density, before and after hoisting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from nbcore.networks.evaluation import as_columns
from nbcore.targets.blocks import in_order, over_budget, staged_layers


@dataclass(frozen=True)
class DensityCost:
    """Cost of one gradient of the log density, before and after hoisting.

    Args:
        plain_flops: floating-point operations of a gradient without hoisting, on the inputs as
            given; by XLA's cost analysis, which counts the body of a loop once.
        flops: those of a gradient with hoisting.
        hoisted_bytes: size of the values that are computed once, of all examples.
        wanted_bytes: their size without a byte budget.
        layers: the layers that are computed in every gradient.
        recomputed: number of operations that could be done once, and are done in every gradient
            because their results would take more than the byte budget.
        blocks: number of examples of each program, and how many are computed at a time.

    Examples:
        >>> print(DensityCost(2e9, 1e6, 10_000, 10_000, ("Dense1",), 0, ((564, 564),)))
        a gradient takes 1e+06 FLOPs instead of 2e+09 (2,000 times fewer)
        computed once: 0.0 MiB; in every gradient: Dense1
        564 examples
    """

    plain_flops: float
    flops: float
    hoisted_bytes: int
    wanted_bytes: int
    layers: tuple[str, ...]
    recomputed: int
    blocks: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        """Return the cost in words."""
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
        return "\n".join([*lines, ", ".join(_examples(*block) for block in self.blocks)])


def density_cost(target: Any) -> DensityCost:
    """Return the cost of a gradient of the log density, without compiling or computing it.

    Args:
        target: the log density of a network's weights, an `nbcore.targets.target.NetworkTarget`.
    """
    position = target.initial_position()
    structure, shapes = target.inputs
    x = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    y = jax.eval_shape(lambda target: in_order(target.blocks, [b.y for b in target.blocks]), target)
    blocks = target.blocks
    return DensityCost(
        plain_flops=_gradient_flops(_plain, position, target, x, y),
        flops=_gradient_flops(_at_once, position, target),
        hoisted_bytes=sum(block.hoisted_bytes for block in blocks),
        wanted_bytes=sum(block.wanted_bytes for block in blocks),
        layers=staged_layers(target.split, blocks),
        recomputed=max(block.forward.program.staged.recomputed for block in blocks),
        blocks=tuple((block.count, block.forward.chunk_size) for block in blocks),
    )


def _plain(position: Any, target: Any, x: Any, y: jax.Array) -> jax.Array:
    """Return the log density without hoisting: the whole network on all inputs."""
    params = target.split.merge(position["weights"])
    outputs = as_columns(target.network.apply(params, x), len(y))
    each = target.likelihood.log_prob(outputs, y, position["likelihood"])
    return target.log_prior(position) + jnp.sum(each)


def _at_once(position: Any, target: Any) -> jax.Array:
    """Return the log density without chunks: XLA counts the body of a loop once."""
    whole = [replace(b, forward=replace(b.forward, chunk_size=0)) for b in target.blocks]
    return replace(target, blocks=tuple(whole)).log_density(position)


def _gradient_flops(function: Callable[..., jax.Array], *args: Any) -> float:
    """Return the floating-point operations of the gradient in the first argument.

    Args:
        function: returns a scalar.
        args: arrays, or their shapes and dtypes; nothing is computed or compiled.
    """
    analysis: Any = jax.jit(jax.grad(function)).lower(*args).cost_analysis()
    return float(analysis["flops"])


def _examples(count: int, at_a_time: int) -> str:
    if not at_a_time or at_a_time >= count:
        return f"{count:,} examples"
    return f"{count:,} examples, {at_a_time:,} at a time"
