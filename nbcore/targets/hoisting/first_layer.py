"""Layers with few stochastic rows and a known input: a known product and a small correction.

With K' = K + D, and D zero outside the rows R, x K' = x K + x[R] D[R]: the first term is computed
once, the second costs |R| rows instead of all. An embedding is the same with one-hot x: lookups are
known, except those of the tokens R. `merged` marks such leaves while a network is traced, and
`corrected` replaces the operation that reads a marked leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from nbcore.common.paths import leaf_paths, leaves_by_path
from nbcore.subsets.split import ParameterSplit, Weights
from nbcore.targets.hoisting import products

_MARK = "nbcore_partly_stochastic_along_"
LEAST_ROWS = 32
"""Products over fewer rows than this are as fast as reading a stored result."""


class StochasticRows(NamedTuple):
    """The rows of a leaf, along the axis of its inputs, that hold its stochastic entries.

    Args:
        rows: their indices, ascending `(R,)`.
        places: flat index of each stochastic entry in the leaf cut to these rows and one more,
            which stays zero `(p,)`.
        lookup: place of each row of the leaf in `rows`, or R for the others `(K,)`.
    """

    rows: jax.Array
    places: jax.Array
    lookup: jax.Array


class Marked(NamedTuple):
    """A leaf that is frozen except for a few rows.

    Args:
        axis: the axis of its inputs.
        atoms: variables of the frozen leaf, the difference in its rows, `rows`, and `lookup`.
    """

    axis: int
    atoms: tuple[Any, ...]


class Step(NamedTuple):
    """An equation of a replacement.

    Args:
        name: name of the primitive.
        run: evaluates it; returns a list of one array.
        reads: the values that it reads, by their place among those so far.
        work: bytes that it writes if not those of its result: a sum is fused into what it adds.
    """

    name: str
    run: Callable[..., list[Any]]
    reads: tuple[int, ...]
    work: int | None = None


def plus(a: Any, b: Any) -> list[Any]:
    """Return the sum, as an equation returns it."""
    return [a + b]


def stochastic_rows(split: ParameterSplit) -> dict[str, StochasticRows]:
    """Return the stochastic rows of leaves with many rows, of which at most half are stochastic."""
    found: dict[str, StochasticRows] = {}
    leaves = leaves_by_path(split.params)
    for path, indices in split.indices.items():
        leaf = split.owner(path)[1]
        if leaf.role not in ("kernel", "embedding") or not leaf.layer_axes or leaf.stacks:
            continue  # layers that are stacked have no product of their own
        axis, size = leaf.pair_axes[0], leaf.shape[leaf.pair_axes[0]]
        where = np.stack(np.unravel_index(np.asarray(indices), leaf.shape))
        rows, number = np.unique(where[axis], return_inverse=True)
        if size < LEAST_ROWS or 2 * len(rows) > size or leaves[path].dtype.itemsize < 4:
            continue  # in half precision a sum of two terms is rounded otherwise
        where[axis] = number
        cut = [len(rows) + 1 if a == axis else n for a, n in enumerate(leaf.shape)]
        lookup = np.full(size, len(rows), np.int32)
        lookup[rows] = np.arange(len(rows))
        places = np.ravel_multi_index(tuple(where), cut)
        found[path] = StochasticRows(*(jnp.asarray(a, jnp.int32) for a in (rows, places, lookup)))
    return found


def merged(split: ParameterSplit, rows: dict[str, StochasticRows], weights: Weights) -> Any:
    """Return `split.merge(weights)`, with the leaves of `rows` marked; for tracing."""
    whole = split.merge(weights)
    leaves, structure = jax.tree.flatten(whole)
    frozen = jax.tree.leaves(split.params)
    for i, path in enumerate(leaf_paths(whole)):
        if path in rows:
            leaves[i] = _mark(split, path, rows[path], leaves[i], frozen[i], weights[path])
    return jax.tree.unflatten(structure, leaves)


def _mark(
    split: ParameterSplit,
    path: str,
    rows: StochasticRows,
    leaf: Any,
    frozen: Any,
    values: jax.Array,
) -> jax.Array:
    axis = split.owner(path)[1].pair_axes[0]
    cut = [len(rows.rows) + 1 if a == axis else n for a, n in enumerate(leaf.shape)]
    moves = jnp.asarray(values, leaf.dtype) - frozen.reshape(-1)[split.indices[path]]
    delta = jnp.zeros(int(np.prod(cut)), leaf.dtype).at[rows.places].set(moves, unique_indices=True)

    def mark(leaf: Any, frozen: Any, delta: Any, rows: Any, lookup: Any) -> Any:
        del frozen, delta, rows, lookup
        return leaf

    mark.__name__ = f"{_MARK}{axis}"
    return jax.jit(mark)(leaf, frozen, delta.reshape(cut), rows.rows, rows.lookup)


def mark_of(eqn: jex.JaxprEqn, inputs: Sequence[Any]) -> Marked | None:
    """Return the leaf that an equation marks, if it is a mark."""
    name = str(eqn.params.get("name", ""))
    if not name.startswith(_MARK):
        return None
    return Marked(int(name.removeprefix(_MARK)), tuple(inputs[1:]))


def corrected(eqn: jex.JaxprEqn, place: int, marked: Marked) -> list[Step] | None:
    """Return the replacement of an equation that reads a marked leaf; `None` if there is none.

    Args:
        eqn: the equation; it has two inputs, of which the other one is known.
        place: which of its inputs is the leaf.
        marked: the leaf.

    Returns:
        Steps over the values `(*inputs, *marked.atoms)` and their own results; the last adds the
        known result and the correction, and its sum is the result of the equation.
    """
    if eqn.primitive.name == "dot_general":
        return _product(eqn, place, marked.axis)
    if eqn.primitive.name == "gather" and (place, marked.axis) == (0, 0):
        return _lookup(eqn)
    return None


_FROZEN, _DELTA, _ROWS, _LOOKUP, _FIRST, _SECOND, _THIRD = range(2, 9)
_SUM = Step("add", plus, (_FIRST, _THIRD), work=0)


def _product(eqn: jex.JaxprEqn, place: int, axis: int) -> list[Step] | None:
    contracted, batch = eqn.params["dimension_numbers"]
    if tuple(contracted[place]) != (axis,) or any(batch):
        return None
    options = products.options_of(eqn)
    along = int(contracted[1 - place][0])

    def product(x: Any, leaf: Any) -> list[Any]:
        return [products.product(*((leaf, x) if place == 0 else (x, leaf)), **options)]

    def correction(few: Any, delta: Any) -> list[Any]:
        filled = jax.lax.slice_in_dim(delta, 0, delta.shape[axis] - 1, axis=axis)
        return product(few, filled)

    return [
        Step("dot_general", product, (1 - place, _FROZEN)),
        Step("gather", lambda x, rows: [jnp.take(x, rows, axis=along)], (1 - place, _ROWS)),
        Step("dot_general", correction, (_SECOND, _DELTA)),
        _SUM,
    ]


def _lookup(eqn: jex.JaxprEqn) -> list[Step] | None:
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    leaf: Any = eqn.invars[0].aval
    out: Any = eqn.outvars[0].aval
    last = tuple(range(out.ndim - leaf.ndim + 1, out.ndim))
    whole = (1, *leaf.shape[1:])
    if numbers.start_index_map != (0,) or numbers.offset_dims != last or sizes != whole:
        return None

    def known(leaf: Any, index: Any) -> list[Any]:
        return [eqn.primitive.bind(leaf, index, **eqn.params)]

    def number(lookup: Any, index: Any) -> list[Any]:
        return [jnp.take(lookup, index[..., 0], mode="clip")]

    return [
        Step("gather", known, (_FROZEN, 1)),
        Step("gather", number, (_LOOKUP, 1)),
        Step("gather", lambda number, delta: [delta[number]], (_SECOND, _DELTA)),
        _SUM,
    ]
