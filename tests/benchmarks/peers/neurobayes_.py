"""NeuroBayes 0.0.14, in an environment of its own: `neurobayes_.py WORK ROW` prints a line of JSON.

Its transformer has no mask for padding and pools after the head, so it is another function than
the network it is given the weights of; sizes, data, weights and subset are the same.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import neurobayes
import numpyro
from leapfrogs import seconds_per_leapfrog
from numpyro.infer import init_to_median
from numpyro.infer.util import initialize_model
from timing import seconds_per_gradient
from work import Work, case_of, read, transformer_options


def gradient(work: Work, case: str) -> dict[str, Any]:
    """Time the gradient of its potential, made as its `fit` makes it."""
    model, data = build(work, case)
    info = initialize_model(
        jax.random.PRNGKey(0), model, model_args=data, init_strategy=init_to_median(num_samples=10)
    )
    return seconds_per_gradient(info.potential_fn, info.param_info.z)


def leapfrog(work: Work, case: str) -> dict[str, Any]:
    """Time a leapfrog step of NUTS as its `fit` runs it, progress bar included."""
    return seconds_per_leapfrog(*build(work, case), init_to_median(num_samples=10))


def build(work: Work, case: str) -> tuple[Any, tuple[Any, ...]]:
    """Return its model, and the arguments of it."""
    net = neurobayes.FlaxTransformer(**transformer_options(work))
    model = neurobayes.PartialBNN(
        net,
        deterministic_weights=its_params(net, work),
        probabilistic_layer_names=[case],
        probabilistic_neurons=as_lists(work.pairs[case]) if case in work.pairs else None,
    )
    data = model.set_data(jnp.asarray(work.X), jnp.asarray(work.y))
    return model._model.model, (*data, 1.0)


def its_params(net: Any, work: Work) -> dict[str, Any]:
    """Return the weights in its nesting: its wrappers are named after classes, the rest agrees."""
    tokens = jnp.asarray(work.X[:1])
    tree = net.init({"params": jax.random.PRNGKey(0)}, tokens, enable_dropout=False)["params"]

    def ours(path: Any, leaf: Any) -> Any:
        found: Any = work.params
        for key in path:
            if isinstance(found, dict) and key.key in found:
                found = found[key.key]
        if jnp.shape(found) != leaf.shape:
            raise ValueError(f"No weight of shape {leaf.shape} for {jax.tree_util.keystr(path)}.")
        return jnp.asarray(found)

    return jax.tree_util.tree_map_with_path(ours, tree)


def as_lists(pairs: dict[str, Any]) -> dict[str, Any]:
    """Return pairs as lists of tuples, by component for attention."""
    return {
        name: as_lists(part) if isinstance(part, dict) else [tuple(map(int, p)) for p in part]
        for name, part in pairs.items()
    }


def main() -> None:
    """Measure one row."""
    path, row = sys.argv[1:3]
    task = {"gradient": gradient, "leapfrog": leapfrog}[row.partition("-")[0]]
    print(json.dumps(task(read(path), case_of(row)) | {"versions": versions()}))


def versions() -> dict[str, str]:
    """Return the versions that were measured."""
    return {m.__name__: m.__version__ for m in (jax, numpyro)} | {"neurobayes": "0.0.14"}


if __name__ == "__main__":
    main()
