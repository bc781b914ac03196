"""What a gradient costs: hoisted, plain, and hand-written for one layer, in one run.

    python tests/benchmarks/gradients.py --data delaney-processed.csv
    python tests/benchmarks/gradients.py --work work.npz --cases FinalDense1

Gradients are timed inside a compiled loop of many, each at the point that the last one led to: a
single call measures how long it takes to call. The ways of one case take turns, and the quickest
of the rounds counts. `plain` is the gradient of `apply(merge(weights), X)` on all tokens, padding
included, of the same weights; `hand-written` is the head alone, as one would write it in JAX for
that layer, given the pooled activations.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from esol_transformer import PAIRS, WHOLE, Work, read, work
from flax import linen as nn

import nbcore as nb

ROUNDS, SECONDS = 3, 0.5
Density = Callable[[Any, Any], jax.Array]
"""`(data, position) -> log density`."""


@functools.partial(jax.jit, static_argnums=0)
def climb(density: Density, data: Any, position: Any, steps: int) -> Any:
    """Take so many small steps along the gradient."""

    def step(_: Any, position: Any) -> Any:
        # Otherwise the compiler computes what no step changes before the loop, in its own way.
        data_now, position = jax.lax.optimization_barrier((data, position))
        gradient = jax.grad(density, argnums=1)(data_now, position)
        return jax.tree.map(lambda z, g: z + 1e-7 * g, position, gradient)

    return jax.lax.fori_loop(0, steps, step, position)


def timed(density: Density, data: Any, position: Any, steps: int) -> float:
    """Return the seconds that each of so many gradients takes."""
    begin = time.perf_counter()
    jax.block_until_ready(climb(density, data, position, steps))
    return (time.perf_counter() - begin) / steps


def side_by_side(ways: dict[str, tuple[Density, Any]], position: Any) -> dict[str, float]:
    """Return seconds per gradient of each way, the best of several rounds in turns."""
    steps: dict[str, int] = {}
    for name, (density, data) in ways.items():
        begin = time.perf_counter()
        timed(density, data, position, 1)
        print(f"  {name}: compiled in {time.perf_counter() - begin:.1f} s", flush=True)
        once = timed(density, data, position, 1)
        steps[name] = max(1, int(SECONDS / once)) if once > 0.01 else 2000
    rounds = [
        {name: timed(*way, position, steps[name]) for name, way in ways.items()}
        for _ in range(ROUNDS)
    ]
    return {name: min(seconds[name] for seconds in rounds) for name in ways}


def hoisted(target: Any, position: Any) -> jax.Array:
    """Return the log density as nbcore computes it."""
    return target.log_density(position)


def plain(network: Any) -> Density:
    """Return the log density that applies the whole network."""

    def density(data: Any, position: Any) -> jax.Array:
        target, x, y = data
        outputs = network.apply(target.split.merge(position["weights"]), x)
        each = target.likelihood.log_prob(outputs, y, position["likelihood"])
        return target.log_prior(position) + jnp.sum(each)

    return density


def pooled(made: Work) -> np.ndarray:
    """Return what the transformer gives its head `(N, d_model)`."""
    seen: list[Any] = []

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.module.name == "FinalDense1":
            seen.append(args[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        made.network.apply(made.params, made.X)
    return np.asarray(seen[0])


NAMES = [f"params/FinalDense{n}/{part}" for n in (1, 2) for part in ("kernel", "bias")]


def by_hand(data: Any, position: Any) -> jax.Array:
    """Return the log density of some weights of the head."""
    head, places, h, y, start, median = data
    kernel1, bias1, kernel2, bias2 = (
        leaf.reshape(-1).at[places[name]].set(position["weights"][name]).reshape(leaf.shape)
        if name in places
        else position["weights"].get(name, leaf)
        for name, leaf in zip(NAMES, head, strict=True)
    )
    noise = median * jnp.exp(position["likelihood"]["noise"])
    outputs = jax.nn.silu(h @ kernel1 + bias1) @ kernel2 + bias2
    fit = jax.scipy.stats.norm.logpdf(y, outputs, noise).sum()
    logpdf = jax.scipy.stats.norm.logpdf
    prior = sum(logpdf(w, start[name]).sum() for name, w in position["weights"].items())
    return fit + prior + jnp.sum(logpdf(noise) + jnp.log(noise))


def head_data(made: Work, target: Any, position: Any) -> Any:
    """Return the data of `by_hand`."""
    layers = made.params["params"]
    head = [layers[name.split("/")[1]][name.split("/")[2]] for name in NAMES]
    noise = target.likelihood.constrain(position["likelihood"])["noise"]
    start = dict(target.split.stochastic)
    data = (head, dict(target.split.indices), pooled(made), made.y[:, None], start, noise)
    return jax.tree.map(jnp.asarray, data)


def check_same(ways: dict[str, tuple[Density, Any]], position: Any) -> None:
    """Check that the gradients in the weights are those of the first way."""
    found = [jax.jit(jax.grad(f, 1))(data, position)["weights"] for f, data in ways.values()]
    for other in found[1:]:
        for a, b in zip(jax.tree.leaves(found[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-3 * float(jnp.max(jnp.abs(a))))


def case(made: Work, name: str) -> dict[str, float]:
    """Time one case; print it."""
    print(name, flush=True)
    network = nb.as_network(made.network, example=made.X[:1])
    begin = time.perf_counter()
    target = nb.Target.build(
        network, made.params, made.subset(name), made.X, made.y, likelihood=nb.Gaussian()
    )
    print(f"  built in {time.perf_counter() - begin:.1f} s\n  {target.cost()}", flush=True)
    data = (target, jnp.asarray(made.X), jnp.asarray(made.y)[:, None])
    position = target.initial_position()
    ways: dict[str, tuple[Density, Any]] = {
        "hoisted": (hoisted, target),
        "plain": (plain(network), data),
    }
    if name.startswith("Final"):
        ways["hand-written"] = (by_hand, head_data(made, target, position))
    check_same(ways, position)
    return side_by_side(ways, position)


def main() -> None:
    """Time all cases; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="delaney-processed.csv")
    parser.add_argument("--work", help="what esol_transformer.py --write stored")
    cases = [*PAIRS, *WHOLE]
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    arguments = parser.parse_args()
    made = read(arguments.work) if arguments.work else work(arguments.data)
    results = {name: case(made, name) for name in arguments.cases}
    print("| case | hoisted | plain | plain / hoisted | hoisted / hand-written |\n|" + "---|" * 5)
    for name, seconds in results.items():
        ours = seconds["hoisted"]
        by_hand = f"{ours / seconds['hand-written']:.2f}" if "hand-written" in seconds else ""
        print(
            f"| {name} | {1e3 * ours:.4g} ms | {1e3 * seconds['plain']:.4g} ms "
            f"| {seconds['plain'] / ours:,.4g} | {by_hand} |"
        )


if __name__ == "__main__":
    main()
