"""Training: what it converges to, what it remembers, and when it stops."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

import nbcore as nb
from nbcore import errors
from nbcore.common.moments import Moments
from nbcore.networks.network import Network, Padding
from nbcore.training import train as training
from nbcore.training.gradients import batch_gradients
from nbcore.training.minibatches import Batches, BatchPlan, Data, Minibatch, Part, batch_loss
from nbcore.training.recipe import SWA, Recipe
from nbcore.training.train import Fit, train
from nbcore_flax import FlaxMLP

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 3)).astype(np.float32)
Y = X @ np.array([1.0, -2.0, 0.5]) + 0.3 * RNG.normal(size=48)
UNIT = nb.Gaussian(noise=1.0)


def linear_network(x: Any = X) -> Network:
    return nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]), example=x[:1])


LINEAR = linear_network()


def columns(x: np.ndarray, y: np.ndarray) -> Data:
    return Data(x, np.asarray(y, np.float32).reshape(len(x), -1))


ALL: Minibatch = (Part(X, columns(X, Y).y, np.ones(48, np.float32)),)


def fit(recipe: Recipe, network: Network = LINEAR, **options: Any) -> Fit:
    params = {"out": {"kernel": jnp.zeros((3, 1))}}
    settings = {"epochs": 5, "batch_size": 16, "key": jax.random.key(0)} | options
    data = settings.pop("data", columns(X, Y))
    return train(network, UNIT, recipe, settings.pop("params", params), data, **settings)


@pytest.mark.parametrize("sigma", [0.1, 10.0])
def test_the_full_batch_optimum_is_that_of_ridge_regression(sigma: float) -> None:
    """MAP with unit noise: w = (X^T X + I / sigma^2)^-1 X^T y, whatever N."""
    recipe = Recipe(learning_rate=0.05, schedule="cosine", sigma=sigma, swa=None)
    found = fit(recipe, epochs=400, batch_size=48)
    ridge = np.linalg.solve(X.T @ X + np.eye(3) / sigma**2, X.T @ Y)
    np.testing.assert_allclose(found.params["out"]["kernel"][:, 0], ridge, atol=2e-3)
    residual = Y - X @ ridge
    expected = 0.5 * np.mean(residual**2) + 0.5 * np.log(2 * np.pi)
    assert found.losses[-1] == pytest.approx(expected, abs=1e-3)


def test_without_the_prior_it_is_least_squares() -> None:
    recipe = Recipe(learning_rate=0.05, schedule="cosine", map=False, sigma=0.1, swa=None)
    found = fit(recipe, epochs=400, batch_size=48)
    least = np.linalg.lstsq(X, Y, rcond=None)[0]
    np.testing.assert_allclose(found.params["out"]["kernel"][:, 0], least, atol=2e-3)


class Record:
    """Stands in for the training of a step, and keeps its arguments by name, and what came out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[dict[str, Any], Any]] = []
        advance = training._advance  # pyright: ignore[reportPrivateUsage]
        signature = inspect.signature(advance)

        def recorded(*args: Any) -> Any:
            state, loss = advance(*args)
            self.calls.append((signature.bind(*args).arguments, state))
            return state, loss

        monkeypatch.setattr(training, "STEPS", 1)
        monkeypatch.setattr(training, "_advance", recorded)

    def weights(self) -> np.ndarray:
        """Weights after each step `(steps, 3)`."""
        return np.stack([state.weights["out/kernel"][:, 0] for _, state in self.calls])

    def gradients(self, network: Network) -> np.ndarray:
        """Gradient of the minibatch's likelihood in each step `(steps, 3)`, computed anew."""

        def gradient(before: Any, part: Part) -> np.ndarray:
            x, y, mask = part
            weights, rows = np.asarray(before.weights["out/kernel"], np.float64), mask == 1
            residual = x[rows] @ weights - y[rows]
            return (x[rows].T @ residual / rows.sum())[:, 0]

        parts = [batch[0] for batch in self.batches()]
        states = [given["state"] for given, _ in self.calls]
        return np.stack([gradient(*each) for each in zip(states, parts, strict=True)])

    def batches(self) -> list[Minibatch]:
        return [jax.tree.map(lambda a: a[0], given["batches"]) for given, _ in self.calls]


