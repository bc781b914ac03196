"""nbcore itself: `ours.py WORK ROW` prints a line of JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from timing import seconds_per_gradient
from work import Work, read, transformer_options

import nbcore as nb
from nbcore_flax import FlaxMLP, FlaxTransformer

DRAWS = 1000


def gradient(work: Work, case: str) -> dict[str, Any]:
    """Time the gradient of the target, an argument of the compiled loop."""
    return time_gradient(build(work, case))


def plain(work: Work, case: str) -> dict[str, Any]:
    """Time the gradient of the same density with nothing hoisted: apply(merge(z)) on all rows."""
    network, params, subset = parts(work, case)
    split = subset.split(network, params)
    likelihood, prior = nb.Gaussian().resolve(work.y), nb.NormalPrior().resolve(split)
    y = likelihood.check(work.y, 1)

    def density(z: Any, split: Any, X: Any, y: Any) -> jax.Array:
        outputs = network.apply(split.merge(z["weights"]), X)
        each = likelihood.log_prob(outputs, y, z["likelihood"])
        log_prior = prior.log_density(z["weights"], {}) + likelihood.log_prior(z["likelihood"])
        return log_prior + each.sum()

    position = {"weights": split.position, "likelihood": likelihood.initial(1)}
    return seconds_per_gradient(density, position, split, work.X, y)


def nuts(work: Work, case: str) -> dict[str, Any]:
    """Time one chain of NUTS, from the arrays to the draws: hoisting and compiling included."""
    begin = time.perf_counter()
    posterior = sample(build(work, case), "numpyro-nuts", 1, num_warmup=1000, num_samples=DRAWS)
    seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "gradients": sum(posterior.info.num_gradients.values()),
        "parts": posterior.info.seconds,
    }


def leapfrog(work: Work, case: str) -> dict[str, Any]:
    """Time a leapfrog step of NUTS in one long chunk, hoisted."""
    return time_leapfrogs(build(work, case), depth=6, draws=(100, 400))


def unhoisted(work: Work, case: str) -> dict[str, Any]:
    """Time a leapfrog step of NUTS in one chunk, with nothing hoisted but what XLA hoists."""
    network, params, subset = parts(work, case)
    target = nb.Target.build(network, params, subset, work.X, work.y, byte_budget=1)
    return time_leapfrogs(target, depth=3, draws=(1, 4))


def threads(work: Work, case: str) -> dict[str, Any]:
    """Time a leapfrog step of one chain of NUTS, and of four chains in threads."""
    target = build(work, case)
    figures: dict[str, list[float]] = {"1": [], "4": []}
    for seed in range(4):  # the first round compiles
        for chains, several in figures.items():
            posterior = sample(
                target, "numpyro-nuts", int(chains), num_warmup=200, num_samples=300, key=seed
            )
            seconds = posterior.info.seconds
            gradients = sum(posterior.info.num_gradients.values())
            several.append((seconds["warmup"] + seconds["sampling"]) / gradients)
    one, four = np.array(figures["1"][1:]), np.array(figures["4"][1:])
    return {"one": list(one), "four": list(four), "ratio": float(np.median(four / one))}


def vectorized(_: Work, backend: str) -> dict[str, Any]:
    """Time a step of 2 and of 8 vectorized chains on a small multilayer perceptron."""
    target = small_perceptron()
    figures: dict[str, list[float]] = {"2": [], "8": []}
    for seed in range(6):  # the first round compiles
        for chains, several in figures.items():
            posterior = sample(
                target, backend, int(chains), num_warmup=100, num_samples=2000, key=seed,
                chain_method="vectorized",
            )  # fmt: skip
            gradients = np.sum(posterior.stats.num_gradients[0])
            several.append(posterior.info.seconds["sampling"] / float(gradients))
    two, eight = np.array(figures["2"][1:]), np.array(figures["8"][1:])
    return {"two": list(two), "eight": list(eight), "ratio": float(np.median(eight / two))}


def sgld(work: Work, count: str) -> dict[str, Any]:
    """Sample N molecules with minibatches; say how much memory it took."""
    grown = repeated(work, int(count))
    before = memory()
    target = build(grown, "FinalDense1")
    features = sum(leaf.nbytes for block in target.blocks for leaf in jax.tree.leaves(block))
    posterior = sample(target, "sgld", 2, num_warmup=200, num_samples=500)
    return {
        "before": before,
        "peak": memory(),
        "data": grown.X.nbytes + grown.y.nbytes,
        "target": features,
        "seconds": posterior.info.seconds["total"],
    }


def predict(work: Work, count: str) -> dict[str, Any]:
    """Predict with 1,000 draws at N molecules; say how much memory it took."""
    target = build(work, "FinalDense1")
    posterior = sample(target, "laplace", 1, num_warmup=0, num_samples=DRAWS)
    X = repeated(work, int(count)).X
    before, begin = memory(), time.perf_counter()
    prediction = posterior.predict(X)
    mean, variance = prediction.mean, prediction.variance
    return {
        "before": before,
        "peak": memory(),
        "seconds": time.perf_counter() - begin,
        "mean": float(mean.mean()),
        "variance": float(variance.mean()),
    }


def build(work: Work, case: str) -> Any:
    """Return the target of a case: normal prior around the trained weights, unknown noise."""
    network, params, subset = parts(work, case)
    return nb.Target.build(network, params, subset, work.X, work.y)


def small_perceptron() -> Any:
    """Return the target of all 369 weights of a perceptron on 200 rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4)).astype(np.float32)
    y = np.sin(X[:, 0]) + 0.1 * rng.normal(size=200)
    network = nb.as_network(FlaxMLP(hidden_dims=(16, 16)), example=X[:1])
    params = network.init(jax.random.key(0), X[:1])
    return nb.Target.build(network, params, nb.ProbabilisticSubset.everything(), X, y)


