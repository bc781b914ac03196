"""Samplers against the closed-form posterior of a last layer with known noise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore import errors, references
from nbcore.common import plugins
from nbcore.posterior import convergence
from nbcore.testing.oracle import Oracle, closed_form, flat_weights, oracle
from nbcore_flax import FlaxMLP, FlaxTransformer


def head_of_a_transformer() -> Oracle:
    """Return the head of a transformer over padded sequences of several lengths."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, 12, size=(48, 9), dtype=np.int32)
    tokens[::3, 5:] = 0
    net = FlaxTransformer(
        vocab_size=12, d_model=8, nhead=2, num_layers=1, dim_feedforward=6, pad_token_id=0
    )
    network = nb.as_network(net, example=tokens[:1])
    params = network.init(jax.random.key(3), tokens[:1])
    y = np.random.default_rng(4).normal(size=(48, 1))
    target = nb.Target.build(
        network, params, nb.ProbabilisticSubset.layers("FinalDense2"), tokens, y,
        likelihood=nb.Gaussian(noise=(0.5,)), prior=nb.NormalPrior(scale=0.7),
    )  # fmt: skip
    # What flax records on the way, not what nbcore hoists.
    _, seen = net.apply(params, tokens, capture_intermediates=True, mutable=["intermediates"])
    hidden = jax.nn.silu(seen["intermediates"]["FinalDense1"]["__call__"][0])  # pyright: ignore[reportIndexIssue]
    layer = "params/FinalDense2"
    centers = flat_weights(target.split.stochastic, layer)
    known = closed_form(np.asarray(hidden, np.float64), y, (0.5,), 0.7, centers)
    return Oracle(target, *known, layer)


def check_exact(truth: Oracle, posterior: nb.NetworkPosterior) -> None:
    """Hold means to 4 Monte Carlo standard errors, deviations to 10 %, and ESS to 1,000."""
    draws = truth.standardized(posterior)
    assert np.all(convergence.ess_bulk(draws) >= 1000)
    assert np.all(convergence.r_hat(draws) < 1.01)
    assert np.all(np.abs(draws.mean(axis=(0, 1))) < 4 * convergence.mcse_mean(draws))
    np.testing.assert_allclose(draws.std(axis=(0, 1)), 1, atol=0.1)


def run_nuts(truth: Oracle) -> nb.NetworkPosterior:
    return nb.sample(
        truth.target, key=0, num_warmup=400, num_samples=1000, num_chains=4, progress=False
    )


@pytest.fixture(scope="module")
def nuts() -> nb.NetworkPosterior:
    """Draws of the oracle of the conformance kit."""
    return run_nuts(oracle())


def test_nuts_recovers_the_closed_form_posterior(nuts: nb.NetworkPosterior) -> None:
    check_exact(oracle(), nuts)
    assert not nuts.stats.is_divergent.any()


@pytest.mark.slow
def test_nuts_recovers_the_head_of_a_transformer() -> None:
    truth = head_of_a_transformer()
    check_exact(truth, run_nuts(truth))


def test_nuts_reports_what_it_did(nuts: nb.NetworkPosterior) -> None:
    stats = nuts.stats
    assert stats.log_density.shape == (4, 1000)
    last = jax.tree.map(lambda a: a[2, -1], nuts.draws)
    density = oracle().target.log_density(last)
    np.testing.assert_allclose(stats.log_density[2, -1], density, rtol=1e-4)
    assert np.all(stats.num_gradients >= 1)
    assert np.all(stats.num_gradients <= 2.0**stats.tree_depth)
    assert np.all((stats.acceptance_rate > 0) & (stats.acceptance_rate <= 1))
    assert np.all(np.ptp(stats.step_size, axis=1) == 0)  # fixed after warmup
    # E = U + K, with K ~ chi^2_d / 2 at the start of a trajectory: on average d / 2.
    kinetic = stats.energy + stats.log_density
    assert abs(kinetic.mean() / (10 / 2) - 1) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"num_leapfrog_steps": 8}],
    ids=["length", "steps"],
)
def test_hmc_recovers_the_closed_form_posterior(options: dict[str, Any]) -> None:
    backend = nb.get_backend("numpyro-hmc", **options)
    posterior = nb.sample(
        oracle().target, backend, key=0, num_warmup=400, num_samples=2500, num_chains=4,
        progress=False,
    )  # fmt: skip
    check_exact(oracle(), posterior)
    stats = posterior.stats
    assert not stats.is_divergent.any()
    assert not stats.tree_depth.any()
    assert np.all(np.ptp(stats.step_size, axis=1) == 0)  # fixed after warmup
    if options:
        assert np.all(stats.num_gradients == 8)
        assert "fixed_cost" in backend.capabilities
    else:
        # ceil(t / e) steps of a trajectory between half of its length, 2, and all of it.
        assert np.all(stats.num_gradients >= np.floor(1.0 / stats.step_size))
        assert np.all(stats.num_gradients <= np.ceil(2.0 / stats.step_size))
        assert "fixed_cost" not in backend.capabilities


