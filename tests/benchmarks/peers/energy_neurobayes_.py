"""NeuroBayes on the row `energy`: its own fit, and the outputs of its draws at the test inputs.

Its chains run side by side, on as many forced host devices, which its default (one after the
other) does not: the better of what it offers.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpyro

CHAINS = 4
numpyro.set_host_device_count(CHAINS)

import jax  # noqa: E402  after the number of devices is set
import jax.numpy as jnp  # noqa: E402
import neurobayes  # noqa: E402
import numpy as np  # noqa: E402
from work import read  # noqa: E402


def main() -> None:
    """Sample and write outputs `(chain, draw, test inputs)` beside the work."""
    path, draws = sys.argv[1], int(sys.argv[2].partition("-")[2])
    work = read(path)
    model = neurobayes.PartialBNN(
        neurobayes.FlaxMLP(hidden_dims=(32, 16), target_dim=1, activation="silu"),
        deterministic_weights=jax.tree_util.tree_map(
            jnp.asarray,
            {f"MLPLayerModule_{i}": {f"Dense{i}": work.params[f"Dense{i}"]} for i in range(3)},
        ),
        num_probabilistic_layers=1,
    )
    begin = time.perf_counter()
    model.fit(
        jnp.asarray(work.X), jnp.asarray(work.y), num_warmup=draws, num_samples=draws,
        num_chains=CHAINS, chain_method="parallel", progress_bar=False,
        rng_key=jax.random.PRNGKey(0), extra_fields=("num_steps",),
    )  # fmt: skip
    jax.block_until_ready(model.get_samples())
    seconds = time.perf_counter() - begin
    mu = model.sample_from_posterior(
        jax.random.PRNGKey(1), jnp.asarray(work.rest["test_X"]), model.get_samples(), ["mu"]
    )["mu"]
    np.savez(Path(path).with_name("energy-peer.npz"), outputs=np.reshape(mu, (CHAINS, draws, -1)))
    steps = model.mcmc.get_extra_fields()["num_steps"]
    print(json.dumps({"seconds": seconds, "gradients_of_draws": int(jnp.sum(steps))}))


if __name__ == "__main__":
    main()
