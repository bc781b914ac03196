"""Stochastic gradient Hamiltonian Monte Carlo: minibatches along trajectories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from nbcore import Kernel
from nbcore_sgmcmc.minibatches import minibatch_size
from nbcore_sgmcmc.trajectories import Trajectory
from nbcore_sgmcmc.warmup import check_options, kernel_of, scheduled


@dataclass(frozen=True)
class SGHMC:
    r"""Trajectories of a momentum under minibatch gradients.

    A step refreshes the momentum in part, p = r p + sqrt((1 - r^2) T) xi, and takes
    `num_leapfrog_steps` leapfrog steps: p += h g(phi) / 2, phi += h p, p += h g(phi) / 2, with g
    the gradient of an unbiased estimate of the log density, from a minibatch of its own for each
    of them. The trajectory is accepted or rejected as a whole by the change of the energy, which
    is estimated on the same minibatches. Coordinates and warmup are those of `sgld`, which adds
    noise at every leapfrog step.

    With all examples in a minibatch, as by default up to 1,024, there is no bias. Otherwise the
    noise of the gradients makes variances too large, by a share of n h^2 v / (1 - r^2) near a mode,
    with n leapfrog steps and v the variance of the minibatch gradient in phi.

    Args:
        step_size: the largest h, in the coordinates phi (no units); each step takes a random share
            of it, from 1/2 to 1. `None`: 1.2 d^(-1/4) for d parameters, or less, so that the noise
            adds at most `inflation` to variances.
        inflation: relative inflation of variances that the default step size allows.
        momentum: r, the share of the momentum that a step keeps.
        num_leapfrog_steps: n. Each takes one gradient of all examples, or two of its minibatch.
        target_acceptance_rate: mean acceptance rate that warmup adapts e to; see `sgld`.
        preconditioner: `"curvature"`, `"rmsprop"` or `"none"`; see `sgld`.
        schedule: an optax schedule, a factor on h as a function of the step number after warmup;
            `None` keeps h constant.
        batch_size: examples of a minibatch; `None` is all of up to 1,024, else N / 16 or 512.
        temperature: T; 1 is the posterior.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> SGHMC(num_leapfrog_steps=5).expected_gradients
        5.0

    References:
        Chen, Fox & Guestrin (2014), "Stochastic gradient Hamiltonian Monte Carlo", algorithm 2;
        Horowitz (1991), "A generalized guided Monte Carlo algorithm" (partial refreshment).
    """

    name: ClassVar[str] = "sghmc"
    capabilities: ClassVar[frozenset[str]] = frozenset({"minibatch", "adaptive", "fixed_cost"})

    step_size: float | None = None
    inflation: float = 0.1
    momentum: float = 0.9
    num_leapfrog_steps: int = 20
    target_acceptance_rate: float = 0.95
    preconditioner: Literal["curvature", "rmsprop", "none"] = "curvature"
    schedule: Callable[[Any], Any] | None = None
    batch_size: int | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        check_options(self)

    @property
    def expected_gradients(self) -> float:
        """Gradients of a step, with all examples in a minibatch."""
        return float(self.num_leapfrog_steps)

    @property
    def bias_tolerance(self) -> float:
        """Bias of means and deviations at the default step size, in posterior deviations."""
        return self.inflation

    def minibatch_size(self, num_examples: int) -> int:
        """Return how many of the examples a minibatch holds."""
        return minibatch_size(num_examples, self.batch_size)

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions."""
        trajectory = Trajectory(self.num_leapfrog_steps, self.momentum, every_step=False)
        step = scheduled(trajectory, self)
        return kernel_of(self, num_warmup, trajectory, step, step_size=self.step_size)
