"""Deterministic training: MAP with Adam, minibatches in parts of similar length, averaging.

loss = mean over the minibatch of -log p(y_i | f(x_i)) + (1 / N) sum_w w^2 / (2 sigma^2),
so that the full-batch loss is the negative log posterior divided by the number of examples N.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import optax

from nbcore.common.moments import Moments
from nbcore.common.progress import Progress, Report
from nbcore.distributions.likelihoods import Likelihood
from nbcore.distributions.priors import NormalPrior, ResolvedPrior
from nbcore.errors import TrainingError
from nbcore.networks.evaluation import HashableNetwork
from nbcore.networks.network import Network, Params
from nbcore.subsets.split import ParameterSplit
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.training.early_stopping import EarlyStopping
from nbcore.training.gradients import merged_moments
from nbcore.training.minibatches import (
    Batches,
    BatchPlan,
    Data,
    MemberBatches,
    Minibatch,
    batch_loss,
)
from nbcore.training.recipe import Recipe

# Steps of one call of a program: starting it takes as long as many steps of a small network.
STEPS = 32
# What XLA computes several times slower inside of a loop, on a CPU.
SLOW_IN_LOOPS = "conv_general_dilated"


@dataclass(frozen=True)
class Fit:
    """The result of training; arrays of an ensemble have a leading member axis.

    Args:
        params: the trained parameters.
        trajectory: moments of the snapshots; `None` if there were none.
        gradients: moments of the per-batch gradients of the likelihood, near the end.
        losses: mean training loss of each epoch; of an ensemble `(members,)` each, NaN for members
            that have stopped.
        validation_losses: mean validation loss of each epoch, in the same form; empty without
            validation data.
    """

    params: Params
    trajectory: Moments | None
    gradients: Moments
    losses: tuple[Any, ...]
    validation_losses: tuple[Any, ...]

    def without_moments(self) -> Fit:
        """Return the weights and the losses alone."""
        return replace(self, trajectory=None, gradients=Moments.empty(None))

    def member(self, m: int) -> Fit:
        """Return the result for one member of an ensemble."""

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
        indices: examples of the data that each member sees `(members, n)`; `None`: all of them, in
            the same minibatches.
    """

    count: int
    indices: np.ndarray | None = None


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
    """Train a network from given parameters; the default `plan` is made for the data.

    With `members` the parameters, and all that is returned, have a leading member axis.

    Raises:
        TrainingError: the loss is not finite.
    """
    plan = plan or BatchPlan.of(data.X, network.padding, batch_size)
    split, prior = _everything(network, params, recipe.sigma, members)
    plan = plan if _has_state(split) else plan.filled()
    batches, count = Batches(network, data, plan), len(data.y)
    if members is not None and members.indices is not None:
        batches = MemberBatches(network, data, plan, members.indices)
        count = members.indices.shape[1]
    prior_weight = 1.0 / count if recipe.map else 0.0
    all_steps = _plan(*recipe.plan(epochs * batches.per_epoch, batches.per_epoch))
    optimizer = _optimizer(recipe.clip, recipe.weight_decay)
    num_recent = recipe.swa.num_recent if recipe.swa else 0
    has_members = members is not None
    state = _start(optimizer, num_recent, has_members, split.position)
    watch = EarlyStopping(
        network, likelihood, split, validation, recipe.patience, members and members.count
    )
    losses: list[np.ndarray] = []
    is_batch_shared = None if members is None else members.indices is None
    fixed = (
        optimizer,
        HashableNetwork(network),
        is_batch_shared,
        likelihood,
        prior,
        prior_weight,
        split,
    )
    length = _steps_of_a_call(network, split, members, data.X)
    first = 0
    for epoch in range(epochs):
        total: list[tuple[jax.Array, int]] = []
        epoch_key = jax.random.fold_in(key, epoch)
        epoch_batches = batches.epoch(epoch_key)
        while several := list(itertools.islice(epoch_batches, length)):
            count = len(several)
            minibatches = jax.tree.map(lambda *a: np.stack(a), *several)
            steps = _Steps(*(a[first : first + count] for a in all_steps))
            inputs = _filled((minibatches, steps), length)
            state, loss = _advance(*fixed, state, *inputs, count, epoch_key, watch.active)
            total.append((loss, count))
            first += count
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
    """Return the split of all weights, with the parameters of all members, and their prior."""
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
    """Return the mean of the snapshots, or the last weights if there are none."""

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
        moments = (merged_moments(split, m) for m in (state.trajectory, state.gradients))
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


class _Steps(NamedTuple):
    """Options of steps besides their minibatches; arrays have a leading step axis.

    Attributes:
        number: number of the step in the training.
        rate: learning rate.
        is_snapshot: whether the weights after it are averaged.
        is_late: whether its gradient counts among those near the end.
    """

    number: Any
    rate: Any
    is_snapshot: Any
    is_late: Any