def test_hmc_does_not_resonate() -> None:
    """A trajectory of length 2 pi comes back to where it started on a standard normal."""
    target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.full(2, 3.0))
    backend = nb.get_backend(
        "numpyro-hmc", trajectory_length=2 * np.pi, adapt_mass_matrix=False,
        target_acceptance_rate=0.99,
    )  # fmt: skip
    posterior = nb.sample(
        target, backend, key=1, num_warmup=200, num_samples=1500, num_chains=4, progress=False
    )
    draws = posterior.draws.astype(np.float64)
    assert np.all(convergence.ess_bulk(draws) > 1000)
    assert np.all(np.abs(draws.mean(axis=(0, 1))) < 4 * convergence.mcse_mean(draws))
    np.testing.assert_allclose((draws**2).mean(axis=(0, 1)), 1, atol=0.1)


@pytest.mark.slow
def test_hmc_is_exact_on_a_correlated_and_on_a_skewed_target() -> None:
    """A normal whose covariance has eigenvalues 1 to 1,000; the logarithm of a gamma variate."""
    root = np.linalg.qr(np.random.default_rng(7).normal(size=(4, 4)))[0]
    precision = jnp.asarray((root / np.array([1.0, 10.0, 100.0, 1000.0])) @ root.T)

    def density(z: jax.Array) -> jax.Array:
        return -0.5 * z[:4] @ precision @ z[:4] + z[4] / 2 - jnp.exp(z[4])

    target = nb.Target.from_log_density(density, jnp.array([30.0, -30.0, 30.0, 0.0, -20.0]))
    posterior = nb.sample(
        target, "numpyro-hmc", key=2, num_warmup=1500, num_samples=8000, num_chains=4,
        progress=False,
    )  # fmt: skip
    z = posterior.draws.astype(np.float64)
    white = z[..., :4] @ root / np.sqrt([1.0, 10.0, 100.0, 1000.0])
    # E log g = -1.9635 and Var log g = pi^2 / 2 for g ~ Gamma(1 / 2).
    gamma = (z[..., 4:] + 1.9635100) / np.sqrt(np.pi**2 / 2)
    for values, mean in ((white, 0), (gamma, 0), (white**2, 1), (gamma**2, 1)):
        assert np.all(convergence.ess_mean(values) > 1000)
        error = np.abs(values.mean(axis=(0, 1)) - mean)
        assert np.all(error < 4 * convergence.mcse_mean(values))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mass_matrix"),
    [("numpyro-nuts", "diagonal"), ("numpyro-nuts", "dense"), ("numpyro-hmc", "dense")],
)
def test_samplers_are_exact_with_a_correlated_and_a_skewed_target(
    name: str, mass_matrix: str
) -> None:
    """Banana: x ~ N(0, 2^2), y | x ~ N(x^2 / 4, 1), started far from the mode."""

    def density(z: jax.Array) -> jax.Array:
        return -0.5 * (z[0] / 2) ** 2 - 0.5 * (z[1] - z[0] ** 2 / 4) ** 2

    target = nb.Target.from_log_density(density, jnp.array([6.0, -20.0]))
    backend = nb.get_backend(name, mass_matrix=mass_matrix, target_acceptance_rate=0.95)
    posterior = nb.sample(
        target, backend, key=5, num_warmup=1000, num_samples=8000, num_chains=4, progress=False
    )
    draws = posterior.draws
    assert np.all(convergence.ess_bulk(draws) >= 1000)
    # E y = E x^2 / 4 = 1, Var y = 1 + Var(x^2) / 16 = 1 + 2 * 16 / 16 = 3
    truth, deviation = np.array([0.0, 1.0]), np.array([2.0, np.sqrt(3)])
    assert np.all(np.abs(draws.mean(axis=(0, 1)) - truth) < 4 * convergence.mcse_mean(draws))
    np.testing.assert_allclose(draws.std(axis=(0, 1)), deviation, rtol=0.1)


