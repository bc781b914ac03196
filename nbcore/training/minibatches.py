"""Minibatches: shuffled examples, in parts of similar length, in few shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.distributions.likelihoods import Likelihood, log_prob_of_each
from nbcore.networks.evaluation import as_columns
from nbcore.networks.inputs import num_examples
from nbcore.networks.length_buckets import Group, length_groups, lengths
from nbcore.networks.network import Network, Padding, Params

LEAST_FILLED = 8
"""Minibatches of fewer examples are not filled up."""


class Data(NamedTuple):
    """Inputs and checked targets."""

    X: Any
    y: np.ndarray


class Part(NamedTuple):
    """Examples of a minibatch that have similar length.

    Args:
        x: inputs, trimmed to that length.
        y: targets.
        mask: 1 for examples of the minibatch, 0 for those that fill the part up.
    """

    x: Any
    y: Any
    mask: Any


Minibatch = tuple[Part, ...]


class BatchPlan(NamedTuple):
    """The shapes of a minibatch; networks trained with equal shapes share programs.

    Args:
        lengths: length to which the examples of each part are trimmed, ascending; `None` if
            inputs are not padded.
        sizes: examples of each part, at most.
        extra: examples that do not count, which fill up the parts beyond that.
    """

    lengths: tuple[int | None, ...]
    sizes: tuple[int, ...]
    extra: int = 0

    @staticmethod
    def of(X: Any, padding: Padding | None, batch_size: int) -> BatchPlan:
        """Return the plan with the least padding for inputs; `batch_size` is met on average."""
        groups = length_groups(X, padding)
        steps = -(-sum(len(group.indices) for group in groups) // batch_size)
        return BatchPlan(
            tuple(group.length for group in groups),
            tuple(-(-len(group.indices) // steps) for group in groups),
        )

    def filled(self) -> BatchPlan:
        """Return a plan whose minibatches are filled up, to 8, 16, 32, 48, ..., 128, 144, ...

        Similar numbers of examples then share programs. Parts of several lengths stay as they are:
        their shapes follow the lengths as well, and filling up each of them would cost more.
        """
        size = self.sizes[-1]
        if len(self.sizes) > 1 or size < LEAST_FILLED:
            return self
        step = 8 if size <= 16 else max(16, 2 ** (size.bit_length() - 4))
        return self._replace(extra=-size % step)

    def indices_of_parts(self, X: Any, padding: Padding | None) -> list[np.ndarray]:
        """Return the examples that belong to each part."""
        if padding is None or self.lengths[-1] is None:
            return [np.arange(num_examples(X))]
        bounds = np.array(self.lengths)
        part = np.searchsorted(bounds, lengths(np.asarray(X), padding))
        return [np.flatnonzero(part == g) for g in range(len(bounds))]


def batch_loss(
    network: Network,
    likelihood: Likelihood,
    params: Params,
    batch: Minibatch,
    key: jax.Array | None,
) -> jax.Array:
    """Return the mean negative log likelihood of the examples that count.

    Args:
        network: the network.
        likelihood: the likelihood.
        params: the parameters.
        batch: the minibatch.
        key: random key of dropout; `None` switches dropout off.
    """
    total = jnp.zeros(())
    for g, part in enumerate(batch):
        own = None if key is None else jax.random.fold_in(key, g)
        outputs = network.apply(params, part.x, train=key is not None, key=own)
        columns = as_columns(outputs, len(part.y))
        total = total - jnp.sum(log_prob_of_each(likelihood, columns, part.y, {}) * part.mask)
    return total / sum(jnp.sum(part.mask) for part in batch)


class Batches:
    """Shuffled minibatches; each holds its share of every length, in parts of similar length.

    Args:
        network: the network, which declares the padding of inputs.
        data: inputs and targets.
        plan: shapes of the minibatches.
        indices: the examples, repetitions included; `None` is every example once.
    """

    def __init__(
        self, network: Network, data: Data, plan: BatchPlan, indices: np.ndarray | None = None
    ) -> None:
        self.network, self.data, self.plan = network, data, plan
        self.indices = plan.indices_of_parts(data.X, network.padding)
        if indices is not None:
            times = np.bincount(indices, minlength=len(data.y))
            self.indices = [np.repeat(part, times[part]) for part in self.indices]
        self.per_epoch = max(
            -(-len(indices) // size) for indices, size in zip(self.indices, plan.sizes, strict=True)
        )

    def epoch(self, key: jax.Array) -> Iterator[Minibatch]:
        """Yield minibatches that hold every example once."""
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
        shares = [
            np.array_split(rng.permutation(indices), self.per_epoch) for indices in self.indices
        ]
        for n in range(self.per_epoch):
            # If examples do not divide evenly, the parts hold one example more in turn.
            yield tuple(
                self._part(g, share[(n + g) % self.per_epoch]) for g, share in enumerate(shares)
            )

    def in_turn(self) -> Iterator[Minibatch]:
        """Yield every example once, a part at a time, without shuffling."""
        for g, (indices, size) in enumerate(zip(self.indices, self.plan.sizes, strict=True)):
            for i in range(0, len(indices), size):
                yield (self._part(g, indices[i : i + size]),)

    def _part(self, g: int, indices: np.ndarray) -> Part:
        """Return examples, filled up to the size of the part with examples that do not count."""
        size = self.plan.sizes[g] + self.plan.extra
        padded = indices if len(indices) else np.zeros(1, int)
        full = Group(np.resize(padded, size), self.plan.lengths[g])
        mask = (np.arange(size) < len(indices)).astype(np.float32)
        return Part(full.take(self.data.X, self.network.padding), self.data.y[full.indices], mask)


class MemberBatches:
    """Stacked minibatches, with separate examples for each member of an ensemble.

    Args:
        network: the network.
        data: inputs and targets of all.
        plan: shapes of the minibatches.
        indices: examples of each member `(members, n)`.
    """

    def __init__(self, network: Network, data: Data, plan: BatchPlan, indices: np.ndarray) -> None:
        self.members = [Batches(network, data, plan, mine) for mine in indices]
        self.per_epoch = max(batches.per_epoch for batches in self.members)
        for batches in self.members:
            batches.per_epoch = self.per_epoch

    def epoch(self, key: jax.Array) -> Iterator[Minibatch]:
        """Yield minibatches with a leading member axis; each member has its own order."""
        keys = [jax.random.fold_in(key, m) for m in range(len(self.members))]
        epochs = [batches.epoch(k) for batches, k in zip(self.members, keys, strict=True)]
        for each in zip(*epochs, strict=True):
            yield jax.tree.map(lambda *a: np.stack(a), *each)
