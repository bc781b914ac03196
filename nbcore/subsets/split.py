"""Splits of a parameter pytree into a stochastic and a frozen part, and their exact merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.paths import leaf_paths, leaves_by_path
from nbcore.common.pytrees import register_pytree
from nbcore.errors import ShapeError, SubsetError
from nbcore.networks.layers import Layer, Leaf
from nbcore.networks.network import Network, Params
from nbcore.networks.plain import plain_params
from nbcore.networks.stacks import indexed_name
from nbcore.subsets.subset import ProbabilisticSubset

Weights = dict[str, jax.Array]
"""The stochastic weights: leaf path to the whole leaf, or to the vector of selected entries."""


@register_pytree
@dataclass(frozen=True)
class ParameterSplit:
    """The stochastic and the frozen part of a parameter pytree; `merge` is the exact inverse.

    A pytree: parameters and indices are leaves, so a split is an argument of jitted functions.
    Made by `ProbabilisticSubset.split`.

    Args:
        params: the parameters that were split; their frozen entries are used as they are.
        indices: for each partly stochastic leaf, the flat storage indices of its stochastic
            entries `(k,)`, int32, ascending.
        whole: paths of the leaves that are stochastic as a whole.
        layers: the layers of the network.
        subset: the subset that was resolved.

    Examples:
        >>> import jax.numpy as jnp, nbcore as nb
        >>> network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))
        >>> params = {"out": {"kernel": jnp.arange(6.0).reshape(3, 2)}}
        >>> split = nb.ProbabilisticSubset.pairs({"out": [(0, 1), (2, 0)]}).split(network, params)
        >>> split.stochastic["out/kernel"].tolist(), split.size, split.total_size
        ([1.0, 4.0], 2, 6)
        >>> bool((split.merge(split.stochastic)["out"]["kernel"] == params["out"]["kernel"]).all())
        True
    """

    params: Params
    indices: dict[str, jax.Array]
    whole: tuple[str, ...] = field(metadata={"static": True})
    layers: tuple[Layer, ...] = field(metadata={"static": True})
    subset: ProbabilisticSubset = field(metadata={"static": True})

    @staticmethod
    def build(subset: ProbabilisticSubset, network: Network, params: Params) -> ParameterSplit:
        """Resolve a subset against a network and its parameters.

        Raises:
            SubsetError: nothing is left to be stochastic.
            NetworkError: the parameters cannot be stored, or are no floating-point numbers.
            UnknownLayerError, PairError, NetworkError: see `ProbabilisticSubset.masks`.
        """
        params = plain_params(network, params)
        layers = network.layers(params)
        masks = {path: mask for path, mask in subset.masks(layers).items() if mask.any()}
        if not masks:
            raise SubsetError(
                f"The subset is empty on this network: {subset.to_json()}. Name at least one of "
                f"{', '.join(layer.name for layer in layers if layer.size)}, or type "
                "ProbabilisticSubset.everything()"
            )
        whole = tuple(sorted(path for path, mask in masks.items() if mask.all()))
        indices = {
            path: jnp.asarray(np.flatnonzero(masks[path]), jnp.int32)
            for path in sorted(masks)
            if path not in whole
        }
        return ParameterSplit(params, indices, whole, layers, subset)

    @staticmethod
    def restore(
        subset: ProbabilisticSubset,
        network: Network,
        params: Params,
        whole: tuple[str, ...],
        indices: Mapping[str, np.ndarray],
    ) -> ParameterSplit:
        """Return a split whose stochastic entries are known; the call order need not be.

        Args:
            subset: the subset that was resolved.
            network: the network.
            params: its parameters.
            whole: paths of the leaves that are stochastic as a whole.
            indices: flat storage indices of the stochastic entries of other leaves.

        Raises:
            ShapeError: the network has no such entries.
        """
        params = plain_params(network, params)
        layers = network.layers(params)
        sizes = {leaf.path: leaf.size for layer in layers for leaf in layer.leaves}
        odd = [path for path in (*whole, *indices) if path not in sizes]
        odd += [
            path
            for path, chosen in indices.items()
            if path in sizes
            and not (len(chosen) and chosen.min() >= 0 and chosen.max() < sizes[path])
        ]
        if odd:
            raise ShapeError(f"no such entries are in {', '.join(odd)}")
        stored = {path: jnp.asarray(indices[path], jnp.int32) for path in sorted(indices)}
        return ParameterSplit(params, stored, whole, layers, subset)

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the leaves with stochastic entries, sorted."""
        return tuple(sorted([*self.whole, *self.indices]))

    @property
    def stochastic(self) -> Weights:
        """The stochastic weights at the values that were split."""
        return self.select(self.params)

    def select(self, params: Params) -> Weights:
        """Return the stochastic entries of any pytree with the structure of the parameters."""
        leaves = leaves_by_path(params)
        return {
            path: leaves[path]
            if path in self.whole
            else jnp.reshape(leaves[path], -1)[self.indices[path]]
            for path in self.paths
        }

    @property
    def position(self) -> Weights:
        """The stochastic weights in JAX's default float type, in which samplers move."""
        default = jnp.result_type(float)
        return {path: jnp.asarray(w, default) for path, w in self.stochastic.items()}

    @property
    def frozen(self) -> dict[str, jax.Array]:
        """The leaves that hold frozen entries, by path; partly stochastic ones in full."""
        leaves = leaves_by_path(self.params).items()
        return {path: leaf for path, leaf in leaves if path not in self.whole}

    def merge(self, stochastic: Weights) -> Params:
        """Put stochastic weights back among the frozen ones.

        Args:
            stochastic: arrays with the structure and shapes of `self.stochastic`.

        Returns:
            A pytree with the structure, shapes and dtypes of the parameters; frozen entries are
            bit for bit those that were split.

        Raises:
            ShapeError: keys or shapes differ from those of `self.stochastic`.
        """
        self._check(stochastic)
        leaves, treedef = jax.tree.flatten(self.params)
        merged = [
            self._merge_leaf(path, leaf, stochastic)
            for path, leaf in zip(leaf_paths(self.params), leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, merged)

    def _merge_leaf(self, path: str, leaf: jax.Array, stochastic: Weights) -> jax.Array:
        if path in self.whole:
            return jnp.asarray(stochastic[path], leaf.dtype)
        if path not in self.indices:
            return leaf
        values = jnp.asarray(stochastic[path], leaf.dtype)
        flat = leaf.reshape(-1).at[self.indices[path]]
        return flat.set(values, unique_indices=True, indices_are_sorted=True).reshape(leaf.shape)

    def _check(self, stochastic: Weights) -> None:
        if sorted(stochastic) != list(self.paths):
            raise ShapeError(
                f"The stochastic weights have leaves {sorted(stochastic)}, expected "
                f"{list(self.paths)}. Start from split.stochastic."
            )
        for path, shape in self.shapes.items():
            if jnp.shape(stochastic[path]) != shape:
                raise ShapeError(
                    f"The stochastic weights of {path!r} have shape "
                    f"{jnp.shape(stochastic[path])}, expected {shape}."
                )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of the stochastic part of each leaf."""
        return {
            path: leaf.shape if path in self.whole else tuple(self.indices[path].shape)
            for path, (_, leaf) in self.owners.items()
        }

    @property
    def size(self) -> int:
        """Number of stochastic weights."""
        return sum(int(np.prod(shape, dtype=np.int64)) for shape in self.shapes.values())

    @property
    def total_size(self) -> int:
        """Number of weights of the network; state is not counted."""
        return sum(layer.size for layer in self.layers)

    @property
    def has_symmetry(self) -> bool:
        """Whether hidden units can trade places: all weights, of several layers, are sampled."""
        layers = {layer.name for layer, _ in self.owners.values()}
        return len(layers) > 1 and self.size == self.total_size

    @property
    def owners(self) -> dict[str, tuple[Layer, Leaf]]:
        """The layer and the leaf description of each leaf with stochastic entries, by path."""
        known = {leaf.path: (layer, leaf) for layer in self.layers for leaf in layer.leaves}
        return {path: known[path] for path in self.paths}

    def owner(self, path: str) -> tuple[Layer, Leaf]:
        """Return the layer and the leaf description of a path."""
        return next(
            (layer, leaf) for layer in self.layers for leaf in layer.leaves if leaf.path == path
        )

    def mask(self, leaf: Leaf) -> np.ndarray:
        """Return which entries of a leaf are stochastic, in its storage shape."""
        if leaf.path in self.whole:
            return np.ones(leaf.shape, bool)
        mask = np.zeros(leaf.size, bool)
        if leaf.path in self.indices:
            mask[np.asarray(self.indices[leaf.path])] = True
        return mask.reshape(leaf.shape)

    def labels(self) -> dict[str, list[str]]:
        """Return a name for each stochastic number, such as `Block0_Attention/query[5, 0, 1]`.

        Numbers in brackets are those of its pair, with its place in the window in between if there
        is one. Of layers that are stacked, the name has their number: `blocks[1]/dense[2, 1]`.
        """
        return {path: self._labels_of(*owner) for path, owner in self.owners.items()}

    def _labels_of(self, layer: Layer, leaf: Leaf) -> list[str]:
        parts = [layer.name, leaf.component, "" if leaf in layer.weights else leaf.role]
        name = "/".join(part for part in parts if part)
        stacked, pair = np.split(np.array(leaf.pair_axes, int), [len(leaf.stacks)])
        others = np.array([a for a in range(len(leaf.shape)) if a not in stacked], int)
        others[np.isin(others, pair)] = pair  # in canonical order, wherever they are stored
        return [
            f"{indexed_name(name, leaf.stacks, [int(row[a]) for a in stacked])}"
            f"[{', '.join(str(int(row[a])) for a in others)}]"
            for row in np.argwhere(self.mask(leaf))
        ]

    def summary(self) -> str:
        """Return a table of how many weights of each layer are stochastic."""
        shapes = self.shapes
        lines = [f"{'layer':<28} {'kind':<12} {'stochastic':>10} {'weights':>10}"]
        for layer in self.layers:
            chosen = sum(
                int(np.prod(shapes[leaf.path], dtype=np.int64))
                for leaf in layer.leaves
                if leaf.path in shapes
            )
            lines.append(f"{layer.name:<28} {layer.kind:<12} {chosen:>10,} {layer.size:>10,}")
        lines.append(f"{'total':<28} {'':<12} {self.size:>10,} {self.total_size:>10,}")
        return "\n".join(lines)
