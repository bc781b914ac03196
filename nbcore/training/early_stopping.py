"""Early stopping on validation data, for one network or for the members of an ensemble."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.distributions.likelihoods import Likelihood
from nbcore.networks.evaluation import HashableNetwork
from nbcore.networks.network import Network
from nbcore.subsets.split import ParameterSplit
from nbcore.training.minibatches import Batches, BatchPlan, Data, Minibatch, batch_loss


class EarlyStopping:
    """Keeps the weights with the lowest validation loss, for each member of an ensemble.

    Attributes:
        active: whether training continues, `()`; for an ensemble `(members,)`.
        losses: validation loss of each epoch, like `active`; NaN for members that have stopped.
    """

    def __init__(
        self,
        network: Network,
        likelihood: Likelihood,
        split: ParameterSplit,
        validation: Data | None,
        patience: int,
        num_members: int | None = None,
    ) -> None:
        self.network, self.likelihood, self.split = network, likelihood, split
        self.batches = (
            None
            if validation is None
            else Batches(
                network, validation, BatchPlan.of(validation.X, network.padding, 256).filled()
            )
        )
        self.patience, self.num_members = patience, num_members
        self.losses: list[np.ndarray] = []
        shape = () if num_members is None else (num_members,)
        self.active = np.ones(shape, bool)
        self._lowest = np.full(shape, np.inf)
        self._since = np.zeros(shape, int)
        self._weights: Any = None

    def should_stop(self, weights: Any) -> bool:
        """Record the validation loss; return whether it has not improved for `patience` epochs."""
        if self.batches is None:
            return False
        loss = self._loss(weights)
        is_better = loss < self._lowest
        self._weights = weights if self._weights is None else self._pick(is_better, weights)
        self._lowest = np.minimum(loss, self._lowest)
        self._since = np.where(is_better, 0, self._since + 1)
        self.losses.append(np.where(self.active, loss, np.nan))
        self.active = self.active & (self._since < self.patience)
        return not self.active.any()

    def best(self, final: Any) -> Any:
        """Return the final weights, or those with a lower validation loss."""
        if self.batches is None:
            return final
        return self._pick(self._loss(final) <= self._lowest, final)

    def _pick(self, is_better: np.ndarray, weights: Any) -> Any:
        return _picked(self.num_members is not None, is_better, weights, self._weights)

    def _loss(self, weights: Any) -> np.ndarray:
        total, count = np.zeros(self.active.shape), 0
        for batch in () if self.batches is None else self.batches.in_turn():
            rows = int(batch[0].mask.sum())
            loss = _validation_loss(
                HashableNetwork(self.network), self.num_members is not None,
                self.likelihood, self.split, weights, batch,
            )  # fmt: skip
            total, count = total + np.asarray(loss, np.float64) * rows, count + rows
        return total / count


@functools.partial(jax.jit, static_argnums=0)
def _picked(has_members: bool, is_better: np.ndarray, new: Any, old: Any) -> Any:
    def one(flag: Any, new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(flag, a, b), new, old)

    return (jax.vmap(one) if has_members else one)(is_better, new, old)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _validation_loss(
    static: HashableNetwork,
    has_members: bool,
    likelihood: Likelihood,
    split: ParameterSplit,
    weights: Any,
    batch: Minibatch,
) -> jax.Array:
    def one(split: ParameterSplit, weights: Any) -> jax.Array:
        return batch_loss(static.network, likelihood, split.merge(weights), batch, None)

    return (jax.vmap(one) if has_members else one)(split, weights)
