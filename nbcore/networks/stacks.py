"""Stacks of layers: how they are named, and their layers one by one, in the order of their calls.

Layers that are stacked are described as one of them is, with the axes of the stacks in front.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.paths import leaf_paths
from nbcore.networks.axis_rules import StackAxis
from nbcore.networks.layers import HIDDEN_KINDS, Layer, Leaf, Stack

StackAxes = Mapping[str, Sequence[StackAxis]]
"""The stack axes of leaves, by path, outermost first."""


def stacked_layers(
    params: Any, describe: Callable[[Any], tuple[Layer, ...]], axes: StackAxes
) -> tuple[Layer, ...]:
    """Return the layers of parameters of which some are stacked.

    Args:
        params: pytree of arrays.
        describe: from a pytree with the shapes of one of the stacked layers to its layers.
        axes: the stack axes of leaves.

    Examples:
        >>> from nbcore.networks.inference import infer_layers
        >>> params = {"blocks": {"dense": {"kernel": np.ones((3, 4, 2)), "bias": np.ones((3, 2))}}}
        >>> axes = {f"blocks/dense/{name}": [StackAxis(0)] for name in ("kernel", "bias")}
        >>> (layer,) = stacked_layers(params, infer_layers, axes)
        >>> layer.kind, layer.weights[0].axes, layer.stacks
        ('dense', ('layer', 'in', 'out'), (Stack(module='blocks', size=3, order='parallel'),))
    """
    leaves, structure = jax.tree.flatten(params)
    paths = leaf_paths(params)
    shapes = {path: np.shape(leaf) for path, leaf in zip(paths, leaves, strict=True)}
    one = [
        jax.ShapeDtypeStruct(
            tuple(np.delete(shapes[path], [a.axis for a in axes.get(path, ())])),
            jnp.result_type(leaf),
        )
        for path, leaf in zip(paths, leaves, strict=True)
    ]
    layers = describe(jax.tree.unflatten(structure, one))
    if not axes:
        return layers
    stacked = [
        (layer.name, _keys(axes.get(leaf.path, ()), shapes[leaf.path]))
        for layer in layers
        for leaf in layer.leaves
        if leaf.role != "state"
    ]
    return tuple(
        replace(
            layer,
            leaves=tuple(
                _stacked(layer.name, leaf, shapes[leaf.path], axes.get(leaf.path, ()), stacked)
                for leaf in layer.leaves
            ),
        )
        for layer in layers
    )


_Key = tuple[int, int]
"""The loop that runs along a stack, and its size: what leaves of one stack share."""


def _keys(axes: Sequence[StackAxis], shape: tuple[int, ...]) -> list[_Key]:
    return [(a.group, shape[a.axis]) for a in axes]


def _stacked(
    name: str,
    leaf: Leaf,
    shape: tuple[int, ...],
    axes: Sequence[StackAxis],
    stacked: list[tuple[str, list[_Key]]],
) -> Leaf:
    """Return a leaf of which one layer is described, with its stacks."""
    kept = [a for a in range(len(shape)) if a not in {axis.axis for axis in axes}]
    names = ("layer",) if len(axes) == 1 else tuple(f"layer{i}" for i in range(len(axes)))
    modules = _modules(name, _keys(axes, shape), stacked)
    return replace(
        leaf,
        shape=shape,
        pair_axes=(*(a.axis for a in axes), *(kept[a] for a in leaf.pair_axes)),
        axes=(*names, *leaf.axes),
        stacks=tuple(
            Stack(module, shape[a.axis], a.order) for module, a in zip(modules, axes, strict=True)
        ),
    )


def _modules(name: str, keys: list[_Key], stacked: list[tuple[str, list[_Key]]]) -> list[str]:
    """Return the module that each stack of a layer is of: the highest that is in it as a whole.

    One stack within another is of a module further down, if the name has one.
    """
    parts = name.split("/")
    found: list[str] = []
    start = 1
    for depth, key in enumerate(keys):
        for end in range(start, len(parts) + 1):
            module = "/".join(parts[:end])
            inside = [k for other, k in stacked if f"{other}/".startswith(f"{module}/")]
            if all(len(k) > depth and k[depth] == key for k in inside):
                break
        else:
            module = name
        found.append(module)
        start = min(module.count("/") + 2, len(parts))
    return found


def indexed_name(name: str, stacks: Sequence[Stack], numbers: Sequence[int | None]) -> str:
    """Return a name with the numbers of the layers in their stacks.

    Examples:
        >>> indexed_name("blocks/dense", [Stack("blocks", 3)], [1])
        'blocks[1]/dense'
    """
    parts = name.split("/")
    for stack, number in zip(stacks, numbers, strict=True):
        if number is not None:
            parts[stack.module.count("/")] += f"[{number}]"
    return "/".join(parts)


@dataclass(frozen=True)
class LayerSlice:
    """A layer, or one of those that are stacked in it.

    Args:
        layer: the layer.
        numbers: which it is in each stack of the layer; `None` is all of them, which are called at
            once.
    """

    layer: Layer
    numbers: tuple[int | None, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it is the layer as a whole, with all that is stacked in it."""
        return all(number is None for number in self.numbers)

    @property
    def name(self) -> str:
        """Its name, such as `"blocks[1]/dense"`."""
        return indexed_name(self.layer.name, self.layer.stacks, self.numbers)

    @property
    def is_output(self) -> bool:
        """Whether no weight layer comes after it."""
        last = tuple(stack.last for stack in self.layer.stacks)
        return bool(self.layer.is_output) and self.numbers == last

    @property
    def is_hidden(self) -> bool:
        """Dense, convolution, attention or recurrent, and no output layer."""
        return self.layer.kind in HIDDEN_KINDS and not self.is_output

    def of(self, leaf: Leaf) -> tuple[int | None, ...]:
        """Return its numbers in the stacks of a leaf of the layer."""
        known = dict(zip(self.layer.stacks, self.numbers, strict=True))
        return tuple(known.get(stack) for stack in leaf.stacks)

    def mask(self, leaf: Leaf) -> np.ndarray:
        """Return which entries of a leaf of the layer belong to it, in the storage shape."""
        where: list[int | slice] = [slice(None)] * len(leaf.shape)
        for axis, number in zip(leaf.pair_axes, self.of(leaf), strict=False):
            where[axis] = slice(None) if number is None else number
        mask = np.zeros(leaf.shape, bool)
        mask[tuple(where)] = True
        return mask


