"""A network of real size: 66 million frozen parameters, 1,000 stochastic weights near its end.

    python tests/benchmarks/real_size.py
    python tests/benchmarks/real_size.py --examples 100 --backends laplace sgld

A transformer of 6 blocks, width 768, 12 heads and a vocabulary of 30,000 with random weights, and
sequences of 128 tokens. Prints what is computed once, seconds a gradient beside the same density
written by hand, given the activations that its author would have stored, and for each sampler its
seconds, gradients and the error of its mean. Peak memory is that of the process so far.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from gradients import hoisted, side_by_side

import nbcore as nb
from nbcore_flax import FlaxTransformer

LENGTH, VOCABULARY, WIDTH, HIDDEN = 128, 30_000, 768, 3072
RUNS = {"laplace": (0, 200, 1), "sgld": (20, 60, 1), "numpyro-nuts": (4, 4, 1)}
"""Steps of warmup, draws and chains of each sampler."""
OPTIONS: dict[str, dict[str, Any]] = {"laplace": {"find_mode": False}}
"""Of a network of random weights, the mode says nothing."""
ROWS, COLUMNS = 32, 29
PAIRS = {
    "Block5_MLP_dense2": [(96 * i, 26 * j) for i in range(ROWS) for j in range(COLUMNS)],
    "FinalDense2": [(41 * i, 0) for i in range(72)],
}
NAMES = [f"params/{layer}/{part}" for layer in PAIRS for part in ("kernel", "bias")]
NET = FlaxTransformer(
    vocab_size=VOCABULARY, d_model=WIDTH, nhead=12, num_layers=6, dim_feedforward=HIDDEN,
    max_seq_length=LENGTH, dropout_rate=0.0,
)  # fmt: skip


def memory() -> str:
    """Return the peak memory of this process so far."""
    return f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"


def weights(network: nb.Network) -> Any:
    """Return random weights of the network, on the scale of training."""
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), network.example))
    rng = np.random.default_rng(0)

    def drawn(path: Any, leaf: Any) -> np.ndarray:
        if path[-1].key == "scale":
            return np.ones(leaf.shape, leaf.dtype)
        spread = 1.0 if path[-1].key == "embedding" else leaf.shape[0] ** -0.5
        return (spread * rng.standard_normal(leaf.shape, np.float32)).astype(leaf.dtype)

    return jax.tree.map_with_path(drawn, shapes)


def stored(params: Any, X: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Return what one would store by hand: the last block before its norm, and the rows read."""
    rows = jnp.asarray(sorted({i for i, _ in PAIRS["Block5_MLP_dense2"]}))
    seen: dict[str, Any] = {}

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name == "__call__" and context.module.name in NOTED:
            seen[context.module.name] = args[0]
        return call(*args, **kwargs)

    @jax.jit
    def batch(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        with nn.intercept_methods(note):
            NET.apply(params, x)
        return seen["Block5_LayerNorm2"], seen["Block5_MLP_dense2"][..., rows]

    parts = [batch(params, X[i : i + 20]) for i in range(0, len(X), 20)]
    return jnp.concatenate([a for a, _ in parts]), jnp.concatenate([b for _, b in parts])


NOTED = {"Block5_LayerNorm2", "Block5_MLP_dense2"}


def by_hand(data: Any, position: Any) -> jax.Array:
    """Return the log density, a few examples at a time, from what was stored."""
    before, read, y, layers, start = data
    moves = {name: position["weights"][name] - start[name] for name in NAMES}
    block, block_bias, head, head_bias = (moves[name] for name in NAMES)
    rows, columns = jnp.arange(ROWS).repeat(COLUMNS), 26 * jnp.arange(COLUMNS)
    places = rows, jnp.tile(columns, ROWS)
    moved = jnp.zeros((ROWS, WIDTH)).at[places].set(block)
    bias = jnp.zeros(WIDTH).at[columns].set(block_bias)
    kernel2 = layers["FinalDense2"]["kernel"].at[41 * jnp.arange(72), 0].add(head)
    bias2 = layers["FinalDense2"]["bias"] + head_bias
    norm, dense = layers["Block5_LayerNorm2"], layers["FinalDense1"]

    @jax.checkpoint
    def few(total: jax.Array, part: Any) -> tuple[jax.Array, None]:
        before, read, y = part
        h = before + read @ moved + bias
        h = (h - h.mean(-1, keepdims=True)) * jax.lax.rsqrt(h.var(-1, keepdims=True) + 1e-6)
        pooled = (h * norm["scale"] + norm["bias"]).mean(axis=1)
        hidden = jax.nn.silu(pooled @ dense["kernel"] + dense["bias"])
        mean = (hidden @ kernel2 + bias2)[:, 0]
        return total + jax.scipy.stats.norm.logpdf(y, mean, 0.5).sum(), None

    parts = jax.tree.map(lambda a: a.reshape(-1, 5, *a.shape[1:]), (before, read, y))
    fit, _ = jax.lax.scan(few, jnp.zeros(()), parts)
    prior = (jax.scipy.stats.norm.logpdf(z, start[n]).sum() for n, z in position["weights"].items())
    return fit + sum(prior)


def gradients(target: nb.Target, params: Any, X: np.ndarray, y: np.ndarray) -> None:
    """Time a gradient, and the same by hand."""
    start = {name: jnp.asarray(leaf) for name, leaf in target.split.stochastic.items()}
    layers = jax.tree.map(jnp.asarray, params["params"])
    few = {n: layers[n] for n in ("Block5_LayerNorm2", "FinalDense1", "FinalDense2")}
    data = (*stored(params, X), jnp.asarray(y), few, start)
    print(f"stored by hand; {memory()}", flush=True)
    ways = {"hoisted": (hoisted, target), "hand-written": (by_hand, data)}
    position = target.initial_position()
    one, other = (jax.jit(jax.grad(f, 1))(d, position)["weights"] for f, d in ways.values())
    for name in NAMES:
        far = float(jnp.max(jnp.abs(one[name] - other[name])) / jnp.max(jnp.abs(other[name])))
        print(f"{name}: gradients differ by {far:.1e} of the largest", flush=True)
    seconds = side_by_side(ways, position)
    ratio = seconds["hoisted"] / seconds["hand-written"]
    print(f"seconds a gradient: {seconds}, ratio {ratio:.2f}; {memory()}", flush=True)


def main() -> None:
    """Build, time a gradient, sample."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--backends", nargs="*", default=list(RUNS), choices=RUNS)
    parser.add_argument("--by-hand", action="store_true", help="time the same written by hand")
    arguments = parser.parse_args()
    X = np.random.default_rng(1).integers(1, VOCABULARY, (arguments.examples, LENGTH))
    network = nb.as_network(NET, example=X[:1])
    params = weights(network)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    y = 0.5 * np.random.default_rng(2).standard_normal(len(X))
    print(f"{count:,} parameters; {memory()}", flush=True)
    subset, likelihood = nb.ProbabilisticSubset.pairs(PAIRS), nb.Gaussian(noise=0.5)
    if arguments.by_hand:
        begin = time.perf_counter()
        target = nb.Target.build(network, params, subset, X, y, likelihood=likelihood)
        print(
            f"built in {time.perf_counter() - begin:.0f} s\n{target.cost()}\n{memory()}", flush=True
        )
        gradients(target, params, X, y)
    for backend in arguments.backends:
        warmup, samples, chains = RUNS[backend]
        begin = time.perf_counter()
        model = nb.PartialBNN(NET, params, subset=subset, likelihood=likelihood)
        model.fit(
            X, y, warmup, samples, chains, calibration=None, progress=False,
            backend=nb.get_backend(backend, **OPTIONS.get(backend, {})),
        )  # fmt: skip
        info = model.posterior.info
        print(
            f"{backend}: {time.perf_counter() - begin:.0f} s, {info.num_gradients}, "
            f"{ {k: round(v, 1) for k, v in info.seconds.items()} }; {memory()}", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
