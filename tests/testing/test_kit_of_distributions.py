"""The conformance kit accepts right likelihoods and priors, and names what is wrong with others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore.errors import OptionError
from nbcore.extend import register_pytree
from nbcore.testing import (
    ConformanceError,
    LikelihoodCase,
    PriorCase,
    checks_for,
    parametrize_with_checks,
)

dist = pytest.importorskip("numpyro.distributions")

RNG = np.random.default_rng(0)
ONE, TWO = RNG.normal(size=(6, 1)), RNG.normal(size=(6, 2))
Y, PAIRS = RNG.normal(size=6), RNG.normal(size=(6, 2))


def noise(x: Any, parameters: Any) -> Any:
    return parameters["floor"] + parameters["slope"] * jnp.abs(x[:, 0])


def two_heads(outputs: Any, scale: Any) -> Any:
    means, logs = np.split(outputs, 2, axis=1)
    return np.concatenate([means / scale, logs - np.log(scale)], axis=1)


NOISE_PRIORS = {"floor": nb.LogNormal(0.3, 0.4), "slope": nb.HalfNormal(0.5)}


@parametrize_with_checks([
    LikelihoodCase(nb.Gaussian(noise=0.5), ONE, Y),
    LikelihoodCase(nb.Gaussian(noise_prior=nb.HalfNormal((1.0, 3.0))), TWO, PAIRS),
    LikelihoodCase(nb.Gaussian(shared=True, ratio=(1.0, 2.0)), TWO, PAIRS),
    LikelihoodCase(nb.StudentT(), ONE, Y),
    LikelihoodCase(nb.Heteroskedastic(), TWO, Y, rescaled_outputs=two_heads),
    LikelihoodCase(nb.NoiseModel(noise, NOISE_PRIORS), TWO, Y),
    LikelihoodCase(nb.Bernoulli(), ONE, Y > 0, values=(0, 1)),
    LikelihoodCase(nb.Bernoulli(), TWO, PAIRS > 0, values=(0, 1)),
    LikelihoodCase(nb.Categorical(), RNG.normal(size=(6, 3)), np.arange(6) % 3, values=range(3)),
    LikelihoodCase(nb.Poisson(), ONE, RNG.poisson(1.0, size=6), values=range(60)),
])  # fmt: skip
def test_our_likelihoods_conform(subject: LikelihoodCase, check: Any) -> None:
    check(subject)


@register_pytree
@dataclass(frozen=True)
class Scales:
    """A scale of its own for each weight, of which all are unknown: Neal's funnel."""

    center: Any
    constant: ClassVar[float] = 0.0
    spread: ClassVar[float] = 0.3

    def initial(self) -> Any:
        return {path: jnp.zeros_like(w) for path, w in self.center.items()}

    def log_density(self, weights: Any, logs: Any) -> jax.Array:
        normal = jax.scipy.stats.norm.logpdf
        each = [
            normal(w, self.center[p], 0.3 * jnp.exp(logs[p])) + normal(logs[p])
            for p, w in weights.items()
        ]
        return jnp.sum(jnp.concatenate(each)) + self.constant

    def sample(self, key: jax.Array) -> Any:
        logs, weights = {}, {}
        for path, w in sorted(self.center.items()):
            key, a, b = jax.random.split(key, 3)
            logs[path] = jax.random.normal(a, w.shape)
            weights[path] = w + self.spread * jnp.exp(logs[path]) * jax.random.normal(b, w.shape)
        return weights, logs


@dataclass(frozen=True)
class Funnel:
    """A prior of a user."""

    resolved: Any = Scales

    def resolve(self, split: nb.ParameterSplit) -> Any:
        return self.resolved(split.position)


