"""Layers of a network: their leaves, roles, axes and call order.

A *leaf* is one array of the parameter pytree; its *path* is the key path joined by `/`.
A *layer* is a named group of leaves. A *pair* indexes the axes of a kernel that are not window
axes, in canonical order (in ..., out ...); the bias entry that belongs to it is the out axes.
A *stack* is a module that the network holds several times in the same arrays, along an axis of
their own, as `scan` and `vmap` over layers keep them: `blocks[1]/dense` is one layer of the stack
`blocks`. These axes come before the others in a pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from nbcore.errors import PairError

Role = Literal["kernel", "bias", "embedding", "scale", "state"]
StackOrder = Literal["forward", "reverse", "parallel"]
LayerKind = Literal["dense", "convolution", "attention", "recurrent", "embedding", "norm", "other"]

HIDDEN_KINDS = ("dense", "convolution", "attention", "recurrent")
WEIGHT_ROLES = ("kernel", "embedding")


@dataclass(frozen=True)
class Stack:
    """A module that is there several times in the same arrays, along one of their axes.

    Args:
        module: its path, as in the names of its layers, such as `"blocks"`.
        size: how many times it is there.
        order: how the network calls them: one after the other, from the last to the first, or all
            on the same data.
    """

    module: str
    size: int
    order: StackOrder = "parallel"

    @property
    def last(self) -> int | None:
        """Number of the one that is called last; `None` if all are called at once."""
        return {"forward": self.size - 1, "reverse": 0, "parallel": None}[self.order]


@dataclass(frozen=True)
class Leaf:
    """One array of the parameter pytree and how pairs index it.

    Args:
        path: key path in the parameters, joined by `/` (list items as numbers).
        role: kernel, bias, embedding, scale (of a normalization layer) or state (not a weight).
        shape: storage shape.
        pair_axes: storage axes in canonical order (stacks ..., in ..., out ...); the others are
            window axes and belong to a pair as a whole.
        axes: names of the pair axes, in the same order.
        component: part of the layer, such as `"query"`; empty if a layer has one part.
        stacks: the stacks whose axes the first of the pair axes are, outermost first.
    """

    path: str
    role: Role
    shape: tuple[int, ...]
    pair_axes: tuple[int, ...]
    axes: tuple[str, ...]
    component: str = ""
    stacks: tuple[Stack, ...] = ()

    @property
    def name(self) -> str:
        """Last part of the path, which the framework calls it by."""
        return self.path.rpartition("/")[2]

    @property
    def stack_shape(self) -> tuple[int, ...]:
        """Extent of the axis of each stack."""
        return tuple(stack.size for stack in self.stacks)

    @property
    def num_stacked(self) -> int:
        """Number of layers that the leaf holds; 1 without stacks."""
        return int(np.prod(self.stack_shape, dtype=np.int64))

    @property
    def layer_axes(self) -> tuple[str, ...]:
        """Names of the pair axes within one layer of the stacks."""
        return self.axes[len(self.stacks) :]

    @property
    def layer_shape(self) -> tuple[int, ...]:
        """Extent of the pair axes within one layer of the stacks."""
        return self.pair_shape[len(self.stacks) :]

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

    def fits(self, weight: Leaf) -> bool:
        """Whether its extents are those of the out axes of a weight, as they are of its bias."""
        start = len(weight.layer_shape) - len(self.layer_shape)
        return start >= 0 and weight.layer_shape[start:] == self.layer_shape

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

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The stacks that the layer is in, outermost first."""
        return max((leaf.stacks for leaf in self.leaves), key=len, default=())

    def bias_of(self, weight: Leaf) -> Leaf | None:
        """Return the bias that belongs to a weight leaf, if there is one."""
        for leaf in self.leaves:
            if leaf.role == "bias" and leaf.component == weight.component:
                return leaf
        return None

    def bias_entries(self, weight: Leaf, pairs: np.ndarray) -> np.ndarray:
        """Return the flat entries of the bias that belong to pairs of a weight leaf.

        They are those of the out axes, in the same layer of each stack; a bias that is outside of
        a stack belongs to all of its layers, one inside belongs to a weight outside as a whole.

        Args:
            weight: the weight leaf.
            pairs: pairs of it `(p, len(pair_axes))`.

        Returns:
            Entries `(p, entries)`; no entries if there is no bias.

        Raises:
            PairError: the extents of the bias are not those of the out axes of the weight.
        """
        bias = self.bias_of(weight)
        if bias is None:
            return np.zeros((len(pairs), 0), np.int64)
        if not bias.fits(weight):
            raise PairError(
                f"The bias {bias.path!r} has the shape {bias.shape}, and the pairs of "
                f"{weight.path!r} are ({', '.join(weight.axes)}) of extent {weight.pair_shape}, so "
                "no entry of the bias is known to belong to a pair. Leave biases out, "
                "include_bias=False; or, if the weights of several layers are stacked there, let "
                "the network be traced: nb.as_network(model, example=X[:1])"
            )
        own = pairs[:, pairs.shape[1] - len(bias.layer_axes) :]
        entries: list[np.ndarray] = []
        for of_bias in np.ndindex(*bias.stack_shape):
            index = np.tile(of_bias, (len(pairs), 1)).astype(np.int64)
            for axis, stack in enumerate(bias.stacks):
                if stack in weight.stacks:
                    index[:, axis] = pairs[:, weight.stacks.index(stack)]
            entries.append(bias.entries(np.concatenate([index, own], axis=1)))
        return np.sort(np.unique(np.stack(entries, 1), axis=1).reshape(len(pairs), -1), axis=1)


ATTENTION_PARTS = ("query", "key", "value", "out")
