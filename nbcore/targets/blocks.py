"""Blocks: the data of a log density, in groups of examples that share one program."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.paths import leaf_paths
from nbcore.common.pytrees import register_pytree
from nbcore.distributions.likelihoods import Likelihood, log_prob_of_each
from nbcore.networks.length_buckets import MANY_GRADIENTS, Group, length_groups
from nbcore.networks.network import Network
from nbcore.subsets.split import ParameterSplit
from nbcore.targets.hoisting import chunks
from nbcore.targets.hoisting.forward import Features, Forward


@register_pytree
@dataclass(frozen=True)
class Block:
    """Examples that share one program.

    Args:
        forward: outputs as a function of weights and features.
        features: hoisted values of each example, leading axis N_g.
        y: targets, leading axis N_g.
        indices: places of the examples in the data `(N_g,)`.
        padding: number of copies at the end, which weigh nothing and fill up the devices.
        weighed: number of examples of which all that follow are copies that weigh nothing, an
            array, so that programs do not depend on it; `None`: those before the padding.
    """

    forward: Forward
    features: Features
    y: jax.Array
    indices: jax.Array
    padding: int = field(default=0, metadata={"static": True})
    weighed: jax.Array | None = None

    @property
    def count(self) -> int:
        """Number of examples."""
        return int(self.y.shape[0]) - self.padding

    @property
    def num_weighed(self) -> int | jax.Array:
        """Number of examples that weigh something: the first ones."""
        return self.count if self.weighed is None else self.weighed

    @property
    def hoisted_bytes(self) -> int:
        """Size of the features."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.features))

    @property
    def wanted_bytes(self) -> int:
        """Size that the features would have without a byte budget."""
        program = self.forward.program
        return program.staged.wanted_bytes * (self.count if program.per_example else 1)

    def at(self, places: jax.Array) -> Block:
        """Return some of the examples, by their place in the block."""
        parts = (self.features, self.y, self.indices)
        features, y, indices = jax.tree.map(lambda a: a[places], parts)
        return Block(self.forward, features, y, indices)

    def log_prob(self, likelihood: Likelihood, position: Any) -> jax.Array:
        """Return log p(y_i | position) of each example, copies included."""
        outputs = self.forward.outputs(position["weights"], self.features)
        return log_prob_of_each(likelihood, outputs, self.y, position["likelihood"])

    def moments(self, likelihood: Likelihood, position: Any) -> tuple[jax.Array, jax.Array]:
        """Return mean and variance of y, `(examples, targets)`, copies included."""
        outputs = self.forward.outputs(position["weights"], self.features)
        return likelihood.moments(outputs, position["likelihood"])

    def log_likelihood(self, likelihood: Likelihood, position: Any) -> jax.Array:
        """Return the sum of the log likelihoods, computed in chunks."""
        size = self.forward.chunk_size or len(self.y)
        if size < len(self.y):
            shared = (self.forward, likelihood, position)
            examples = (self.features, self.y)
            return chunks.sum_over(_log_prob_of_chunk, size, self.num_weighed, shared, examples)
        return self.total(self.log_prob(likelihood, position))

    def total(self, each: jax.Array) -> jax.Array:
        """Return the sum over examples; copies weigh nothing."""
        return jnp.sum(self.without_copies(each))

    def without_copies(self, each: jax.Array) -> jax.Array:
        """Return an array with a leading example axis, with zeros for copies."""
        if not self.padding and self.weighed is None:
            return each
        is_own = jnp.arange(len(each)) < self.num_weighed
        return jnp.where(is_own.reshape(-1, *[1] * (each.ndim - 1)), each, 0)


def _log_prob_of_chunk(
    shared: tuple[Forward, Likelihood, Any], examples: tuple[Features, jax.Array]
) -> jax.Array:
    (forward, likelihood, position), (features, y) = shared, examples
    outputs = forward.at_once(position["weights"], features)
    return log_prob_of_each(likelihood, outputs, y, position["likelihood"])


