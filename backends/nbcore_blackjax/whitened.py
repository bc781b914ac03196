"""Sampling in coordinates that are whitened by the curvature at the mode."""

from __future__ import annotations

from collections.abc import Callable

import jax

from nbcore import Target
from nbcore.extend import Whitening


def whitened_density(target: Target, whitening: Whitening) -> Callable[[jax.Array], jax.Array]:
    """Return the log density as a function of whitened coordinates `(d,)`.

    log p(phi) = log_density(unravel(center + factor @ phi)); the constant that the change of
    coordinates adds is left out, so that values are those of the target.

    Args:
        target: the log density.
        whitening: the coordinates.
    """
    like = target.start
    return lambda phi: target.log_density(whitening.to_position(phi, like))