def time_gradient(target: Any) -> dict[str, Any]:
    """Time the gradient of a target."""
    start = target.initial_position()
    return seconds_per_gradient(lambda z, target: target.log_density(z), start, target)


def parts(work: Work, case: str) -> tuple[Any, Any, nb.ProbabilisticSubset]:
    """Return network, weights and subset of a case."""
    network = nb.as_network(FlaxTransformer(**transformer_options(work), pad_token_id=0))
    if case in work.pairs:
        subset = nb.ProbabilisticSubset.pairs(work.pairs[case])
    else:
        subset = nb.ProbabilisticSubset.layers(case)
    return network, {"params": jax.tree.map(jax.numpy.asarray, work.params)}, subset


def sample(target: Any, backend: Any, num_chains: int, key: int = 0, **options: Any) -> Any:
    """Sample without a word."""
    return nb.sample(target, backend, key=key, num_chains=num_chains, progress=False, **options)


def time_leapfrogs(target: Any, depth: int, draws: tuple[int, int]) -> dict[str, Any]:
    """Time leapfrog steps of trajectories that are as long as allowed, in one compiled loop.

    Returns:
        `seconds`, the slope between a short and a long run, and `once`, what a run takes besides.
    """
    backend = nb.get_backend(
        "numpyro-nuts", step_size=1e-6, adapt_step_size=False, max_tree_depth=depth
    )
    seconds, steps = [], []
    for count in draws:
        info = sample(target, backend, 1, num_warmup=0, num_samples=count, chunk_size=count).info
        seconds.append(info.seconds["sampling"])
        steps.append(info.num_gradients["sampling"])
    slope = (seconds[1] - seconds[0]) / (steps[1] - steps[0])
    return {"seconds": slope, "once": seconds[0] - slope * steps[0], "steps": steps}


def repeated(work: Work, count: int) -> Work:
    """Return the work with its molecules repeated to `count`."""
    rows = np.resize(np.arange(len(work.y)), count)
    return work._replace(X=work.X[rows], y=work.y[rows])


def memory() -> int:
    """Return the largest memory that this process has taken, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


TASKS: dict[str, Callable[[Work, str], dict[str, Any]]] = {
    "gradient": gradient,
    "plain": plain,
    "leapfrog": leapfrog,
    "unhoisted": unhoisted,
    "nuts": nuts,
    "threads": threads,
    "vectorized": vectorized,
    "sgld": sgld,
    "predict": predict,
}


def main() -> None:
    """Measure one row."""
    path, row = sys.argv[1:3]
    task, _, case = row.partition("-")
    print(json.dumps(TASKS[task](read(path), case) | {"versions": {"jax": jax.__version__}}))


if __name__ == "__main__":
    main()
