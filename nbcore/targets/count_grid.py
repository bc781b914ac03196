"""A grid of numbers of examples, so that refits with a few examples more share programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np

from nbcore.targets.blocks import Block

LEAST = 128
STEPS = 8
"""Numbers on the grid between two powers of 2: a gradient computes 6 % more examples on average."""
MOST_BYTES = 2**26
"""Size of the features that are copied at most."""


def count_on_grid(count: int, least: int = LEAST) -> int:
    """Return the next number of the grid: `least`, 144, 160, ..., 256, 288, ..., 512, 576, ...

    Examples:
        >>> [count_on_grid(n) for n in (1, 128, 129, 600, 640, 641)]
        [128, 128, 144, 640, 640, 704]
    """
    if count <= least:
        return least
    step = max(1, 2 ** ((count - 1).bit_length() - 1) // STEPS)
    return -(-count // step) * step


def filled_up(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Return blocks with copies of their examples, which weigh nothing, up to the grid.

    There are at least as many as keep each operation busy, at most 128: fewer take as long. In the
    order of the data, copies come after all examples. Examples that are computed together, since
    outputs mix them, stay as they are, and so do those of more than 64 MiB.
    """
    filled: list[Block] = []
    free = sum(block.count for block in blocks)
    for block in blocks:
        count, least = len(block.y), min(LEAST, block.forward.chunk_size or LEAST)
        more = count_on_grid(count, least) - count
        if not _can_be_filled(block):
            filled.append(block)
            continue
        places = np.resize(np.arange(count), count + more)
        features, y = jax.tree.map(
            lambda a, at=places: jax.device_put(np.asarray(a)[at]), (block.features, block.y)
        )
        indices = np.concatenate([block.indices, np.arange(free, free + more)])
        free += more
        filled.append(
            replace(
                block, features=features, y=y, indices=jax.device_put(indices.astype(np.int32)),
                weighed=jax.device_put(np.int32(count)),
            )
        )  # fmt: skip
    return tuple(filled)


def _can_be_filled(block: Block) -> bool:
    is_small = 0 < block.hoisted_bytes <= MOST_BYTES
    return block.forward.program.per_example and is_small and not block.padding
