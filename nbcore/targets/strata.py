"""Stratified minibatches: fixed numbers of examples from each block, without replacement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.targets.permutation import permuted


class Batch(NamedTuple):
    """The examples of a minibatch.

    Args:
        indices: places within each block, `(B_g,)` int32.
    """

    indices: tuple[jax.Array, ...]


def stratum_sizes(counts: Sequence[int], size: int) -> tuple[int, ...]:
    """Return how many examples a minibatch takes from each block, in proportion to its size.

    Every block gives at least one, so a minibatch of fewer examples than blocks is larger than
    `size`.

    Args:
        counts: number of examples of each block.
        size: number of examples of a minibatch.

    Examples:
        >>> stratum_sizes([60, 30, 10], 10), stratum_sizes([60, 30, 10], 2)
        ((6, 3, 1), (1, 1, 1))
    """
    available = np.asarray(counts)
    exact = size * available / available.sum()
    sizes = np.minimum(np.maximum(np.floor(exact).astype(int), 1), available)
    while sizes.sum() < min(size, available.sum()):
        room = np.where(sizes < available, exact - sizes, -np.inf)
        sizes[int(np.argmax(room))] += 1
    return tuple(int(n) for n in sizes)


def stratified_batch(
    key: jax.Array, t: jax.Array | int, counts: Sequence[int], sizes: Sequence[int]
) -> Batch:
    """Return minibatch `t`: each epoch of a block runs through a keyed permutation of it.

    The N_g mod B_g examples that do not fill a minibatch are left out of that epoch; they differ
    from epoch to epoch.

    Args:
        key: random key, the same for every `t`.
        t: step number.
        counts: number of examples N_g of each block.
        sizes: number of examples B_g that a minibatch takes from each block, static.

    Examples:
        >>> import jax
        >>> batches = [stratified_batch(jax.random.key(0), t, [4], [2]) for t in range(2)]
        >>> sorted(i for batch in batches for i in batch.indices[0].tolist())
        [0, 1, 2, 3]
    """
    indices: list[jax.Array] = []
    for g, (count, size) in enumerate(zip(counts, sizes, strict=True)):
        per_epoch = count // size
        epoch_key = jax.random.fold_in(jax.random.fold_in(key, g), t // per_epoch)
        places = (t % per_epoch) * size + jnp.arange(size)
        indices.append(permuted(epoch_key, places, count))
    return Batch(tuple(indices))