def in_turn(layers: Sequence[Layer]) -> list[LayerSlice]:
    """Return layers in the order in which they are called, those of a stack one by one.

    Layers of a stack that are called at once stay together. The call order must be known.
    """
    slices = [LayerSlice(layer, numbers) for layer in layers for numbers in _numbers(layer)]
    first: dict[str, int] = {}
    for layer in layers:
        for stack in layer.stacks:
            first[stack.module] = min(first.get(stack.module, len(layers)), layer.order or 0)

    def turn(of: LayerSlice) -> list[tuple[int, int]]:
        steps = [
            (first[stack.module], number if stack.order == "forward" else -number)
            for stack, number in zip(of.layer.stacks, of.numbers, strict=True)
            if number is not None
        ]
        return [*steps, (of.layer.order or 0, 0)]

    return sorted(slices, key=turn)


def _numbers(layer: Layer) -> Iterator[tuple[int | None, ...]]:
    return itertools.product(
        *((None,) if stack.order == "parallel" else range(stack.size) for stack in layer.stacks)
    )


def known_axes(traced: StackAxes, known: Mapping[str, Sequence[int]]) -> StackAxes:
    """Return stack axes of which a framework knows some itself.

    Args:
        traced: the stack axes that the trace found.
        known: the stack axes of some leaves, by path, outermost first: all that these leaves have.
    """
    found = dict(traced)
    for path, axes in known.items():
        by_axis = {a.axis: a for a in traced.get(path, ())}
        found[path] = tuple(by_axis.get(axis, StackAxis(axis)) for axis in axes)
    return {path: axes for path, axes in found.items() if axes}


def axes_beyond(rank: int, ndim: int, traced: Sequence[StackAxis] = ()) -> tuple[int, ...]:
    """Return the stack axes of a leaf of which one layer has fewer axes.

    They are those that the trace found, and if these are not enough the first ones.

    Examples:
        >>> axes_beyond(2, 3), axes_beyond(2, 3, [StackAxis(1)]), axes_beyond(2, 2)
        ((0,), (1,), ())
    """
    found = [axis.axis for axis in traced]
    ranked = [*found, *(axis for axis in range(ndim) if axis not in found)]
    return tuple(sorted(ranked[: max(ndim - rank, 0)]))
