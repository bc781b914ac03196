"""What the driver costs: seconds per gradient, beside the libraries' own loops in one run.

    pytest tests/benchmarks/bench_driver.py

Both sides sample the same density with the same step size and no adaptation, in turns. A round's
figure is the slope between a short and a long run: seconds more for gradients more, so that
starting and compiling (NumPyro's `MCMC` compiles in every run) cancel.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer import HMC, MCMC, NUTS

import nbcore as nb
from nbcore.targets.target import NetworkTarget
from nbcore_flax import FlaxMLP

ROUNDS, SHORT, LONG, STEP_SIZE, LEAPFROG_STEPS = 7, 100, 4100, 0.02, 16
LIMIT = 1.10

Run = Callable[[int, int], float]
"""`(seed, draws) -> gradients`; what it takes is timed."""


def slope(run: Run, seed: int) -> float:
    """Return seconds per gradient, without what a run costs at the start."""
    seconds, gradients = [], []
    for draws in (SHORT, LONG):
        begin = time.perf_counter()
        gradients.append(run(seed, draws))
        seconds.append(time.perf_counter() - begin)
    return (seconds[1] - seconds[0]) / (gradients[1] - gradients[0])


@pytest.fixture(scope="module")
def target() -> NetworkTarget:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 8)).astype(np.float32)
    y = np.sin(X[:, 0]) + 0.1 * rng.normal(size=1000)
    network = nb.as_network(FlaxMLP(hidden_dims=(64, 64)), example=X[:1])
    params = network.init(jax.random.key(0), X[:1])
    subset = nb.ProbabilisticSubset.layers("Dense2")
    return nb.Target.build(network, params, subset, X, y, likelihood=nb.Gaussian(noise=0.1))


def ours(target: NetworkTarget, backend: Any) -> Run:
    def run(seed: int, draws: int) -> float:
        posterior = nb.sample(
            target, backend, key=seed, num_warmup=0, num_samples=draws, num_chains=1, progress=False
        )
        return float(np.sum(posterior.stats.num_gradients))

    return run


def numpyro_loop(target: NetworkTarget, kernel: Any) -> Run:
    loops = {
        draws: MCMC(kernel, num_warmup=0, num_samples=draws, num_chains=1, progress_bar=False)
        for draws in (SHORT, LONG)
    }

    def run(seed: int, draws: int) -> float:
        loop = loops[draws]
        loop.run(jax.random.key(seed), init_params=target.start, extra_fields=("num_steps",))
        return float(jnp.sum(loop.get_extra_fields()["num_steps"]))

    return run


def blackjax_scan(target: NetworkTarget, algorithm: Callable[[Any], Any]) -> Run:
    @functools.partial(jax.jit, static_argnums=2)
    def chain(key: jax.Array, target: NetworkTarget, draws: int) -> Any:
        sampler = algorithm(target.log_density)

        def step(state: Any, key: jax.Array) -> Any:
            # All of state and info, as in BlackJAX's own examples: what is not returned, XLA does
            # not compute, and the driver keeps the same statistics.
            state, info = sampler.step(key, state)
            return state, (state, info)

        return jax.lax.scan(step, sampler.init(target.start), jax.random.split(key, draws))[1]

    def run(seed: int, draws: int) -> float:
        states, infos = chain(jax.random.key(seed), target, draws)
        jax.tree.map(np.asarray, states.position)
        return float(np.sum(infos.num_integration_steps))

    return run


def potential(target: NetworkTarget) -> Callable[[Any], jax.Array]:
    # NumPyro's own loop takes a potential without arguments, so here the data are constants.
    return lambda position: -target.log_density(position)


PAIRS: dict[str, Callable[[NetworkTarget], tuple[Run, Run]]] = {
    "numpyro-nuts": lambda target: (
        ours(
            target,
            nb.get_backend("numpyro-nuts", step_size=STEP_SIZE, adapt_step_size=False),
        ),
        numpyro_loop(
            target,
            NUTS(
                potential_fn=potential(target), step_size=STEP_SIZE, adapt_step_size=False,
                adapt_mass_matrix=False,
            ),
        ),
    ),
    "numpyro-hmc": lambda target: (
        ours(
            target,
            nb.get_backend(
                "numpyro-hmc", step_size=STEP_SIZE, adapt_step_size=False,
                num_leapfrog_steps=LEAPFROG_STEPS,
            ),
        ),
        numpyro_loop(
            target,
            HMC(
                potential_fn=potential(target), step_size=STEP_SIZE, adapt_step_size=False,
                adapt_mass_matrix=False, num_steps=LEAPFROG_STEPS,
            ),
        ),
    ),
    "blackjax-nuts": lambda target: (
        ours(
            target,
            nb.get_backend("blackjax-nuts", step_size=STEP_SIZE, adapt_step_size=False),
        ),
        blackjax_scan(
            target, lambda density: blackjax.nuts(density, STEP_SIZE, jnp.ones(size(target)))
        ),
    ),
    "blackjax-hmc": lambda target: (
        ours(
            target,
            nb.get_backend(
                "blackjax-hmc", step_size=STEP_SIZE, adapt_step_size=False,
                num_leapfrog_steps=LEAPFROG_STEPS,
            ),
        ),
        blackjax_scan(
            target,
            lambda density: blackjax.hmc(
                density, STEP_SIZE, jnp.ones(size(target)), LEAPFROG_STEPS
            ),
        ),
    ),
}  # fmt: skip


def size(target: NetworkTarget) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(target.start))


@pytest.mark.parametrize("name", PAIRS)
def test_a_gradient_costs_what_it_costs_in_the_librarys_own_loop(
    name: str, target: NetworkTarget, benchmark: Any
) -> None:
    mine, theirs = PAIRS[name](target)
    slope(mine, 0), slope(theirs, 0)  # compile
    figures: list[tuple[float, float]] = []

    def in_turns() -> None:
        seed = len(figures) + 1
        figures.append((slope(mine, seed), slope(theirs, seed)))

    benchmark.pedantic(in_turns, rounds=ROUNDS)
    own, peer = np.median(np.array(figures), axis=0)
    ratio = float(np.median([a / b for a, b in figures]))
    benchmark.extra_info.update(
        microseconds=1e6 * float(own), microseconds_peer=1e6 * float(peer), ratio=ratio
    )
    print(f"\n{name}: {1e6 * own:.1f} against {1e6 * peer:.1f} microseconds, ratio {ratio:.2f}")
    assert ratio <= LIMIT
