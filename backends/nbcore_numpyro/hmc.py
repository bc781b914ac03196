"""Hamiltonian Monte Carlo of NumPyro, with trajectories of a set length or of a set cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from numpyro.infer.hmc import HMCState

from nbcore import Kernel
from nbcore.errors import OptionError
from nbcore.extend import check_count, check_positive
from nbcore_numpyro.adapter import check_options, make_kernel

TRAJECTORY_LENGTH = 2.0
MAX_LEAPFROG_STEPS = 1024
SHORTEST_SHARE = 0.5


@dataclass(frozen=True)
class NumPyroHMC:
    r"""Hamiltonian Monte Carlo with dual-averaging step size and window adaptation of the mass.

    A trajectory of fixed length T comes back to where it started in every direction whose period
    divides T. So each step of the chain draws its length anew, t = s T with s ~ U(1/2, 1). With
    `trajectory_length` it takes ceil(t / e) leapfrog steps for a step size e; with
    `num_leapfrog_steps` it takes that many of the size s e, and every step costs the same.

    Args:
        target_acceptance_rate: mean acceptance rate that the step size is adapted to.
        num_leapfrog_steps: leapfrog steps of every trajectory; not beside `trajectory_length`.
        trajectory_length: longest trajectory T, in units of a posterior standard deviation once
            the mass matrix is adapted; 2 by default. At most 1,024 leapfrog steps are taken.
        mass_matrix: `"diagonal"` or `"dense"`.
        step_size: first step size; adapted in warmup if `adapt_step_size` is true.
        adapt_step_size: whether warmup adapts the step size.
        adapt_mass_matrix: whether warmup adapts the mass matrix.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> "fixed_cost" in NumPyroHMC(num_leapfrog_steps=16).capabilities
        True

    References:
        Neal (2011), "MCMC using Hamiltonian dynamics", sections 5.3.2 and 5.4.2; Phan et al.
        (2019), "Composable effects for flexible and accelerated probabilistic programming in
        NumPyro".
    """

    name: ClassVar[str] = "numpyro-hmc"

    target_acceptance_rate: float = 0.8
    num_leapfrog_steps: int | None = None
    trajectory_length: float | None = None
    mass_matrix: Literal["diagonal", "dense"] = "diagonal"
    step_size: float = 0.1
    adapt_step_size: bool = True
    adapt_mass_matrix: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        check_options(self)
        steps, length = self.num_leapfrog_steps, self.trajectory_length
        if steps is not None and length is not None:
            raise OptionError(
                f"num_leapfrog_steps={steps} and trajectory_length={length} were both given. Give "
                "the number for a fixed cost, or the length for a fixed distance."
            )
        check_count(1, MAX_LEAPFROG_STEPS, optional=True, num_leapfrog_steps=steps)
        check_positive(optional=True, trajectory_length=length)

    @property
    def capabilities(self) -> frozenset[str]:
        """Capabilities: the cost of a step is fixed if the number of leapfrog steps is."""
        fixed = frozenset({"fixed_cost"} if self.num_leapfrog_steps else ())
        return frozenset({"exact", "adaptive"}) | fixed

    @property
    def expected_gradients(self) -> float:
        """About how many gradients a step takes."""
        return float(self.num_leapfrog_steps or 16)

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions for a warmup of this many steps."""
        # NumPyro reads the length from the state, where `_draw_length` puts it before every step.
        settings = {"num_steps": self.num_leapfrog_steps, "trajectory_length": 1.0}
        return make_kernel(self, num_warmup, "HMC", settings, self._draw_length)

    def _draw_length(self, key: jax.Array, state: HMCState) -> HMCState:
        share = jax.random.uniform(key, minval=SHORTEST_SHARE, maxval=1.0)
        step_size: Any = state.adapt_state.step_size
        if self.num_leapfrog_steps is not None:
            longest = self.num_leapfrog_steps * step_size
        else:
            wanted = self.trajectory_length or TRAJECTORY_LENGTH
            longest = jnp.minimum(wanted, MAX_LEAPFROG_STEPS * step_size)
        length = jnp.asarray(share * longest, state.trajectory_length.dtype)
        return state._replace(trajectory_length=length)
