"""The No-U-Turn sampler of NumPyro, one chain a function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from numpyro.infer.hmc import HMCState, hmc

from nbcore.backend import Kernel, Stats
from nbcore.errors import OptionError
from nbcore.target import Target


@dataclass(frozen=True)
class NumPyroNUTS:
    """The No-U-Turn sampler with dual-averaging step size and window adaptation of the mass.

    Args:
        target_acceptance_rate: mean acceptance rate that the step size is adapted to.
        max_tree_depth: longest trajectory, 2^depth - 1 leapfrog steps.
        mass_matrix: `"diagonal"` or `"dense"`.
        step_size: first step size; adapted in warmup where `adapt_step_size` is true.
        adapt_step_size: whether warmup adapts the step size.
        adapt_mass_matrix: whether warmup adapts the mass matrix.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> NumPyroNUTS(target_acceptance_rate=0.9).max_tree_depth
        10

    References:
        Hoffman & Gelman (2014), "The No-U-Turn sampler", algorithm 6; Phan et al. (2019),
        "Composable effects for flexible and accelerated probabilistic programming in NumPyro".
    """

    name: ClassVar[str] = "numpyro-nuts"
    expected_gradients: ClassVar[float] = 63.0
    capabilities: ClassVar[frozenset[str]] = frozenset({"exact", "adaptive"})

    target_acceptance_rate: float = 0.8
    max_tree_depth: int = 10
    mass_matrix: Literal["diagonal", "dense"] = "diagonal"
    step_size: float = 0.1
    adapt_step_size: bool = True
    adapt_mass_matrix: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        if not 0 < self.target_acceptance_rate < 1:
            raise OptionError(
                f"target_acceptance_rate is within (0, 1), got {self.target_acceptance_rate}."
            )
        if not 1 <= self.max_tree_depth <= 20:
            raise OptionError(f"max_tree_depth is an integer 1 to 20, got {self.max_tree_depth}.")
        if self.mass_matrix not in ("diagonal", "dense"):
            raise OptionError(
                f"mass_matrix is 'diagonal' or 'dense' for {self.name}, got {self.mass_matrix!r}."
            )
        if not self.step_size > 0:
            raise OptionError(f"step_size is positive, got {self.step_size}.")

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions for a warmup of this many steps."""

        def begin(position: Any, target: Target, key: jax.Array) -> tuple[HMCState, Any]:
            # NumPyro's functions keep state in their closure, so they are made anew in each trace.
            init_kernel, sample_kernel = hmc(potential_fn_gen=_potential, algo="NUTS")
            state = init_kernel(
                position,
                num_warmup=num_warmup,
                step_size=self.step_size,
                adapt_step_size=self.adapt_step_size,
                adapt_mass_matrix=self.adapt_mass_matrix,
                dense_mass=self.mass_matrix == "dense",
                target_accept_prob=self.target_acceptance_rate,
                max_tree_depth=self.max_tree_depth,
                find_heuristic_step_size=False,
                model_args=(target,),
                rng_key=key,
            )
            return state, sample_kernel

        def init(key: jax.Array, target: Target, shared: Any, position: Any) -> HMCState:
            del shared
            return _with_raw_key(begin(position, target, key)[0])

        def step(
            key: jax.Array, target: Target, shared: Any, state: HMCState, t: Any
        ) -> tuple[HMCState, Stats]:
            del shared, t
            _, sample_kernel = begin(state.z, target, key)
            state = sample_kernel(state._replace(rng_key=key), model_args=(target,))
            return _with_raw_key(state), _stats(state)

        return Kernel(init, step, step, lambda state: state.z)


def _potential(target: Target) -> Any:
    return lambda position: -target.log_density(position)


def _with_raw_key(state: HMCState) -> HMCState:
    """Keep no key in the state: every step gets its own from the driver."""
    return state._replace(rng_key=jnp.zeros((), jnp.uint32))


def _stats(state: HMCState) -> Stats:
    num_steps = jnp.asarray(state.num_steps)
    return Stats(
        log_density=-state.potential_energy,
        acceptance_rate=state.accept_prob,
        is_divergent=state.diverging,
        num_gradients=num_steps,
        tree_depth=jnp.int32(jnp.ceil(jnp.log2(num_steps + 1.0))),
        step_size=state.adapt_state.step_size,
        energy=state.energy,
    )