def make_blocks(
    network: Network,
    split: ParameterSplit,
    X: Any,
    targets: np.ndarray,
    *,
    per_example: bool,
    byte_budget: int,
    chunk_size: int | None,
    num_gradients: float = MANY_GRADIENTS,
) -> tuple[Block, ...]:
    """Hoist each group of examples, within one byte budget for all of them.

    Args:
        network: the network.
        split: which of its weights are stochastic.
        X: inputs.
        targets: targets, as the likelihood reads them.
        per_example: whether each output depends on its own example alone.
        byte_budget: bytes that the features of all examples may take.
        chunk_size: how many examples are computed at a time; `None` derives it from shapes.
        num_gradients: how many gradients there will be, about.
    """
    blocks: list[Block] = []
    budget, left = byte_budget, len(targets)
    for group in _groups(network, split, X, len(targets), per_example, num_gradients):
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
        taken = targets[group.indices], group.indices.astype(np.int32)
        y, indices = jax.device_put(taken)  # which compiles nothing, as jnp.asarray does
        blocks.append(Block(forward, features, y, indices))
        # Short examples leave the memory that they do not need to longer ones.
        budget, left = budget - blocks[-1].hoisted_bytes, left - blocks[-1].count
    _say_what_is_recomputed(blocks)
    return tuple(join_blocks(split, blocks))


def _groups(
    network: Network,
    split: ParameterSplit,
    X: Any,
    count: int,
    per_example: bool,
    num_gradients: float,
) -> list[Group]:
    """Return groups of examples of similar length; more of them if a gradient computes more."""
    if not per_example or network.padding is None:
        return [Group(np.arange(count), None)]
    (whole,) = length_groups(X, network.padding, max_groups=1)
    longest = Group(whole.indices[:1], whole.length).take(X, network.padding)
    program = Forward.build(network, split, longest, per_example=True).program
    work = count * program.staged.example_work
    return length_groups(X, network.padding, work=work, num_gradients=num_gradients)


def _say_what_is_recomputed(blocks: list[Block]) -> None:
    recomputed = max(block.forward.program.staged.recomputed for block in blocks)
    if recomputed:
        kept, wanted = (
            sum(getattr(block, name) for block in blocks)
            for name in ("hoisted_bytes", "wanted_bytes")
        )
        warnings.warn(over_budget(wanted, kept, recomputed), stacklevel=4)


def over_budget(wanted: int, kept: int, recomputed: int) -> str:
    """Return the message that the byte budget reduces what is computed once."""
    return (
        f"Hoisted activations would take {wanted / 2**20:,.1f} MiB, more than the byte budget: "
        f"{kept / 2**20:,.1f} MiB are kept, and {recomputed} operations that could be done once "
        f"are done in every gradient. To keep them: byte_budget={wanted}"
    )


def staged_layers(split: ParameterSplit, blocks: Sequence[Block]) -> tuple[str, ...]:
    """Return the layers that a gradient computes, in call order if it is known."""
    read = {i for block in blocks for i in block.forward.program.staged.frozen_read}
    paths = leaf_paths(split.params)
    used = {paths[i] for i in read if i < len(paths)} | set(split.paths)
    layers = sorted(split.layers, key=lambda layer: layer.order or 0)
    return tuple(ly.name for ly in layers if used.intersection(f.path for f in ly.leaves))


def join_blocks(split: ParameterSplit, blocks: list[Block]) -> list[Block]:
    """Join blocks whose programs do the same: without a length axis, one block is left."""
    joined: list[Block] = []
    for block in blocks:
        last = joined[-1] if joined else None
        if last and last.forward.same_as(
            block.forward, split.position, last.features, block.features
        ):
            features = jax.tree.map(
                lambda a, b: jnp.concatenate([a, b]), last.features, block.features
            )
            y, indices = (
                jnp.concatenate([getattr(last, name), getattr(block, name)])
                for name in ("y", "indices")
            )
            joined[-1] = Block(last.forward, features, y, indices)
        else:
            joined.append(block)
    return joined


def in_order(blocks: Sequence[Block], parts: Sequence[jax.Array]) -> jax.Array:
    """Return one array in the order of the data from an array for each block `(N_g, ...)`.

    Args:
        blocks: the blocks.
        parts: an array for each block, copies included.
    """
    indices, joined = (
        jnp.concatenate([a[: b.count] for a, b in zip(arrays, blocks, strict=True)])
        for arrays in ([block.indices for block in blocks], parts)
    )
    return jnp.zeros_like(joined).at[indices].set(joined, unique_indices=True)


def shapes_of(X: Any) -> tuple[Any, tuple[tuple[tuple[int, ...], Any], ...]]:
    """Return the structure of inputs, and shape and dtype of each array; hashable."""
    leaves, structure = jax.tree.flatten(X)
    return structure, tuple((np.shape(a), jnp.result_type(a)) for a in leaves)
