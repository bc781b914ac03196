"""BlackJAX's samplers: closed forms, far starts, bias, adaptation, options and counts."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.mcmc import mclmc
from scipy import stats as distributions

import nbcore as nb
import nbcore_blackjax.mclmc
from nbcore import errors
from nbcore.posterior import convergence
from nbcore.sampling.backend import Backend
from nbcore.targets.curvature import Whitening
from nbcore.targets.target import NetworkTarget, Target
from nbcore_blackjax import mala
from nbcore_blackjax.microcanonical import Parameters

NOISE, SCALE = 0.5, 0.7
"""Standard deviations of the noise and of the prior of the regression."""

OPTIONS: dict[str, dict[str, Any]] = {
    "blackjax-nuts": {},
    "blackjax-hmc": {},
    "blackjax-mala": {},
    "blackjax-mclmc": {},
    "blackjax-adjusted-mclmc": {},
}
EXACT = [name for name in OPTIONS if name != "blackjax-mclmc"]


class Regression(NamedTuple):
    """A linear regression with known noise, and the mean and covariance of its posterior."""

    target: NetworkTarget
    mean: np.ndarray
    covariance: np.ndarray

    def draws(self, posterior: nb.Posterior) -> np.ndarray:
        """Return the draws `(chain, draw, weights)`."""
        return posterior.draws["weights"]["out/kernel"][..., 0].astype(np.float64)


@pytest.fixture(scope="module")
def regression() -> Regression:
    """Five weights, two of them of strongly correlated columns."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5)).astype(np.float32)
    X[:, 1] = X[:, 0] + 0.3 * X[:, 1]
    y = X @ rng.normal(size=5) + NOISE * rng.normal(size=60)
    network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))
    target = nb.Target.build(
        network,
        {"out": {"kernel": jnp.zeros((5, 1))}},
        nb.ProbabilisticSubset.everything(),
        X,
        y,
        likelihood=nb.Gaussian(noise=NOISE),
        prior=nb.NormalPrior(scale=SCALE),
    )
    covariance = np.linalg.inv(X.T @ X / NOISE**2 + np.eye(5) / SCALE**2)
    return Regression(target, covariance @ X.T @ y / NOISE**2, covariance)


def run(target: Target, backend: Backend, **plan: Any) -> nb.Posterior:
    defaults: dict[str, Any] = {"num_warmup": 300, "num_samples": 4000, "num_chains": 2}
    return nb.sample(target, backend, key=0, progress=False, **(defaults | plan))


@pytest.mark.slow  # the conformance kit has all of them at their defaults
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *OPTIONS.items(),
        ("blackjax-nuts", {"mass_matrix": "low_rank"}),
        ("blackjax-nuts", {"mass_matrix": "dense"}),
        ("blackjax-hmc", {"mass_matrix": "low_rank"}),
    ],
)
def test_draws_follow_the_closed_form(
    regression: Regression, name: str, options: dict[str, Any]
) -> None:
    """Means to 4 standard errors, deviations to 10 %, parameters frozen after warmup."""
    backend = nb.get_backend(name, **options)
    # Those that tune in bulk need no warmup.
    num_warmup = 0 if backend.kernel(0).tune else 300
    posterior = run(regression.target, backend, num_warmup=num_warmup)
    draws, deviations = regression.draws(posterior), np.sqrt(np.diag(regression.covariance))
    assert np.all(convergence.ess_mean(draws) >= 1000)
    off = np.abs(draws.mean(axis=(0, 1)) - regression.mean)
    assert np.all(off < 4 * convergence.mcse_mean(draws))
    np.testing.assert_allclose(draws.std(axis=(0, 1)) / deviations, 1, atol=0.1)
    assert not posterior.stats.is_divergent.any()
    assert np.all(np.ptp(posterior.stats.step_size, axis=1) == 0)
    last = jax.tree.map(lambda a: a[1, -1], posterior.draws)
    density = float(regression.target.log_density(last))
    assert float(posterior.stats.log_density[1, -1]) == pytest.approx(density, rel=1e-4)


