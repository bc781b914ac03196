"""NumPyro's `hmc` as an nbcore kernel: what its samplers have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from numpyro.infer.hmc import HMCState, hmc

from nbcore import Kernel, Stats, Target
from nbcore.extend import check_choice, check_flag, check_fraction, check_positive

Prepare = Callable[[jax.Array, HMCState], HMCState]
"""`(key, state) -> state` before a step: what a sampler draws anew for each trajectory."""


class State(NamedTuple):
    """NumPyro's own state, of a flat position, and the position that it stands for.

    A sampler does some fifty operations with each leaf of a position, all of which are compiled.
    """

    sampler: HMCState
    position: Any


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

    def begin(flat: jax.Array, target: Target, key: jax.Array) -> tuple[HMCState, Any]:
        # NumPyro's functions keep state in their closure, so they are made anew in each trace.
        init_kernel, sample_kernel = hmc(potential_fn_gen=_potential, algo=algorithm)
        state = init_kernel(
            flat,
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

    def init(key: jax.Array, target: Target, shared: Any, position: Any) -> State:
        del shared
        state, _ = begin(ravel_pytree(position)[0], target, key)
        return State(_with_raw_key(state), position)

    def step(
        key: jax.Array, target: Target, shared: Any, state: State, t: Any
    ) -> tuple[State, Stats]:
        del shared, t
        sampler = state.sampler
        _, sample_kernel = begin(sampler.z, target, key)
        if prepare is not None:
            # Split, not folded in: NumPyro splits the key, and fold_in(key, i) is split(key)[i].
            key, own = jax.random.split(key)
            sampler = prepare(own, sampler)
        sampler = sample_kernel(sampler._replace(rng_key=key), model_args=(target,))
        moved = State(_with_raw_key(sampler), ravel_pytree(state.position)[1](sampler.z))
        return moved, _stats(sampler, is_tree=algorithm == "NUTS")

    return Kernel(init, step, step, lambda state: state.position)


def _potential(target: Target) -> Any:
    unravel = ravel_pytree(target.start)[1]
    return lambda flat: -target.log_density(unravel(flat))


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
