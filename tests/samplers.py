"""Samplers whose draws are known in advance, for tests of what surrounds a sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

import nbcore as nb
from nbcore.posterior.stats import Stats
from nbcore.sampling.backend import Kernel


def without_warmup(step: Any) -> Kernel:
    """A kernel whose state is the position, and whose steps of warmup are those of sampling."""
    return Kernel(lambda key, target, shared, position: position, step, step, lambda s: s)


@dataclass(frozen=True)
class Stay:
    """Chains that stay where they start."""

    name: ClassVar[str] = "stay"
    capabilities: ClassVar[frozenset[str]] = frozenset({"fixed_cost"})
    acceptance_rate: float = float("nan")

    def kernel(self, num_warmup: int) -> Kernel:
        def step(key: Any, target: nb.Target, shared: Any, state: Any, t: Any) -> Any:
            return state, Stats(target.log_density(state), acceptance_rate=self.acceptance_rate)

        return without_warmup(step)


@dataclass(frozen=True)
class Still:
    """Draws that all are the start: the trained weights, bit for bit."""

    name: ClassVar[str] = "still"
    capabilities: ClassVar[frozenset[str]] = frozenset({"fixed_cost"})

    def kernel(self, num_warmup: int) -> Kernel:
        def step(key: Any, target: nb.Target, shared: Any, state: Any, t: Any) -> Any:
            return target.start, Stats(target.log_density(target.start))

        return without_warmup(step)


@dataclass(frozen=True)
class Spread:
    """Independent draws around the start; none of them moves where `scale` is 0."""

    name: ClassVar[str] = "spread"
    capabilities: ClassVar[frozenset[str]] = frozenset({"independent", "fixed_cost"})
    scale: float = 0.0

    def kernel(self, num_warmup: int) -> Kernel:
        def step(key: Any, target: nb.Target, shared: Any, state: Any, t: Any) -> Any:
            return target.initial_position(key, jitter=self.scale), Stats(jnp.zeros(()))

        return without_warmup(step)