def _plan(rates: np.ndarray, snapshots: np.ndarray) -> _Steps:
    number = np.arange(len(rates))
    return _Steps(number, np.float32(rates), snapshots, number >= int(0.9 * len(rates)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _advance(
    optimizer: optax.GradientTransformation,
    static: HashableNetwork,
    is_batch_shared: bool | None,
    likelihood: Likelihood,
    prior: ResolvedPrior,
    prior_weight: float,
    split: ParameterSplit,
    state: _State,
    batches: Minibatch,
    steps: _Steps,
    count: int,
    epoch_key: jax.Array,
    active: np.ndarray,
) -> tuple[_State, jax.Array]:
    """Take `count` steps of arrays of fixed length, so that all calls share one program.

    Members that have stopped stay as they are; `is_batch_shared` is `None` without members.
    """

    def one(split: ParameterSplit, state: _State, batch: Minibatch, step: _Steps, key: Any) -> Any:
        return _step(
            optimizer, static, likelihood, prior, prior_weight, split, state, batch, step, key
        )

    def member(
        split: ParameterSplit, state: _State, batch: Minibatch, step: _Steps, key: Any, active: Any
    ) -> Any:
        after, loss = one(split, state, batch, step, key)
        return jax.tree.map(lambda a, b: jnp.where(active, a, b), after, state), loss

    def turn(i: Any, carry: tuple[_State, jax.Array]) -> tuple[_State, jax.Array]:
        state, losses = carry
        batch, step = jax.tree.map(lambda a: a[i], (batches, steps))
        key = jax.random.fold_in(epoch_key, step.number)
        if is_batch_shared is None:
            state, loss = one(split, state, batch, step, key)
        else:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(active)))
            axes = (0, 0, None if is_batch_shared else 0, None, 0, 0)
            state, loss = jax.vmap(member, axes)(split, state, batch, step, keys, active)
        return state, losses.at[i].set(loss)

    start = state, jnp.zeros((len(steps.number), *np.shape(active)))
    return turn(0, start) if len(steps.number) == 1 else jax.lax.fori_loop(0, count, turn, start)


def _step(
    optimizer: optax.GradientTransformation,
    static: HashableNetwork,
    likelihood: Likelihood,
    prior: ResolvedPrior,
    prior_weight: float,
    split: ParameterSplit,
    state: _State,
    batch: Minibatch,
    step: _Steps,
    key: jax.Array,
) -> tuple[_State, jax.Array]:
    def loss(weights: dict[str, jax.Array]) -> jax.Array:
        return batch_loss(static.network, likelihood, split.merge(weights), batch, key)

    value, gradient = jax.value_and_grad(loss)(state.weights)
    penalty = jax.grad(lambda w: -prior_weight * prior.log_density(w, {}))(state.weights)
    total = jax.tree.map(jnp.add, gradient, penalty)
    updates, optimizer_state = optimizer.update(total, state.optimizer, state.weights)
    weights = jax.tree.map(lambda w, u: w - step.rate * u, state.weights, updates)

    def updated(flag: jax.Array, moments: Moments, seen: Any) -> Moments:
        after = moments.update(seen)
        return jax.tree.map(lambda a, b: jnp.where(flag, a, b), after, moments)

    trajectory = updated(step.is_snapshot, state.trajectory, weights)
    gradients = updated(step.is_late, state.gradients, gradient)
    return _State(weights, optimizer_state, trajectory, gradients), value


def _filled(steps: Any, length: int) -> Any:
    """Return arrays of `length` steps, filled with copies of the last step, which are not taken."""
    return jax.tree.map(lambda a: np.concatenate([a, np.repeat(a[-1:], length - len(a), 0)]), steps)


def _has_state(split: ParameterSplit) -> bool:
    """Whether there are statistics of batches, which copies of examples would change."""
    return any(leaf.role == "state" for layer in split.layers for leaf in layer.leaves)


def _steps_of_a_call(
    network: Network, split: ParameterSplit, members: Members | None, X: Any
) -> int:
    params, structure = jax.tree.flatten(split.params)
    inputs, inputs_structure = jax.tree.flatten(X)
    shapes = [np.shape(a)[0 if members is None else 1 :] for a in params]
    shapes += [(1, *np.shape(a)[1:]) for a in inputs]
    avals = tuple(zip(shapes, map(jnp.result_type, (*params, *inputs)), strict=True))
    program = HashableNetwork(network), (structure, inputs_structure), avals
    return 1 if jax.default_backend() == "cpu" and _is_slow(*program) else STEPS


@functools.lru_cache(maxsize=64)
def _is_slow(static: HashableNetwork, structures: tuple[Any, Any], avals: tuple[Any, ...]) -> bool:
    """Whether the network computes what is slow in loops; traced once for each network."""
    leaves = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in avals]
    count = structures[0].num_leaves
    params, x = (
        jax.tree.unflatten(structure, part)
        for structure, part in zip(structures, (leaves[:count], leaves[count:]), strict=True)
    )
    traced = jax.make_jaxpr(functools.partial(static.network.apply, train=False))(params, x)
    return _uses(traced.jaxpr, SLOW_IN_LOOPS)


def _uses(jaxpr: jex.Jaxpr, primitive: str) -> bool:
    return any(
        eqn.primitive.name == primitive
        or any(_uses(inner, primitive) for inner in jex.jaxprs_in_params(eqn.params))
        for eqn in jaxpr.eqns
    )


def _mean_loss(losses: list[tuple[jax.Array, int]], epoch: int) -> np.ndarray:
    mean = np.mean(np.concatenate([own[:n] for own, n in jax.device_get(losses)]), axis=0)
    if not np.all(np.isfinite(mean)):
        who = f" of member {np.flatnonzero(~np.isfinite(mean))[0]}" if mean.ndim else ""
        raise TrainingError(
            f"The training loss{who} is {mean[~np.isfinite(mean)].flat[0]} in epoch {epoch + 1}. "
            "Lower learning_rate, or standardize X and y (standardize=True)."
        )
    return mean
