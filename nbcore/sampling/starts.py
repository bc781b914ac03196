"""Starting positions of chains: trained weights, Laplace draws, or draws of the prior.

Chains start where log density and gradient are finite.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.quick import QuickJit
from nbcore.errors import OptionError, SamplingError, did_you_mean
from nbcore.sampling.climb import climb_from_trained, usual_fall, value_and_gradient
from nbcore.targets.curvature import whiten
from nbcore.targets.target import Target

Start = Literal["auto", "trained", "laplace", "prior"]
BISECTIONS = 12


@runtime_checkable
class ChainStarts(Protocol):
    """A source of starting positions, such as an ensemble, with one for each chain."""

    def chain_starts(self, target: Target, num_chains: int) -> list[Any]:
        """Return a position for each chain."""
        ...


class Starts(NamedTuple):
    """Where chains start.

    Args:
        positions: a position for each chain.
        kind: `"trained"`, `"laplace"`, `"prior"` or `"given"`.
        num_gradients: gradients that it took to choose.
    """

    positions: list[Any]
    kind: str
    num_gradients: int


def start_positions(
    target: Target, keys: Sequence[jax.Array], init: Any, placed: Target | None = None
) -> Starts:
    """Return a position for each chain.

    Args:
        target: the log density.
        keys: a key for each chain.
        init: `"trained"` (the trained weights with a small jitter), `"laplace"` (draws of the
            normal that has mode and curvature of the density, pulled back towards the mode if the
            density falls faster than that normal), `"prior"` (draws of the prior), `"auto"`,
            positions with a leading chain axis, or a source of them (`ChainStarts`). With
            `"auto"`, a few gradients tell whether the posterior is where the trained weights are.
            If so, chains start there, with parameters of the likelihood that suit the trained
            weights; if the log density rises by more than is usual in a posterior, at Laplace
            draws.
        placed: the log density that a climb is to use, the same function, on one device: where
            chains start does not follow the rounding of a mesh.

    Raises:
        OptionError: `init` is another word, or positions have other shapes.
        TargetError: the target has no prior to draw from.
    """
    if isinstance(init, str):
        if init not in get_args(Start):
            raise OptionError(
                f"init is {', '.join(get_args(Start))} or positions, got {init!r}."
                f"{did_you_mean(init, get_args(Start))}"
            )
        if init == "auto":
            return _suitable(target, keys, target if placed is None else placed)
        if init == "laplace":
            return Starts(_laplace(target, keys), init, 0)
        draw = target.prior_position if init == "prior" else target.initial_position
        return Starts([draw(key) for key in keys], init, 0)
    if isinstance(init, ChainStarts):
        starts = init.chain_starts(target.joint, len(keys))
        return Starts([target.marginal_position(z) for z in starts], "given", 0)
    return Starts(_given(target, len(keys), init), "given", 0)


def _suitable(target: Target, keys: Sequence[jax.Array], placed: Target) -> Starts:
    """Start at the trained weights, or at Laplace draws if the posterior is elsewhere."""
    jittered = [target.initial_position(key) for key in keys]
    network = placed.network_target
    if network is None or network is not placed:
        return Starts(jittered, "trained", 0)
    found = climb_from_trained(network)
    if found.is_far:
        return Starts(_laplace(target, keys), "laplace", found.num_gradients)
    return Starts(
        [_with_shift(z, target.start, found.position) for z in jittered],
        "trained",
        found.num_gradients,
    )


def _with_shift(position: Any, start: Any, moved: Any) -> Any:
    """Return a position with parameters of the likelihood moved as those of the start."""
    parts = (position["likelihood"], moved["likelihood"], start["likelihood"])
    shifted = jax.tree.map(lambda a, m, s: np.asarray(a) + (np.asarray(m) - np.asarray(s)), *parts)
    return {**position, "likelihood": jax.device_put(shifted)}


def _given(target: Target, num_chains: int, init: Any) -> list[Any]:
    start = target.start
    if jax.tree.structure(init) == jax.tree.structure(target.joint.start):
        init = target.marginal_position(init)
    wanted = jax.tree.map(lambda a: (num_chains, *a.shape), start)
    got = jax.tree.map(np.shape, init)
    if jax.tree.structure(init) != jax.tree.structure(start) or got != wanted:
        raise OptionError(
            f"init must hold a position for each chain, shapes {wanted}; got {got}. Stack "
            "target.initial_position(key) over chains, or type init='trained'."
        )
    init = jax.tree.map(lambda a, s: jnp.asarray(a, s.dtype), init, start)
    return [jax.tree.map(lambda a, c=c: a[c], init) for c in range(num_chains)]


def _laplace(target: Target, keys: Sequence[jax.Array]) -> list[Any]:
    filled = target.on_grid()  # whose program other data share
    drawn = jax.device_get(_laplace_draws(filled, jnp.stack(list(keys))))
    return [jax.tree.map(lambda a, c=c: jax.device_put(a[c]), drawn) for c in range(len(keys))]


@QuickJit
def _laplace_draws(target: Target, keys: jax.Array) -> Any:
    """Return a draw for each key, pulled back towards the mode if the expansion does not hold.

    A draw where the log density falls by more than is usual is pulled back towards the mode, along
    a line, to about where it falls by as much.
    """
    whitening = whiten(jax.random.fold_in(keys[0], 1), target, target.start)
    allowed = usual_fall(whitening.center.size)

    def log_density(phi: jax.Array) -> jax.Array:
        return target.log_density(whitening.to_position(phi, target.start))

    highest = log_density(jnp.zeros_like(whitening.center))

    def draw(key: jax.Array) -> Any:
        phi = jax.random.normal(key, whitening.center.shape, whitening.center.dtype)

        def bisect(_: Any, bounds: jax.Array) -> jax.Array:
            low, high, tried = bounds
            is_good = highest - log_density(tried * phi) <= allowed
            low, high = jnp.where(is_good, tried, low), jnp.where(is_good, high, tried)
            return jnp.stack([low, high, (low + high) / 2])

        whole = jnp.array([0, 1, 1], phi.dtype)
        factor = jax.lax.fori_loop(0, BISECTIONS, bisect, whole)[0]
        return whitening.to_position(factor * phi, target.start)

    return jax.vmap(draw)(keys)


def check_start(
    target: Target, positions: Sequence[Any], placed: tuple[Target, list[Any]]
) -> float:
    """Raise if the density or its gradient is not finite; return the seconds of one gradient.

    Args:
        target: the log density.
        positions: the start of each chain.
        placed: both, on the devices that the chains will use.

    Raises:
        SamplingError: one of them is not finite; chain and examples are named.
    """
    there, starts = placed
    for chain, (start, position) in enumerate(zip(starts, positions, strict=True)):
        value, gradient_ok, _ = value_and_gradient(there, start)
        if not (np.isfinite(value) and gradient_ok):
            message = _bad_start(target, position, chain, float(value), bool(gradient_ok))
            raise SamplingError(message)
    begin = time.perf_counter()
    jax.block_until_ready(value_and_gradient(there, starts[0]))
    return time.perf_counter() - begin


def _bad_start(target: Target, position: Any, chain: int, value: float, gradient_ok: bool) -> str:
    what = f"The log density is {value} at the start of chain {chain}"
    if not gradient_ok:
        what = f"The gradient of the log density is not finite at the start of chain {chain}"
    terms = target.describe_terms(position)
    what += f" ({terms})" if terms else ""
    return f"{what}. Check the network's outputs there, or give other positions: init=..."
