"""Choosing pairs of weights, in the form that NeuroBayes returns them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import nbcore
from nbcore.errors import OptionError

OPTIONS = {"magnitude": "threshold", "clustering": "n_clusters"}


def print_layer_configs(model: Any) -> None:
    """Print the layers of a network: names, kinds, sizes, and what pairs index."""
    nbcore.print_layer_configs(model)


def select_bayesian_components(
    model: Any,
    layer_names: str | Sequence[str],
    method: str = "magnitude",
    num_pairs_per_layer: int = 100,
    threshold: float | None = None,
    n_clusters: int = 10,
    param_info: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Choose the pairs of each layer that are worth sampling.

    Unlike in NeuroBayes, what cannot be selected raises; clustering comes from a key, without
    duplicates and in full.

    Args:
        model: a trained `DeterministicNN`.
        layer_names: names of layers.
        method: name of a selector, see `nbcore.list_selectors`.
        num_pairs_per_layer: pairs of each layer.
        threshold: for `"magnitude"`: the smallest eligible weight.
        n_clusters: for `"clustering"`: number of groups.
        param_info: must be `None`: token frequencies are those of `X=` in
            `nbcore.select_bayesian_components`.

    Returns:
        By layer a list of index tuples; for attention a dict of those by component.

    Raises:
        OptionError: `param_info` is given.
        SelectionError, UnknownLayerError, UnknownSelectorError: see
            `nbcore.select_bayesian_components`.

    Examples:
        >>> import numpy as np, nbcore_neurobayes as nb
        >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
        >>> det = nb.DeterministicNN(nb.FlaxMLP([8], 1), 1)
        >>> det.train(x, x[:, 0] ** 2, 5)
        >>> pairs = nb.select_bayesian_components(det, ["Dense1"], "magnitude", 3)
        >>> [len(pair) for pair in pairs["Dense1"]]
        [2, 2, 2]
    """
    if param_info is not None:
        raise OptionError(
            "param_info is not needed: token frequencies are counted in the data. Type: "
            "nbcore.select_bayesian_components(det.model, ..., 'clustering', X=X, "
            "token_frequency=True)"
        )
    given = {"threshold": threshold, "n_clusters": n_clusters}
    options: dict[str, Any] = {name: given[name] for key, name in OPTIONS.items() if key == method}
    subset = nbcore.select_bayesian_components(
        getattr(model, "model", model), layer_names, method, num_pairs_per_layer, **options
    )
    return pairs_in(subset)


def pairs_in(subset: nbcore.ProbabilisticSubset) -> dict[str, Any]:
    """Return the pairs of a subset by layer, and by component if a layer has some."""
    found: dict[str, Any] = {}
    for term in json.loads(subset.to_json())["terms"]:
        for layer, component, pairs in term["items"] if term["rule"] == "pairs" else ():
            indices = [tuple(pair) for pair in pairs]
            if component:
                found.setdefault(layer, {})[component] = indices
            else:
                found[layer] = indices
    return found
