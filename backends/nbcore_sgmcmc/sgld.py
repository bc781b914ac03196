"""Stochastic gradient Langevin dynamics: minibatches, for cheap runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax

from nbcore import Kernel, Stats, Target
from nbcore.extend import check_choice, mode_near
from nbcore_sgmcmc.langevin import Tuned, langevin_kernel, langevin_step
from nbcore_sgmcmc.minibatches import (
    Walk,
    check_options,
    measure_plain,
    measure_whitened,
    num_rows,
)
from nbcore_sgmcmc.rmsprop import rmsprop_kernel

PRECONDITIONERS = ("curvature", "rmsprop", "none")


@dataclass(frozen=True)
class SGLD:
    r"""Stochastic gradient Langevin dynamics with a constant preconditioner.

    In coordinates phi with position = R phi, phi' = phi + e g(phi) + sqrt(2 T e) xi, with g the
    gradient of an unbiased estimate of the log density from a minibatch, and xi standard normal.
    The preconditioner is G = R R^T. `"curvature"`: the inverse curvature at the mode, so that phi
    is whitened. `"rmsprop"`: diagonal, G = 1 / (1e-5 + sqrt(V)) relative to its largest entry,
    with V a running mean of the squared gradients per example. Warmup moves V, sampling holds it:
    G does not depend on the position, so the term Gamma of Li et al., which they drop in
    practice, is zero here. `"none"`: G = 1.

    Draws are biased: near the mode the variances are too large by about a factor
    1 + e (c + v) / 2, with c the largest curvature in phi (about 1 where whitened) and v the
    variance of the minibatch gradient. The bias falls with e.

    Args:
        step_size: e, in the coordinates phi (no units where whitened); `None` chooses the one
            at which the variances are too large by `inflation`.
        inflation: relative inflation of the variances that the default step size allows, on
            average over whitened coordinates, else in the worst of the coordinates.
        preconditioner: `"curvature"`, `"rmsprop"` or `"none"`.
        schedule: an optax schedule, a factor on the step size as a function of the step number
            after warmup; `None` keeps it constant.
        batch_size: rows of a minibatch; `None` is min(N, 256).
        temperature: T; 1 is the posterior.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> SGLD(batch_size=64).temperature
        1.0

    References:
        Welling & Teh (2011), "Bayesian learning via stochastic gradient Langevin dynamics",
        equation 4; Li et al. (2016), "Preconditioned stochastic gradient Langevin dynamics for
        deep neural networks", equations 4 and 5.
    """

    name: ClassVar[str] = "sgld"
    capabilities: ClassVar[frozenset[str]] = frozenset({"minibatch", "adaptive", "fixed_cost"})

    step_size: float | None = None
    inflation: float = 0.1
    preconditioner: Literal["curvature", "rmsprop", "none"] = "curvature"
    schedule: Callable[[Any], Any] | None = None
    batch_size: int | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        check_options(self)
        check_choice(PRECONDITIONERS, preconditioner=self.preconditioner)

    @property
    def bias_tolerance(self) -> float:
        """Bias of means and deviations at the default step size, in posterior deviations."""
        return self.inflation

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions."""
        del num_warmup
        if self.preconditioner == "rmsprop":
            return rmsprop_kernel(self)

        def shared(key: jax.Array, target: Target, position: Any) -> Tuned:
            size = num_rows(target, self.batch_size)
            if self.preconditioner == "curvature":
                scale = measure_whitened(key, target, position, size)
            else:
                scale = measure_plain(key, target, mode_near(target, position), size)
            return Tuned.of(scale, self.step_size, self.inflation)

        def step(
            key: jax.Array, target: Target, shared: Tuned, state: Walk, t: Any
        ) -> tuple[Walk, Stats]:
            tuned, size = shared.scheduled(self.schedule, t), num_rows(target, self.batch_size)
            return langevin_step(key, target, state, tuned, size, temperature=self.temperature)[:2]

        return langevin_kernel(self, shared, step)
