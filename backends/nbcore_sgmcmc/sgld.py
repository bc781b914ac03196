"""Stochastic gradient Langevin dynamics: minibatches, for cheap runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from nbcore import Kernel
from nbcore_sgmcmc.minibatches import minibatch_size
from nbcore_sgmcmc.trajectories import Trajectory
from nbcore_sgmcmc.warmup import check_options, kernel_of, scheduled


@dataclass(frozen=True)
class SGLD:
    r"""Langevin dynamics with a momentum and minibatch gradients.

    In coordinates phi with position = R phi, a leapfrog step of size h is

    p = s p + sqrt((1 - s^2) T) xi,  p += h g(phi) / 2,  phi += h p,  p += h g(phi) / 2,

    with xi standard normal and g the gradient of an unbiased estimate of the log density, from a
    minibatch of its own for each leapfrog step. A step of the sampler is a trajectory of
    `num_leapfrog_steps` of these, accepted or rejected as a whole by the change of the energy,
    which is estimated on the same minibatches. With `momentum=0`, s = 0, a leapfrog step is a step
    of the algorithm of Welling & Teh with step size h^2 / 2. The momentum takes a chain along the
    curved ridges of a network's posterior in far fewer gradients.

    The coordinates are R R^T = S (I / e^2 + G)^-1 S, with S the deviations of the prior and G
    what the data add to its curvature, on average over positions of warmup. Warmup lowers e, at
    most 1, until `target_acceptance_rate` is met: directions that the data leave free get the
    shorter steps that a network which is not linear needs.

    With all examples in a minibatch, as by default up to 1,024, there is no bias. Otherwise the
    noise of the gradients makes variances too large, by a share of h^2 v / (1 - s^2) near a mode,
    with v the variance of the minibatch gradient in phi.

    Args:
        step_size: the largest h, in the coordinates phi (no units); each step takes a random share
            of it, from 1/2 to 1. `None`: 1.2 d^(-1/4) for d parameters, or less, so that the noise
            adds at most `inflation` to variances.
        inflation: relative inflation of variances that the default step size allows.
        momentum: s^n, the share of the momentum that the n leapfrog steps of a step keep.
        num_leapfrog_steps: n. Each takes one gradient of all examples, or two of its minibatch.
        target_acceptance_rate: mean acceptance rate that warmup adapts e to.
        preconditioner: `"curvature"`: G is the generalized Gauss-Newton matrix, of rank up to 512.
            `"rmsprop"`: G = 0, and S^2 is divided by the root of the mean squared gradient.
            `"none"`: G = 0. All are correct, and the first mixes fastest.
        schedule: an optax schedule, a factor on h as a function of the step number after warmup;
            `None` keeps h constant.
        batch_size: examples of a minibatch; `None` is all of up to 1,024, else N / 16 or 512.
        temperature: T; 1 is the posterior.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> SGLD(num_leapfrog_steps=5).expected_gradients
        5.0

    References:
        Welling & Teh (2011), "Bayesian learning via stochastic gradient Langevin dynamics",
        equation 4; Garriga-Alonso & Fortuin (2021), "Exact Langevin dynamics with stochastic
        gradients", section 3 (momentum and test); Li et al. (2016), "Preconditioned stochastic
        gradient Langevin dynamics for deep neural networks" (preconditioners).
    """

    name: ClassVar[str] = "sgld"
    capabilities: ClassVar[frozenset[str]] = frozenset({"minibatch", "adaptive", "fixed_cost"})

    step_size: float | None = None
    inflation: float = 0.1
    momentum: float = 0.9
    num_leapfrog_steps: int = 10
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
        trajectory = Trajectory(self.num_leapfrog_steps, self.momentum, every_step=True)
        step = scheduled(trajectory, self)
        return kernel_of(self, num_warmup, trajectory, step, step_size=self.step_size)
