"""Dual averaging of the step size, one step at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from blackjax.adaptation.step_size import DualAveragingAdaptationState, dual_averaging_adaptation

from nbcore_blackjax.states import typed

Averaging = DualAveragingAdaptationState


@dataclass(frozen=True)
class DualAveraging:
    """Moves the step size of each warmup step until the acceptance rate is the wanted one.

    Args:
        target_acceptance_rate: the wanted mean acceptance rate.
        num_warmup: number of warmup steps.

    References:
        Hoffman & Gelman (2014), "The No-U-Turn sampler", section 3.2.
    """

    target_acceptance_rate: float
    num_warmup: int

    def begin(self, step_size: Any) -> Averaging:
        """Return the state at a first step size."""
        return self._functions()[0](step_size)

    def update(self, state: Averaging, acceptance_rate: Any) -> Averaging:
        """Learn from the acceptance rate of a step."""
        return typed(self._functions()[1](state, acceptance_rate), state)

    def restart(self, state: Averaging) -> Averaging:
        """Begin anew at the average so far."""
        begin, _, end = self._functions()
        return typed(begin(end(state)), state)

    def step_size(self, state: Averaging, t: Any) -> jax.Array:
        """Return the step size after warmup step `t`: after the last one, the average."""
        last = t == self.num_warmup - 1
        return jnp.where(last, self._functions()[2](state), jnp.exp(state.log_step_size))

    def _functions(self) -> tuple[Any, Any, Any]:
        return dual_averaging_adaptation(self.target_acceptance_rate)
