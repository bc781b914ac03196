"""Axes of linen parameters `nn.scan` and `nn.vmap` take apart: flax tells boxes of them."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn
from flax import struct

from nbcore.extend import StackAxes, known_axes


class LiftedAxes:
    """Notes the axes that lifted transformations take off parameters while a module is traced.

    Flax keeps the metadata of partitioned parameters up to date: a transformation that maps a
    module over an axis calls `remove_axis` on the box of each parameter before the module sees it.

    Attributes:
        found: stack axes of leaves, by path, outermost first.
    """

    def __init__(self) -> None:
        self.found: dict[str, list[int]] = {}

    def boxed(self, params: Any) -> Any:
        """Return parameters in boxes that tell what is done with them."""

        def box(path: Any, leaf: Any) -> _Box:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return _Box(leaf, self, name, tuple(range(leaf.ndim)))

        return jax.tree_util.tree_map_with_path(box, params)

    def joined(self, traced: StackAxes) -> StackAxes:
        """Return the stack axes that were found, and those that a trace found beside them."""
        known = {
            path: [*axes, *(a.axis for a in traced.get(path, ()) if a.axis not in axes)]
            for path, axes in self.found.items()
        }
        return known_axes(traced, known)

    def note(self, path: str, axis: int) -> None:
        """Note an axis, once."""
        axes = self.found.setdefault(path, [])
        if axis not in axes:
            axes.append(axis)


class _Box(struct.PyTreeNode, nn.meta.AxisMetadata[Any]):
    """A parameter, and which of its axes are still there; `None` for those that were added."""

    value: Any
    lifted: LiftedAxes = struct.field(pytree_node=False)
    path: str = struct.field(pytree_node=False)
    axes: tuple[int | None, ...] = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> _Box:
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> _Box:
        del params
        axes = list(self.axes)
        axes.insert(index % (len(axes) + 1), None)
        return self.replace(axes=tuple(axes))

    def remove_axis(self, index: int, params: dict[Any, Any]) -> _Box:
        del params
        axes = list(self.axes)
        axis = axes.pop(index)
        if axis is not None:
            self.lifted.note(self.path, axis)
        return self.replace(axes=tuple(axes))
