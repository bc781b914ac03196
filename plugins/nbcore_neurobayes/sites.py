"""Names of draws: those of the sites of NeuroBayes' NumPyro models, without inner modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import nbcore
from nbcore.errors import OptionError


def site_names(split: nbcore.ParameterSplit, *, is_whole_network: bool) -> dict[str, str]:
    """Return the name of each stochastic leaf, by its path.

    Of a network that is sampled as a whole they are `nn/Dense0.kernel`; of a layer among frozen
    ones `Dense0/Dense0.kernel`; of pairs of a layer `Dense0_kernel_prob`, in the order of the
    entries in the kernel, and each bias once.

    Args:
        split: stochastic and frozen weights.
        is_whole_network: whether the network is sampled as a whole by its class.
    """
    found: dict[str, str] = {}
    for path in split.paths:
        layer = split.owner(path)[0].name
        parts = path.removeprefix("params/").split("/")
        if path not in split.whole:
            inner = path.removeprefix("params/").removeprefix(layer).strip("/")
            found[path] = f"{layer.replace('/', '.')}_{inner.replace('/', '_')}_prob"
        elif is_whole_network:
            found[path] = f"nn/{'.'.join(parts)}"
        else:
            found[path] = f"{layer.replace('/', '.')}/{'.'.join(parts)}"
    return found


def with_draws(
    posterior: nbcore.NetworkPosterior,
    samples: Mapping[str, Any],
    names: Mapping[str, str],
    others: Sequence[str],
) -> nbcore.NetworkPosterior:
    """Return the posterior with given draws of the weights as those of one chain.

    Args:
        posterior: the posterior.
        samples: draws `(draws, ...)` by name.
        names: name of each stochastic leaf.
        others: names of other parameters that samples must hold; the posterior keeps its own.

    Raises:
        OptionError: draws are missing, or of different numbers.
    """
    needed = [*names.values(), *others]
    missing = [name for name in needed if name not in samples]
    if missing:
        raise OptionError(
            f"samples has no {missing[0]!r}. Start from get_samples(), and keep all of its names."
        )
    counts = {len(np.asarray(samples[name])) for name in needed}
    if len(counts) > 1:
        raise OptionError("samples must hold as many draws of every parameter.")
    count = counts.pop()

    def repeated(values: Any) -> np.ndarray:
        return np.broadcast_to(np.asarray(values)[:1, :1], (1, count, *np.shape(values)[2:]))

    draws = jax.tree.map(repeated, posterior.draws)
    draws["weights"] = {path: np.asarray(samples[name])[None] for path, name in names.items()}
    return dataclasses.replace(
        posterior, draws=draws, stats=jax.tree.map(repeated, posterior.stats)
    )
