"""The compiled programs of the driver: start, tune and advance one chain, or all chains together.

Step t of phase p of chain c gets the key fold_in(fold_in(fold_in(key, c), p), t). Programs get
the key of their own chain, fold_in(key, c); those of several chains get a leading chain axis.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.stages import Lowered, Wrapped

from nbcore.common.keys import is_key
from nbcore.common.quick import QuickJit
from nbcore.posterior.stats import Stats
from nbcore.sampling.backend import Kernel
from nbcore.targets.target import Target

INIT, WARMUP, TUNE, STEP, SHARED, COMPLETE = range(6)
"""The phases, each of which has a stream of keys."""


class ChainPrograms(NamedTuple):
    """The compiled functions that the driver calls.

    Args:
        start: `(kernel, key, target, shared, position) -> state`.
        tune: `(kernel, key, target, shared, state) -> (state, stats)`.
        advance: `(step, position, chunk, thin, key, target, shared, state, phase, first, count)
            -> (state, draws, stats)`: `count` draws of `thin` steps each, in buffers of length
            `chunk`.
    """

    start: Wrapped | QuickJit
    tune: Wrapped
    advance: Wrapped


def _start(kernel: Kernel, key: jax.Array, target: Target, shared: Any, position: Any) -> Any:
    return _strong(kernel.init(jax.random.fold_in(key, INIT), target, shared, position))


def _tune(
    kernel: Kernel, key: jax.Array, target: Target, shared: Any, state: Any
) -> tuple[Any, Stats]:
    if kernel.tune is None:
        return state, Stats(jnp.nan, num_gradients=0)
    state, stats = kernel.tune(jax.random.fold_in(key, TUNE), target, shared, state)
    return _strong(state), _arrays(stats)


def _advance(
    step: Any,
    position: Any,
    chunk: int,
    thin: int,
    key: jax.Array,
    target: Target,
    shared: Any,
    state: Any,
    phase: int,
    first: int,
    count: int,
) -> tuple[Any, Any, Stats]:
    stream = jax.random.fold_in(key, phase)

    @jax.jit  # so that it is traced once, for shapes and for the loop
    def one_step(state: Any, t: jax.Array) -> tuple[Any, Stats]:
        state, stats = step(jax.random.fold_in(stream, t), target, shared, state, t)
        return state, _arrays(stats)

    def draw(n: Any, state: Any) -> tuple[Any, Stats]:
        begin = jax.lax.convert_element_type((first + n) * thin, jnp.int32)
        if thin == 1:
            return one_step(state, begin)

        def more(i: Any, carry: tuple[Any, Stats]) -> tuple[Any, Stats]:
            state, latest = one_step(carry[0], begin + i)
            return state, latest._replace(
                num_gradients=carry[1].num_gradients + latest.num_gradients,
                is_divergent=carry[1].is_divergent | latest.is_divergent,
            )

        return jax.lax.fori_loop(0, thin, more, (state, none))

    step_number = jax.ShapeDtypeStruct((), jnp.int32)
    like = jax.eval_shape(lambda s, t: (position(s), one_step(s, t)[1]), state, step_number)
    none = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like[1])  # before the first step
    buffers = jax.tree.map(lambda a: jnp.zeros((chunk, *a.shape), a.dtype), like)

    def body(n: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        state, buffers = carry
        state, stats = draw(n, state)
        kept = jax.tree.map(lambda b, a: b.at[n].set(a), buffers, (position(state), stats))
        return state, kept

    state, (draws, stats) = jax.lax.fori_loop(0, count, body, (state, buffers))
    return state, draws, stats


def _arrays(stats: Stats) -> Stats:
    return Stats(*(jnp.asarray(s) for s in stats))


def _strong(state: Any) -> Any:
    """Drop weak types, so that a state read from a checkpoint needs no other program."""

    def strong(leaf: Any) -> jax.Array:
        array = jnp.asarray(leaf)
        return array if is_key(array) else jax.lax.convert_element_type(array, array.dtype)

    return jax.tree.map(strong, state)


def side_by_side(one: Callable[..., Any]) -> Callable[..., Any]:
    """Run all chains as one vectorized program."""
    return jax.vmap(one)


def in_turn(one: Callable[..., Any]) -> Callable[..., Any]:
    """Run one chain after the other."""
    return lambda *chains: jax.lax.map(lambda chain: one(*chain), chains)


Over = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Maps a function of one chain to one of all chains."""


def _shared(kernel: Kernel, key: jax.Array, target: Target, position: Any) -> Any:
    return kernel.shared(key, target, position)


make_shared = QuickJit(_shared, num_static=1)
"""`(kernel, key, target, position) -> shared`: what `Kernel.shared` computes once for a run."""


def compiled(function: Callable[..., Any], num_static: int) -> Wrapped:
    """Compile a function whose first arguments are static."""
    return jax.jit(function, static_argnums=tuple(range(num_static)))


def compile_seconds(lower: Callable[[], Lowered]) -> float:
    """Compile a program, which later calls then find, and return the seconds that it took."""
    begin = time.perf_counter()
    lower().compile()
    return time.perf_counter() - begin


def all_chains(
    over: Over,
    compiled: Callable[..., Wrapped] = compiled,
    quick: Callable[..., Wrapped | QuickJit] = QuickJit,
) -> ChainPrograms:
    """Return the programs of all chains together.

    Keys, positions and states (the first and the fourth argument that is not static) have a
    leading chain axis.
    """

    def start(kernel: Kernel, keys: Any, target: Target, shared: Any, positions: Any) -> Any:
        def one(key: Any, position: Any) -> Any:
            return _start(kernel, key, target, shared, position)

        return over(one)(keys, positions)

    def tune(kernel: Kernel, keys: Any, target: Target, shared: Any, states: Any) -> Any:
        def one(key: Any, state: Any) -> Any:
            return _tune(kernel, key, target, shared, state)

        return over(one)(keys, states)

    def advance(
        step: Any, position: Any, chunk: int, thin: int,
        keys: Any, target: Target, shared: Any, states: Any, *when: Any,
    ) -> Any:  # fmt: skip
        def one(key: Any, state: Any) -> Any:
            return _advance(step, position, chunk, thin, key, target, shared, state, *when)

        return over(one)(keys, states)

    return ChainPrograms(quick(start, 1), compiled(tune, 1), compiled(advance, 4))


ONE_CHAIN = ChainPrograms(QuickJit(_start, 1), compiled(_tune, 1), compiled(_advance, 4))
