"""Trained networks and selectors that are given by hand, for the tests of selections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

import nbcore as nb
from nbcore.common.moments import Moments
from nbcore.networks.layers import Layer
from nbcore.selection.selector import SelectionContext

ATTENTION = {"query": (2, 2, 3), "key": (2, 2, 3), "value": (2, 2, 3), "out": (2, 3, 2)}
BIASES = {"query": (2, 3), "key": (2, 3), "value": (2, 3), "out": (2,)}
NETWORK = nb.as_network((lambda key, x: {}, lambda params, x: x))


@dataclass(frozen=True)
class TrainedStub:
    """A trained network whose weights and memories are given by hand."""

    params: Any
    trajectory: Moments | None = None
    gradients: Moments | None = None
    network: nb.Network = NETWORK

    def batch_gradients(self, X: Any, y: Any) -> Moments:
        """Return, whatever the network: one batch, in which every gradient is the mean of X y."""
        value = float(np.mean(np.asarray(X) * np.asarray(y)))
        return moments_of(jax.tree.map(lambda p: jnp.full_like(p, value), self.params))


def moments_of(*trees: Any, num_recent: int = 0) -> Moments:
    moments = Moments.empty(trees[0], num_recent)
    for tree in trees:
        moments = moments.update(tree)
    return moments


@dataclass(frozen=True)
class Scores:
    """Scores that are given by hand, by leaf path."""

    by_path: dict[str, Any]
    name: ClassVar[str] = "scores"
    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, context: SelectionContext, layer: Layer) -> dict[str, Any]:
        return {leaf.path: self.by_path[leaf.path] for leaf in layer.weights}


@dataclass(frozen=True)
class Choice:
    """A choice that is given by hand, as a function of (layer, num_pairs, key)."""

    function: Callable[[Layer, int, jax.Array], Any]
    name: ClassVar[str] = "choice"
    needs: ClassVar[frozenset[str]] = frozenset()

    def choose(
        self, context: SelectionContext, layer: Layer, num_pairs: int, key: jax.Array
    ) -> Any:
        return self.function(layer, num_pairs, key)


def dense(rows: int = 2, columns: int = 3) -> dict[str, Any]:
    return {"kernel": jnp.ones((rows, columns)), "bias": jnp.zeros(columns)}


def attention_params() -> dict[str, Any]:
    parts = {c: {"kernel": jnp.ones(ATTENTION[c]), "bias": jnp.zeros(BIASES[c])} for c in ATTENTION}
    return {"Attention": parts}


def descending(shape: tuple[int, ...]) -> np.ndarray:
    """Return scores whose best entries are the first in canonical order."""
    return -np.arange(np.prod(shape), dtype=float).reshape(shape)


ATTENTION_SCORES = {f"Attention/{c}/kernel": descending(s) for c, s in ATTENTION.items()}


def first_pairs(layer: Layer, num_pairs: int, key: jax.Array) -> np.ndarray:
    (weight,) = layer.weights
    return np.array(list(np.ndindex(weight.pair_shape))[:num_pairs])


def layer(weights: Any, name: str = "kernel") -> dict[str, Any]:
    return {"A": {name: jnp.asarray(weights, jnp.float32)}}


def select(det: TrainedStub, method: Any, num_pairs: int, **options: Any) -> list[tuple[int, ...]]:
    """Return the pairs of the only layer."""
    subset = nb.select_bayesian_components(det, ["A"], method, num_pairs, **options)
    ((_, rule),) = subset.terms
    ((_, _, pairs),) = rule.items
    return list(pairs)