def check_moments(moments: Moments, values: np.ndarray) -> None:
    assert int(moments.count) == len(values)
    mean = moments.mean["out"]["kernel"][:, 0]
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-4, atol=1e-6)
    variance = moments.variance["out"]["kernel"][:, 0]
    np.testing.assert_allclose(variance, values.var(axis=0), rtol=1e-3, atol=1e-8)
    rms = moments.root_mean_square["out"]["kernel"][:, 0]
    np.testing.assert_allclose(rms, np.sqrt((values**2).mean(axis=0)), rtol=1e-4)


def test_streamed_moments_are_those_of_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(monkeypatch)
    # 48 rows in batches of at most 20: 3 steps an epoch
    found = fit(Recipe(learning_rate=0.02, swa=SWA(start_pct=0.5)), epochs=10, batch_size=20)
    assert len(record.calls) == 30
    assert found.trajectory is not None
    check_moments(found.trajectory, record.weights()[15:])
    np.testing.assert_array_equal(
        found.params["out"]["kernel"], found.trajectory.mean["out"]["kernel"]
    )
    check_moments(found.gradients, record.gradients(LINEAR)[27:])  # the last tenth


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_steps_of_one_program_are_those_taken_one_by_one(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of 2, 3 and 4 steps, of epochs of 3: the last call is short, full and never full."""
    results: list[Any] = []
    for length in (1, steps):
        monkeypatch.setattr(training, "STEPS", length)
        recipe = Recipe(learning_rate=0.02, swa=SWA(start_pct=0.5), schedule="cosine")
        found = fit(recipe, epochs=10, batch_size=20)
        results.append((found.params, found.trajectory, found.gradients, found.losses))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *results)


@pytest.mark.parametrize("inner", [lambda f: f, jax.jit, jax.checkpoint])
def test_convolutions_on_a_cpu_are_not_put_in_a_loop(
    inner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convolve(x: Any, kernel: Any) -> Any:
        return jax.lax.conv(x[:, None], kernel, (1,), "SAME")[:, 0]

    def apply(params: Any, x: Any) -> Any:
        return inner(convolve)(x, params["out"]["kernel"])[:, :1]

    network = Network.from_functions(lambda key, x: None, apply)
    record = Record(monkeypatch)
    monkeypatch.setattr(training, "STEPS", 32)
    params = {"out": {"kernel": jnp.ones((1, 1, 3))}}
    fit(Recipe(swa=None), network, params=params, epochs=2, batch_size=16)
    assert [len(given["steps"].number) for given, _ in record.calls] == [1] * 6
    fit(Recipe(swa=None), epochs=2, batch_size=16)
    assert [len(given["steps"].number) for given, _ in record.calls[6:]] == [32] * 2


def test_every_row_is_seen_once_in_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(monkeypatch)
    numbered = np.arange(48, dtype=np.float32)
    fit(Recipe(swa=None), data=columns(X, numbered), epochs=2, batch_size=20)
    orders: list[np.ndarray] = []
    for epoch in (record.batches()[:3], record.batches()[3:]):
        orders.append(np.concatenate([part.y[part.mask == 1][:, 0] for (part,) in epoch]))
        np.testing.assert_array_equal(np.sort(orders[-1]), numbered)
        for (part,) in epoch:
            np.testing.assert_array_equal(part.x, X[part.y[:, 0].astype(int)])
    assert not np.array_equal(orders[0], orders[1])


def bag_of_tokens() -> Network:
    """Sum of token weights; token 0 is padding."""

    def apply(params: Any, x: Any) -> Any:
        return jnp.sum(params["table"]["embedding"][x] * (x > 0)[..., None], axis=1)

    return Network.from_functions(lambda key, x: None, apply, padding=Padding(axis=1, value=0))


def sequences(count: int) -> np.ndarray:
    """Sequences of 1 to 100 tokens of 1 to 4, most of them short."""
    rng = np.random.default_rng(1)
    each = np.minimum(1 + rng.exponential(20, count).astype(int), 100)
    return np.where(np.arange(100) < each[:, None], rng.integers(1, 5, (count, 100)), 0)


def test_each_minibatch_holds_its_share_of_every_length(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, numbered = sequences(600), np.arange(600, dtype=np.float32)
    params = {"table": {"embedding": jnp.zeros((5, 1))}}
    record = Record(monkeypatch)
    fit(
        Recipe(learning_rate=1e-6, swa=None),
        bag_of_tokens(), data=columns(tokens, numbered), params=params, epochs=1, batch_size=32,
    )  # fmt: skip
    batches = record.batches()
    rows = [[part.y[part.mask == 1][:, 0].astype(int) for part in batch] for batch in batches]
    np.testing.assert_array_equal(np.sort(np.concatenate([r for b in rows for r in b])), numbered)
    sizes = np.array([[len(part) for part in batch] for batch in rows])
    assert sizes.shape == (19, 3)  # parts of similar length
    assert np.all(np.ptp(sizes, axis=0) <= 1)
    assert sizes.sum(axis=1).max() <= 34
    for batch, numbers in zip(batches, rows, strict=True):
        for part, mine in zip(batch, numbers, strict=True):
            trimmed = part.x[part.mask == 1]
            np.testing.assert_array_equal(trimmed, tokens[mine][:, : trimmed.shape[1]])
            assert not tokens[mine][:, trimmed.shape[1] :].any()


def test_parts_make_the_loss_of_the_whole_batch() -> None:
    tokens = sequences(600)
    data = columns(tokens, RNG.normal(size=600))
    params = {"table": {"embedding": jnp.arange(5.0)[:, None]}}
    whole = (Part(tokens, data.y, np.ones(600, np.float32)),)
    network = bag_of_tokens()
    plan = BatchPlan.of(tokens, network.padding, 600)
    (parts,) = Batches(network, data, plan).epoch(jax.random.key(0))
    assert len(parts) == 3
    losses = [batch_loss(network, UNIT, params, batch, None) for batch in (whole, parts)]
    assert float(losses[1]) == pytest.approx(float(losses[0]), rel=1e-5)


def test_networks_of_one_plan_share_their_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = sequences(600)
    params = {"table": {"embedding": jnp.zeros((5, 1))}}
    plan = BatchPlan.of(tokens, Padding(1, 0), 32)
    record = Record(monkeypatch)
    seen: list[np.ndarray] = []
    for kept in (np.arange(600) % 5 != 0, np.arange(600) % 5 != 1, np.arange(600) < 100):
        before = len(record.calls)
        data = columns(tokens[kept], np.flatnonzero(kept))
        fit(Recipe(swa=None), bag_of_tokens(), data=data, params=params, epochs=1, plan=plan)
        parts = [part for batch in record.batches()[before:] for part in batch]
        seen.append(np.sort(np.concatenate([p.y[p.mask == 1][:, 0] for p in parts])))
        np.testing.assert_array_equal(seen[-1], np.flatnonzero(kept))
    shapes = {tuple(np.shape(part.x) for part in batch) for batch in record.batches()}
    assert shapes == {tuple(zip(plan.sizes, plan.lengths, strict=True))}


def test_batch_gradients_are_those_of_each_batch() -> None:
    params = {"out": {"kernel": jnp.array([[0.3], [-0.2], [1.0]])}}
    key = jax.random.key(4)
    data = columns(X, Y)
    moments = batch_gradients(LINEAR, UNIT, params, data, batch_size=20, key=key)
    whole = jax.grad(lambda p: batch_loss(LINEAR, UNIT, p, ALL, None))(params)
    assert int(moments.count) == 3
    again = batch_gradients(LINEAR, UNIT, params, data, batch_size=48, key=key)
    np.testing.assert_allclose(
        again.mean["out"]["kernel"], whole["out"]["kernel"], rtol=1e-4, atol=1e-6
    )
    assert float(jnp.max(again.variance["out"]["kernel"])) == 0.0
    assert np.all(moments.variance["out"]["kernel"] > 0)


@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=2), min_size=1))
def test_moments_of_any_stream(stream: list[list[float]]) -> None:
    moments = Moments.empty(jnp.zeros(2))
    for value in stream:
        moments = moments.update(jnp.array(value, jnp.float32))
    values = np.array(stream)
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(moments.variance, values.var(axis=0), rtol=1e-3, atol=1e-1)


@pytest.mark.parametrize(
    ("schedule", "counts"),
    [
        ("constant", {20: 2, 100: 5, 500: 25}),  # every step of the last twentieth
        ("linear", {20: 2, 100: 3, 500: 13}),  # every step after the rate has fallen
        ("cyclic", {20: 2, 100: 2, 500: 7}),  # a low point in two steps, up to ten
    ],
)
@pytest.mark.parametrize("epochs", [20, 100, 500])
def test_averaging_collects_snapshots_by_default(
    schedule: Any, counts: dict[int, int], epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step an epoch, the least there can be: the mean is that of the listed snapshots."""
    record = Record(monkeypatch)
    found = fit(Recipe(learning_rate=0.02, swa=SWA(schedule)), epochs=epochs, batch_size=48)
    assert found.trajectory is not None
    assert int(found.trajectory.count) == counts[epochs]
    marked = [bool(given["steps"].is_snapshot[0]) for given, _ in record.calls]
    check_moments(found.trajectory, record.weights()[marked])
    mean = found.trajectory.mean["out"]["kernel"]
    np.testing.assert_array_equal(found.params["out"]["kernel"], mean)


class Normalized(nn.Module):
    """A network with two normalization layers."""

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        x = nn.BatchNorm(use_running_average=not train, name="Batch")(nn.Dense(4, name="In")(x))
        return nn.Dense(1, name="Out")(nn.LayerNorm(name="Layer")(nn.tanh(x)))


def test_normalization_layers_are_averaged_as_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scales and biases are weights like others; running statistics stay, in training too."""
    record = Record(monkeypatch)
    network = nb.as_network(Normalized(), example=X[:1])
    params = network.init(jax.random.key(0), X[:1])
    statistics = {"mean": jnp.full(4, 0.3), "var": jnp.full(4, 2.0)}
    params = {**params, "batch_stats": {"Batch": statistics}}
    recipe = Recipe(learning_rate=0.05, swa=SWA(start_pct=0.5))
    found = fit(recipe, network, params=params, epochs=10, batch_size=48)
    jax.tree.map(np.testing.assert_array_equal, found.params["batch_stats"]["Batch"], statistics)
    for layer in ("Batch", "Layer"):
        for name in ("scale", "bias"):
            path = f"params/{layer}/{name}"
            snapshots = np.stack([state.weights[path] for _, state in record.calls[5:]])
            averaged = found.params["params"][layer][name]
            np.testing.assert_allclose(averaged, snapshots.mean(axis=0), rtol=1e-4, atol=1e-6)
            assert np.ptp(snapshots, axis=0).max() > 0
    trained, used = (
        network.apply(found.params, X, train=train, key=jax.random.key(0))
        for train in (True, False)
    )
    np.testing.assert_array_equal(trained, used)


def test_weight_decay_shrinks_what_no_data_asks_for() -> None:
    nothing = columns(np.zeros_like(X), np.zeros(48))
    ones = {"out": {"kernel": jnp.ones((3, 1))}}
    recipe = Recipe(learning_rate=0.1, weight_decay=0.5, map=False, swa=None)
    found = fit(recipe, data=nothing, params=ones, epochs=10, batch_size=48)
    np.testing.assert_allclose(found.params["out"]["kernel"], (1 - 0.05) ** 10, rtol=1e-4)


def test_gradients_are_clipped() -> None:
    """Adam alone forgets the scale of a gradient, but not after a far larger one."""
    recipes = [Recipe(swa=None, map=False, clip=clip) for clip in (1e-3, 1e9)]
    far = columns(X, np.where(np.arange(48) == 0, 1e6, Y))
    clipped, free = (
        fit(r, data=far, epochs=3, batch_size=8).params["out"]["kernel"] for r in recipes
    )
    assert not np.allclose(clipped, free)


def noisy(key: Any, size: int) -> jax.Array:
    return jax.random.normal(key, (size, 1))


class Dropout:
    """A network whose training outputs are its key's random numbers."""

    def __call__(self, params: Any, x: Any, train: bool = False, key: Any = None) -> Any:
        outputs = x @ params["out"]["kernel"]
        return outputs + noisy(key, len(x)) if train else outputs


def test_every_step_drops_with_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(monkeypatch)
    network = nb.Network.from_functions(lambda key, x: None, Dropout().__call__)
    zeros = columns(np.zeros((20, 3), np.float32), np.zeros(20))
    found = fit(Recipe(swa=None), network=network, data=zeros, epochs=3, batch_size=10)
    keys = [
        jax.random.fold_in(given["epoch_key"], given["steps"].number[0])
        for given, _ in record.calls
    ]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 6
    each = [float(0.5 * jnp.mean(noisy(jax.random.fold_in(key, 0), 10) ** 2)) for key in keys]
    expected = np.array(each).reshape(3, 2).mean(axis=1) + 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(found.losses, expected, rtol=1e-4)


def test_examples_that_fill_up_minibatches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nb.as_network(FlaxMLP(hidden_dims=(6,), hidden_dropout=0.5), example=X[:1])
    params = network.init(jax.random.key(0), X[:1])

    def trained() -> Fit:
        validation = columns(X[:20], Y[:20])
        return fit(Recipe(), network, params=params, validation=validation, batch_size=10)

    record = Record(monkeypatch)
    found = trained()
    assert {len(part.y) for batch in record.batches() for part in batch} == {16}
    monkeypatch.setattr(BatchPlan, "filled", lambda plan: plan)
    expected = trained()
    assert {len(part.y) for batch in record.batches() for part in batch} == {10, 16}
    assert found.validation_losses
    for a, b in zip(*map(jax.tree.leaves, (vars(found), vars(expected))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "expected"), [(3, 3), (8, 8), (9, 16), (20, 32), (33, 48), (130, 144), (300, 320)]
)
def test_minibatches_are_filled_up_to_a_grid(size: int, expected: int) -> None:
    plan = BatchPlan((None,), (size,)).filled()
    assert plan.sizes[0] + plan.extra == expected
    assert BatchPlan((8, 16), (size, size)).filled().extra == 0


@pytest.fixture(scope="module")
def dropout_runs() -> Callable[[int, float], nb.DeterministicNN]:
    """Weights and losses of an MLP, by key and dropout rate."""

    @functools.cache
    def network(rate: float) -> Network:
        return nb.as_network(FlaxMLP(hidden_dims=(6,), hidden_dropout=rate), example=X[:1])

    @functools.cache
    def run(key: int, rate: float) -> nb.DeterministicNN:
        det = nb.DeterministicNN(network(rate), learning_rate=0.01)
        return det.train(X, Y, 3, 16, key=key, progress=False)

    return run


def test_same_key_same_weights_and_a_second_training_starts_anew(dropout_runs: Any) -> None:
    det = dropout_runs(0, 0.5)
    first = det.params
    det.train(X, Y, 3, 16, key=0, progress=False)
    jax.tree.map(np.testing.assert_array_equal, first, det.params)
    other = dropout_runs(1, 0.5).params
    assert not np.any(first["params"]["Dense0"]["kernel"] == other["params"]["Dense0"]["kernel"])


def test_dropout_is_on_in_training_and_off_in_prediction(dropout_runs: Any) -> None:
    det = dropout_runs(0, 0.5)
    assert det.fit_result.losses != dropout_runs(0, 0.0).fit_result.losses
    np.testing.assert_array_equal(det.predict(X), det.predict(X))
    plain = FlaxMLP(hidden_dims=(6,)).apply(det.params, X)
    np.testing.assert_allclose(det.predict(X), np.asarray(plain)[:, 0], rtol=1e-5)


def test_early_stopping_restores_the_best_weights() -> None:
    rng = np.random.default_rng(2)
    train_x, valid_x = rng.normal(size=(2, 20, 3)).astype(np.float32)
    train_y, valid_y = rng.normal(size=(2, 20))  # nothing to learn: it can only overfit
    det = nb.DeterministicNN(
        FlaxMLP(hidden_dims=(32,)), learning_rate=0.02, map=False, swa=None, patience=5
    )
    det.train(train_x, train_y, 200, 20, (valid_x, valid_y), key=0, progress=False)
    losses = det.fit_result.validation_losses
    best = int(np.argmin(losses))
    assert len(losses) == len(det.fit_result.losses) == best + 1 + 5
    assert det.trajectory is None
    error = valid_y - det.predict(valid_x)
    at_best = 0.5 * np.mean(error**2) + 0.5 * np.log(2 * np.pi)
    assert at_best == pytest.approx(min(losses), rel=1e-5)
    assert losses[-1] > min(losses)
    assert det.validation_noise is not None
    np.testing.assert_allclose(det.validation_noise, np.sqrt(np.mean(error**2)), rtol=1e-5)


def test_averaged_weights_are_kept_where_they_do_better() -> None:
    recipe = Recipe(learning_rate=0.3, swa=SWA(start_pct=0.5), patience=1000)
    data = columns(X, Y)
    found = fit(recipe, epochs=40, batch_size=8, validation=data)
    loss = batch_loss(LINEAR, UNIT, found.params, ALL, None)
    assert float(loss) <= min(found.validation_losses) + 1e-6


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_loss_that_is_not_finite_raises() -> None:
    det = nb.DeterministicNN(FlaxMLP(hidden_dims=(4,)), learning_rate=1e30)
    with pytest.raises(errors.TrainingError, match=r"loss is (nan|inf) in epoch .*learning_rate"):
        det.train(X, Y, epochs=5, progress=False)
