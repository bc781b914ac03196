"""Stochastic-gradient samplers against closed forms and quadrature, with and without noise."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore import errors
from nbcore.posterior import convergence
from nbcore.targets.target import NetworkTarget
from nbcore_sgmcmc import metric as metrics
from nbcore_sgmcmc.metric import Metric, Seen, measure
from nbcore_sgmcmc.minibatches import Minibatches
from nbcore_sgmcmc.trajectories import Trajectory
from nbcore_sgmcmc.warmup import window_places

slow = pytest.mark.slow
SAMPLERS = ["sgld", "csgld", "sghmc"]
ROWS = 48
NOISE = 2.0
INPUTS = np.random.default_rng(0).normal(size=(ROWS, 3)) * [2.0, 1.0, 0.7]
TARGETS = INPUTS.sum(axis=1) + NOISE * np.random.default_rng(1).normal(size=ROWS)
# The posterior of the weights of y = x w + noise, with the prior N(0, 1) of each weight.
COVARIANCE = np.linalg.inv(INPUTS.T @ INPUTS / NOISE**2 + np.eye(3))
MEAN = COVARIANCE @ INPUTS.T @ TARGETS / NOISE**2


@functools.cache
def regression() -> NetworkTarget:
    network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))
    return nb.Target.build(
        network, {"out": {"kernel": jnp.zeros((3, 1))}}, nb.ProbabilisticSubset.everything(),
        INPUTS.astype(np.float32), TARGETS, likelihood=nb.Gaussian(noise=NOISE),
        prior=nb.NormalPrior(scale=1.0, center="zero"),
    )  # fmt: skip


def run(
    backend: str,
    num_samples: int = 3000,
    target: NetworkTarget | None = None,
    num_warmup: int = 200,
    init: Any = "trained",
    **options: Any,
) -> nb.NetworkPosterior:
    return nb.sample(
        regression() if target is None else target,
        nb.get_backend(backend, **options),
        key=0, num_warmup=num_warmup, num_samples=num_samples, num_chains=4, chunk_size=500,
        init=init, progress=False,
    )  # fmt: skip


def draws_of(posterior: nb.Posterior) -> np.ndarray:
    """Return the draws `(chain, draw, 3)`, whitened by the true mean and covariance."""
    (weights,) = jax.tree.leaves(posterior.draws["weights"])
    centered = weights[..., 0].astype(np.float64) - MEAN
    return centered @ np.linalg.inv(np.linalg.cholesky(COVARIANCE)).T


def variance_of(posterior: nb.Posterior) -> tuple[float, float]:
    """Return the variance in units of the true one over directions, and 4 standard errors."""
    draws = draws_of(posterior)
    variance = float(draws.var(axis=(0, 1)).mean())
    return variance, 4 * variance * float(np.sqrt(2 / np.sum(convergence.ess_mean(draws**2))))


def check_means(posterior: nb.Posterior, *, at_least: int) -> None:
    draws = draws_of(posterior)
    assert np.all(convergence.ess_bulk(draws) >= at_least)
    means = np.abs(draws.mean(axis=(0, 1)))
    assert np.all(means < 4 * convergence.mcse_mean(draws) + 0.01)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_by_all_examples_are_those_of_the_posterior(sampler: str) -> None:
    """At step sizes whose leapfrog steps alone would make the variance a sixth too large."""
    step_size = 0.4 if sampler == "csgld" else 1.1
    posterior = run(sampler, num_samples=1000, step_size=step_size, num_leapfrog_steps=4)
    check_means(posterior, at_least=500)
    variance, noise = variance_of(posterior)
    assert variance == pytest.approx(1, abs=noise)
    assert noise < 0.2
    assert 0.5 < posterior.stats.acceptance_rate.mean() < 0.999


@slow
@pytest.mark.parametrize("preconditioner", ["curvature", "rmsprop", "none"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_preconditioners_sample_the_same_posterior(sampler: str, preconditioner: str) -> None:
    posterior = run(sampler, preconditioner=preconditioner)
    check_means(posterior, at_least=500)
    variance, noise = variance_of(posterior)
    assert variance == pytest.approx(1, abs=noise)
    assert noise < 0.15


@slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_minibatches_have_the_documented_bias(sampler: str) -> None:
    posterior = run(sampler, inflation=0.3, batch_size=12, num_samples=6000)
    check_means(posterior, at_least=400)
    variance, noise = variance_of(posterior)
    # Without replacement, the noise of an epoch cancels in part; steps of a cycle get shorter.
    assert 1 - noise < variance < 1.3 + noise
    assert noise < 0.15
    finer = run(sampler, inflation=0.3, batch_size=48, num_samples=1000)
    assert posterior.stats.step_size.max() < finer.stats.step_size.max()


def test_steps_are_as_large_as_the_noise_allows() -> None:
    """h^2 v / (1 - s^2) is the inflation, with s the momentum that each refreshment keeps."""
    langevin, hamiltonian = (
        Trajectory(10, 0.9, every_step=True),
        Trajectory(10, 0.9, every_step=False),
    )
    v = jnp.asarray(3.0)
    assert langevin.largest_step(v, 0.3) == pytest.approx(np.sqrt(0.3 * (1 - 0.9**0.2) / 3))
    assert hamiltonian.largest_step(v, 0.3) == pytest.approx(np.sqrt(0.3 * (1 - 0.9**2) / 30))


@slow
def test_the_bias_of_a_step_size_is_at_most_the_documented_one() -> None:
    """By minibatches of one example in 12: N / B - 1 = 11 times the curvature, h^2 v = 0.99.

    Without replacement the noise of an epoch cancels, so that much less is seen.
    """
    posterior = run(
        "sgld", step_size=0.3, momentum=0.0, num_leapfrog_steps=5, batch_size=4, num_samples=10_000
    )  # fmt: skip
    variance, noise = variance_of(posterior)
    assert 1 - noise < variance < 1.99 + noise
    assert noise < 0.2


@slow
def test_a_temperature_scales_the_variance() -> None:
    posterior = run("sghmc", temperature=4.0, num_samples=1500)
    variance, noise = variance_of(posterior)
    assert variance == pytest.approx(4, abs=noise)
    assert noise < 0.6


def ridge(noise: float | None) -> NetworkTarget:
    """Return y = w1 tanh(w0 x): where one weight grows, the other one falls."""
    x = np.linspace(-1, 1, 20)[:, None].astype(np.float32)
    y = 0.8 * np.tanh(1.2 * x[:, 0]) + 0.1 * np.random.default_rng(3).normal(size=20)
    network = nb.as_network(
        (lambda key, x: None, lambda p, x: jnp.tanh(x @ p["in"]["w"]) @ p["out"]["w"])
    )
    likelihood = nb.Gaussian(noise=noise, noise_prior=None if noise else nb.LogNormal(0.3, 0.5))
    return nb.Target.build(
        network, {"in": {"w": jnp.ones((1, 1))}, "out": {"w": jnp.ones((1, 1))}},
        nb.ProbabilisticSubset.everything(), x, y, likelihood=likelihood,
        prior=nb.NormalPrior(scale=3.0, center="zero"),
    )  # fmt: skip


@functools.cache
def quadrature(noise: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of |outputs| `(examples,)`, and of log noise if it is unknown.

    The posterior is the same with both weights reversed, and so are the outputs.
    """
    target = ridge(noise)
    x, y = np.asarray(target.blocks[0].features[0], np.float64), target.targets()
    axis = np.linspace(0.02, 9, 450)
    us = np.zeros(1) if noise else np.linspace(-6, 4, 60)
    outputs = np.tanh(axis[:, None, None] * x.ravel()) * axis[None, :, None]
    squares = np.sum((outputs - np.float64(y).ravel()) ** 2, axis=2)
    sigma = noise or 0.3 * np.exp(0.5 * us)
    log = -squares[..., None] / (2 * sigma**2) - len(x) * np.log(sigma)
    log = log - (axis[:, None, None] ** 2 + axis[None, :, None] ** 2) / (2 * 9) - us**2 / 2
    density = np.exp(log - log.max())
    density /= density.sum()
    weights = density.sum(axis=2)
    found = [np.einsum("ab,abn->n", weights, outputs**k) for k in (1, 2)]
    if not noise:
        found = [np.append(m, np.sum(density * us**k)) for k, m in zip((1, 2), found, strict=True)]
    return found[0], np.sqrt(found[1] - found[0] ** 2)


