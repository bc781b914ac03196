"""Stochastic-gradient samplers against a closed form: their bias is the documented one."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore import errors
from nbcore.posterior import convergence
from nbcore.targets.target import NetworkTarget

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
    backend: str, num_samples: int = 3000, target: NetworkTarget | None = None, **options: Any
) -> nb.Posterior:
    return nb.sample(
        regression() if target is None else target,
        nb.get_backend(backend, **options),
        key=0, num_warmup=200, num_samples=num_samples, num_chains=4, chunk_size=500,
        progress=False,
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
    """For a quadratic density the bias is in the variance alone."""
    draws = draws_of(posterior)
    assert np.all(convergence.ess_bulk(draws) >= at_least)
    means = np.abs(draws.mean(axis=(0, 1)))
    assert np.all(means < 4 * convergence.mcse_mean(draws) + 0.01)


def expected_variance(sampler: str, step_size: float) -> float:
    """Return the variance of a whitened normal under each sampler, gradients without noise."""
    if sampler == "sgld":  # phi' = (1 - e) phi + sqrt(2 e) xi
        return 1 / (1 - step_size / 2)
    # The stationary covariance of phi' = phi + e p, p' = (1 - e) p - e phi' + sqrt(2 e) xi.
    return 1 / (1 - step_size**2 / 4 / (1 - step_size / 2))


@pytest.mark.parametrize(
    ("sampler", "step_size"),
    [
        pytest.param("sgld", 0.5, marks=slow),
        pytest.param("sgld", 0.1, marks=slow),
        pytest.param("sghmc", 0.8, marks=slow),
        pytest.param("sghmc", 0.2, marks=slow),
    ],
)
def test_the_bias_is_exactly_that_of_the_step_size(sampler: str, step_size: float) -> None:
    """With all rows in a batch; it falls to none with the step size."""
    options = {"num_leapfrog_steps": 5} if sampler == "sghmc" else {}
    # The schedule is a factor on the step size, by the step number after warmup.
    posterior = run(
        sampler, step_size=2 * step_size, batch_size=ROWS,
        schedule=lambda t: jnp.where(t < 3, 0.25, 0.5), **options,
    )  # fmt: skip
    taken = posterior.stats.step_size[0] / step_size
    np.testing.assert_allclose(taken, np.where(np.arange(3000) < 3, 0.5, 1.0), rtol=1e-6)
    expected = expected_variance(sampler, step_size)
    assert np.all(posterior.stats.num_gradients == (5 if sampler == "sghmc" else 1))
    variance, noise = variance_of(posterior)
    assert variance == pytest.approx(expected, abs=noise)
    assert noise < 0.15


@slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_default_step_size_has_the_documented_bias(sampler: str) -> None:
    posterior = run(sampler, inflation=0.2, batch_size=24)
    check_means(posterior, at_least=200)
    taken = posterior.stats.num_gradients.mean()
    assert taken == getattr(nb.get_backend(sampler), "expected_gradients", 1.0)
    variance, noise = variance_of(posterior)
    # Steps of a cycle get shorter, so that its bias is less on average.
    least = 1.0 if sampler == "csgld" else 1.05
    assert least - noise < variance < 1 + 0.2 + noise
    assert noise < 0.15


@slow
def test_a_temperature_scales_the_variance() -> None:
    posterior = run("sghmc", step_size=0.2, batch_size=ROWS, temperature=4.0, num_samples=1000)
    variance, noise = variance_of(posterior)
    assert variance == pytest.approx(4 * expected_variance("sghmc", 0.2), abs=noise)
    assert noise < 0.6


@slow
@pytest.mark.parametrize("preconditioner", ["rmsprop", "none"])
def test_other_preconditioners_sample_the_same_posterior(preconditioner: str) -> None:
    posterior = run(
        "sgld", num_samples=6000, preconditioner=preconditioner, batch_size=ROWS, inflation=0.2
    )
    check_means(posterior, at_least=200)
    variance, noise = variance_of(posterior)
    assert 1 - noise < variance < 1.25 + noise
    assert noise < 0.2


def ill_scaled() -> NetworkTarget:
    """Return a linear regression whose two inputs differ in scale by a factor of 100."""
    rng = np.random.default_rng(2)
    X = (rng.normal(size=(80, 2)) * [10.0, 0.1]).astype(np.float32)
    network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))
    return nb.Target.build(
        network, {"out": {"kernel": jnp.zeros((2, 1))}}, nb.ProbabilisticSubset.everything(),
        X, X @ np.ones(2), likelihood=nb.Gaussian(noise=1.0), prior=nb.NormalPrior(scale=10.0),
    )  # fmt: skip


@slow
def test_rmsprop_learns_the_scales_in_warmup_and_keeps_them() -> None:
    """RMSprop halves the ratio of scales on a logarithmic axis, so that steps can be longer."""
    target = ill_scaled()
    runs = {
        name: run("sgld", num_samples=50, target=target, preconditioner=name)
        for name in ("rmsprop", "none")
    }
    sizes = {name: posterior.stats.step_size for name, posterior in runs.items()}
    assert sizes["rmsprop"].min() > 20 * sizes["none"].max()
    assert np.all(np.ptp(sizes["rmsprop"], axis=1) == 0)


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
        posterior = run(name, num_samples=1200, target=target, batch_size=32, **options)
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


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sgld", {"step_size": -1.0}, "positive"),
        ("sgld", {"inflation": 0.0}, "positive"),
        ("sgld", {"temperature": -1.0}, "positive"),
        ("sgld", {"batch_size": 0}, "at least 1 or None"),
        ("sgld", {"batch_size": 2.5}, "integer"),
        ("sgld", {"preconditioner": "adam"}, "'curvature', 'rmsprop', 'none'"),
        ("csgld", {"exploration": 1.0}, r"within \[0, 1\)"),
        ("csgld", {"cycle_length": 0}, "at least 1"),
        ("csgld", {"exploration_temperature": -1.0}, "at least 0"),
        ("csgld", {"num_cycles": 4}, "cycle_length"),
        ("sghmc", {"friction": 0.0}, "positive"),
        ("sghmc", {"num_leapfrog_steps": 0}, "at least 1"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.OptionError, match=message):
        nb.get_backend(name, **options)
