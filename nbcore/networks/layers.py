"""Layers of a network: their leaves, roles, axes and call order.

A *leaf* is one array of the parameter pytree; its *path* is the key path joined by `/`.
A *layer* is a named group of leaves. A *pair* indexes the axes of a kernel that are not window
axes, in canonical order (in ..., out ...); the bias entry that belongs to it is the out axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Role = Literal["kernel", "bias", "embedding", "scale", "state"]
LayerKind = Literal["dense", "convolution", "attention", "recurrent", "embedding", "norm", "other"]

HIDDEN_KINDS = ("dense", "convolution", "attention", "recurrent")
WEIGHT_ROLES = ("kernel", "embedding")


@dataclass(frozen=True)
class Leaf:
    """One array of the parameter pytree and how pairs index it.

    Args:
        path: key path in the parameters, joined by `/` (list items as numbers).
        role: kernel, bias, embedding, scale (of a normalization layer) or state (not a weight).
        shape: storage shape.
        pair_axes: storage axes in canonical order (in ..., out ...); the others are window axes
            and belong to a pair as a whole.
        axes: names of the pair axes, in the same order.
        component: part of the layer, such as `"query"`; empty if a layer has one part.
    """

    path: str
    role: Role
    shape: tuple[int, ...]
    pair_axes: tuple[int, ...]
    axes: tuple[str, ...]
    component: str = ""

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def pair_shape(self) -> tuple[int, ...]:
        """Extent of each pair axis, in canonical order."""
        return tuple(self.shape[a] for a in self.pair_axes)

    @property
    def num_pairs(self) -> int:
        """Number of pairs."""
        return int(np.prod(self.pair_shape, dtype=np.int64))

    @property
    def window_axes(self) -> tuple[int, ...]:
        """Storage axes that belong to a pair as a whole."""
        return tuple(a for a in range(len(self.shape)) if a not in self.pair_axes)

    def by_pair(self, values: np.ndarray) -> np.ndarray:
        """Return values of the storage shape as `(*pair_shape, window)`."""
        axes = (*self.pair_axes, *self.window_axes)
        return values.transpose(axes).reshape(*self.pair_shape, -1)

    def from_pairs(self, values: np.ndarray) -> np.ndarray:
        """Return values `(*pair_shape, window)` in the storage shape: the inverse of `by_pair`."""
        axes = (*self.pair_axes, *self.window_axes)
        return values.reshape([self.shape[a] for a in axes]).transpose(np.argsort(axes))

    def entries(self, pairs: np.ndarray) -> np.ndarray:
        """Return the flat storage indices `(p, window)` that pairs `(p, len(pair_axes))` cover."""
        return self.by_pair(np.arange(self.size).reshape(self.shape))[tuple(pairs.T)]


@dataclass(frozen=True)
class Layer:
    """A named group of leaves.

    Args:
        name: module path joined by `/`.
        kind: the operation, such as `"dense"`.
        leaves: its arrays.
        order: position in the call order, `None` if it is not known.
        is_output: whether no weight layer comes after it, `None` if it is not known.
    """

    name: str
    kind: LayerKind
    leaves: tuple[Leaf, ...]
    order: int | None = None
    is_output: bool | None = None

    @property
    def is_hidden(self) -> bool:
        """Dense, convolution, attention or recurrent, and not an output layer."""
        return self.kind in HIDDEN_KINDS and not self.is_output

    @property
    def weights(self) -> tuple[Leaf, ...]:
        """The leaves that pairs index: kernels and embeddings."""
        return tuple(leaf for leaf in self.leaves if leaf.role in WEIGHT_ROLES)

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the parts that hold weights; empty if the layer has one unnamed part."""
        return tuple(leaf.component for leaf in self.weights if leaf.component)

    @property
    def size(self) -> int:
        """Number of entries that a subset can make stochastic."""
        return sum(leaf.size for leaf in self.leaves if leaf.role != "state")

    def bias_of(self, weight: Leaf) -> Leaf | None:
        """Return the bias that belongs to a weight leaf, if there is one."""
        for leaf in self.leaves:
            if leaf.role == "bias" and leaf.component == weight.component:
                return leaf
        return None


ATTENTION_PARTS = ("query", "key", "value", "out")