@pytest.mark.parametrize("noise", [0.1, None], ids=["known", "unknown"])
@pytest.mark.parametrize("sampler", ["sgld", pytest.param("csgld", marks=slow), "sghmc"])
def test_a_network_that_is_not_linear_is_sampled_right(sampler: str, noise: float | None) -> None:
    """Both layers of a network, with defaults, against quadrature."""
    target = ridge(noise)
    posterior = run(sampler, num_samples=1000, num_warmup=300, target=target)
    outputs = posterior.outputs(np.asarray(target.blocks[0].features[0]))
    found = outputs.reshape(4, 1000, -1).astype(np.float64)
    if noise is None:
        found = np.concatenate([found, posterior.draws["likelihood"]["noise"]], axis=2)
    mean, deviation = quadrature(noise)
    assert np.median(convergence.ess_bulk(found)) > 50
    assert np.all(np.abs(found.mean(axis=(0, 1)) - mean) < 0.25 * deviation)
    ratio = found.std(axis=(0, 1)) / deviation
    assert np.all((ratio > 0.8) & (ratio < 1.25))
    assert posterior.stats.is_divergent.mean() < 0.05


@slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_far_starts_arrive(sampler: str) -> None:
    """From where the log density is lower by tens of thousands."""
    target = ridge(0.1)
    far = {"weights": jax.tree.map(lambda a: jnp.full((4, *a.shape), 8.0), target.start["weights"])}
    posterior = run(sampler, num_samples=500, target=target, init={**target.start, **far})
    outputs = posterior.outputs(np.asarray(target.blocks[0].features[0]))[..., 0]
    mean, deviation = quadrature(0.1)
    assert np.all(np.abs(outputs.mean(axis=0) - mean) < 0.5 * deviation)


