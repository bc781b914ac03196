"""A likelihood of a user predicts with its own distribution, or says what is missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers import Spread
from scipy import stats

import nbcore as nb
from nbcore.distributions.each_draw import each_draw
from nbcore.errors import DataError, OptionError, ShapeError, TargetError
from nbcore.extend import register_pytree
from nbcore.posterior.prediction import Prediction
from nbcore.posterior.scaler import Scaler

dist = pytest.importorskip("numpyro.distributions")

RNG = np.random.default_rng(0)
OUTPUTS = RNG.normal(size=(6, 5, 1)).astype(np.float32)
Y = RNG.normal(size=5) * 3


@register_pytree
@dataclass(frozen=True)
class Laplace(nb.Likelihood):
    """Laplace noise of a scale that is known, or sampled with a log-normal prior."""

    can_standardize: ClassVar[bool] = True
    scale: Any = None

    def initial(self, num_outputs: int) -> dict[str, jax.Array]:
        return {} if self.scale is not None else {"log_scale": jnp.zeros(())}

    def log_prior(self, parameters: dict[str, jax.Array]) -> jax.Array:
        if self.scale is not None:
            return jnp.zeros(())
        return jax.scipy.stats.norm.logpdf(parameters["log_scale"])

    def sample_prior(self, key: jax.Array, num_outputs: int) -> dict[str, jax.Array]:
        return {} if self.scale is not None else {"log_scale": jax.random.normal(key)}

    def distribution(self, outputs: jax.Array, parameters: dict[str, jax.Array]) -> Any:
        known = self.scale is not None
        return dist.Laplace(outputs, self.scale if known else jnp.exp(parameters["log_scale"]))

    def rescaled(self, scale: np.ndarray) -> Laplace:
        return self if self.scale is None else Laplace(self.scale / float(scale[0]))

    def for_training(self) -> nb.Likelihood:
        return nb.Gaussian(noise=1.0)


@register_pytree
@dataclass(frozen=True)
class Overdispersed(nb.Likelihood):
    """Counts with a variance above their mean."""

    def check(self, y: Any, num_outputs: int) -> jax.Array:
        return nb.Poisson().check(y, num_outputs)

    def distribution(self, outputs: jax.Array, parameters: Any) -> Any:
        return dist.NegativeBinomial2(jnp.exp(outputs), 3.0)


@register_pytree
@dataclass(frozen=True)
class Correlated(nb.Likelihood):
    """Two targets with correlated noise."""

    def distribution(self, outputs: jax.Array, parameters: Any) -> Any:
        covariance = jnp.array([[1.0, 0.5], [0.5, 2.0]])
        return dist.MultivariateNormal(outputs, covariance)


@register_pytree
@dataclass(frozen=True)
class MomentsAlone(nb.Likelihood):
    """A logistic density, which says no more than it has to."""

    def log_prob(self, outputs: jax.Array, y: jax.Array, parameters: Any) -> jax.Array:
        return jnp.sum(jax.scipy.stats.logistic.logpdf(y - outputs), axis=1)

    def moments(self, outputs: jax.Array, parameters: Any) -> tuple[jax.Array, jax.Array]:
        return outputs, jnp.full_like(outputs, jnp.pi**2 / 3)


def predicted(likelihood: nb.Likelihood, outputs: np.ndarray = OUTPUTS, **parameters: Any) -> Any:
    return Prediction(each_draw(likelihood, outputs, parameters))


def test_a_laplace_likelihood_predicts_laplace_quantiles_and_densities() -> None:
    log_scale = RNG.normal(size=6).astype(np.float32) * 0.3
    prediction = predicted(Laplace(), log_scale=log_scale)
    each = stats.laplace(
        OUTPUTS[:, :, 0].astype(np.float64), np.exp(np.float64(log_scale))[:, None]
    )
    assert np.allclose(prediction.log_density(Y), np.log(each.pdf(Y).mean(axis=0)), rtol=1e-9)
    assert np.allclose(prediction.cdf(Y), each.cdf(Y).mean(axis=0), rtol=1e-9)
    assert np.allclose(prediction.mean, each.mean().mean(axis=0))
    assert np.allclose(prediction.aleatoric_variance, each.var().mean(axis=0))
    for level in (1e-3, 0.3, 0.5, 0.99):
        assert np.allclose(each.cdf(prediction.quantile(level)).mean(axis=0), level, rtol=1e-8)
    sampled = prediction.sample(6 * 4000, 1)
    assert sampled.shape == (24000, 5)
    assert np.array_equal(sampled, prediction.sample(6 * 4000, 1))
    below = np.mean(sampled <= prediction.quantile(0.9), axis=0)
    assert np.abs(below - 0.9).max() < 5 * np.sqrt(0.09 / 24000)
    assert prediction.crps(Y) == pytest.approx(nb.metrics.crps(Y, sampled), rel=0.03)


def test_units_are_a_change_of_variables_in_double_precision() -> None:
    """As if y itself had been modeled, of a mean a million times its deviation."""
    scaler = Scaler(np.array([1e6]), np.array([3.0]))
    prediction = predicted(Laplace(0.5)).in_units_of(scaler)
    each = stats.laplace(1e6 + 3 * OUTPUTS[:, :, 0].astype(np.float64), 1.5)
    y = 1e6 + 3 * Y
    assert np.allclose(prediction.log_density(y), np.log(each.pdf(y).mean(axis=0)), rtol=1e-8)
    assert np.allclose(each.cdf(prediction.quantile(0.9)).mean(axis=0), 0.9, rtol=1e-7)
    assert np.allclose(prediction.mean - 1e6, each.mean().mean(axis=0) - 1e6, rtol=1e-8)
    assert np.allclose(prediction.aleatoric_variance, 4.5)
    twice = prediction.in_units_of(Scaler(np.array([-7.0]), np.array([0.1])))
    assert np.allclose(twice.quantile(0.2), -7 + 0.1 * prediction.quantile(0.2), rtol=1e-12)
    assert np.allclose(twice.sample(9, 0), -7 + 0.1 * prediction.sample(9, 0), rtol=1e-12)
    assert np.allclose(twice.log_density(-7 + 0.1 * y), prediction.log_density(y) - np.log(0.1))


def test_a_variance_from_elsewhere_keeps_mean_and_form() -> None:
    wider = predicted(Laplace(0.5)).with_variance(np.array([8.0]))
    expected = predicted(Laplace(2.0))
    assert np.allclose(wider.draw_means, expected.draw_means)
    assert np.allclose(wider.draw_variances, 8.0)
    assert np.allclose(wider.log_density(Y), expected.log_density(Y))


def test_draws_can_be_moved_apart_about_the_same_mean() -> None:
    plain = predicted(Laplace(0.5)).in_units_of(Scaler(np.array([2.0]), np.array([3.0])))
    wider = plain.with_spread(np.array([4.0]))
    assert np.allclose(wider.mean, plain.mean)
    assert np.allclose(wider.epistemic_variance, 4 * plain.epistemic_variance)
    moved = wider.draw_means[..., 0]
    assert np.allclose(moved - wider.mean, 2 * (plain.draw_means[..., 0] - plain.mean))
    pdf = stats.laplace(moved, 1.5).pdf(Y)
    assert np.allclose(wider.log_density(Y), np.log(pdf.mean(axis=0)))


def test_a_mixture_of_different_scales_keeps_each() -> None:
    parts = [predicted(Laplace(s)) for s in (0.5, 2.0)]
    both = Prediction.mixture(parts)
    halves = [np.exp(p.log_density(Y)) / 2 for p in parts]
    assert np.allclose(np.exp(both.log_density(Y)), sum(halves))
    with pytest.raises(DataError, match=r"Laplace.*Overdispersed"):
        Prediction.mixture([parts[0], predicted(Overdispersed())])


def test_quantiles_of_counts_are_counts() -> None:
    prediction = predicted(Overdispersed())
    mean = np.exp(OUTPUTS[:, :, 0].astype(np.float64))
    each = stats.nbinom(3.0, 3.0 / (3.0 + mean))
    for level in (0.01, 0.5, 0.999):
        k = prediction.quantile(level)
        assert np.array_equal(k, np.round(k))
        assert (each.cdf(k).mean(axis=0) >= level).all()
        assert (each.cdf(k - 1).mean(axis=0) < level).all()
    y = np.array([0, 3, 1, 0, 7])
    assert np.allclose(prediction.log_density(y), np.log(each.pmf(y).mean(axis=0)))
    with pytest.raises(DataError, match="non-negative integers"):
        prediction.log_density(y + 0.5)


def test_a_distribution_without_mean_has_quantiles() -> None:
    @register_pytree
    @dataclass(frozen=True)
    class Cauchy(nb.Likelihood):
        def distribution(self, outputs: jax.Array, parameters: Any) -> Any:
            return dist.Cauchy(outputs, 0.1)

    far = np.round(OUTPUTS * 1e3)
    prediction = predicted(Cauchy(), far)
    each = stats.cauchy(far[:, :, 0].astype(np.float64), 0.1)
    for level in (0.01, 0.5, 0.9):
        assert np.allclose(each.cdf(prediction.quantile(level)).mean(axis=0), level, rtol=1e-9)
    assert not np.isfinite(prediction.mean).any()


def test_targets_that_depend_on_each_other() -> None:
    outputs = RNG.normal(size=(6, 5, 2)).astype(np.float32)
    y = RNG.normal(size=(5, 2))
    prediction = predicted(Correlated(), outputs)
    each = [
        [stats.multivariate_normal(m, [[1.0, 0.5], [0.5, 2.0]]).pdf(y[i]) for i, m in enumerate(d)]
        for d in outputs
    ]
    assert np.allclose(prediction.log_density(y), np.log(np.mean(each, axis=0)), rtol=1e-6)
    assert np.allclose(prediction.aleatoric_variance, [[1.0, 2.0]] * 5)
    assert prediction.sample(12).shape == (12, 5, 2)
    assert prediction.crps(y) > 0
    with pytest.raises(OptionError, match=r"MultivariateNormal, which has no cdf\. Sample instead"):
        prediction.quantile(0.5)


def test_without_a_distribution_only_what_needs_none_is_answered() -> None:
    prediction = predicted(MomentsAlone())
    each = stats.logistic(OUTPUTS[:, :, 0].astype(np.float64))
    assert np.allclose(prediction.mean, OUTPUTS.mean(axis=0)[:, 0])
    assert np.allclose(prediction.aleatoric_variance, np.pi**2 / 3)
    assert np.allclose(prediction.log_density(Y), np.log(each.pdf(Y).mean(axis=0)))
    for ask in (
        lambda: prediction.quantile(0.5),
        lambda: prediction.interval(),
        lambda: prediction.coverage(Y),
        lambda: prediction.cdf(Y),
        lambda: prediction.crps(Y),
        lambda: prediction.sample(10),
    ):
        with pytest.raises(OptionError, match=r"Add to class MomentsAlone:\n    def distribution"):
            ask()


def test_neither_density_nor_distribution() -> None:
    @register_pytree
    @dataclass(frozen=True)
    class Empty(nb.Likelihood):
        pass

    for ask in (
        lambda: Empty().log_prob(jnp.zeros((2, 1)), jnp.zeros((2, 1)), {}),
        lambda: Empty().moments(jnp.zeros((2, 1)), {}),
        lambda: predicted(Empty()).mean,
    ):
        with pytest.raises(OptionError, match="Add to class Empty"):
            ask()


def test_a_density_that_is_not_that_of_the_distribution_is_refused() -> None:
    """A subclass that changes the density alone would inherit normal quantiles."""

    @register_pytree
    @dataclass(frozen=True)
    class Sneaky(nb.Gaussian):
        def log_prob(self, outputs: jax.Array, y: jax.Array, parameters: Any) -> jax.Array:
            return jnp.sum(jax.scipy.stats.logistic.logpdf(y - outputs), axis=1)

    with pytest.raises(
        OptionError, match=r"Sneaky\.log_prob is not the log density of Sneaky\.dis"
    ):
        predicted(Sneaky(noise=1.0))

    @register_pytree
    @dataclass(frozen=True)
    class Unscaled(Laplace):
        def log_prob(self, outputs: jax.Array, y: jax.Array, parameters: Any) -> jax.Array:
            return -jnp.sum(jnp.abs(y - outputs), axis=1) / self.scale

    with pytest.raises(OptionError, match=r"Unscaled\.log_prob is not the log density"):
        predicted(Unscaled(0.7))

    @register_pytree
    @dataclass(frozen=True)
    class Honest(nb.Gaussian):
        def log_prob(self, outputs: jax.Array, y: jax.Array, parameters: Any) -> jax.Array:
            return super().log_prob(outputs, y, parameters)

    assert isinstance(predicted(Honest(noise=1.0)).distribution, nb.NormalDistribution)


def test_shapes_that_would_broadcast_are_refused() -> None:
    @register_pytree
    @dataclass(frozen=True)
    class Flat(nb.Likelihood):
        def distribution(self, outputs: jax.Array, parameters: Any) -> Any:
            return dist.Normal(outputs[:, 0], 1.0)

    with pytest.raises(ShapeError, match=r"log_prob of shape \(5, 5\) for y of shape \(5, 1\)"):
        Flat().log_prob(jnp.asarray(OUTPUTS[0]), jnp.zeros((5, 1)), {})
    with pytest.raises(ShapeError, match=r"mean that Flat gives has shape \(1,\)"):
        predicted(Flat())

    @register_pytree
    @dataclass(frozen=True)
    class FlatWithMoments(Flat):
        def moments(self, outputs: jax.Array, parameters: Any) -> tuple[jax.Array, jax.Array]:
            return outputs, jnp.ones_like(outputs)

    with pytest.raises(ShapeError, match=r"cdf of shape \(5, 5\)"):
        predicted(FlatWithMoments()).cdf(Y)


@register_pytree
@dataclass(frozen=True)
class Shaped(nb.Likelihood):
    """A log density of its own, in a shape that is to be refused or, at "sum", to be taken."""

    how: str = field(default="", metadata={"static": True})

    def log_prob(self, outputs: jax.Array, y: jax.Array, parameters: Any) -> jax.Array:
        each = jax.scipy.stats.norm.logpdf(y, outputs)
        crossed = jax.scipy.stats.norm.logpdf(y, outputs[:, 0])
        found = {"columns": each, "crossed": crossed, "scalar": each.sum(), "one": each.sum(axis=0)}
        return found.get(self.how, each.sum(axis=1))


@pytest.mark.parametrize("how", ["columns", "crossed", "scalar", "one"])
def test_log_densities_are_one_for_each_example(how: str) -> None:
    """A column times the mask of a minibatch, or a sum, would be a plausible number."""
    network = nb.as_network((lambda key, x: {"w": jnp.ones((3, 1))}, lambda p, x: x @ p["w"]))
    x, y = RNG.normal(size=(12, 3)).astype(np.float32), RNG.normal(size=12)

    def target(likelihood: nb.Likelihood) -> nb.Target:
        subset, params = nb.ProbabilisticSubset.everything(), {"w": jnp.ones((3, 1))}
        return nb.Target.build(network, params, subset, x, y, likelihood=likelihood)

    def train(likelihood: nb.Likelihood) -> nb.DeterministicNN:
        return nb.DeterministicNN(network, likelihood, swa=None).train(
            x, y, 1, batch_size=4, progress=False
        )

    right = target(Shaped())
    expected = stats.norm.logpdf(y, x.sum(axis=1))
    np.testing.assert_allclose(right.log_likelihood(right.start), expected, rtol=1e-4)
    wrong = target(Shaped(how))
    for call in (wrong.log_density, wrong.log_likelihood):
        with pytest.raises(ShapeError, match=r"Shaped.log_prob has shape .*expected \(12,\)"):
            call(wrong.start)
    train(Shaped())
    with pytest.raises(ShapeError, match=r"Shaped.log_prob has shape .*expected \(4,\)"):
        train(Shaped(how))


class Triangle(NamedTuple):
    """No library's: the density 1 - |y - m| within 1 of m."""

    mean: jax.Array

    def log_prob(self, y: jax.Array) -> jax.Array:
        return jnp.log(jnp.maximum(1 - jnp.abs(y - self.mean), 0.0))

    def cdf(self, y: jax.Array) -> jax.Array:
        z = jnp.clip(y - self.mean, -1, 1)
        return jnp.where(z < 0, (1 + z) ** 2 / 2, 1 - (1 - z) ** 2 / 2)