def correlated() -> tuple[Target, list[Any]]:
    """A normal of condition number 1000, started 20 from its mode, and its marginals."""
    variances = np.geomspace(1e-3, 1, 4)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    precision = jnp.asarray((rotation / variances) @ rotation.T)
    target = nb.Target.from_log_density(lambda x: -0.5 * x @ precision @ x, jnp.full(4, 20.0))
    scales = np.sqrt(np.diag((rotation * variances) @ rotation.T))
    return target, [distributions.norm(scale=s) for s in scales]


def skewed() -> tuple[Target, list[Any]]:
    """Logarithms of gamma variables, started in the tail that falls off like exp(-e^x)."""
    shapes = np.array([0.5, 3.0])
    target = nb.Target.from_log_density(
        lambda x: jnp.sum(jnp.asarray(shapes, x.dtype) * x - jnp.exp(x)), jnp.full(2, 5.0)
    )
    return target, [distributions.loggamma(shape) for shape in shapes]


@pytest.mark.slow
@pytest.mark.parametrize("case", [correlated, skewed])
@pytest.mark.parametrize("name", EXACT)
def test_quantiles_are_exact_from_a_far_start(name: str, case: Any) -> None:
    target, marginals = case()
    posterior = run(target, nb.get_backend(name), num_warmup=1000, num_samples=10_000, num_chains=4)
    probabilities = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    for i, marginal in enumerate(marginals):
        below = posterior.draws[..., i, None] <= marginal.ppf(probabilities)
        ess = convergence.ess_mean(below.astype(float))
        assert np.all(ess >= 1000)
        error = np.sqrt(probabilities * (1 - probabilities) / ess)
        assert np.all(np.abs(below.mean(axis=(0, 1)) - probabilities) < 4 * error)


def test_the_bias_of_mclmc_falls_with_the_step_size() -> None:
    target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(10))
    kernel = nb.get_backend("blackjax-mclmc").kernel(0)
    as_it_is = Whitening(jnp.zeros(10), jnp.ones(10))
    key = jax.random.key(0)

    @jax.jit
    def variance(step_size: float) -> jax.Array:
        first = kernel.init(key, target, as_it_is, target.start)
        at = first.parameters._replace(step_size=jnp.asarray(step_size))

        def body(state: Any, t: jax.Array) -> tuple[Any, jax.Array]:
            state, _ = kernel.step(jax.random.fold_in(key, t), target, as_it_is, state, t)
            return state, state.position

        draws = jax.lax.scan(body, first._replace(parameters=at), jnp.arange(30_000))[1]
        return draws.var(axis=0).mean()

    assert abs(float(variance(7.0)) - 1) > 0.08
    assert abs(float(variance(4.0)) - 1) < 0.04
    assert abs(float(variance(1.0)) - 1) < 0.02


def test_the_energy_variance_falls_while_mclmc_is_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """BlackJAX compares e^2 with d times 0.002, and gets e in units of what is wanted at step t."""
    errors_of_energy: list[tuple[float, float]] = []
    target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.ones(20))
    backend = nb.get_backend(
        "blackjax-mclmc", initial_energy_var=0.5, desired_energy_var=0.002, num_tune=1000
    )

    def looked_at(kernel: Any, num_steps: int, state: Any, key: jax.Array, **options: Any) -> Any:
        at = options["params"]
        arguments: dict[str, Any] = {
            "logdensity_fn": options["logdensity_fn"], "L": at.L, "step_size": at.step_size,
            "inverse_mass_matrix": at.inverse_mass_matrix, "rng_key": key,
        }  # fmt: skip
        plain = mclmc.IntegratorState(*state[:4])
        raw = float(mclmc.build_kernel()(state=plain, **arguments)[1].energy_change)
        for t in (0, 150, 300, 600, 999):
            moved, info = kernel(state=state._replace(count=jnp.asarray(t)), **arguments)
            assert int(moved.count) == t + 1
            errors_of_energy.append((raw, float(info.energy_change)))
        assert options["desired_energy_var"] == 0.002
        return state, at, num_steps

    monkeypatch.setattr(nbcore_blackjax.mclmc, "mclmc_find_L_and_step_size", looked_at)
    kernel, key = backend.kernel(0), jax.random.key(0)
    whitening = Whitening(jnp.zeros(20), jnp.ones(20))
    assert kernel.tune is not None
    kernel.tune(key, target, whitening, kernel.init(key, target, whitening, target.start))
    wanted = [0.5, 0.3755, 0.251, 0.002, 0.002]  # linear over the first 600 of 1,000 steps
    for (raw, got), variance in zip(errors_of_energy, wanted, strict=True):
        assert got**2 / 0.002 == pytest.approx(raw**2 / variance, rel=1e-4)


