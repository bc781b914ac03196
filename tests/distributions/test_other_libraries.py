"""Distributions of another library are priors of weights, of the noise and of unknown scales."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers import Spread
from scipy import integrate, stats

import nbcore as nb
from nbcore.distributions.distribution_prior import as_prior
from nbcore.distributions.likelihoods import to_data
from nbcore.distributions.positive import PositiveDistribution
from nbcore.errors import CheckpointError, OptionError, TargetError, UnknownLayerError

dist = pytest.importorskip("numpyro.distributions")

RNG = np.random.default_rng(0)
PARAMS = {
    "Dense0": {"kernel": jnp.arange(6.0).reshape(3, 2) - 2.5, "bias": jnp.array([0.5, -1.0])},
    "out": {"kernel": jnp.array([[1.0], [-3.0]])},
}


def apply(p: Any, x: Any) -> Any:
    return (x @ p["Dense0"]["kernel"] + p["Dense0"]["bias"]) @ p["out"]["kernel"]


NETWORK = nb.Network.from_functions(lambda key, x: PARAMS, apply)
EVERYTHING = nb.ProbabilisticSubset.everything()
SPLIT = EVERYTHING.split(NETWORK, PARAMS)
X, Y = RNG.normal(size=(20, 3)).astype(np.float32), RNG.normal(size=20)
WEIGHTS = {path: w + 0.3 * RNG.normal(size=w.shape) for path, w in SPLIT.stochastic.items()}


def moved(path: str) -> np.ndarray:
    return np.asarray(WEIGHTS[path] - SPLIT.stochastic[path], np.float64)


def test_any_distribution_is_a_prior_about_the_trained_weights() -> None:
    prior = nb.DistributionPrior(dist.Laplace(0.0, 0.2)).resolve(SPLIT)
    expected = sum(stats.laplace.logpdf(moved(path), 0, 0.2).sum() for path in SPLIT.paths)
    assert prior.log_density(WEIGHTS, prior.initial()) == pytest.approx(expected, rel=1e-5)
    keys = jax.random.split(jax.random.key(0), 2000)
    weights, hyperparameters = jax.vmap(prior.sample)(keys)
    assert hyperparameters == {}
    for path, draws in weights.items():
        off = np.asarray(draws - SPLIT.stochastic[path])
        assert stats.kstest(off.ravel(), stats.laplace(0, 0.2).cdf).pvalue > 1e-3, path


def test_each_layer_may_have_its_own_and_kernels_the_unit_of_their_inputs() -> None:
    by_layer = {"**": dist.StudentT(3.0, 0.0, 0.5), "out": dist.Normal(0.1, 2.0)}
    prior = nb.DistributionPrior(by_layer, center="zero", fan_in=True).resolve(SPLIT)
    w = {path: np.asarray(value, np.float64) for path, value in WEIGHTS.items()}
    expected = stats.t.logpdf(w["Dense0/bias"], 3, 0, 0.5).sum()
    expected += stats.t.logpdf(w["Dense0/kernel"], 3, 0, 0.5 / np.sqrt(3)).sum()
    expected += stats.norm.logpdf(w["out/kernel"], 0.1 / np.sqrt(2), 2 / np.sqrt(2)).sum()
    assert prior.log_density(WEIGHTS, {}) == pytest.approx(expected, rel=1e-5)


class Horseshoe:
    """Nobody's library: the horseshoe-like density log(1 + tau^2 / w^2) / (2 pi tau).

    Bhadra, Datta, Polson & Willard (2019), "Lasso meets horseshoe: a survey", section 3. A uniform
    number times a Cauchy variable of scale tau has it.
    """

    def __init__(self, tau: float) -> None:
        self.tau = tau

    def log_prob(self, value: jax.Array) -> jax.Array:
        return jnp.log(jnp.log1p((self.tau / value) ** 2)) - jnp.log(2 * jnp.pi * self.tau)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...]) -> jax.Array:
        u, c = jax.random.split(key)
        spread = jax.random.uniform(u, sample_shape)
        return self.tau * spread * jax.random.cauchy(c, sample_shape)


def test_an_object_that_is_no_pytree_is_a_prior_too() -> None:
    horseshoe = Horseshoe(0.1)
    prior = nb.DistributionPrior(horseshoe, center="zero").resolve(SPLIT)
    w = np.concatenate([np.asarray(v, np.float64).ravel() for v in WEIGHTS.values()])
    expected = np.sum(np.log(np.log1p((0.1 / w) ** 2) / (2 * np.pi * 0.1)))
    found = jax.jit(lambda prior, w: prior.log_density(w, {}))(prior, WEIGHTS)
    assert found == pytest.approx(expected, rel=1e-5)
    with pytest.raises(OptionError, match=r"Horseshoe has the log density inf.*NormalPrior\(sc"):
        nb.DistributionPrior(horseshoe).resolve(SPLIT)  # its pole is where chains would start


def test_a_support_is_held_to() -> None:
    prior = nb.DistributionPrior(dist.Uniform(-1.0, 1.0)).resolve(SPLIT)
    inside = {path: w + 0.5 for path, w in SPLIT.stochastic.items()}
    assert prior.log_density(inside, {}) == pytest.approx(-10 * np.log(2), rel=1e-5)
    outside = {**inside, "Dense0/bias": SPLIT.stochastic["Dense0/bias"] + 1.5}
    assert jax.jit(prior.log_density)(outside, {}) == -np.inf


@pytest.mark.parametrize(
    ("distribution", "reference"),
    [
        (dist.HalfCauchy(0.7), stats.halfcauchy(scale=0.7)),
        (dist.Gamma(3.0, 4.0), stats.gamma(3, scale=1 / 4)),
        (dist.InverseGamma(3.0, 1.0), stats.invgamma(3)),
        (dist.LogNormal(-1.0, 0.4), stats.lognorm(0.4, scale=np.exp(-1))),
    ],
    ids=lambda d: type(d).__name__,
)
def test_any_positive_distribution_is_a_prior_of_the_noise(distribution, reference) -> None:
    likelihood = nb.Gaussian(noise_prior=distribution)
    prior = likelihood.noise_prior
    assert reference.cdf(prior.median) == pytest.approx(0.5, abs=0.02)
    x = np.array([0.1, 0.5, 2.0])
    assert np.allclose(prior.log_prob(jnp.asarray(x)), reference.logpdf(x), rtol=1e-4)
    grid = np.linspace(-25, 25, 5001)
    density = jax.vmap(lambda u: jnp.exp(likelihood.log_prior({"noise": u[None]})))(grid)
    assert integrate.simpson(np.float64(density), x=grid) == pytest.approx(1, abs=1e-3)
    drawn = likelihood.constrain(likelihood.sample_prior(jax.random.key(1), 3000))["noise"]
    assert stats.kstest(np.asarray(drawn), reference.cdf).pvalue > 1e-3
    # p(x) dx in other units: the density of u, which has none, is the same.
    other = likelihood.rescaled(np.array([10.0, 0.2]))
    u = {"noise": jnp.array([0.3, -0.7])}
    assert other.log_prior(u) == pytest.approx(float(likelihood.log_prior(u)), rel=1e-4)
    noise = np.asarray(likelihood.constrain(u)["noise"])
    assert np.allclose(np.asarray(other.constrain(u)["noise"]) * [10.0, 0.2], noise, rtol=1e-5)
    again = other.sample_prior(jax.random.key(2), 2)
    assert again["noise"].shape == (2,)


def test_a_prior_of_each_output() -> None:
    likelihood = nb.Gaussian(noise_prior=dist.HalfCauchy(jnp.array([0.1, 10.0])))
    likelihood.check(np.zeros((4, 2)), 2)
    start = likelihood.constrain(likelihood.initial(2))["noise"]
    assert np.allclose(start, [0.1, 10.0], rtol=0.1)
    drawn = jax.vmap(lambda k: likelihood.constrain(likelihood.sample_prior(k, 2))["noise"])(
        jax.random.split(jax.random.key(0), 2000)
    )
    for column, scale in zip(np.asarray(drawn).T, (0.1, 10.0), strict=True):
        assert stats.kstest(column, stats.halfcauchy(scale=scale).cdf).pvalue > 1e-3
    with pytest.raises(OptionError, match=r"noise_prior\.median has shape \(2,\)"):
        likelihood.check(np.zeros((4, 3)), 3)


def test_all_unknown_positive_parameters_take_distributions() -> None:
    t = nb.StudentT(noise=1.0, df_prior=dist.Gamma(2.0, 0.1))
    u = {"df": jnp.array(0.4)}
    x = float(t.constrain(u)["df"]) - 2
    expected = stats.gamma(2, scale=10).logpdf(x) + np.log(x) + np.log(t.df_prior.log_spread)
    assert t.log_prior(u) == pytest.approx(expected, rel=1e-4)
    model = nb.NoiseModel(lambda x, p: p["a"] + 0 * x[:, 0], {"a": dist.HalfCauchy(0.3)})
    assert isinstance(model.priors["a"], PositiveDistribution)
    assert np.isfinite(model.log_prior(model.initial(1)))
    prior = nb.NormalPrior({"**": 1.0, "out": dist.HalfCauchy(0.5)}, "zero").resolve(SPLIT)
    scale = {"log_scale/out": jnp.array(0.3)}
    known = nb.NormalPrior({"**": 1.0, "out": np.exp(0.3)}, "zero").resolve(SPLIT)
    expected = known.log_density(WEIGHTS, {}) + stats.halfcauchy.logpdf(np.exp(0.3), 0, 0.5) + 0.3
    assert prior.log_density(WEIGHTS, scale) == pytest.approx(float(expected), rel=1e-5)


def test_a_parameter_of_a_noise_has_any_sign_if_its_prior_has() -> None:
    def noise(x: Any, p: Any) -> Any:
        return p["floor"] + p["slope"] * x[:, 0]

    priors = {"floor": dist.LogNormal(0.0, 0.5), "slope": dist.Normal(0.3, 2.0)}
    model = nb.NoiseModel(noise, priors, start={"slope": -0.2})
    u = model.initial(1)
    assert model.constrain(u)["slope"] == pytest.approx(-0.2)
    assert model.constrain({**u, "slope": jnp.array(0.0)})["slope"] == pytest.approx(0.3, abs=0.1)
    # p(u) = p(slope) d slope / d u, and d slope / d u is constant.
    at = [{**u, "slope": jnp.array(value)} for value in (-1.0, 0.7)]
    slopes = [float(model.constrain(each)["slope"]) for each in at]
    log_priors = [float(model.log_prior(each)) for each in at]
    spread = (slopes[1] - slopes[0]) / 1.7
    floor = nb.NoiseModel(noise, {"floor": priors["floor"]}).log_prior({"floor": u["floor"]})
    for value, found in zip(slopes, log_priors, strict=True):
        expected = stats.norm.logpdf(value, 0.3, 2.0) + np.log(spread)
        assert found - float(floor) == pytest.approx(expected, rel=1e-4)
    drawn = jax.vmap(lambda k: model.constrain(model.sample_prior(k, 1))["slope"])(
        jax.random.split(jax.random.key(0), 4000)
    )
    assert np.mean(drawn) == pytest.approx(0.3, abs=0.15)
    assert np.std(drawn) == pytest.approx(2.0, rel=0.05)


def test_a_noise_that_is_not_positive_has_density_zero() -> None:
    model = nb.NoiseModel(lambda x, p: p["a"] * x[:, 0], {"a": dist.Normal(0.0, 1.0)})
    outputs = jnp.array([[0.0, 1.0], [0.0, -2.0]])  # a mean and a covariate
    y = model.check(np.array([0.1, 0.2]), 1)

    def density(a: Any) -> Any:
        return model.log_prob(outputs, y, {"a": (a - model.priors["a"].median)})

    found = density(jnp.array(0.5))
    assert np.isfinite(found[0])
    assert found[1] == -np.inf
    assert np.all(np.isfinite(jax.grad(lambda a: density(a)[1])(jnp.array(0.5))))


def test_a_start_of_an_unknown_parameter_is_refused() -> None:
    model = nb.NoiseModel(lambda x, p: p["a"] + x[:, 0], {"a": dist.Normal(0, 1)}, start={"b": 1.0})
    with pytest.raises(OptionError, match="start has 'b', and the parameters are a"):
        model.check(np.zeros(3), 1)


def build(**options: Any) -> Any:
    return nb.Target.build(NETWORK, PARAMS, EVERYTHING, X, Y, **options)


STEPS: dict[str, Any] = {"num_warmup": 0, "num_samples": 3, "num_chains": 2, "progress": False}


def test_a_target_samples_saves_and_resumes_with_them(tmp_path: Path) -> None:
    likelihood = nb.Gaussian(noise_prior=dist.HalfCauchy(1.0))
    priors = [nb.DistributionPrior(d) for d in (dist.Laplace(0.0, 0.2), dist.Normal(0.0, 0.2))]
    targets = [build(prior=prior, likelihood=likelihood) for prior in priors]
    position = targets[0].prior_position(jax.random.key(0))
    laplace, normal = (t.log_prior(position) for t in targets)
    values = np.concatenate([
        np.asarray(w - SPLIT.stochastic[p], np.float64).ravel()
        for p, w in position["weights"].items()
    ])  # fmt: skip
    gap = stats.laplace.logpdf(values, 0, 0.2).sum() - stats.norm.logpdf(values, 0, 0.2).sum()
    assert laplace - normal == pytest.approx(gap, rel=1e-3)
    folder = tmp_path / "checkpoint"
    posterior = nb.sample(targets[0], Spread(0.1), key=0, checkpoint=folder, **STEPS)
    again = nb.sample(targets[0], Spread(0.1), key=0, checkpoint=folder, **STEPS)
    jax.tree.map(np.testing.assert_array_equal, again.draws, posterior.draws)
    with pytest.raises(CheckpointError, match="log density"):
        nb.sample(targets[1], Spread(0.1), key=0, checkpoint=folder, **STEPS)
    assert to_data(likelihood) is None
    posterior.save(tmp_path / "run")
    with pytest.raises(OptionError, match="likelihood="):
        nb.Posterior.load(tmp_path / "run", NETWORK)
    loaded = nb.Posterior.load(tmp_path / "run", NETWORK, likelihood=likelihood)
    assert np.array_equal(loaded.predict(X).variance, posterior.predict(X).variance)
    with pytest.raises(TargetError, match=r"normal prior, and this one is Laplace\. Type"):
        nb.marginalize(targets[0])


def test_equal_distributions_share_a_compiled_program() -> None:
    traces: list[int] = []

    @jax.jit
    def density(prior: Any, weights: Any) -> Any:
        traces.append(1)
        return prior.log_density(weights, {})

    for scale in (0.2, 0.3):
        density(nb.DistributionPrior(dist.Laplace(0.0, scale)).resolve(SPLIT), WEIGHTS)
    assert len(traces) == 1


@dataclass(frozen=True)
class OtherSignature:
    """As in libraries whose first argument is the shape."""

    def log_prob(self, value: Any) -> Any:
        return -(value**2)

    def sample(self, *, seed: Any, shape: Any) -> Any:
        return jax.random.normal(seed, shape)


class OneNumber(OtherSignature):
    def sample(self, key: Any, sample_shape: Any) -> Any:
        return jax.random.normal(key)


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda: build(prior=dist.Laplace(0.0, 1.0)), OptionError, r"DistributionPrior\(Laplace\("),
        (lambda: build(prior=0.3), OptionError, "NormalPrior.*got float"),
        (lambda: build(prior=nb.HalfNormal(1.0)), OptionError, "NormalPrior.*got HalfNormal"),
        (lambda: of_weights(nb.HalfNormal(1.0)), OptionError, r"NormalPrior\(scale=HalfNormal"),
        (lambda: of_weights(0.3), OptionError, "distribution is a distribution.*got 0.3"),
        (lambda: of_weights(dist.HalfNormal(1.0)), OptionError, "HalfNormal has the log density"),
        (lambda: of_weights(dist.Normal(jnp.zeros(2), 1.0)), OptionError, r"batch_shape \(2,\)"),
        (lambda: of_weights(dist.Dirichlet(jnp.ones(2))), OptionError, "distribution of vectors"),
        (lambda: of_weights(OtherSignature()), OptionError, r"sample\(key, sample_shape\)"),
        (lambda: of_weights(OneNumber()), OptionError, r"shape \(\) for sample_shape=\(4001,\)"),
        (lambda: of_weights({"out": dist.Normal()}), OptionError, "no distribution for.*'Dense0'"),
        (lambda: of_weights({"Out": dist.Normal()}), UnknownLayerError, "Did you mean 'out'"),
        (lambda: nb.Gaussian(noise_prior=dist.Normal(0.0, 1.0)), OptionError, "Normal gives -"),
        (lambda: checked(nb.Gaussian(noise_prior=0.3)), OptionError, "0.3 has no median"),
        (lambda: checked(nb.StudentT(df_prior=0.3)), OptionError, "df_prior is .*HalfCauchy"),
        (lambda: as_prior(object()), OptionError, "resolve"),
    ],
)
def test_what_is_no_prior_says_what_to_type(ask: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        ask()


def of_weights(distribution: Any) -> Any:
    return nb.DistributionPrior(distribution).resolve(SPLIT)


def checked(likelihood: nb.Likelihood) -> Any:
    return likelihood.check(Y, 1)
