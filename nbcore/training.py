"""Deterministic training: MAP with Adam, minibatches of similar length, averaging of weights.

loss = mean over the minibatch of -log p(y_i | f(x_i)) + (1 / N) sum_w w^2 / (2 sigma^2),
so that the full-batch loss is the negative log posterior divided by the number of examples N.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nbcore.errors import TrainingError
from nbcore.likelihoods import Likelihood, as_columns
from nbcore.moments import Moments
from nbcore.network import Network, Params, Static
from nbcore.padding import Group, length_groups
from nbcore.priors import NormalPrior, ResolvedPrior
from nbcore.progress import Progress, Report
from nbcore.recipe import Recipe
from nbcore.split import ParameterSplit
from nbcore.subset import ProbabilisticSubset


@dataclass(frozen=True)
class Fit:
    """What training gives.

    Args:
        params: the trained parameters.
        trajectory: moments of the snapshots; `None` where there were none.
        gradients: moments of the per-batch gradients of the likelihood, near the end.
        losses: mean training loss of each epoch.
        validation_losses: mean validation loss of each epoch; empty without validation data.
    """

    params: Params
    trajectory: Moments | None
    gradients: Moments
    losses: tuple[float, ...]
    validation_losses: tuple[float, ...]


class Data(NamedTuple):
    """Inputs and checked targets."""

    X: Any
    y: np.ndarray


def train(
    network: Network,
    likelihood: Likelihood,
    recipe: Recipe,
    params: Params,
    data: Data,
    *,
    epochs: int,
    batch_size: int,
    key: jax.Array,
    validation: Data | None = None,
    progress: Progress = lambda report: None,
) -> Fit:
    """Train a network from given parameters.

    Raises:
        TrainingError: the loss is not finite.
    """
    batches = _Batches(network, data, batch_size)
    split = ProbabilisticSubset.everything().split(network, params)
    prior = NormalPrior(scale=recipe.sigma, center="zero").resolve(split)
    prior_weight = 1.0 / len(data.y) if recipe.map else 0.0
    rates, marks = recipe.plan(epochs * batches.per_epoch, batches.per_epoch)
    optimizer = _optimizer(recipe.clip, recipe.weight_decay)
    weights = split.select(params)
    state = _State(weights, optimizer.init(weights), Moments.empty(weights), Moments.empty(weights))
    gradient_start = int(0.9 * len(rates))
    watch = _Watch(network, likelihood, split, validation, recipe.patience)
    losses: list[float] = []
    n = 0
    for epoch in range(epochs):
        total: list[jax.Array] = []
        epoch_key = jax.random.fold_in(key, epoch)
        for x, y, mask in batches.epoch(epoch_key):
            flags = jnp.array([marks[n], n >= gradient_start])
            state, loss = _step(
                optimizer, Static(network), likelihood, prior, split, state, x, y, mask,
                jnp.float32(rates[n]), prior_weight, flags, jax.random.fold_in(epoch_key, n),
            )  # fmt: skip
            total.append(loss)
            n += 1
        losses.append(_mean_loss(total, epoch))
        progress(Report("training", None, 1, epoch + 1, epochs, f"loss {losses[-1]:.4f}"))
        if watch.should_stop(state.weights):
            break
    averaged = int(state.trajectory.count) > 0
    final = state.trajectory.mean if averaged else state.weights
    final = watch.best(final)
    return Fit(
        params=split.merge(final),
        trajectory=_merged(split, state.trajectory) if averaged else None,
        gradients=_merged(split, state.gradients),
        losses=tuple(losses),
        validation_losses=tuple(watch.losses),
    )


class _State(NamedTuple):
    weights: dict[str, jax.Array]
    optimizer: Any
    trajectory: Moments
    gradients: Moments


@functools.lru_cache(maxsize=32)
def _optimizer(clip: float, weight_decay: float) -> optax.GradientTransformation:
    """Adam without its learning rate, which is an argument of every step."""
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.scale_by_adam(),
        optax.add_decayed_weights(weight_decay),
    )


def batch_loss(
    network: Network,
    likelihood: Likelihood,
    params: Params,
    x: Any,
    y: jax.Array,
    mask: jax.Array,
    key: jax.Array | None,
) -> jax.Array:
    """Return the mean negative log likelihood of the rows where `mask` is 1."""
    outputs = as_columns(network.apply(params, x, train=key is not None, key=key))
    each = likelihood.log_prob(outputs, y, {})
    return -jnp.sum(each * mask) / jnp.sum(mask)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _step(
    optimizer: optax.GradientTransformation,
    static: Static,
    likelihood: Likelihood,
    prior: ResolvedPrior,
    split: ParameterSplit,
    state: _State,
    x: Any,
    y: jax.Array,
    mask: jax.Array,
    rate: jax.Array,
    prior_weight: float,
    flags: jax.Array,
    key: jax.Array,
) -> tuple[_State, jax.Array]:
    def loss(weights: dict[str, jax.Array]) -> jax.Array:
        return batch_loss(static.network, likelihood, split.merge(weights), x, y, mask, key)

    value, gradient = jax.value_and_grad(loss)(state.weights)
    penalty = jax.grad(lambda w: -prior_weight * prior.log_density(w, {}))(state.weights)
    total = jax.tree.map(jnp.add, gradient, penalty)
    updates, optimizer_state = optimizer.update(total, state.optimizer, state.weights)
    weights = jax.tree.map(lambda w, u: w - rate * u, state.weights, updates)

    def updated(flag: jax.Array, moments: Moments, seen: Any) -> Moments:
        after = moments.update(seen)
        return jax.tree.map(lambda a, b: jnp.where(flag, a, b), after, moments)

    trajectory = updated(flags[0], state.trajectory, weights)
    gradients = updated(flags[1], state.gradients, gradient)
    return _State(weights, optimizer_state, trajectory, gradients), value


class _Batches:
    """Shuffled minibatches; each holds rows of similar length, filled up to one size."""

    def __init__(self, network: Network, data: Data, batch_size: int) -> None:
        self.network, self.data, self.size = network, data, min(batch_size, len(data.y))
        self.groups = length_groups(data.X, network.padding)
        self.per_epoch = sum(-(-len(group.rows) // self.size) for group in self.groups)

    def epoch(self, key: jax.Array) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
        """Yield inputs, targets and a mask of the rows that count."""
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
        plan: list[Group] = []
        for group in self.groups:
            rows = rng.permutation(group.rows)
            cuts = range(0, len(rows), self.size)
            plan.extend(Group(rows[i : i + self.size], group.length) for i in cuts)
        for i in rng.permutation(len(plan)):
            yield self.take(plan[i])

    def take(self, group: Group) -> tuple[Any, np.ndarray, np.ndarray]:
        """Return the rows of a group, filled up to the batch size with rows that do not count."""
        full = Group(np.resize(group.rows, self.size), group.length)
        mask = (np.arange(self.size) < len(group.rows)).astype(np.float32)
        return full.take(self.data.X, self.network.padding), self.data.y[full.rows], mask


class _Watch:
    """Early stopping: remembers the weights with the lowest validation loss."""

    def __init__(
        self,
        network: Network,
        likelihood: Likelihood,
        split: ParameterSplit,
        validation: Data | None,
        patience: int,
    ) -> None:
        self.network, self.likelihood, self.split = network, likelihood, split
        self.batches = None if validation is None else _Batches(network, validation, 256)
        self.patience = patience
        self.losses: list[float] = []
        self._weights: Any = None

    def should_stop(self, weights: Any) -> bool:
        """Note the validation loss; say whether it has not improved for long enough."""
        if self.batches is None:
            return False
        loss = self._loss(weights)
        if not self.losses or loss < min(self.losses):
            self._weights = weights
        self.losses.append(loss)
        return len(self.losses) - int(np.argmin(self.losses)) > self.patience

    def best(self, final: Any) -> Any:
        """Return the final weights, or those that did better on the validation data."""
        if self.batches is None or self._loss(final) <= min(self.losses):
            return final
        return self._weights

    def _loss(self, weights: Any) -> float:
        if self.batches is None:
            return float("nan")
        total, count = 0.0, 0
        for group in self.batches.groups:
            for i in range(0, len(group.rows), self.batches.size):
                rows = group.rows[i : i + self.batches.size]
                x, y, mask = self.batches.take(Group(rows, group.length))
                loss = _validation_loss(
                    Static(self.network), self.likelihood, self.split, weights, x, y, mask
                )
                total, count = total + float(loss) * len(rows), count + len(rows)
        return total / count


@functools.partial(jax.jit, static_argnums=0)
def _validation_loss(
    static: Static,
    likelihood: Likelihood,
    split: ParameterSplit,
    weights: Any,
    x: Any,
    y: Any,
    mask: Any,
) -> jax.Array:
    return batch_loss(static.network, likelihood, split.merge(weights), x, y, mask, None)


def batch_gradients(
    network: Network,
    likelihood: Likelihood,
    params: Params,
    data: Data,
    *,
    batch_size: int,
    key: jax.Array,
) -> Moments:
    """Return the moments of the per-batch gradients of the likelihood at given parameters."""
    split = ProbabilisticSubset.everything().split(network, params)
    batches = _Batches(network, data, batch_size)
    moments = Moments.empty(split.stochastic)
    for x, y, mask in batches.epoch(key):
        moments = _add_gradient(Static(network), likelihood, split, moments, x, y, mask)
    return _merged(split, moments)


@functools.partial(jax.jit, static_argnums=0)
def _add_gradient(
    static: Static,
    likelihood: Likelihood,
    split: ParameterSplit,
    moments: Moments,
    x: Any,
    y: Any,
    mask: Any,
) -> Moments:
    def loss(weights: Any) -> jax.Array:
        return batch_loss(static.network, likelihood, split.merge(weights), x, y, mask, None)

    return moments.update(jax.grad(loss)(split.stochastic))


def _mean_loss(losses: list[jax.Array], epoch: int) -> float:
    mean = float(jnp.mean(jnp.stack(losses)))
    if not np.isfinite(mean):
        raise TrainingError(
            f"The training loss is {mean} in epoch {epoch + 1}. Lower learning_rate, or "
            "standardise X and y (standardize=True)."
        )
    return mean


def _merged(split: ParameterSplit, moments: Moments) -> Moments:
    """Return the moments as pytrees like the parameters; state has variance 0."""
    zeros = jax.tree.map(jnp.zeros_like, split.params)
    spread = ParameterSplit(zeros, split.indices, split.whole, split.layers, split.subset)
    return Moments(moments.count, spread.merge(moments.mean), spread.merge(moments.sum_of_squares))