@parametrize_with_checks([
    PriorCase(nb.HalfNormal(0.7)),
    PriorCase(nb.LogNormal((0.4, 3.0), 0.6)),
    PriorCase(dist.HalfCauchy(0.3)),
    PriorCase(nb.NormalPrior(0.3)),
    PriorCase(nb.NormalPrior({"Dense": nb.LogNormal(0.5, 0.4), "Head": 2.0}, "zero", fan_in=True)),
    PriorCase(nb.NormalPrior(dist.HalfCauchy(0.1))),  # one scale of all weights, as of a horseshoe
    PriorCase(nb.DistributionPrior(dist.Laplace(0.0, 0.2))),
    PriorCase(nb.DistributionPrior({"**": dist.StudentT(3.0, 0.0, 0.3)}, "zero", fan_in=True)),
    PriorCase(Funnel()),
])  # fmt: skip
def test_priors_conform(subject: PriorCase, check: Any) -> None:
    check(subject)


@register_pytree
@dataclass(frozen=True)
class Laplace(nb.Likelihood):
    """A likelihood of a user that is right in everything."""

    can_standardize: ClassVar[bool] = True
    scale: Any = 0.7

    def distribution(self, outputs: jax.Array, parameters: Any) -> Any:
        return dist.Laplace(outputs, self.scale)

    def rescaled(self, scale: np.ndarray) -> nb.Likelihood:
        return replace(self, scale=self.scale / scale)


@register_pytree
@dataclass(frozen=True)
class GammaOfUnknownShape(nb.Likelihood):
    """Positive targets with mean exp(f), and an unknown shape above 1."""

    def check(self, y: Any, num_outputs: int) -> jax.Array:
        y = super().check(y, num_outputs)
        if not bool(jnp.all(y > 0)):
            raise OptionError("y is positive.")
        return y

    def initial(self, num_outputs: int) -> Any:
        return {"log_shape": jnp.zeros(())}

    def log_prior(self, parameters: Any) -> jax.Array:
        return jax.scipy.stats.norm.logpdf(parameters["log_shape"], 0.0, 0.5)

    def sample_prior(self, key: jax.Array, num_outputs: int) -> Any:
        return {"log_shape": 0.5 * jax.random.normal(key)}

    def constrain(self, parameters: Any) -> Any:
        return {"shape": 1 + jnp.exp(parameters["log_shape"])}

    def distribution(self, outputs: jax.Array, parameters: Any) -> Any:
        shape = self.constrain(parameters)["shape"]
        return dist.Gamma(shape, shape * jnp.exp(-outputs))


@register_pytree
@dataclass(frozen=True)
class Correlated(nb.Likelihood):
    """Two targets with correlated noise."""

    def distribution(self, outputs: jax.Array, parameters: Any) -> Any:
        return dist.MultivariateNormal(outputs, jnp.array([[1.0, 0.9], [0.9, 2.0]]))


LAPLACE = LikelihoodCase(Laplace(), ONE, Y)


@parametrize_with_checks([
    LAPLACE,
    LikelihoodCase(GammaOfUnknownShape(), ONE, np.abs(Y), positive=True),
    LikelihoodCase(Correlated(), TWO, PAIRS),
])  # fmt: skip
def test_likelihoods_of_users_conform(subject: LikelihoodCase, check: Any) -> None:
    check(subject)


# What follows is wrong, each in one respect.


class NoPytree(Laplace):
    def rescaled(self, scale: np.ndarray) -> nb.Likelihood:
        return NoPytree(self.scale / scale)


class Lenient(Laplace):
    def check(self, y: Any, num_outputs: int) -> jax.Array:
        return super().check(np.asarray(y).reshape(len(y), -1)[:, :1], num_outputs)


class Averaging(Laplace):
    """A mean over the minibatch, as losses have."""

    def log_prob(self, outputs: jax.Array, y: jax.Array, parameters: Any) -> jax.Array:
        each = super().log_prob(outputs, y, parameters)
        return jnp.full_like(each, each.mean())


class WithoutConstant(Laplace):
    """A log density beside that of the distribution."""

    def log_prob(self, outputs: jax.Array, y: jax.Array, parameters: Any) -> jax.Array:
        return -jnp.sum(jnp.abs(y - outputs), axis=1) / self.scale