def ill_scaled() -> NetworkTarget:
    """Return a linear regression whose two inputs differ in scale by a factor of 100."""
    rng = np.random.default_rng(2)
    X = (rng.normal(size=(80, 2)) * [10.0, 0.1]).astype(np.float32)
    network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))
    return nb.Target.build(
        network, {"out": {"kernel": jnp.zeros((2, 1))}}, nb.ProbabilisticSubset.everything(),
        X, X @ np.ones(2), likelihood=nb.Gaussian(noise=1.0), prior=nb.NormalPrior(scale=10.0),
    )  # fmt: skip


def seen_at(target: NetworkTarget, squares: Any = 1.0) -> Seen:
    flat = jax.flatten_util.ravel_pytree(target.start)[0]
    return Seen.begin(flat, jnp.ones_like(flat))._replace(squares=squares * jnp.ones_like(flat))


@pytest.mark.parametrize("rank", ["full", "low"])
def test_the_metric_is_the_curvature(rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """R R^T = (X^T X / noise^2 + I / (e s)^2)^-1, by d x d matrices, and by fewer rows."""
    if rank == "low":
        monkeypatch.setattr(metrics, "MOST_ROWS", 1)
        monkeypatch.setattr(metrics, "num_examples_at", lambda target: ROWS)
    metric = measure(jax.random.key(0), regression(), seen_at(regression()), "curvature")
    size = jnp.asarray(0.25)
    root = jax.vmap(lambda phi: metric.move(phi, size))(jnp.eye(3)).T
    precision = INPUTS.T @ INPUTS / NOISE**2 + np.eye(3) * 16
    np.testing.assert_allclose(root @ root.T, np.linalg.inv(precision), rtol=2e-3, atol=1e-6)
    g = jnp.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(metric.pull(g, size), root.T @ g, rtol=1e-4)


def test_rmsprop_halves_the_ratio_of_scales_on_a_logarithmic_axis() -> None:
    target = ill_scaled()
    squares = jnp.array([1e4, 1.0]) ** 2 / 100  # of gradients whose prior deviations are 10
    metric = measure(jax.random.key(0), target, seen_at(target, squares), "rmsprop")
    np.testing.assert_allclose(metric.scale, 10 * np.array([1e4, 1.0]) ** -0.5, rtol=1e-4)
    plain = measure(jax.random.key(0), target, seen_at(target), "none")
    np.testing.assert_allclose(plain.scale, 10.0)


def test_noise_is_that_of_minibatches() -> None:
    """Differences of two minibatches: the covariance is N (N / B - 1) that of the examples."""
    target = regression()
    batches = Minibatches.of(target, 12)
    assert not batches.is_whole
    flat = jnp.asarray(MEAN, jnp.float32)
    noise = batches.gradient_noise(jax.random.key(1), jnp.tile(flat, (3000, 1)))
    each = INPUTS * (TARGETS - INPUTS @ MEAN)[:, None] / NOISE**2
    expected = ROWS * 3 * np.cov(each.T)
    found = np.asarray(noise.T @ noise) / 3000
    np.testing.assert_allclose(found, expected, atol=0.1 * np.diag(expected).max())
    whole = Minibatches.of(target, None)
    assert whole.is_whole
    assert not whole.gradient_noise(jax.random.key(1), flat[None]).any()


def test_the_variance_of_noise_is_counted_in_directions_that_the_data_fix() -> None:
    noise = jax.random.normal(jax.random.key(0), (4000, 3)) * jnp.array([3.0, 1.0, 0.0])
    known = Metric(jnp.ones(3), jnp.eye(3), jnp.array([1e6, 1e6, 0.0]))
    # In phi the two directions of curvature 1e6 are 1,000 times as short.
    assert known.variance(1e3 * noise, jnp.ones(())) == pytest.approx((9 + 1) / 2, rel=0.1)
    free = Metric(jnp.ones(3), jnp.zeros((3, 0)), jnp.zeros(0))
    assert free.variance(noise, jnp.ones(())) == pytest.approx((81 + 1) / 10, rel=0.1)


def test_the_first_windows_end_early_and_hold_eight_positions() -> None:
    places = window_places(500)
    ends = np.flatnonzero(places[:, 1])
    assert ends.tolist() == [0, 9, 29, 59, 99, 149, 249, 349]
    for begin, end in itertools.pairwise(ends):
        assert set(places[begin + 1 : end + 1, 0]) == set(range(8))
    assert set(places[350:, 0]) == set(range(8))
    assert window_places(0).shape == (1, 2)
    assert not window_places(5)[1:, 1].any()


@pytest.mark.parametrize(
    ("sampler", "batch_size", "options", "expected"),
    [
        ("sgld", None, {"num_leapfrog_steps": 3}, 3),
        ("sgld", 12, {"num_leapfrog_steps": 3}, 6),
        ("sghmc", 12, {"num_leapfrog_steps": 4}, 8),
        ("csgld", None, {"num_leapfrog_steps": 2, "cycle_length": 5}, 10),
    ],
)
def test_gradients_are_counted(
    sampler: str, batch_size: int | None, options: dict[str, Any], expected: float
) -> None:
    posterior = run(sampler, num_samples=20, num_warmup=20, batch_size=batch_size, **options)
    assert posterior.stats.num_gradients.mean() == expected
    # Two windows: 8 positions with 48 examples each, and two minibatches at each for the noise.
    measuring = 8 if batch_size is None else 8 * 4 + 8 * 2
    noise = 0 if batch_size is None else 16  # once more after warmup
    count = expected if sampler != "csgld" else 2
    assert posterior.info.num_gradients["warmup"] == 4 * (20 * count + 2 * measuring + noise)


def test_a_schedule_is_a_factor_on_the_step_size() -> None:
    """By the step number after warmup."""
    posterior = run(
        "sgld", num_samples=20, num_warmup=20, step_size=0.4,
        schedule=lambda t: jnp.where(t < 3, 0.1, 1.0),
    )  # fmt: skip
    np.testing.assert_allclose(posterior.stats.step_size[:, :3], 0.04, rtol=1e-5)
    np.testing.assert_allclose(posterior.stats.step_size[:, 3:], 0.4, rtol=1e-5)


def test_steps_of_a_cycle_shrink_with_a_cosine() -> None:
    posterior = run(
        "csgld", num_samples=10, num_warmup=20, step_size=0.4, cycle_length=5, exploration=0.5
    )  # fmt: skip
    longest = np.sqrt(1 + np.cos(np.pi * (5 + np.arange(5)) / 10))
    longest *= 0.4 / longest[0]
    np.testing.assert_allclose(
        posterior.stats.step_size, np.tile(longest, (4, 2)), rtol=1e-5
    )  # fmt: skip


def two_modes() -> NetworkTarget:
    """Return a regression on w^2 x, whose posterior is the same for w and -w."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(64, 1)).astype(np.float32)
    y = 4 * X[:, 0] + 4 * rng.normal(size=64)
    network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"] ** 2))
    return nb.Target.build(
        network, {"out": {"kernel": jnp.full((1, 1), 2.0)}}, nb.ProbabilisticSubset.everything(),
        X, y, likelihood=nb.Gaussian(noise=4.0), prior=nb.NormalPrior(scale=2.0, center="zero"),
    )  # fmt: skip


@slow
def test_cycles_visit_the_mode_that_plain_sgld_never_sees() -> None:
    target = two_modes()
    grid = np.linspace(0, 5, 2001)
    log_density = jax.vmap(lambda w: target.log_density({**target.start, "weights": {
        next(iter(target.start["weights"])): w.reshape(1, 1)
    }}))(jnp.asarray(grid))  # fmt: skip
    density = np.exp(np.asarray(log_density, np.float64) - float(log_density.max()))
    density /= density.sum()
    mean = np.sum(density * grid)
    deviation = np.sqrt(np.sum(density * (grid - mean) ** 2))
    assert density.max() > 1e3 * density[0]  # a barrier between w and -w

    def weights(name: str, **options: Any) -> np.ndarray:
        posterior = run(name, num_samples=2400, target=target, batch_size=32, **options)
        return jax.tree.leaves(posterior.draws["weights"])[0][..., 0, 0]

    plain = weights("sgld")
    cycled = weights("csgld", exploration_temperature=20.0, cycle_length=40)
    assert np.all(plain > 0)
    share = (cycled < 0).mean()
    assert 0.3 < share < 0.7
    # Within a mode, the draws are those of the posterior.
    assert np.abs(cycled).mean() == pytest.approx(mean, abs=0.15 * deviation)
    assert np.abs(cycled).std() == pytest.approx(deviation, rel=0.15)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_minibatch_samplers_need_data(sampler: str) -> None:
    target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    with pytest.raises(errors.TargetError, match="numpyro-nuts"):
        nb.sample(target, sampler, num_warmup=1, num_samples=1, num_chains=1, progress=False)


def test_siblings_have_the_same_options_in_the_same_order() -> None:
    names = {n: [f.name for f in dataclasses.fields(nb.get_backend(n))] for n in SAMPLERS}  # pyright: ignore[reportArgumentType]
    assert names["sgld"] == names["sghmc"]
    shared = [name for name in names["sgld"] if name != "schedule"]
    assert [name for name in names["csgld"] if name in shared] == shared


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sgld", {"step_size": -1.0}, "positive"),
        ("sgld", {"inflation": 0.0}, "positive"),
        ("sgld", {"temperature": -1.0}, "positive"),
        ("sgld", {"momentum": 1.0}, r"within \[0, 1\)"),
        ("sgld", {"target_acceptance_rate": 1.0}, r"within \(0, 1\)"),
        ("sgld", {"batch_size": 0}, "at least 1 or None"),
        ("sgld", {"batch_size": 2.5}, "integer"),
        ("sgld", {"preconditioner": "adam"}, "'curvature', 'rmsprop', 'none'"),
        ("csgld", {"exploration": 1.0}, r"within \[0, 1\)"),
        ("csgld", {"cycle_length": 0}, "at least 1"),
        ("csgld", {"exploration_temperature": -1.0}, "at least 0"),
        ("csgld", {"num_cycles": 4}, "cycle_length"),
        ("sghmc", {"friction": 1.0}, "momentum"),
        ("sghmc", {"num_leapfrog_steps": 0}, "at least 1"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.OptionError, match=message):
        nb.get_backend(name, **options)
