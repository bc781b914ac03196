"""The data of a log density, in blocks of examples that share one program."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.density_cost import over_budget
from nbcore.forward import Features, Forward
from nbcore.network import Network
from nbcore.padding import Group, length_groups
from nbcore.split import ParameterSplit


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Block:
    """Examples that share one program.

    Args:
        forward: outputs as a function of weights and features.
        features: what is known of each example, leading axis N_g.
        y: targets, leading axis N_g.
        rows: their row numbers in the data `(N_g,)`.
        padding: how many rows at the end weigh nothing: copies that fill up the devices.
    """

    forward: Forward
    features: Features
    y: jax.Array
    rows: jax.Array
    padding: int = field(default=0, metadata={"static": True})

    @property
    def count(self) -> int:
        """Number of examples."""
        return int(self.y.shape[0]) - self.padding

    @property
    def hoisted_bytes(self) -> int:
        """Size of the features."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.features))

    @property
    def wanted_bytes(self) -> int:
        """Size that the features would have without a byte budget."""
        program = self.forward.program
        return program.staged.wanted_bytes * (self.count if program.per_example else 1)


def make_blocks(
    network: Network,
    split: ParameterSplit,
    X: Any,
    targets: np.ndarray,
    *,
    per_example: bool,
    byte_budget: int,
    chunk_size: int | None,
) -> tuple[Block, ...]:
    """Hoist each group of examples, within one byte budget for all of them.

    Args:
        network: the network.
        split: which of its weights are stochastic.
        X: inputs.
        targets: targets, as the likelihood reads them.
        per_example: whether each output depends on its own example alone.
        byte_budget: bytes that the features of all examples may take.
        chunk_size: how many examples are computed at a time; `None` is a function of shapes.
    """
    blocks: list[Block] = []
    budget, left = byte_budget, len(targets)
    for group in _groups(network, split, X, len(targets), per_example=per_example):
        x = group.take(X, network.padding)
        forward = Forward.build(
            network,
            split,
            x,
            byte_budget=max(budget, 0) // left if per_example else budget,
            per_example=per_example,
            chunk_size=chunk_size,
        )
        features = forward.features(split, x)
        y, rows = jnp.asarray(targets[group.rows]), jnp.asarray(group.rows)
        blocks.append(Block(forward, features, y, rows))
        # Short examples leave what they do not need to longer ones.
        budget, left = budget - blocks[-1].hoisted_bytes, left - blocks[-1].count
    _say_what_is_recomputed(blocks)
    return tuple(join_blocks(split, blocks))


def _groups(
    network: Network, split: ParameterSplit, X: Any, count: int, *, per_example: bool
) -> list[Group]:
    """Return rows of similar length, the more groups the more a gradient computes."""
    if not per_example or network.padding is None:
        return [Group(np.arange(count), None)]
    (whole,) = length_groups(X, network.padding, max_groups=1)
    longest = Group(whole.rows[:1], whole.length).take(X, network.padding)
    program = Forward.build(network, split, longest, per_example=True).program
    return length_groups(X, network.padding, work=count * program.staged.example_work)


def _say_what_is_recomputed(blocks: list[Block]) -> None:
    recomputed = max(block.forward.program.staged.recomputed for block in blocks)
    if recomputed:
        kept, wanted = (
            sum(getattr(block, name) for block in blocks)
            for name in ("hoisted_bytes", "wanted_bytes")
        )
        warnings.warn(over_budget(wanted, kept, recomputed), stacklevel=4)


def join_blocks(split: ParameterSplit, blocks: list[Block]) -> list[Block]:
    """Join blocks whose programs do the same: where the length axis is gone, one block is left."""
    joined: list[Block] = []
    for block in blocks:
        last = joined[-1] if joined else None
        if last and last.forward.same_as(
            block.forward, split.position, last.features, block.features
        ):
            features = jax.tree.map(
                lambda a, b: jnp.concatenate([a, b]), last.features, block.features
            )
            y, rows = (
                jnp.concatenate([getattr(last, name), getattr(block, name)])
                for name in ("y", "rows")
            )
            joined[-1] = Block(last.forward, features, y, rows)
        else:
            joined.append(block)
    return joined


def shapes_of(X: Any) -> tuple[Any, tuple[tuple[tuple[int, ...], Any], ...]]:
    """Return the structure of inputs, and shape and dtype of each array; hashable."""
    leaves, structure = jax.tree.flatten(X)
    return structure, tuple((np.shape(a), jnp.result_type(a)) for a in leaves)
