"""Where the compile time of the first fit in a process goes, program by program.

    python tests/benchmarks/compiling.py numpyro-nuts
    python tests/benchmarks/compiling.py blackjax-mclmc --refits 605 620 640
    python tests/benchmarks/compiling.py laplace --case head

Without JAX's compile cache, unless `--cached`. Cases: `mlp`, 691 examples of 8 features, MLP of 32
and 16 units, first and output layer (305 weights); `tokens`, 513 weights of TokenEmbed and
FinalDense2 of a transformer; `head`, 100 weights of FinalDense1 of the same. Weights are given, so
that nothing is trained. Prints a line for each program that takes 20 ms or more: seconds of
tracing, of lowering and of XLA; then the sums, and the processor seconds of the whole fit.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any

if "--cached" not in sys.argv:
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import nbcore as nb
from nbcore_flax import FlaxMLP, FlaxTransformer

EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": 0,
    "/jax/core/compile/jaxpr_to_mlir_module_duration": 1,
    "/jax/core/compile/backend_compile_duration": 2,
}
LEAST = 0.02

Case = tuple[Any, Any, nb.ProbabilisticSubset, np.ndarray, np.ndarray]


class Programs:
    """Seconds of tracing, lowering and compiling, by name of the program."""

    def __init__(self) -> None:
        self.calls: dict[str, list[list[float]]] = defaultdict(lambda: [[], [], []])
        jax.monitoring.register_event_duration_secs_listener(self.listen)

    def listen(self, event: str, seconds: float, **about: Any) -> None:
        if event in EVENTS:
            name = str(about.get("fun_name")).split(" for ")[0].removeprefix("jit_")
            self.calls[name.removeprefix("jit(").removesuffix(")")][EVENTS[event]].append(seconds)

    def take(self) -> dict[str, list[list[float]]]:
        taken = dict(self.calls)
        self.calls.clear()
        return taken


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def weights_of(network: nb.Network) -> Any:
    """Return weights like those of training, without compiling anything."""
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), network.example))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda a: rng.normal(0, 1 / np.sqrt(a.shape[0]), a.shape).astype(a.dtype), shapes
    )


def mlp(count: int) -> Case:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(count, 8)).astype(np.float32)
    y = np.tanh(X[:, 0] * X[:, 1]) + 0.3 * X[:, 2] + 0.1 * rng.normal(size=count)
    net = FlaxMLP(hidden_dims=(32, 16))
    return net, nb.as_network(net, example=X[:1]), nb.ProbabilisticSubset.first_and_last(), X, y


def sequences(count: int, subset: nb.ProbabilisticSubset) -> Case:
    rng = np.random.default_rng(1)
    lengths = rng.integers(8, 60, count)
    X = rng.integers(1, 32, (count, 128)) * (np.arange(128) < lengths[:, None])
    y = (X == 5).sum(axis=1) / 3 + 0.1 * rng.normal(size=count)
    net = FlaxTransformer(
        vocab_size=32, pad_token_id=0, d_model=16, nhead=4, num_layers=2, dim_feedforward=64
    )
    return net, nb.as_network(net, example=X[:1]), subset, X, y


def tokens(count: int) -> Case:
    return sequences(count, nb.ProbabilisticSubset.layers("TokenEmbed", "FinalDense2"))


def head(count: int) -> Case:
    pairs = [(i, j) for i in range(10) for j in range(10)]
    return sequences(count, nb.ProbabilisticSubset.pairs({"FinalDense1": pairs}))


CASES: dict[str, Callable[[int], Case]] = {"mlp": mlp, "tokens": tokens, "head": head}


def numpyro_alone(model: nb.PartialBNN, steps: int, chains: int) -> None:
    """Sample the density of a fit with NumPyro, as its documentation does."""
    from numpyro.infer import MCMC, NUTS

    target = model.posterior.target.on_grid()
    start = jax.tree.map(lambda a: jnp.stack([a] * chains), target.start)
    kernel = NUTS(potential_fn=lambda z: -target.log_density(z))
    mcmc = MCMC(
        kernel, num_warmup=steps, num_samples=steps, num_chains=chains,
        chain_method="sequential", progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.key(0), init_params=start)


def blackjax_alone(model: nb.PartialBNN, steps: int, chains: int) -> None:
    """Sample the density of a fit with MCLMC of BlackJAX, as its documentation does."""
    import blackjax

    del chains  # they would share the programs
    target, key = model.posterior.target.on_grid(), jax.random.key(0)
    flat, unravel = ravel_pytree(target.start)

    def density(x: jax.Array) -> jax.Array:
        return target.log_density(unravel(x))

    state = blackjax.mcmc.mclmc.init(position=flat, logdensity_fn=density, rng_key=key)
    state, found, _ = blackjax.mclmc_find_L_and_step_size(
        mclmc_kernel=blackjax.mcmc.mclmc.build_kernel(), num_steps=steps, state=state,
        rng_key=key, logdensity_fn=density,
    )  # fmt: skip
    alone = blackjax.mclmc(
        density, L=found.L, step_size=found.step_size,
        inverse_mass_matrix=found.inverse_mass_matrix,
    )  # fmt: skip
    _, positions = blackjax.util.run_inference_algorithm(
        rng_key=key, initial_state=state, inference_algorithm=alone, num_steps=steps,
        transform=lambda state, info: state.position,
    )  # fmt: skip
    jax.block_until_ready(positions)


ALONE = {"numpyro-nuts": numpyro_alone, "blackjax-mclmc": blackjax_alone}


def show(title: str, found: dict[str, list[list[float]]], used: float, model: Any = None) -> None:
    for name, parts in sorted(found.items(), key=lambda item: -sum(map(sum, item[1]))):
        traced, lowered, compiled = map(sum, parts)
        if traced + lowered + compiled >= LEAST:
            print(f"{name:32}{len(parts[2]):4}{traced:8.2f}{lowered:8.2f}{compiled:8.2f}")
    sums = [sum(sum(parts[i]) for parts in found.values()) for i in range(3)]
    count = sum(len(parts[2]) for parts in found.values())
    print(f"{title:32}{count:4}{sums[0]:8.2f}{sums[1]:8.2f}{sums[2]:8.2f}", end="   ")
    print(f"sum {sum(sums):.2f}, processor {used:.2f}", end="")
    each = [] if model is None else [posterior.info.seconds for posterior in model.posteriors]
    names = each[0] if each else {}
    print("", {name: round(sum(own[name] for own in each), 2) for name in names} or "", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backend", nargs="?", default="numpyro-nuts")
    parser.add_argument("--case", choices=CASES, default="mlp")
    parser.add_argument("--count", type=int, default=691)
    parser.add_argument("--refits", type=int, nargs="*", default=[], help="further numbers")
    parser.add_argument(
        "--rounds", type=int, default=1, help="of active learning, 1 to 10 more each"
    )
    parser.add_argument("--train", action="store_true", help="no weights given: fit trains, too")
    parser.add_argument("--alone", action="store_true", help="then the sampler's own library")
    parser.add_argument("--chains", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--cached", action="store_true", help="with JAX's compile cache")
    args = parser.parse_args()
    programs = Programs()
    more = np.random.default_rng(0).integers(1, 11, args.rounds - 1)
    later: list[float] = []
    for count in (args.count, *args.refits, *(args.count + np.cumsum(more)).tolist()):
        net, network, subset, X, y = CASES[args.case](count)
        chosen = {"subset": subset, "likelihood": nb.Gaussian()}
        given = {} if args.train else {"deterministic_weights": weights_of(network), **chosen}
        held_out = nb.CalibrationOptions(validation_data=(X[:50], y[:50]))
        programs.take()
        before = processor_seconds()
        model = nb.PartialBNN(net, **given)
        model.fit(
            X, y, args.steps, args.steps, args.chains, backend=args.backend,
            calibration=None if args.train else held_out, progress=False,
        )  # fmt: skip
        used = processor_seconds() - before
        found = programs.take()
        show(f"{args.backend}, {args.case}, {count}", found, used, model)
        later.append(sum(sum(map(sum, parts)) for parts in found.values()))
    if args.alone:
        before = processor_seconds()
        ALONE[args.backend](model, args.steps, args.chains)
        show(f"{args.backend} alone", programs.take(), processor_seconds() - before)
    print(f"all fits but the first: {sum(later[1:]):.2f} s of tracing and compiling")


if __name__ == "__main__":
    main()
