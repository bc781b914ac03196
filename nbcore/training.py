"""Deterministic training: MAP with Adam, minibatches in parts of similar length, averaging.

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

from nbcore.checks import num_examples
from nbcore.errors import TrainingError
from nbcore.likelihoods import Likelihood, as_columns
from nbcore.moments import Moments
from nbcore.network import Network, Padding, Params, Static
from nbcore.padding import Group, length_groups, lengths
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


class Part(NamedTuple):
    """Rows of a minibatch that have similar length.

    Args:
        x: inputs, trimmed to that length.
        y: targets.
        mask: 1 for rows that count, 0 for those that fill the part up.
    """

    x: Any
    y: Any
    mask: Any


Minibatch = tuple[Part, ...]


class BatchPlan(NamedTuple):
    """The shapes of a minibatch: networks that are trained with the same share programs.

    Args:
        lengths: to what length the rows of each part are trimmed, ascending; `None` where inputs
            are not padded.
        sizes: rows of each part, at most.
    """

    lengths: tuple[int | None, ...]
    sizes: tuple[int, ...]

    @staticmethod
    def of(X: Any, padding: Padding | None, batch_size: int) -> BatchPlan:
        """Return the plan that wastes least on these inputs; `batch_size` is met on average."""
        groups = length_groups(X, padding)
        steps = -(-sum(len(group.rows) for group in groups) // batch_size)
        return BatchPlan(
            tuple(group.length for group in groups),
            tuple(-(-len(group.rows) // steps) for group in groups),
        )

    def rows_of_parts(self, X: Any, padding: Padding | None) -> list[np.ndarray]:
        """Return the rows that belong to each part."""
        if padding is None or self.lengths[-1] is None:
            return [np.arange(num_examples(X))]
        bounds = np.array(self.lengths)
        part = np.searchsorted(bounds, lengths(np.asarray(X), padding))
        return [np.flatnonzero(part == g) for g in range(len(bounds))]


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
    plan: BatchPlan | None = None,
    progress: Progress = lambda report: None,
) -> Fit:
    """Train a network from given parameters; `plan` is that of the data by default.

    Raises:
        TrainingError: the loss is not finite.
    """
    plan = plan or BatchPlan.of(data.X, network.padding, batch_size)
    batches = _Batches(network, data, plan)
    split = ProbabilisticSubset.everything().split(network, params)
    prior = NormalPrior(scale=recipe.sigma, center="zero").resolve(split)
    prior_weight = 1.0 / len(data.y) if recipe.map else 0.0
    rates, marks = recipe.plan(epochs * batches.per_epoch, batches.per_epoch)
    optimizer = _optimizer(recipe.clip, recipe.weight_decay)
    weights = split.select(params)
    trajectory = Moments.empty(weights, recipe.swa.num_recent if recipe.swa else 0)
    state = _State(weights, optimizer.init(weights), trajectory, Moments.empty(weights))
    gradient_start = int(0.9 * len(rates))
    watch = _Watch(network, likelihood, split, validation, recipe.patience)
    losses: list[float] = []
    n = 0
    for epoch in range(epochs):
        total: list[jax.Array] = []
        epoch_key = jax.random.fold_in(key, epoch)
        for batch in batches.epoch(epoch_key):
            flags = jnp.array([marks[n], n >= gradient_start])
            state, loss = _step(
                optimizer, Static(network), likelihood, prior, split, state, batch,
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
    batch: Minibatch,
    key: jax.Array | None,
) -> jax.Array:
    """Return the mean negative log likelihood of the rows that count; a key switches dropout on."""
    total = jnp.zeros(())
    for g, part in enumerate(batch):
        own = None if key is None else jax.random.fold_in(key, g)
        outputs = as_columns(network.apply(params, part.x, train=key is not None, key=own))
        total = total - jnp.sum(likelihood.log_prob(outputs, part.y, {}) * part.mask)
    return total / sum(jnp.sum(part.mask) for part in batch)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _step(
    optimizer: optax.GradientTransformation,
    static: Static,
    likelihood: Likelihood,
    prior: ResolvedPrior,
    split: ParameterSplit,
    state: _State,
    batch: Minibatch,
    rate: jax.Array,
    prior_weight: float,
    flags: jax.Array,
    key: jax.Array,
) -> tuple[_State, jax.Array]:
    def loss(weights: dict[str, jax.Array]) -> jax.Array:
        return batch_loss(static.network, likelihood, split.merge(weights), batch, key)

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
    """Shuffled minibatches; each holds its share of every length, in parts of similar length."""

    def __init__(self, network: Network, data: Data, plan: BatchPlan) -> None:
        self.network, self.data, self.plan = network, data, plan
        self.rows = plan.rows_of_parts(data.X, network.padding)
        self.per_epoch = max(
            -(-len(rows) // size) for rows, size in zip(self.rows, plan.sizes, strict=True)
        )

    def epoch(self, key: jax.Array) -> Iterator[Minibatch]:
        """Yield minibatches that hold every row once."""
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
        shares = [np.array_split(rng.permutation(rows), self.per_epoch) for rows in self.rows]
        for n in range(self.per_epoch):
            # Where rows do not divide evenly, parts take their turns to hold one row more.
            yield tuple(
                self._part(g, share[(n + g) % self.per_epoch]) for g, share in enumerate(shares)
            )

    def in_turn(self) -> Iterator[Minibatch]:
        """Yield every row once, a part at a time, without shuffling."""
        for g, (rows, size) in enumerate(zip(self.rows, self.plan.sizes, strict=True)):
            for i in range(0, len(rows), size):
                yield (self._part(g, rows[i : i + size]),)

    def _part(self, g: int, rows: np.ndarray) -> Part:
        """Return rows, filled up to the size of the part with rows that do not count."""
        size = self.plan.sizes[g]
        padded = rows if len(rows) else np.zeros(1, int)
        full = Group(np.resize(padded, size), self.plan.lengths[g])
        mask = (np.arange(size) < len(rows)).astype(np.float32)
        return Part(full.take(self.data.X, self.network.padding), self.data.y[full.rows], mask)


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
        self.batches = (
            None
            if validation is None
            else _Batches(network, validation, BatchPlan.of(validation.X, network.padding, 256))
        )
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
        for batch in self.batches.in_turn():
            rows = int(batch[0].mask.sum())
            loss = _validation_loss(
                Static(self.network), self.likelihood, self.split, weights, batch
            )
            total, count = total + float(loss) * rows, count + rows
        return total / count


@functools.partial(jax.jit, static_argnums=0)
def _validation_loss(
    static: Static,
    likelihood: Likelihood,
    split: ParameterSplit,
    weights: Any,
    batch: Minibatch,
) -> jax.Array:
    return batch_loss(static.network, likelihood, split.merge(weights), batch, None)


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
    batches = _Batches(network, data, BatchPlan.of(data.X, network.padding, batch_size))
    moments = Moments.empty(split.stochastic)
    for batch in batches.epoch(key):
        moments = _add_gradient(Static(network), likelihood, split, moments, batch)
    return _merged(split, moments)


@functools.partial(jax.jit, static_argnums=0)
def _add_gradient(
    static: Static,
    likelihood: Likelihood,
    split: ParameterSplit,
    moments: Moments,
    batch: Minibatch,
) -> Moments:
    def loss(weights: Any) -> jax.Array:
        return batch_loss(static.network, likelihood, split.merge(weights), batch, None)

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
    recent = None if moments.recent is None else jax.vmap(spread.merge)(moments.recent)
    return Moments(
        moments.count, spread.merge(moments.mean), spread.merge(moments.sum_of_squares), recent
    )