def test_backends_declare_what_their_specs_announce() -> None:
    for name, spec in nb.list_backends().items():
        backend = nb.get_backend(name)
        assert (backend.name, backend.capabilities) == (name, spec.capabilities)
        assert hash(backend) == hash(nb.get_backend(name))


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("numpyro-nut", {}, errors.UnknownBackendError, "Did you mean 'numpyro-nuts'"),
        ("numpyro-nuts", {"target_accept": 0.9}, errors.OptionError, "target_acceptance_rate"),
        ("numpyro-nuts", {"target_acceptance_rate": 1.0}, errors.OptionError, "within"),
        ("numpyro-nuts", {"max_tree_depth": 0}, errors.OptionError, "1 to 20"),
        ("numpyro-nuts", {"mass_matrix": "low_rank"}, errors.OptionError, "for numpyro-nuts"),
        ("numpyro-nuts", {"adapt_step_size": "no"}, errors.OptionError, "True or False"),
        ("numpyro-nuts", {"step_size": 0.0}, errors.OptionError, "positive"),
        ("numpyro-hmc", {"mass_matrix": "low_rank"}, errors.OptionError, "'dense'"),
        ("numpyro-hmc", {"max_tree_depth": 5}, errors.OptionError, "num_leapfrog_steps"),
        ("numpyro-hmc", {"num_leapfrog_steps": 0}, errors.OptionError, "1 to 1,024 or None"),
        ("numpyro-hmc", {"trajectory_length": 0.0}, errors.OptionError, "positive"),
    ],
)
def test_impossible_options_are_refused(
    name: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        nb.get_backend(name, **options)


def test_a_number_of_steps_beside_a_length_is_refused() -> None:
    with pytest.raises(errors.OptionError, match="both given"):
        nb.get_backend("numpyro-hmc", num_leapfrog_steps=4, trajectory_length=1.0)


def test_options_beside_an_instance_are_refused() -> None:
    instance = nb.get_backend("sgld")
    assert nb.get_backend(instance) is instance
    with pytest.raises(errors.OptionError, match="Set them on the instance"):
        nb.get_backend(instance, step_size=0.1)
    with pytest.raises(errors.OptionError, match="kernel"):
        nb.get_backend(3)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["numpyro-nuts", "blackjax-hmc"])
def test_weights_of_single_precision_are_sampled_in_double_where_that_is_on(name: str) -> None:
    X = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    network = nb.as_network(FlaxMLP(hidden_dims=(4,)), example=X[:1])
    params = network.init(jax.random.key(0), X[:1])
    with jax.enable_x64(True):
        subset = nb.ProbabilisticSubset.pairs({"Dense0": [(0, 1)], "Dense1": [(2, 0)]})
        target = nb.Target.build(network, params, subset, X, X[:, 0].astype(np.float64))
        posterior = nb.sample(
            target, name, num_warmup=20, num_samples=20, num_chains=1, progress=False
        )
        draws = posterior.draws["weights"]["params/Dense1/kernel"]
        assert draws.dtype == np.float64
        assert np.any(draws != draws.astype(np.float32))
        at = jax.tree.map(lambda a: a[0, -1], posterior.draws)
        density = float(target.log_density(at))
        assert float(posterior.stats.log_density[0, -1]) == pytest.approx(density, rel=1e-6)
        assert np.all(np.isfinite(posterior.predict(X).mean))


TOGETHER = [n for n, s in plugins.specs("backend").items() if "fixed_cost" in s.capabilities]
MATRIX_FUNCTIONS = {"cholesky", "eigh", "lu", "qr", "svd"}


def of_several_matrices(jaxpr: Any) -> set[str]:
    """Return which matrix functions a program applies to several matrices at once."""
    found: set[str] = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name in MATRIX_FUNCTIONS and equation.invars[0].aval.ndim > 2:
            found.add(equation.primitive.name)
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            found |= of_several_matrices(inner) if hasattr(inner, "eqns") else set()
    return found


@pytest.mark.parametrize("name", TOGETHER)
def test_programs_of_chains_do_not_wait_for_each_other(name: str) -> None:
    """Such functions wait in the threads that programs share: two programs, two cores, no end."""
    target = references.load("mlp-ends").target
    kernel, keys = nb.get_backend(name).kernel(100), jax.random.split(jax.random.key(0), 2)
    start = jax.tree.map(lambda a: jnp.stack([a, a]), target.start)
    shared = jax.eval_shape(kernel.shared, keys[0], target, target.start)

    def init(target: Any, shared: Any) -> Any:
        return jax.vmap(lambda key, z: kernel.init(key, target, shared, z))(keys, start)

    def warmup(target: Any, shared: Any, states: Any) -> Any:
        return jax.vmap(lambda key, s: kernel.warmup(key, target, shared, s, 3))(keys, states)

    states = jax.eval_shape(init, target, shared)
    programs = (
        jax.make_jaxpr(init)(target, shared),
        jax.make_jaxpr(warmup)(target, shared, states),
    )
    assert not set().union(*(of_several_matrices(p.jaxpr) for p in programs))
