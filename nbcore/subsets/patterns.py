"""Patterns of names: which layers, components and leaves they match, and which layers of stacks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nbcore.errors import UnknownLayerError, did_you_mean
from nbcore.networks.layers import Layer, Leaf, Stack
from nbcore.networks.stacks import LayerSlice

_NUMBER = re.compile(r"\[(\d+|\*)\]")


def matches(pattern: str, layer: Layer, leaf: Leaf | None = None) -> bool:
    """Return whether a pattern matches a layer, or a leaf of it, with all layers of its stacks.

    Examples:
        >>> kernel = Leaf("encoder/Dense0/w", "kernel", (3, 2), (0, 1), ("in", "out"))
        >>> layer = Layer("encoder/Dense0", "dense", (kernel,))
        >>> matches("encoder/*", layer), matches("*", layer)  # an ancestor matches
        (True, True)
        >>> matches("*0", layer), matches("**0", layer)  # * does not cross /
        (False, True)
        >>> [matches(f"**/{name}", layer, kernel) for name in ("kernel", "w", "bias")]
        [True, True, False]
    """
    found = matched(pattern, layer, leaf)
    return found is not None and found.is_whole


def matched(pattern: str, layer: Layer, leaf: Leaf | None = None) -> LayerSlice | None:
    """Return what a pattern matches of a layer: all of it, or some of those stacked in it.

    It matches the name of the layer, of an ancestor, of the component that a leaf is in, or of
    the leaf itself, which ends in its role or in its own name. Numbers in brackets choose layers
    of stacks.

    Examples:
        >>> stacks = (Stack("blocks", 3),)
        >>> kernel = Leaf("w", "kernel", (3, 4, 4), (0, 1, 2), ("layer", "in", "out"), "", stacks)
        >>> layer = Layer("blocks/dense", "dense", (kernel,))
        >>> [matched(p, layer).numbers for p in ("blocks", "blocks[*]/dense", "blocks[1]/*")]
        [(None,), (None,), (1,)]
        >>> matched("blocks[3]/dense", layer) is None
        True
    """
    name = f"{layer.name}/{leaf.component}" if leaf and leaf.component else layer.name
    if pattern in (layer.name, name):
        return LayerSlice(layer, (None,) * len(layer.stacks))
    regex = _regex(pattern)
    of_leaf = () if leaf is None else (f"{name}/{leaf.name}", f"{name}/{leaf.role}")
    if re.fullmatch(f"{regex}(/.*)?", name) or any(re.fullmatch(regex, n) for n in of_leaf):
        return numbered(pattern, layer)
    return None


def numbered(pattern: str, layer: Layer) -> LayerSlice | None:
    """Return the layers of the stacks that the numbers in a pattern choose.

    A number follows the name of the module that is stacked. If there are as many numbers as
    stacks, they may stand elsewhere and are taken in turn.

    Returns:
        `None` if a number is of no stack, or beyond its size.
    """
    found: list[int | None] = [None] * len(layer.stacks)
    given = list(_NUMBER.finditer(pattern))
    places = [_place(pattern[: match.start()], layer.stacks) for match in given]
    if None in places or len(set(places)) < len(places):
        if len(given) != len(layer.stacks):
            return None
        places = list(range(len(given)))
    for match, place in zip(given, places, strict=True):
        if place is not None and match[1] != "*":
            found[place] = int(match[1])
            if int(match[1]) >= layer.stacks[place].size:
                return None
    return LayerSlice(layer, tuple(found))


def _place(before: str, stacks: Sequence[Stack]) -> int | None:
    """Return which stack a number is of, by the pattern that comes before it."""
    fitting = [n for n, s in enumerate(stacks) if re.fullmatch(_regex(before), s.module)]
    taken = 1 if before.endswith("]") else 0  # blocks[0][1]: two stacks of one module
    return fitting[min(taken, len(fitting) - 1)] if fitting else None


def without_numbers(pattern: str) -> str:
    """Return a pattern without the numbers of layers in stacks."""
    return _NUMBER.sub("", pattern)


def _regex(pattern: str) -> str:
    parts = without_numbers(pattern).split("**")
    return ".*".join(re.escape(part).replace(r"\*", "[^/]*") for part in parts)


def unknown_layer(pattern: str, layers: Sequence[Layer]) -> UnknownLayerError:
    """Return the error for a name or pattern that matches no layer, with the nearest names."""
    plain = without_numbers(pattern)
    near = [ly for ly in layers if any(matches(plain, ly, leaf) for leaf in ly.leaves)]
    if plain != pattern and near:
        stacks = dict.fromkeys(stack for layer in near for stack in layer.stacks)
        known = ", ".join(f"{s.module}[0] to {s.module}[{s.size - 1}]" for s in stacks)
        return UnknownLayerError(
            f"No layer matches {pattern!r}; {plain!r} "
            + (f"is in the stacks {known}." if stacks else "is no stack of layers.")
        )
    names = [layer.name for layer in layers if layer.size]
    parts = [f"{layer.name}/{part}" for layer in layers for part in layer.components]
    return UnknownLayerError(
        f"No layer matches {pattern!r}.{did_you_mean(pattern, names + parts)} "
        f"Possible: {', '.join(names)}."
    )
