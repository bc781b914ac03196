"""Stochastic gradient Hamiltonian Monte Carlo: minibatches and a momentum with friction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.sgmcmc import diffusions

from nbcore import Kernel, Stats, Target
from nbcore.extend import check_count, check_positive
from nbcore_sgmcmc.langevin import Tuned
from nbcore_sgmcmc.minibatches import (
    Scale,
    Walk,
    check_options,
    clipped,
    estimate,
    measure_whitened,
    num_rows,
)


@dataclass(frozen=True)
class SGHMC:
    r"""Langevin dynamics with a momentum p, in coordinates phi whitened at the mode.

    phi' = phi + e p, then p' = (1 - a e) p + e g(phi') + sqrt(2 a T e) xi, with a the friction, g
    the gradient of an unbiased estimate of the log density from a minibatch of its own for each
    leapfrog step, and xi standard normal. The momentum is kept from step to step. No estimate of
    the gradient noise is taken off the injected noise.

    Draws are biased: near the mode the variances are too large by about a factor
    (1 + e v / (2 a)) / (1 - e^2 c / (4 - 2 a e)), with c the largest whitened curvature (about 1)
    and v the variance of the minibatch gradient. The bias falls with e; with little gradient
    noise it is of second order, and the steps are longer than those of `sgld`.

    Args:
        step_size: e, in whitened coordinates (no units); `None` chooses the one at which the
            variances are too large by `inflation`.
        inflation: relative inflation of the variances that the default step size allows.
        friction: a, in whitened coordinates (no units); 1 forgets a position about as fast as
            its square.
        num_leapfrog_steps: moves, and gradients, of each step.
        schedule: an optax schedule, a factor on the step size as a function of the step number
            after warmup; `None` keeps it constant.
        batch_size: rows of a minibatch; `None` is min(N, 256).
        temperature: T; 1 is the posterior.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> SGHMC(num_leapfrog_steps=5).expected_gradients
        5.0

    References:
        Chen, Fox & Guestrin (2014), "Stochastic gradient Hamiltonian Monte Carlo", equation 13
        and algorithm 2.
    """

    name: ClassVar[str] = "sghmc"
    capabilities: ClassVar[frozenset[str]] = frozenset({"minibatch", "adaptive", "fixed_cost"})

    step_size: float | None = None
    inflation: float = 0.1
    friction: float = 1.0
    num_leapfrog_steps: int = 10
    schedule: Callable[[Any], Any] | None = None
    batch_size: int | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        check_options(self)
        check_positive(friction=self.friction)
        check_count(1, num_leapfrog_steps=self.num_leapfrog_steps)

    @property
    def expected_gradients(self) -> float:
        """Gradients of a step."""
        return float(self.num_leapfrog_steps)

    @property
    def bias_tolerance(self) -> float:
        """Bias of means and deviations at the default step size, in posterior deviations."""
        return self.inflation

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions; warmup runs at the step size that `shared` found."""
        del num_warmup

        def shared(key: jax.Array, target: Target, position: Any) -> Tuned:
            scale = measure_whitened(key, target, position, num_rows(target, self.batch_size))
            chosen = self._default(scale) if self.step_size is None else self.step_size
            return Tuned(scale, jnp.asarray(chosen))

        def init(key: jax.Array, target: Target, shared: Tuned, position: Any) -> _State:
            del target, shared
            batch_key, momentum_key = jax.random.split(key)
            walk = Walk.begin(batch_key, position)
            noise = jax.random.normal(momentum_key, walk.flat.shape, walk.flat.dtype)
            return _State(walk, jnp.sqrt(self.temperature) * noise)

        def warmup(
            key: jax.Array, target: Target, shared: Tuned, state: _State, t: Any
        ) -> tuple[_State, Stats]:
            del t
            return self._trajectory(key, target, shared, state, limit=shared.scale.longest)

        def step(
            key: jax.Array, target: Target, shared: Tuned, state: _State, t: Any
        ) -> tuple[_State, Stats]:
            tuned = shared.scheduled(self.schedule, t)
            return self._trajectory(key, target, tuned, state, limit=jnp.inf)

        return Kernel(init, warmup, step, lambda state: state.walk.position, shared)

    def _trajectory(
        self, key: jax.Array, target: Target, tuned: Tuned, state: _State, limit: Any
    ) -> tuple[_State, Stats]:
        scale, step_size = tuned
        integrator: Any = diffusions.sghmc(alpha=self.friction)
        size = num_rows(target, self.batch_size)

        def leap(i: jax.Array, carry: tuple[_State, jax.Array]) -> tuple[_State, jax.Array]:
            walk, momentum = carry[0]
            # The gradient is that of the moved position, which keeps the energy error bounded.
            flat = walk.flat + scale.move(step_size * momentum)
            value, gradient = estimate(target, flat, walk.batch_key, walk.t, size)
            slope = clipped(scale.gradient(gradient), step_size, limit)
            moved: Any = integrator(
                jax.random.fold_in(key, i), momentum, momentum, slope, step_size, self.temperature
            )
            return _State(walk.to(flat), moved[1]), value

        first = (state, jnp.zeros((), state.walk.flat.dtype))
        state, value = jax.lax.fori_loop(0, self.num_leapfrog_steps, leap, first)
        stats = Stats(value, num_gradients=self.num_leapfrog_steps, step_size=step_size)
        return state, stats

    def _default(self, scale: Scale) -> jax.Array:
        """Return the root e of c (1 + i) e^2 / 4 + (i a / 2 + v / (2 a)) e = i, i the inflation."""
        linear = self.inflation * self.friction / 2 + scale.noise / (2 * self.friction)
        square = scale.curvature * (1 + self.inflation) * self.inflation
        root = 2 * self.inflation / (linear + jnp.sqrt(linear**2 + square))
        return jnp.minimum(root, 1 / self.friction)


class _State(NamedTuple):
    """Where a chain is, and its momentum in whitened coordinates."""

    walk: Walk
    momentum: jax.Array