class WithoutDistribution(nb.Likelihood):
    def log_prob(self, outputs: jax.Array, y: jax.Array, parameters: Any) -> jax.Array:
        return jnp.sum(jax.scipy.stats.logistic.logpdf(y - outputs), axis=1)

    def moments(self, outputs: jax.Array, parameters: Any) -> Any:
        return outputs, jnp.full_like(outputs, jnp.pi**2 / 3)


class ScaleForVariance(Laplace):
    def moments(self, outputs: jax.Array, parameters: Any) -> Any:
        return outputs, jnp.full_like(outputs, self.scale)


class SameInAllUnits(Laplace):
    def rescaled(self, scale: np.ndarray) -> nb.Likelihood:
        return self


@register_pytree
class Unshifted(nb.NormalDistribution):
    def in_units(self, shift: np.ndarray, scale: np.ndarray) -> Any:
        return super().in_units(0 * shift, scale)


class OfUnshifted(Laplace):
    def distribution(self, outputs: jax.Array, parameters: Any) -> Any:
        return Unshifted(outputs, self.scale * jnp.ones_like(outputs))


class NoJacobian(GammaOfUnknownShape):
    """A prior of the shape itself, exponential, for its logarithm: log p(u) lacks + u."""

    def log_prior(self, parameters: Any) -> jax.Array:
        return -jnp.exp(parameters["log_shape"])

    def sample_prior(self, key: jax.Array, num_outputs: int) -> Any:
        return {"log_shape": jnp.log(jax.random.exponential(key))}


class Normal(dist.Normal):
    """With a density, a cdf or samples of other scales."""

    def __init__(self, mean: Any, constant: float, of_cdf: float, of_samples: float) -> None:
        super().__init__(mean, 1.0)
        self.constant, self.of_cdf, self.of_samples = constant, of_cdf, of_samples

    def log_prob(self, value: Any) -> Any:
        return super().log_prob(value) + self.constant

    def cdf(self, value: Any) -> Any:
        return dist.Normal(self.loc, self.of_cdf).cdf(value)

    def sample(self, key: Any, sample_shape: Any = ()) -> Any:
        return dist.Normal(self.loc, self.of_samples).sample(key, sample_shape)


@register_pytree
@dataclass(frozen=True)
class OfNormal(nb.Likelihood):
    constant: float = 0.0
    of_cdf: float = 1.0
    of_samples: float = 1.0

    def distribution(self, outputs: jax.Array, parameters: Any) -> Any:
        return Normal(outputs, self.constant, self.of_cdf, self.of_samples)


for cls in (
    Lenient, Averaging, WithoutConstant, WithoutDistribution, ScaleForVariance, SameInAllUnits,
    OfUnshifted, NoJacobian,
):  # fmt: skip
    register_pytree(dataclass(frozen=True)(cls))


@pytest.mark.parametrize(
    ("likelihood", "check", "says"),
    [
        (NoPytree(), "likelihood_is_data", "missing decorator"),
        (Lenient(), "targets_are_checked", "accepted: ['another column', 'a third axis'"),
        (Averaging(), "log_prob_is_of_each_example", "mean over the minibatch"),
        (WithoutDistribution(), "distribution_is_given", "Add to class WithoutDistribution"),
        (WithoutConstant(), "distribution_is_given", "is not the log density of"),
        (OfNormal(of_samples=1.15), "samples_follow_the_density", "that only one"),
        (OfNormal(constant=0.1), "density_is_normalized", "an integral of 1.1"),
        (ScaleForVariance(), "moments_are_those_of_samples", "has the variance of samples"),
        (OfNormal(of_cdf=1.1), "quantiles_are_those_of_samples", "a variance for a scale"),
        (SameInAllUnits(), "units_are_exact", "that is not divided"),
        (OfUnshifted(), "predictions_change_units_exactly", "in double precision"),
        (NoJacobian(), "parameters_follow_their_prior", "the Jacobian left out"),
    ],
    ids=lambda value: value if isinstance(value, str) and "_" in value else "",
)  # fmt: skip
def test_a_wrong_likelihood_fails_the_check(
    likelihood: nb.Likelihood, check: str, says: str
) -> None:
    fails(
        LikelihoodCase(likelihood, ONE, np.abs(Y), positive=check.startswith("param")), check, says
    )