def test_any_object_with_the_methods_is_a_distribution() -> None:
    @register_pytree
    @dataclass(frozen=True)
    class Triangular(nb.Likelihood):
        def distribution(self, outputs: jax.Array, parameters: Any) -> Any:
            return Triangle(outputs)

    with pytest.raises(OptionError, match=r"Triangle, which has no mean or no var[^@]*def moments"):
        predicted(Triangular())

    @register_pytree
    @dataclass(frozen=True)
    class WithMoments(Triangular):
        def moments(self, outputs: jax.Array, parameters: Any) -> tuple[jax.Array, jax.Array]:
            return outputs, jnp.full_like(outputs, 1 / 6)

    prediction = predicted(WithMoments(), OUTPUTS[:1])
    each = stats.triang(0.5, OUTPUTS[0, :, 0].astype(np.float64) - 1, 2.0)
    assert np.allclose(prediction.quantile(0.2), each.ppf(0.2), rtol=1e-6)
    with pytest.raises(
        OptionError, match=r"Triangle, which has no sample\. Give Triangle a method"
    ):
        prediction.sample(3)
    assert np.allclose(prediction.variance, 1 / 6)


X = RNG.normal(size=(40, 2)).astype(np.float32)
NETWORK = nb.as_network(
    (
        lambda key, x: {"out": {"kernel": jnp.zeros((2, 1)), "bias": jnp.zeros(1)}},
        lambda p, x: x @ p["out"]["kernel"] + p["out"]["bias"],
    )
)
PARAMS = {"out": {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}}


