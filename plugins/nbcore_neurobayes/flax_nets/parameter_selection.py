"""Choosing pairs of weights, in the form that NeuroBayes returns them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import nbcore
from nbcore.errors import OptionError
from nbcore_neurobayes.elsewhere import names_of
from nbcore_neurobayes.flax_nets.config_utils import own_name
from nbcore_neurobayes.words import own_words

__getattr__ = names_of(__name__)

OPTIONS = {"magnitude": "threshold", "clustering": "n_clusters"}


class SelectionMethod(Enum):
    """Methods of `select_bayesian_components`; the names of other selectors are accepted too."""

    MAGNITUDE = "magnitude"
    GRADIENT = "gradient"
    CLUSTERING = "clustering"
    VARIANCE = "variance"


def select_bayesian_components(
    model: Any,
    layer_names: str | Sequence[str],
    method: str | SelectionMethod = "magnitude",
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
        method: name of a selector, see `nbcore.list_selectors`, in capitals or not.
        num_pairs_per_layer: pairs of each layer.
        threshold: for `"magnitude"`: the smallest eligible weight.
        n_clusters: for `"clustering"`: number of groups.
        param_info: must be `None`: token frequencies are those of `X=` in
            `nbcore.select_bayesian_components`.

    Returns:
        By layer a list of index tuples; for attention a dict of those by component.

    Raises:
        OptionError: `param_info` is given.
        SelectionError, LayerError, MethodError: see `nbcore.select_bayesian_components`.

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
            "nbcore.select_bayesian_components(det.estimator, ..., 'clustering', X=X, "
            "token_frequency=True)"
        )
    method = (method.value if isinstance(method, SelectionMethod) else method).lower()
    names = [layer_names] if isinstance(layer_names, str) else layer_names
    given = {"threshold": threshold, "n_clusters": n_clusters}
    options: dict[str, Any] = {name: given[name] for key, name in OPTIONS.items() if key == method}
    with own_words():
        subset = nbcore.select_bayesian_components(
            getattr(model, "estimator", model),
            [own_name(name) for name in names],
            method,
            num_pairs_per_layer,
            **options,
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
