"""NumPyro's `hmc` as an nbcore kernel: what its samplers have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.infer.hmc import HMCState, hmc

from nbcore import Kernel, Stats, Target
from nbcore.extend import check_choice, check_flag, check_fraction, check_positive

Prepare = Callable[[jax.Array, HMCState], HMCState]
"""`(key, state) -> state` before a step: what a sampler draws anew for each trajectory."""


def check_options(backend: Any) -> None:
    """Check the options that all samplers of NumPyro have.

    Raises:
        OptionError: an option has an impossible value.
    """
    check_fraction(target_acceptance_rate=backend.target_acceptance_rate)
    check_choice(("diagonal", "dense"), owner=backend.name, mass_matrix=backend.mass_matrix)
    check_positive(step_size=backend.step_size)
    check_flag(adapt_step_size=backend.adapt_step_size, adapt_mass_matrix=backend.adapt_mass_matrix)


def make_kernel(
    backend: Any,
    num_warmup: int,
    algorithm: str,
    settings: dict[str, Any],
    prepare: Prepare | None = None,
) -> Kernel:
    """Return the pure functions of a sampler of NumPyro.

    Args:
        backend: the options; those that `check_options` names, and whether to adapt.
        num_warmup: warmup steps.
        algorithm: NumPyro's name, `"NUTS"` or `"HMC"`.
        settings: further arguments of NumPyro's `init_kernel`.
        prepare: what is done to the state before each step, with a key of its own.
    """

    def begin(position: Any, target: Target, key: jax.Array) -> tuple[HMCState, Any]:
        # NumPyro's functions keep state in their closure, so they are made anew in each trace.
        init_kernel, sample_kernel = hmc(potential_fn_gen=_potential, algo=algorithm)
        state = init_kernel(
            position,
            num_warmup=num_warmup,
            step_size=backend.step_size,
            adapt_step_size=backend.adapt_step_size,
            adapt_mass_matrix=backend.adapt_mass_matrix,
            dense_mass=backend.mass_matrix == "dense",
            target_accept_prob=backend.target_acceptance_rate,
            find_heuristic_step_size=False,
            model_args=(target,),
            rng_key=key,
            **settings,
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
        if prepare is not None:
            # Split, not folded in: NumPyro splits the key, and fold_in(key, i) is split(key)[i].
            key, own = jax.random.split(key)
            state = prepare(own, state)
        state = sample_kernel(state._replace(rng_key=key), model_args=(target,))
        return _with_raw_key(state), _stats(state, is_tree=algorithm == "NUTS")

    return Kernel(init, step, step, lambda state: state.z)


def _potential(target: Target) -> Any:
    return lambda position: -target.log_density(position)


def _with_raw_key(state: HMCState) -> HMCState:
    """Keep no key in the state: every step gets its own from the driver."""
    return state._replace(rng_key=jnp.zeros((), jnp.uint32))


def _stats(state: HMCState, *, is_tree: bool) -> Stats:
    num_steps = jnp.asarray(state.num_steps)
    return Stats(
        log_density=-state.potential_energy,
        acceptance_rate=state.accept_prob,
        is_divergent=state.diverging,
        num_gradients=num_steps,
        tree_depth=jnp.int32(jnp.ceil(jnp.log2(num_steps + 1.0))) if is_tree else 0,
        step_size=state.adapt_state.step_size,
        energy=state.energy,
    )