@pytest.mark.parametrize("adapts_scales", [True, False])
def test_mclmc_follows_the_closed_form_without_whitening(adapts_scales: bool) -> None:
    """Variances of a normal density of unequal scales, to 4 standard errors and the known bias."""
    scales = np.geomspace(1e-3, 1e-2, 6)
    target = nb.Target.from_log_density(
        lambda x: -0.5 * jnp.sum((x / jnp.asarray(scales)) ** 2), jnp.asarray(scales)
    )
    backend: Any = nb.get_backend(
        "blackjax-mclmc", whiten=False, initial_energy_var=0.5, num_tune=2000,
        adapt_mass_matrix=adapts_scales,
    )  # fmt: skip
    posterior = run(target, backend, num_warmup=0, num_samples=20_000, thin=4)
    squares = (np.asarray(posterior.draws, np.float64) / scales) ** 2
    assert np.all(convergence.ess_mean(squares) > 300)
    # Without scales, the narrowest of the six directions has the bias of all.
    bias = (2 if adapts_scales else 6) * backend.bias_tolerance
    error = 4 * convergence.mcse_mean(squares) + bias
    assert np.all(np.abs(squares.mean(axis=(0, 1)) - 1) < error)
    assert not posterior.stats.is_divergent.any()


def test_without_whitening_mclmc_begins_with_a_step_that_stays_at_its_start() -> None:
    target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.ones(400))
    backend = nb.get_backend("blackjax-mclmc", whiten=False, num_moves=1)
    kernel, key = backend.kernel(0), jax.random.key(0)
    shared = kernel.shared(key, target, target.start)
    state = kernel.init(key, target, shared, target.start)
    np.testing.assert_array_equal(state.position, target.start)
    moved, _ = kernel.step(key, target, shared, state, 0)
    assert 0 < float(jnp.linalg.norm(moved.position - target.start)) < 0.01


STEEP = nb.Target.from_log_density(
    lambda x: -50.0 * (x[1] - x[0] ** 2) ** 2 - 0.5 * x[0] ** 2, jnp.array([1.0, 1.0])
)
"""A curved ridge: ten times as long as it is wide at the mode, and longer beyond."""