def fails(case: Any, name: str, says: str) -> None:
    (check,) = [check for check in checks_for(case) if check.name == name]
    with pytest.raises(ConformanceError) as caught:
        check(case)
    for part in (says, "limit:", "often:"):
        assert part in str(caught.value)


@register_pytree
@dataclass(frozen=True)
class Doubled(nb.HalfNormal):
    """Half of a symmetric distribution, without its factor 2."""

    def log_prob(self, value: jax.Array) -> jax.Array:
        return jax.scipy.stats.norm.logpdf(value, 0.0, jnp.asarray(self.scale))


@register_pytree
@dataclass(frozen=True)
class FarStart(nb.HalfNormal):
    @property
    def median(self) -> Any:
        return 5 * jnp.asarray(self.scale)


@register_pytree
@dataclass(frozen=True)
class Stuck(nb.HalfNormal):
    def times(self, factor: np.ndarray) -> nb.HalfNormal:
        return self


class NoData(Scales):
    pass


class Unlike(Scales):
    def sample(self, key: jax.Array) -> Any:
        return super().sample(key)[0], {}


class NoKey(Scales):
    def sample(self, key: jax.Array) -> Any:
        return super().sample(jax.random.key(0))


class Pole(Scales):
    def log_density(self, weights: Any, logs: Any) -> jax.Array:
        distances = [jnp.abs(w - self.center[p]) for p, w in weights.items()]
        return -jnp.sum(jnp.log(jnp.concatenate(distances)))


class Wide(Scales):
    spread: ClassVar[float] = 0.35


class Shifted(Scales):
    constant: ClassVar[float] = 0.3


for cls in (Unlike, NoKey, Pole, Wide, Shifted):
    register_pytree(dataclass(frozen=True)(cls))


@pytest.mark.parametrize(
    ("prior", "check", "says"),
    [
        (Funnel(NoData), "prior_is_data", "missing decorator"),
        (Funnel(Unlike), "samples_are_like_the_start", "`sample` has not"),
        (Funnel(NoKey), "samples_are_like_the_start", "a key that is not used"),
        (Funnel(Pole), "density_is_finite_at_the_start", "a pole"),
        (Funnel(Wide), "samples_follow_the_density", "that only one of the two has"),
        (Funnel(Shifted), "density_is_normalized", "a constant left out"),
        (Doubled(0.7), "density_is_normalized", "factor 2"),
        (FarStart(0.7), "median_and_spread", "the scale given for the median"),
        (Stuck(0.7), "units_are_exact", "not multiplied"),
    ],
    ids=lambda value: value if isinstance(value, str) and "_" in value else "",
)
def test_a_wrong_prior_fails_the_check(prior: Any, check: str, says: str) -> None:
    fails(PriorCase(prior), check, says)


def test_every_check_has_something_that_fails_it() -> None:
    for test, cases in (
        (test_a_wrong_likelihood_fails_the_check, [LAPLACE]),
        (test_a_wrong_prior_fails_the_check, [PriorCase(nb.HalfNormal()), PriorCase(Funnel())]),
    ):
        (mark,) = vars(test)["pytestmark"]
        names = {check.name for case in cases for check in checks_for(case)}
        assert {check for _, check, _ in mark.args[1]} == names


def test_subjects_without_checks_say_what_there_is() -> None:
    with pytest.raises(OptionError, match=r"LikelihoodCase\(likelihood, outputs, y\)"):
        checks_for(nb.Gaussian())
    with pytest.raises(OptionError, match=r"values=range\(50\)"):
        _ = LikelihoodCase(nb.Poisson(), ONE, np.arange(6)).samples