TARGETS = X @ np.ones(2) + 0.3 * RNG.laplace(size=40)
STEPS: dict[str, Any] = {"num_warmup": 0, "num_samples": 9, "num_chains": 1, "progress": False}


def test_from_the_sampler_to_the_predictions(tmp_path: Path) -> None:
    subset = nb.ProbabilisticSubset.everything()
    target = nb.Target.build(NETWORK, PARAMS, subset, X, TARGETS, likelihood=Laplace())
    assert np.isfinite(jax.jit(jax.grad(target.log_density))(target.start)["weights"]["out/bias"])
    posterior = nb.sample(target, Spread(0.5), key=0, **STEPS)
    prediction = posterior.predict(X[:7])
    scale = np.exp(np.float64(posterior.draws["likelihood"]["log_scale"][0]))
    mean = posterior.outputs(X[:7])[:, :, 0].astype(np.float64)
    each = stats.laplace(mean, scale[:, None])
    assert np.allclose(each.cdf(prediction.quantile(0.8)).mean(axis=0), 0.8, rtol=1e-7)
    density = np.log(each.pdf(Y[:5].mean()).mean(axis=0))
    assert np.allclose(prediction.log_density(np.full(7, Y[:5].mean())), density, rtol=1e-6)
    posterior.save(tmp_path / "run")
    with pytest.raises(OptionError, match="likelihood="):
        nb.Posterior.load(tmp_path / "run", NETWORK)
    loaded = nb.Posterior.load(tmp_path / "run", NETWORK, likelihood=Laplace())
    assert np.array_equal(loaded.predict(X[:7]).quantile(0.8), prediction.quantile(0.8))


