"""Deterministic training: MAP with Adam, minibatches in parts of similar length, averaging.

loss = mean over the minibatch of -log p(y_i | f(x_i)) + (1 / N) sum_w w^2 / (2 sigma^2),
so that the full-batch loss is the negative log posterior divided by the number of examples N.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nbcore.early_stopping import EarlyStopping
from nbcore.errors import TrainingError
from nbcore.likelihoods import Likelihood
from nbcore.minibatches import Batches, BatchPlan, Data, MemberBatches, Minibatch, batch_loss
from nbcore.moments import Moments
from nbcore.network import Network, Params, Static
from nbcore.priors import NormalPrior, ResolvedPrior
from nbcore.progress import Progress, Report
from nbcore.recipe import Recipe
from nbcore.split import ParameterSplit
from nbcore.subset import ProbabilisticSubset


@dataclass(frozen=True)
class Fit:
    """What training gives; arrays of an ensemble have a leading member axis.

    Args:
        params: the trained parameters.
        trajectory: moments of the snapshots; `None` where there were none.
        gradients: moments of the per-batch gradients of the likelihood, near the end.
        losses: mean training loss of each epoch; of an ensemble `(members,)` each, NaN for members
            that have stopped.
        validation_losses: the same of validation data; empty without.
    """

    params: Params
    trajectory: Moments | None
    gradients: Moments
    losses: tuple[Any, ...]
    validation_losses: tuple[Any, ...]

    def member(self, m: int) -> Fit:
        """Return what training gave one member of an ensemble."""

        def of(values: tuple[Any, ...]) -> tuple[float, ...]:
            return tuple(float(v[m]) for v in values if not np.isnan(v[m]))

        params, trajectory, gradients = jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a)[m]), (self.params, self.trajectory, self.gradients)
        )
        averaged = trajectory is not None and int(trajectory.count) > 0
        return Fit(
            params, trajectory if averaged else None, gradients,
            of(self.losses), of(self.validation_losses),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Members:
    """Several networks trained as one program; their parameters have a leading member axis.

    Args:
        count: number of members.
        rows: rows of the data that each member sees `(members, n)`; `None`: all of them, in the
            same minibatches.
    """

    count: int
    rows: np.ndarray | None = None


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
    members: Members | None = None,
    progress: Progress = lambda report: None,
) -> Fit:
    """Train a network from given parameters; `plan` is that of the data by default.

    With `members` the parameters, and all that is returned, have a leading member axis.

    Raises:
        TrainingError: the loss is not finite.
    """
    plan = plan or BatchPlan.of(data.X, network.padding, batch_size)
    batches, count = Batches(network, data, plan), len(data.y)
    if members is not None and members.rows is not None:
        batches, count = MemberBatches(network, data, plan, members.rows), members.rows.shape[1]
    split, prior = _everything(network, params, recipe.sigma, members)
    prior_weight = 1.0 / count if recipe.map else 0.0
    rates, marks = recipe.plan(epochs * batches.per_epoch, batches.per_epoch)
    optimizer = _optimizer(recipe.clip, recipe.weight_decay)
    num_recent = recipe.swa.num_recent if recipe.swa else 0
    has_members = members is not None
    state = _start(optimizer, num_recent, has_members, split.select(params))
    gradient_start = int(0.9 * len(rates))
    watch = EarlyStopping(
        network, likelihood, split, validation, recipe.patience, members and members.count
    )
    losses: list[np.ndarray] = []
    n = 0
    for epoch in range(epochs):
        total: list[jax.Array] = []
        epoch_key = jax.random.fold_in(key, epoch)
        for batch in batches.epoch(epoch_key):
            flags = jnp.array([marks[n], n >= gradient_start])
            step_key = jax.random.fold_in(epoch_key, n)
            inputs = (split, state, batch, jnp.float32(rates[n]), prior_weight, flags, step_key)
            if members is None:
                state, loss = _step(optimizer, Static(network), likelihood, prior, *inputs)
            else:
                state, loss = _step_members(
                    optimizer, Static(network), members.rows is None,
                    likelihood, prior, *inputs, watch.active,
                )  # fmt: skip
            total.append(loss)
            n += 1
        losses.append(np.where(watch.active, _mean_loss(total, epoch), np.nan))
        progress(
            Report("training", None, 1, epoch + 1, epochs, f"loss {np.nanmean(losses[-1]):.4f}")
        )
        if watch.should_stop(state.weights):
            break
    final = watch.best(_averaged(has_members, state))
    merged, trajectory, gradients = _merged_all(has_members, split, final, state)
    return Fit(
        params=merged,
        trajectory=trajectory if np.any(trajectory.count) else None,
        gradients=gradients,
        losses=tuple(losses if members else map(float, losses)),
        validation_losses=tuple(watch.losses if members else map(float, watch.losses)),
    )


def _everything(
    network: Network, params: Params, sigma: float, members: Members | None
) -> tuple[ParameterSplit, ResolvedPrior]:
    """Return the split of all weights, which has the parameters of all members, and their prior."""
    one = params if members is None else jax.tree.map(lambda a: a[0], params)
    split = ProbabilisticSubset.everything().split(network, one)
    prior = NormalPrior(scale=sigma, center="zero").resolve(split)
    return replace(split, params=jax.tree.map(jnp.asarray, params)), prior


class _State(NamedTuple):
    weights: dict[str, jax.Array]
    optimizer: Any
    trajectory: Moments
    gradients: Moments


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _start(
    optimizer: optax.GradientTransformation,
    num_recent: int,
    has_members: bool,
    weights: dict[str, jax.Array],
) -> _State:
    def one(weights: dict[str, jax.Array]) -> _State:
        trajectory = Moments.empty(weights, num_recent)
        return _State(weights, optimizer.init(weights), trajectory, Moments.empty(weights))

    return (jax.vmap(one) if has_members else one)(weights)


@functools.partial(jax.jit, static_argnums=0)
def _averaged(has_members: bool, state: _State) -> dict[str, jax.Array]:
    """Return the mean of the snapshots, or the last weights where there are none."""

    def one(state: _State) -> dict[str, jax.Array]:
        moments = state.trajectory
        return jax.tree.map(
            lambda mean, last: jnp.where(moments.count > 0, mean, last), moments.mean, state.weights
        )

    return (jax.vmap(one) if has_members else one)(state)


@functools.partial(jax.jit, static_argnums=0)
def _merged_all(
    has_members: bool, split: ParameterSplit, weights: dict[str, jax.Array], state: _State
) -> tuple[Params, Moments, Moments]:
    """Return weights and moments as pytrees like the parameters."""

    def one(split: ParameterSplit, weights: dict[str, jax.Array], state: _State) -> Any:
        moments = (_merged(split, m) for m in (state.trajectory, state.gradients))
        return split.merge(weights), *moments

    return (jax.vmap(one) if has_members else one)(split, weights, state)


@functools.lru_cache(maxsize=32)
def _optimizer(clip: float, weight_decay: float) -> optax.GradientTransformation:
    """Adam without its learning rate, which is an argument of every step."""
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.scale_by_adam(),
        optax.add_decayed_weights(weight_decay),
    )


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


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _step_members(
    optimizer: optax.GradientTransformation,
    static: Static,
    is_batch_shared: bool,
    likelihood: Likelihood,
    prior: ResolvedPrior,
    split: ParameterSplit,
    state: _State,
    batch: Minibatch,
    rate: jax.Array,
    prior_weight: float,
    flags: jax.Array,
    key: jax.Array,
    active: np.ndarray,
) -> tuple[_State, jax.Array]:
    """Take a step with every member; those that have stopped stay as they are."""

    def one(
        split: ParameterSplit, state: _State, batch: Minibatch, key: jax.Array, active: Any
    ) -> tuple[_State, jax.Array]:
        after, loss = _step(
            optimizer, static, likelihood, prior,
            split, state, batch, rate, prior_weight, flags, key,
        )  # fmt: skip
        return jax.tree.map(lambda a, b: jnp.where(active, a, b), after, state), loss

    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(active)))
    axes = (0, 0, None if is_batch_shared else 0, 0, 0)
    return jax.vmap(one, axes)(split, state, batch, keys, active)


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
    batches = Batches(network, data, BatchPlan.of(data.X, network.padding, batch_size))
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


def _mean_loss(losses: list[jax.Array], epoch: int) -> np.ndarray:
    mean = np.mean(jax.device_get(losses), axis=0)
    if not np.all(np.isfinite(mean)):
        who = f" of member {np.flatnonzero(~np.isfinite(mean))[0]}" if mean.ndim else ""
        raise TrainingError(
            f"The training loss{who} is {mean[~np.isfinite(mean)].flat[0]} in epoch {epoch + 1}. "
            "Lower learning_rate, or standardise X and y (standardize=True)."
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
