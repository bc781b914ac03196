"""JAX written by hand for one head: `handwritten.py WORK ROW` prints a line of JSON.

What somebody would write who samples 100 pairs of FinalDense1 and nothing else: the pooled
features are computed once, and the density is of the head alone, with the normal prior on its
weights and a half-normal one on the noise.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from timing import seconds_per_gradient
from work import Work, read, transformer_options

from nbcore_flax import FlaxTransformer


def gradient(work: Work) -> dict[str, Any]:
    """Time the gradient of the head's log density; the data are arguments."""
    trained = jax.tree.map(jnp.asarray, work.params)
    first, second = trained["FinalDense1"], trained["FinalDense2"]
    rows, columns = work.pairs["FinalDense1"]["FinalDense1"].T
    biases = np.unique(columns)
    center = {"kernel": first["kernel"][rows, columns], "bias": first["bias"][biases]}
    data = (jnp.asarray(pooled(work)), jnp.asarray(work.y), first, second, center)
    return seconds_per_gradient(log_density(rows, columns, biases), {**center, "u": 0.0}, *data)


def log_density(rows: np.ndarray, columns: np.ndarray, biases: np.ndarray) -> Any:
    """Return the log density of the pairs, their biases and u = log noise."""

    def density(z: Any, h: Any, y: Any, first: Any, second: Any, center: Any) -> jax.Array:
        kernel = first["kernel"].at[rows, columns].set(z["kernel"])
        bias = first["bias"].at[biases].set(z["bias"])
        outputs = (jax.nn.silu(h @ kernel + bias) @ second["kernel"] + second["bias"])[:, 0]
        noise = jnp.exp(z["u"])
        prior = sum(-0.5 * jnp.sum((z[name] - center[name]) ** 2) for name in center)
        prior += -0.5 * noise**2 + z["u"]
        return prior + jnp.sum(-0.5 * ((y - outputs) / noise) ** 2 - z["u"])

    return density


def pooled(work: Work) -> np.ndarray:
    """Return what FinalDense1 reads, `(N, d_model)`."""
    network = FlaxTransformer(**transformer_options(work), pad_token_id=0)
    seen: list[jax.Array] = []

    def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.module.name == "FinalDense1":
            seen.append(args[0])
        return call(*args, **kwargs)

    def features(x: jax.Array) -> jax.Array:
        with nn.intercept_methods(watch):
            network.apply({"params": work.params}, x)
        return seen.pop()

    return np.concatenate([jax.jit(features)(part) for part in np.array_split(work.X, 4)])


def main() -> None:
    """Measure the row."""
    print(json.dumps(gradient(read(sys.argv[1])) | {"versions": {"jax": jax.__version__}}))


if __name__ == "__main__":
    main()
