"""Peak memory and time of predictions for many draws and inputs.

    python tests/benchmarks/prediction.py --draws 1000 --inputs 100000

The process does nothing else, so its peak resident memory is that of the prediction, JAX and all.
`model.predict` on a posterior of the last two layers of a small network: means and variances of
the mixture, in the units of y.
"""

from __future__ import annotations

import argparse
import resource
import time

import jax
import numpy as np

import nbcore as nb
from nbcore.posterior.scaler import Scaler
from nbcore_flax import FlaxMLP


def peak() -> float:
    """Return the peak resident memory of this process so far, in GB (10^9 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Sample, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--inputs", type=int, default=100_000)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 8)).astype(np.float32)
    y = 5 + 3 * np.sin(X[:, 0]) + 0.1 * rng.normal(size=200)
    network = nb.as_network(FlaxMLP(hidden_dims=(32, 16)), example=X[:1])
    params = network.init(jax.random.key(0), X[:1])
    subset = nb.ProbabilisticSubset.last(1)
    scaler = Scaler.fit(y)
    target = nb.Target.build(network, params, subset, X, scaler.standardize(y))
    posterior = nb.sample(
        target, "blackjax-mclmc", key=0, num_warmup=500, num_samples=arguments.draws,
        num_chains=1, progress=False,
    ).in_units_of(scaler)  # fmt: skip
    inputs = rng.normal(size=(arguments.inputs, 8)).astype(np.float32)
    before, begin = peak(), time.perf_counter()
    prediction = posterior.predict(inputs)
    mean, variance = prediction.mean, prediction.variance
    seconds = time.perf_counter() - begin
    print(f"{arguments.draws} draws x {arguments.inputs} inputs in {seconds:.1f} s")
    print(f"peak memory {peak():.2f} GB, {before:.2f} GB before")
    assert mean.shape == variance.shape == (arguments.inputs,)


if __name__ == "__main__":
    main()