@pytest.mark.parametrize(
    ("name", "fixed"),
    [
        ("blackjax-hmc", {"num_leapfrog_steps": 3}),
        ("blackjax-mala", {"num_moves": 3}),
        ("blackjax-mclmc", {"num_moves": 3}),
        ("blackjax-adjusted-mclmc", {"num_moves": 3}),
    ],
)
def test_steps_are_as_long_as_the_step_size_asks_for_or_as_the_user_says(
    name: str, fixed: dict[str, Any]
) -> None:
    backend, plan = nb.get_backend(name), {"num_samples": 200, "num_warmup": 200}
    assert "fixed_cost" not in backend.capabilities
    stats = run(STEEP, backend, **plan).stats
    counts, step_size = np.asarray(stats.num_gradients), np.asarray(stats.step_size)
    if name == "blackjax-hmc":
        assert np.all(counts >= np.floor(1 / step_size))
        assert np.all(counts <= np.ceil(2 / step_size))
    elif name == "blackjax-mala":
        np.testing.assert_array_equal(counts, np.ceil(4 / step_size))
    elif name == "blackjax-mclmc":
        assert np.all((np.ptp(counts, axis=1) == 0) & (counts[:, 0] > 2) & (counts[:, 0] % 2 == 0))
    else:
        length = np.clip(3 * 2**0.5 / step_size, 2, 64)
        moves = np.minimum(np.ceil(2 / step_size**2 / length), 1024 // (2 * length))
        assert np.mean(counts / (2 * length * moves)) == pytest.approx(1, abs=0.15)
    backend = nb.get_backend(name, **fixed)
    stats = run(STEEP, backend, **plan).stats
    if name == "blackjax-adjusted-mclmc":  # trajectories of random length
        assert np.ptp(stats.num_gradients) > 0
        return
    assert "fixed_cost" in backend.capabilities
    assert np.all(stats.num_gradients == (6 if name == "blackjax-mclmc" else 3))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("blackjax-hmc", {"target_acceptance_rate": 0.9}),  # at 0.8 it diverges in the bends
        ("blackjax-mclmc", {}),
        ("blackjax-adjusted-mclmc", {}),
    ],
)
def test_steps_cross_a_curved_ridge(name: str, options: dict[str, Any]) -> None:
    """E[x1] = E[x0^2] = 1 and Var(x1) = Var(x0^2) + 1 / 100, on draws worth 100 at least."""
    posterior = run(STEEP, nb.get_backend(name, **options), num_samples=2000)
    x = np.asarray(posterior.draws, np.float64)
    assert convergence.ess_mean(x[..., 1]) > 100
    for values, truth in ((x[..., 0], 0.0), (x[..., 0] ** 2, 1.0), (x[..., 1], 1.0)):
        error = 4 * convergence.mcse_mean(values) + 0.05 * (name == "blackjax-mclmc")
        assert abs(values.mean() - truth) < error


def test_a_length_and_a_number_of_leapfrog_steps_are_one_too_many() -> None:
    with pytest.raises(errors.OptionError, match="both given"):
        nb.get_backend("blackjax-hmc", num_leapfrog_steps=8, trajectory_length=2.0)


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_are_counted_one_by_one_and_no_warmup_is_needed(name: str) -> None:
    calls: list[None] = []

    def density(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: calls.append(None))
        return -0.5 * jnp.sum((x / jnp.array([0.5, 1.0, 2.0])) ** 2)

    target = nb.Target.from_log_density(density, jnp.zeros(3))
    kernel = nb.get_backend(name, **OPTIONS[name]).kernel(0)
    key = jax.random.key(0)
    shared: Any = Whitening(jnp.zeros(3), jnp.ones(3))
    if name == "blackjax-mala":
        shared = mala.Shared(shared, jnp.ones(()))
    state = kernel.init(key, target, shared, target.start)
    step = jax.jit(lambda k, s: kernel.step(k, target, shared, s, 0))
    jax.effects_barrier()
    calls.clear()
    counted = 0
    for t in range(20):
        state, report = step(jax.random.key(t), state)
        counted += int(report.num_gradients)
    jax.effects_barrier()
    assert len(calls) == counted
    assert bool(jnp.all(kernel.position(state) != target.start))


