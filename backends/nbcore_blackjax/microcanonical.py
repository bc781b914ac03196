"""What the two microcanonical samplers share: their parameters, and what they cannot sample."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from nbcore.errors import TargetError

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
    """Raise where there is one number: on a line there is no direction to turn to.

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
