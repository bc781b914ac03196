"""What a run will cost, from one timed gradient."""

from __future__ import annotations

from dataclasses import dataclass

from nbcore.backend import Backend
from nbcore.target import Target


@dataclass(frozen=True)
class Cost:
    """An estimate of a run.

    Args:
        gradient_seconds: wall time of one gradient of the log density.
        num_gradients: gradients of all chains, as the backend expects them.
        seconds: wall time over the chains that run side by side.

    Examples:
        >>> print(Cost(gradient_seconds=2e-4, num_gradients=6e4, seconds=6.0))
        about 6 s: 60,000 gradients of 0.2 ms
    """

    gradient_seconds: float
    num_gradients: float
    seconds: float

    def __str__(self) -> str:
        """Say it in words."""
        return (
            f"about {self.seconds:,.0f} s: {self.num_gradients:,.0f} gradients of "
            f"{1e3 * self.gradient_seconds:.2g} ms"
        )


def estimate_cost(
    target: Target,
    backend: Backend,
    gradient_seconds: float,
    *,
    steps: int,
    side_by_side: int,
) -> Cost:
    """Extrapolate from the time of one gradient.

    Args:
        target: the log density.
        backend: its `expected_gradients` tells how many gradients a step takes (1 by default),
            its `batch_size` how many rows a minibatch has.
        gradient_seconds: wall time of one gradient on all rows.
        steps: steps of all chains together, warmup included.
        side_by_side: how many chains run at the same time.
    """
    if "minibatch" in backend.capabilities and target.num_examples:
        rows = getattr(backend, "batch_size", None) or 256
        gradient_seconds *= min(1.0, rows / target.num_examples)
    gradients = steps * float(getattr(backend, "expected_gradients", 1.0))
    return Cost(gradient_seconds, gradients, gradients * gradient_seconds / side_by_side)