@pytest.mark.parametrize(
    "mass_matrix", ["diagonal", pytest.param("dense", marks=pytest.mark.slow), "low_rank"]
)
def test_only_warmup_changes_parameters(mass_matrix: str) -> None:
    target = nb.Target.from_log_density(
        lambda x: -0.5 * jnp.sum((x / jnp.array([0.1, 1.0, 3.0])) ** 2), jnp.ones(3)
    )
    backend = nb.get_backend("blackjax-hmc", mass_matrix=mass_matrix, num_leapfrog_steps=8)
    kernel = backend.kernel(60)
    key = jax.random.key(0)
    first = kernel.init(key, target, (), target.start)

    @jax.jit
    def warm(state: Any) -> Any:
        def body(t: Any, s: Any) -> Any:
            return kernel.warmup(jax.random.fold_in(key, t), target, (), s, t)[0]

        return jax.lax.fori_loop(0, 60, body, state)

    warmed = warm(first)
    assert warmed.averaging.average != first.averaging.average
    changed = jax.tree.map(
        lambda a, b: bool(jnp.any(a != b)), first.inverse_mass_matrix, warmed.inverse_mass_matrix
    )
    assert any(jax.tree.leaves(changed))
    after, stats = jax.jit(kernel.step)(key, target, (), warmed, 0)
    assert stats.step_size == warmed.averaging.average
    assert bool(jnp.any(after.sampler.position != warmed.sampler.position))
    jax.tree.map(np.testing.assert_array_equal, after[1:], warmed[1:])


def five_weights() -> tuple[Target, np.ndarray]:
    """Return a normal density of five weights, condition number 999, and its covariance."""
    root = np.random.default_rng(0).normal(size=(5, 5))
    covariance = root @ root.T + 0.05 * np.eye(5)
    units = np.diag([3.0, 1.0, 1.0, 1.0, 0.1])
    covariance = units @ covariance @ units
    precision = jnp.asarray(np.linalg.inv(covariance), jnp.float32)
    target = nb.Target.from_log_density(lambda x: -0.5 * x @ precision @ x, jnp.ones(5))
    return target, covariance


@pytest.mark.parametrize("options", [{}, {"max_rank": 2}], ids=["any rank", "rank 2"])
@pytest.mark.parametrize("name", ["nuts", pytest.param("hmc", marks=pytest.mark.slow)])
def test_a_low_rank_mass_matrix_follows_correlations(name: str, options: dict[str, Any]) -> None:
    """Correlations of all draws, and scales, whatever the step size does in between."""
    target, covariance = five_weights()
    steps = {"num_leapfrog_steps": 16} if name == "hmc" else {}
    backend = nb.get_backend(f"blackjax-{name}", mass_matrix="low_rank", **steps, **options)
    posterior = run(target, backend, num_samples=500, num_chains=4)
    draws = np.asarray(posterior.draws, np.float64)
    whitened = draws.reshape(-1, 5) @ np.linalg.inv(np.linalg.cholesky(covariance)).T
    assert np.all(convergence.ess_bulk(draws) > 400)
    np.testing.assert_allclose(whitened.T @ whitened / 2000, np.eye(5), atol=0.2)
    assert posterior.stats.num_gradients.mean() < 24  # 50 to 100 with a diagonal one


def test_a_low_rank_mass_matrix_has_the_right_sign_and_scale() -> None:
    target, covariance = five_weights()
    kernel = nb.get_backend("blackjax-nuts", mass_matrix="low_rank").kernel(300)
    state = kernel.init(jax.random.key(0), target, (), target.start)

    def warm(t: Any, state: Any) -> Any:
        return kernel.warmup(jax.random.fold_in(jax.random.key(1), t), target, (), state, t)[0]

    state = jax.jit(lambda state: jax.lax.fori_loop(0, 300, warm, state))(state)
    sigma, U, lam = state.inverse_mass_matrix
    matrix = np.outer(sigma, sigma) * (np.eye(5) + (U * (lam - 1)) @ U.T)
    ratio = np.linalg.eigvals(np.linalg.solve(covariance, matrix)).real
    # Factors of up to 2 are not corrected.
    assert ratio.min() > 0.4
    assert ratio.max() < 2.5


