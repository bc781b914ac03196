"""Parameters that the two microcanonical samplers share, and the targets that they refuse."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from nbcore import Stats, Target
from nbcore.errors import TargetError
from nbcore.extend import Whitening
from nbcore_blackjax.states import typed

GRADIENTS = 2
"""Gradients of one step of McLachlan's integrator, which has two stages."""

MIN_TUNE = 100


class Parameters(NamedTuple):
    """Parameters of a microcanonical sampler, in whitened coordinates (no units).

    Args:
        L: distance after which the direction is forgotten.
        step_size: distance of one step.
        inverse_mass_matrix: square of the scale of each coordinate `(d,)`.
    """

    L: Any
    step_size: Any
    inverse_mass_matrix: Any


def check_size(phi: jax.Array, name: str) -> None:
    """Raise if there is one parameter: on a line there is no direction to turn to.

    Raises:
        TargetError: there is.

    Examples:
        >>> check_size(jax.numpy.zeros(2), "blackjax-mclmc")
    """
    if phi.size < 2:
        raise TargetError(
            f"{name} samples two numbers or more, and this target has {phi.size}. Type: "
            "backend='blackjax-nuts'"
        )


def tuned(
    state: Any, target: Target, whitening: Whitening, sampler: Any, at: Parameters, count: Any
) -> tuple[Any, Stats]:
    """Return the state that BlackJAX's tuning leads to, and what it cost.

    Args:
        state: the state before, with `sampler`, `position` and `parameters`.
        target: the log density.
        whitening: the coordinates of the sampler.
        sampler: BlackJAX's own state.
        at: the parameters that it found.
        count: integrator steps that it took.
    """
    position = whitening.to_position(sampler.position, target.start)
    stats = Stats(
        log_density=sampler.logdensity, num_gradients=GRADIENTS * count, step_size=at.step_size
    )
    return typed(state._replace(sampler=sampler, position=position, parameters=at), state), stats
