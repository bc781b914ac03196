"""Plain NumPyro, in an environment of its own: `numpyro_.py WORK ROW` prints a line of JSON.

The model of its documentation: `random_flax_module` on the whole network, with priors on the
weights of one layer; the other weights are parameters, held at their trained values.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from leapfrogs import seconds_per_leapfrog
from numpyro.contrib.module import random_flax_module
from numpyro.infer.util import initialize_model
from timing import seconds_per_gradient
from work import Work, case_of, read, transformer_options

from nbcore_flax import FlaxTransformer


def gradient(work: Work, case: str) -> dict[str, Any]:
    """Time the gradient of the potential, as its NUTS evaluates it."""
    model, data = build(work, case)
    info = initialize_model(jax.random.key(0), model, model_args=data)
    return seconds_per_gradient(info.potential_fn, info.param_info.z)


def leapfrog(work: Work, case: str) -> dict[str, Any]:
    """Time a leapfrog step of NUTS, with its defaults but for the step size."""
    return seconds_per_leapfrog(*build(work, case))


def build(work: Work, case: str) -> tuple[Any, tuple[Any, ...]]:
    """Return the model with trained weights, and the arguments of it."""
    network = FlaxTransformer(**transformer_options(work), pad_token_id=0)
    X, y = jnp.asarray(work.X), jnp.asarray(work.y)[:, None]
    params = jax.tree.map(jnp.asarray, work.params)
    prior = {f"{case}.{name}": dist.Normal(center, 1.0) for name, center in params[case].items()}

    def model(X: jax.Array, y: jax.Array) -> None:
        net = random_flax_module("net", network, prior, X[:1])
        noise = numpyro.sample("noise", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(net(X), noise), obs=y)

    trained = numpyro.handlers.substitute(model, data={"net$params": params})
    return trained, (X, y)


def main() -> None:
    """Measure one row."""
    path, row = sys.argv[1:3]
    task = {"gradient": gradient, "leapfrog": leapfrog}[row.partition("-")[0]]
    figures = task(read(path), case_of(row))
    versions = {m.__name__: m.__version__ for m in (jax, numpyro)}
    print(json.dumps(figures | {"versions": versions}))


if __name__ == "__main__":
    main()