def test_mala_corrects_a_curvature_that_holds_at_the_mode_alone() -> None:
    """sqrt(var x / E g^2) is the squared scale of a coordinate, here far from 1 / curvature."""

    def each(x: Any) -> Any:
        return -jnp.sqrt(1 + (10 * x) ** 2)

    target = nb.Target.from_log_density(lambda x: each(x[0]) - 0.5 * x[1] ** 2, jnp.ones(2))
    grid = np.linspace(-3, 3, 20_001)
    density = np.exp(np.asarray(each(grid)))
    slope = np.asarray(jax.vmap(jax.grad(each))(grid))
    variance, steepness = (np.average(a**2, weights=density) for a in (grid, slope))
    wanted = 100 * np.sqrt(variance / steepness)  # over the variance by the curvature, 1 / 100
    assert wanted > 2

    def scales(**options: Any) -> np.ndarray:
        kernel = nb.get_backend("blackjax-mala", **options).kernel(1000)
        key = jax.random.key(0)

        @jax.jit
        def warmed(target: Any) -> Any:
            shared = kernel.shared(key, target, target.start)
            state = kernel.init(key, target, shared, target.start)

            def body(t: Any, state: Any) -> Any:
                return kernel.warmup(jax.random.fold_in(key, t), target, shared, state, t)[0]

            return jax.lax.fori_loop(0, 1000, body, state).factor

        return np.linalg.svd(np.asarray(warmed(target)), compute_uv=False) ** 2

    np.testing.assert_array_equal(scales(adapt_mass_matrix=False), [1, 1])
    np.testing.assert_allclose(scales(), [wanted, 1], rtol=0.2)


@pytest.mark.slow
def test_mclmc_moves_beside_a_region_where_the_density_is_not_a_number() -> None:
    """x0 is normal below 1/2, with deviation 0.697; steps across stay, and are divergent."""

    def density(x: jax.Array) -> jax.Array:
        return jnp.where(x[0] > 0.5, jnp.nan, -0.5 * jnp.sum(x**2))

    target = nb.Target.from_log_density(density, jnp.zeros(10))
    posterior = run(target, nb.get_backend("blackjax-mclmc"), num_samples=1000)
    draws = np.asarray(posterior.draws)
    assert np.all(convergence.ess_bulk(draws) > 100)
    assert draws[..., 0].std() == pytest.approx(0.697, rel=0.15)
    assert draws[..., 1:].std() == pytest.approx(1.0, rel=0.1)
    assert 0.02 < posterior.stats.is_divergent.mean() < 0.5


@pytest.mark.parametrize(
    ("step_size", "scale", "stuck"),
    [(0.5, 1.0, False), (1e-6, 1.0, True), (np.nan, 1.0, True), (0.5, 0.0, True)],
)
def test_steps_of_a_stuck_mclmc_chain_are_divergent(
    step_size: float, scale: float, stuck: bool
) -> None:
    target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(3))
    kernel = nb.get_backend("blackjax-mclmc").kernel(0)
    whitening = Whitening(jnp.zeros(3), jnp.eye(3))
    state = kernel.init(jax.random.key(0), target, whitening, target.start)
    at = Parameters(jnp.asarray(2.0), jnp.asarray(step_size), jnp.array([1.0, scale, 1.0]))
    _, stats = kernel.step(jax.random.key(1), target, whitening, state._replace(parameters=at), 0)
    assert bool(stats.is_divergent) is stuck


def test_what_is_not_to_be_adapted_stays() -> None:
    target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum((x / 9) ** 2), jnp.ones(2))
    for flags in [(True, False), (False, True)]:
        backend = nb.get_backend(
            "blackjax-hmc", adapt_step_size=flags[0], adapt_mass_matrix=flags[1], step_size=0.25
        )
        kernel = backend.kernel(40)
        state = kernel.init(jax.random.key(0), target, (), target.start)
        warmup = jax.jit(lambda k, s, t, f=kernel.warmup: f(k, target, (), s, t)[0])
        for t in range(40):
            state = warmup(jax.random.key(t), state, t)
        assert (not np.isclose(state.averaging.average, 0.25)) == flags[0]
        assert bool(jnp.any(state.inverse_mass_matrix != 1)) == flags[1]


