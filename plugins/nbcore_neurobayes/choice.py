"""The weights that NeuroBayes' options choose, as a subset of nbcore."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import nbcore
from nbcore.errors import OptionError
from nbcore_neurobayes.flax_nets.config_utils import layer_names, own_name


def subset_of(
    architecture: Any,
    names: Sequence[str] | None,
    count: int | None,
    pairs: Mapping[str, Any] | None,
) -> nbcore.ProbabilisticSubset | None:
    """Return the weights that NeuroBayes' three options choose together.

    Layers that are named are sampled as a whole, or, if they have pairs, in these alone.

    Args:
        architecture: the network.
        names: names or patterns of layers.
        count: number of the last layers, instead of names.
        pairs: index pairs by layer. Those of layers that are not named are left out, with a
            warning, as in NeuroBayes.

    Raises:
        OptionError: names and a count are given, or names are one string.
    """
    if names is not None and count is not None:
        raise OptionError(
            "Give probabilistic_layer_names or num_probabilistic_layers, not both of them."
        )
    if isinstance(names, str):
        raise OptionError(f"probabilistic_layer_names is a list of names. Type: [{names!r}]")
    chosen = {own_name(name): given for name, given in (pairs or {}).items()}
    named = layer_names(architecture, count) if count is not None else names
    if count is not None and named is None:
        last = nbcore.ProbabilisticSubset.last(count)
        return last if not chosen else (last - _layers_of(chosen)) | _pairs_of(chosen)
    if named is None:
        return _pairs_of(chosen) if chosen else None
    named = [own_name(name) for name in named]
    inside = {k: v for k, v in chosen.items() if any(fnmatch.fnmatchcase(k, n) for n in named)}
    if len(inside) < len(chosen):
        warnings.warn(
            f"Pairs of {', '.join(k for k in chosen if k not in inside)} are left out, as in "
            f"NeuroBayes: the layers that are sampled are {', '.join(named)}. Add the layer to "
            "probabilistic_layer_names, or drop its pairs.",
            stacklevel=3,
        )
    if not inside:
        return nbcore.ProbabilisticSubset.layers(*named)
    whole = [name for name in named if name not in inside]
    if not whole:
        return _pairs_of(inside)
    others = nbcore.ProbabilisticSubset.layers(*whole)
    within = {k: v for k, v in inside.items() if any(fnmatch.fnmatchcase(k, n) for n in whole)}
    return (others - _layers_of(within) if within else others) | _pairs_of(inside)


def _layers_of(pairs: Mapping[str, Any]) -> nbcore.ProbabilisticSubset:
    return nbcore.ProbabilisticSubset.layers(*pairs)


def _pairs_of(pairs: Mapping[str, Any]) -> nbcore.ProbabilisticSubset:
    return nbcore.ProbabilisticSubset.pairs(pairs)
