"""nbcore on the row `energy`: `energy_ours.py WORK TASK` prints a line of JSON.

`sample-N` draws N + N with 4 chains, `reference-N` draws 1,000 + N from draws of the prior, once,
and `compare` reads what all of them wrote: outputs `(chain, draw, test inputs)` beside the work.
Weights of the output layer are integrated out; those of the peer are not, so that where both agree,
the integral is right.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from work import Work, read

import nbcore as nb
from nbcore.posterior import diagnostics
from nbcore_flax import FlaxMLP

BACKEND = "numpyro-nuts"


def sample(work: Work, path: Path, draws: int) -> dict[str, Any]:
    """Sample with 4 chains, from the arrays to the draws: hoisting and compiling included."""
    begin = time.perf_counter()
    posterior = nb.sample(
        build(work), BACKEND, key=0, num_warmup=draws, num_samples=draws, num_chains=4,
        progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    write(path.with_name("energy-ours.npz"), posterior, work)
    gradients = posterior.info.num_gradients
    return {"seconds": seconds, "gradients": gradients, "parts": posterior.info.seconds}


def reference(work: Work, path: Path, draws: int) -> dict[str, Any]:
    """Sample longer, from other starts; once."""
    out = path.with_name("energy-reference.npz")
    if not out.exists():
        posterior = nb.sample(
            build(work), BACKEND, key=1, num_warmup=1000, num_samples=draws, num_chains=4,
            init="prior", progress=False,
        )  # fmt: skip
        write(out, posterior, work)
    return {"draws": draws}


def compare(_: Work, path: Path, __: int) -> dict[str, Any]:
    """Compare both sides with the reference."""
    outputs = {
        name: np.load(path.with_name(f"energy-{name}.npz"))["outputs"]
        for name in ("reference", "ours", "peer")
    }
    return {
        name: {
            "ess": float(diagnostics.ess_bulk(draws).min()),
            "r_hat": float(diagnostics.r_hat(draws).max()),
            **agreement(draws, outputs["reference"]),
        }
        for name, draws in outputs.items()
    }


def agreement(draws: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Return the largest differences at the test inputs, in deviations of the reference.

    `mean`: of the predictive means; `z`: of the means, in Monte Carlo standard errors of both;
    `deviation`: of the standard deviations, relative.
    """
    scale = reference.std(axis=(0, 1))
    apart = np.abs(draws.mean(axis=(0, 1)) - reference.mean(axis=(0, 1)))
    error = np.hypot(diagnostics.mcse_mean(draws), diagnostics.mcse_mean(reference))
    return {
        "mean": float(np.max(apart / scale)),
        "z": float(np.max(apart / error)),
        "deviation": float(np.max(np.abs(draws.std(axis=(0, 1)) / scale - 1))),
    }


def build(work: Work) -> Any:
    """Return the target: normal prior of scale 1 around the trained weights, unknown noise."""
    network = nb.as_network(FlaxMLP(hidden_dims=(32, 16), activation="silu"))
    params = {"params": jax.tree.map(jax.numpy.asarray, work.params)}
    subset = nb.ProbabilisticSubset.layers("Dense1", "Dense2")
    return nb.marginalize(nb.Target.build(network, params, subset, work.X, work.y))


def write(path: Path, posterior: Any, work: Work) -> None:
    """Write the outputs of all draws at the test inputs."""
    outputs = posterior.outputs(work.rest["test_X"])
    np.savez(path, outputs=outputs.reshape(posterior.num_chains, posterior.num_draws, -1))


def main() -> None:
    """Do one task."""
    path, (task, _, draws) = sys.argv[1], sys.argv[2].partition("-")
    do = {"sample": sample, "reference": reference, "compare": compare}[task]
    print(json.dumps(do(read(path), Path(path), int(draws or 0))))


if __name__ == "__main__":
    main()