@pytest.mark.parametrize("num_warmup", [0, 1, 30])
@pytest.mark.parametrize("name", OPTIONS)
def test_states_keep_their_types(name: str, num_warmup: int) -> None:
    """A state that changed them would compile every phase twice, or not run in a loop."""
    target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x["a"] ** 2), {"a": jnp.ones(3)})
    kernel = nb.get_backend(name).kernel(num_warmup)
    key, zero = jax.random.key(0), jnp.zeros((), jnp.int32)
    shared = jax.eval_shape(kernel.shared, key, target, target.start)
    state = jax.eval_shape(kernel.init, key, target, shared, target.start)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    after = [jax.eval_shape(f, key, target, shared, state, zero)[0] for f in kernel[1:3]]
    if kernel.tune is not None:
        after.append(jax.eval_shape(kernel.tune, key, target, shared, state)[0])
    for other in after:
        assert jax.tree.structure(other) == jax.tree.structure(state)
        assert jax.tree.leaves(other) == jax.tree.leaves(state)


@pytest.mark.slow
def test_chunks_do_not_change_the_draws_of_nuts() -> None:
    target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    backend = nb.get_backend("blackjax-nuts")
    runs = [
        run(target, backend, num_warmup=40, num_samples=20, chunk_size=size).draws
        for size in (3, 40)
    ]
    jax.tree.map(np.testing.assert_array_equal, *runs)


@pytest.mark.parametrize("name", ["blackjax-mclmc", "blackjax-adjusted-mclmc"])
def test_microcanonical_samplers_refuse_a_single_number(name: str) -> None:
    target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(1))
    kernel, whitening = nb.get_backend(name).kernel(0), Whitening(jnp.zeros(1), jnp.ones(1))
    with pytest.raises(errors.TargetError, match="blackjax-nuts"):
        kernel.init(jax.random.key(0), target, whitening, target.start)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nuts", {"target_acceptance_rate": 1.0}, "target_acceptance_rate .* got 1.0"),
        ("nuts", {"target_acceptance_rate": "high"}, r"\(0, 1\), got 'high'"),
        ("nuts", {"max_tree_depth": 0}, "1 to 20, got 0"),
        ("nuts", {"max_tree_depth": 2.5}, "integer"),
        ("nuts", {"mass_matrix": "full"}, "'diagonal', 'dense', 'low_rank', got 'full'"),
        ("nuts", {"mass_matrix": "lowrank"}, "Did you mean 'low_rank'"),
        ("nuts", {"max_rank": 0}, "max_rank"),
        ("nuts", {"step_size": 0.0}, "step_size is a positive number, got 0.0"),
        ("nuts", {"adapt_step_size": "no"}, "True or False"),
        ("hmc", {"num_leapfrog_steps": 0}, "1 to 10,000"),
        ("hmc", {"step_size": None}, "positive"),
        ("hmc", {"target_acceptance_rate": 0}, "within"),
        ("mala", {"step_size": -1.0}, "positive number or None"),
        ("mala", {"target_acceptance_rate": -0.1}, "within"),
        ("mclmc", {"desired_energy_var": 0}, "desired_energy_var"),
        ("mclmc", {"initial_energy_var": -0.5}, "initial_energy_var"),
        ("mclmc", {"whiten": "no"}, "True or False"),
        ("mclmc", {"trajectory_length": float("inf")}, "trajectory_length"),
        ("mclmc", {"num_tune": 10}, "100 to"),
        ("mclmc", {"target_acceptance_rate": 0.8}, "target_acceptance_rate"),
        ("adjusted-mclmc", {"num_leapfrog_steps": 1.0}, "blackjax-mala"),
        ("adjusted-mclmc", {"num_tune": 1.5}, "num_tune"),
        ("adjusted-mclmc", {"adapt_mass_matrix": 1}, "True or False"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.OptionError, match=message):
        nb.get_backend(f"blackjax-{name}", **options)