def test_an_estimator_predicts_with_it_in_the_units_of_y() -> None:
    def fit(y: np.ndarray, likelihood: nb.Likelihood, **options: Any) -> nb.PartialBNN:
        subset = nb.ProbabilisticSubset.everything()
        model = nb.PartialBNN(NETWORK, subset=subset, likelihood=likelihood)
        return model.fit(X, y, backend=Spread(0.1), calibration="holdout", key=1, **STEPS)

    here, there = (fit(y, Laplace()).predict_distribution(X) for y in (TARGETS, 1e3 * TARGETS - 7))
    assert here.crps(TARGETS) < 1.0
    for level in (0.1, 0.5, 0.9):
        assert np.allclose(there.quantile(level), 1e3 * here.quantile(level) - 7, rtol=1e-3)
    density = there.log_density(1e3 * TARGETS - 7)
    assert np.allclose(density, here.log_density(TARGETS) - np.log(1e3), atol=1e-3)

    @register_pytree
    @dataclass(frozen=True)
    class Untrainable(Laplace):
        def for_training(self) -> nb.Likelihood:
            return self

    with pytest.raises(OptionError, match=r"Untrainable has log_scale\. Add to class Untrainable"):
        fit(TARGETS, Untrainable())


def test_marginalizing_asks_whether_y_is_normal() -> None:
    @register_pytree
    @dataclass(frozen=True)
    class Wide(nb.Likelihood):
        def distribution(self, outputs: jax.Array, parameters: Any) -> Any:
            return nb.NormalDistribution(outputs, jnp.full((), 2.0))

    @register_pytree
    @dataclass(frozen=True)
    class Declared(Wide):
        is_normal: ClassVar[bool] = True

    @register_pytree
    @dataclass(frozen=True)
    class Wrong(MomentsAlone):
        is_normal: ClassVar[bool] = True

    params = {"a": {"kernel": jnp.ones((2, 2))}, "out": {"kernel": jnp.ones((2, 1))}}
    network = nb.as_network(
        (lambda key, x: {}, lambda p, x: jnp.tanh(x @ p["a"]["kernel"]) @ p["out"]["kernel"])
    )

    def target(likelihood: nb.Likelihood) -> Any:
        subset = nb.ProbabilisticSubset.everything()
        return nb.Target.build(network, params, subset, X, X[:, 0], likelihood=likelihood)

    with pytest.raises(TargetError, match=r"add to class Wide: is_normal"):
        nb.marginalize(target(Wide()))
    with pytest.raises(TargetError, match="this one is Wrong"):
        nb.marginalize(target(Wrong()))
    assert nb.marginalize(target(Declared())).paths == ("out/kernel",)
