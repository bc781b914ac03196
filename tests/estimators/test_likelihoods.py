"""Estimators with each likelihood: training, sampling and prediction agree, in the user's units."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers import Spread
from scipy import special, stats

import nbcore as nb
from nbcore import errors
from nbcore.subsets.expressiveness import ExpressivenessWarning
from nbcore.training.folds import CalibrationWarning
from nbcore_flax import FlaxMLP

pytestmark = [
    pytest.mark.filterwarnings("ignore::nbcore.training.folds.CalibrationWarning"),
    pytest.mark.filterwarnings("ignore::nbcore.subsets.expressiveness.ExpressivenessWarning"),
]

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 2)).astype(np.float32)
F = X @ np.array([1.0, -0.5])
Y = 20 + 5 * F + RNG.normal(size=40)
ONE = nb.as_network(FlaxMLP(hidden_dims=(4,)), example=X[:1])
TWO = nb.as_network(FlaxMLP(hidden_dims=(4,), target_dim=2), example=X[:1])
LINE = nb.as_network(FlaxMLP(hidden_dims=()), example=X[:1])
PRIORS = {"floor": nb.LogNormal(0.5, 0.5), "slope": nb.HalfNormal(1.0)}


def noise(x: Any, parameters: Any) -> Any:
    return parameters["floor"] + parameters["slope"] * jnp.abs(x[:, 0])


MODEL = nb.NoiseModel(noise, PRIORS)


def fit(model: nb.PartialBNN, y: Any = Y, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "num_warmup": 0, "num_samples": 3, "num_chains": 1, "backend": Spread(),
        "calibration": "holdout", "training": nb.TrainingOptions(epochs=4), "key": 1,
        "progress": False,
    }  # fmt: skip
    return model.fit(X, y, **(settings | options))


def head(net: Any = ONE, *weights: Any, **options: Any) -> nb.PartialBNN:
    return nb.PartialBNN(net, *weights, probabilistic_layer_names=["Dense1"], **options)


CASES: dict[str, tuple[Any, nb.Likelihood, Any]] = {
    "student-t": (ONE, nb.StudentT(df=4.0), Y),
    "heteroskedastic": (TWO, nb.Heteroskedastic(), Y),
    "noise model": (ONE, MODEL, Y),
    "bernoulli": (ONE, nb.Bernoulli(), Y > 20),
    "poisson": (ONE, nb.Poisson(), RNG.poisson(np.exp(F))),
    "classes": (TWO, nb.Categorical(), (Y > 20).astype(int)),
}


FORMS = {
    "student-t": nb.StudentTDistribution, "heteroskedastic": nb.NormalDistribution,
    "noise model": nb.NormalDistribution, "bernoulli": nb.BernoulliDistribution,
    "poisson": nb.PoissonDistribution, "classes": nb.CategoricalDistribution,
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_at_its_frozen_weights_it_predicts_what_the_network_predicts(case: str) -> None:
    net, likelihood, y = CASES[case]
    model = fit(head(net, likelihood=likelihood), y)
    prediction = model.predict_distribution(X)
    det = model.det
    np.testing.assert_allclose(prediction.mean, det.predict(X), rtol=1e-5, atol=1e-5)
    assert type(prediction.distribution) is FORMS[case]
    if not det.is_squared_error:
        expected = det.predict_distribution(X)
        np.testing.assert_allclose(prediction.variance, expected.variance, rtol=1e-4)
        assert np.isfinite(prediction.nlpd(y))
    if likelihood.can_standardize:
        assert det.scaler is not None
        assert np.isfinite(prediction.crps(y))
    else:
        assert det.scaler is None


@pytest.mark.parametrize("case", ["student-t", "heteroskedastic"])
def test_predictions_follow_the_units_of_y(case: str) -> None:
    net, likelihood, y = CASES[case]
    options = {"calibration": "crossfit"}
    here = fit(head(net, likelihood=likelihood), y, **options)
    there = fit(head(net, likelihood=likelihood), 1000 * y - 7, **options)
    mean, variance = here.predict(X)
    np.testing.assert_allclose(there.predict(X)[0], 1000 * mean - 7, rtol=1e-3)
    np.testing.assert_allclose(there.predict(X)[1], 1e6 * variance, rtol=2e-3)
    densities = [m.posterior.log_likelihood() for m in (here, there)]
    np.testing.assert_allclose(densities[1], densities[0] - np.log(1000), atol=2e-2)


@pytest.mark.slow
def test_the_log_likelihood_is_that_of_the_predictions() -> None:
    model = fit(
        head(likelihood=nb.StudentT()),
        calibration=nb.CalibrationOptions("crossfit", folds=2),
        num_samples=1,
    )
    prediction = model.predict_distribution(X)
    each = model.posterior.log_likelihood()[0, 0]
    np.testing.assert_allclose(each, prediction.log_density(Y), rtol=1e-4)
    parameters = model.posterior.constrained()["likelihood"]
    scale = parameters["noise"][0, 0] * model.det.scaler.scale
    expected = stats.t.logpdf(Y, parameters["df"][0, 0], prediction.mean, scale)
    np.testing.assert_allclose(each, expected, rtol=1e-4)
    # Both are tight around what fits the out-of-fold residuals best.
    rms = np.sqrt(prediction.aleatoric_variance[0])
    assert rms == pytest.approx(model.noise[0], rel=0.5)


def test_two_heads_learn_mean_and_deviation() -> None:
    """Biases alone: the optimum is the mean and the logarithm of the standard deviation of y."""
    flat = nb.as_network(FlaxMLP(hidden_dims=(), target_dim=2), example=X[:1])
    det = nb.DeterministicNN(
        flat, "heteroskedastic", learning_rate=0.5, map=False, schedule="cosine", swa=None
    )
    det.train(np.zeros_like(X), Y, 600, 40, progress=False)
    prediction = det.predict_distribution(np.zeros_like(X))
    np.testing.assert_allclose(prediction.mean, Y.mean(), rtol=1e-3)
    np.testing.assert_allclose(np.sqrt(prediction.variance), Y.std(), rtol=1e-2)
    np.testing.assert_allclose(
        det.params["params"]["Dense0"]["bias"][1], np.log(Y.std()), atol=0.01
    )


def test_weights_of_another_loss_are_refused() -> None:
    det = nb.DeterministicNN(ONE).train(X, Y, 1, progress=False)
    with pytest.raises(
        errors.OptionError, match=r"with Gaussian, .* of Poisson mean.*loss=nb.Poisson"
    ):
        fit(head(ONE, det, likelihood=nb.Poisson()), np.ones(40))
    with pytest.raises(errors.OptionError, match="does not determine the noise"):
        det.predict_distribution(X)
    with pytest.raises(errors.OptionError, match="Did you mean 'heteroskedastic'"):
        nb.DeterministicNN(ONE, loss="heteroscedastic")
    with pytest.raises(errors.OptionError, match="counts cannot be standardized"):
        nb.DeterministicNN(ONE, loss="poisson", standardize=True)


def test_the_loss_of_given_weights_is_the_likelihood() -> None:
    det = nb.DeterministicNN(TWO, loss="heteroskedastic").train(X, Y, 1, progress=False)
    model = fit(head(TWO, det))
    assert isinstance(model.posterior.likelihood, nb.Heteroskedastic)
    np.testing.assert_allclose(model.predict(X)[1], det.predict_distribution(X).variance, rtol=1e-4)


def noisy_target(**options: Any) -> Any:
    params = ONE.init(jax.random.key(0), X[:1])
    subset = nb.ProbabilisticSubset.layers("Dense1")
    likelihood = nb.NoiseModel(noise, PRIORS, **options)
    return nb.Target.build(ONE, params, subset, X, Y, likelihood=likelihood)


def test_a_noise_model_reads_the_x_of_each_row(tmp_path: Path) -> None:
    target = noisy_target()
    position = target.initial_position(jax.random.key(1), jitter=0.5)
    parameters = target.likelihood.constrain(position["likelihood"])
    deviations = np.asarray(noise(X, parameters))
    outputs = np.asarray(ONE.apply(target.split.merge(position["weights"]), X))[:, 0]
    expected = stats.norm.logpdf(Y, outputs, deviations)
    np.testing.assert_allclose(target.log_likelihood(position), expected, rtol=1e-4)
    # A minibatch of rows in another order reads their own x.
    batch = target.batch(jax.random.key(2), 0, 40)
    np.testing.assert_allclose(
        target.minibatch_log_density(position, batch), target.log_density(position), rtol=1e-5
    )
    posterior = nb.sample(
        target, Spread(0.3), key=0, num_warmup=0, num_samples=5, num_chains=1, progress=False
    )
    new = np.array([[3.0, 0.0], [-1.0, 2.0]], np.float32)
    drawn = posterior.constrained()["likelihood"]
    squared = (drawn["floor"][0, :, None] + drawn["slope"][0, :, None] * np.abs(new[:, 0])) ** 2
    prediction = posterior.predict(new)
    np.testing.assert_allclose(prediction.aleatoric_variance, squared.mean(axis=0), rtol=1e-4)
    assert posterior.outputs(new).shape == (5, 2, 1)
    posterior.save(tmp_path / "run")
    loaded = nb.Posterior.load(tmp_path / "run", ONE, likelihood=MODEL)
    np.testing.assert_array_equal(loaded.predict(new).variance, prediction.variance)


def test_a_noise_model_says_what_it_needs_of_x() -> None:
    with pytest.raises(errors.ShapeError, match=r"1 output\(s\).*num_targets=1"):
        noisy_target(num_targets=2)
    images = np.zeros((4, 2, 3), np.float32)
    network = nb.as_network(
        (lambda key, x: None, lambda p, x: x.reshape(len(x), -1) @ p["out"]["kernel"])
    )
    params = {"out": {"kernel": jnp.ones((6, 1))}}
    build = (network, params, nb.ProbabilisticSubset.everything(), images, np.zeros(4))
    with pytest.raises(errors.ShapeError, match="covariates=lambda"):
        nb.Target.build(*build, likelihood=MODEL)
    seen = nb.NoiseModel(noise, PRIORS, covariates=lambda x: x[:, 0])
    target = nb.Target.build(*build, likelihood=seen)
    assert np.isfinite(target.log_density(target.start))


def test_probabilities_are_softmaxed_once_and_averaged_over_draws() -> None:
    y = (Y > 20).astype(int)
    model = fit(head(TWO, num_classes=2), y, backend=Spread(2.0), num_samples=20)
    prediction = model.predict_distribution(X)
    p = special.softmax(model.posterior.outputs(X).astype(np.float64), axis=2)
    np.testing.assert_allclose(prediction.mean, p.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(prediction.total_entropy, stats.entropy(p.mean(axis=0), axis=1))
    expected = stats.entropy(p, axis=2).mean(axis=0)
    np.testing.assert_allclose(prediction.expected_entropy, expected, rtol=1e-4)
    assert (prediction.mutual_information > 0).all()
    mixed = prediction.expected_entropy + prediction.mutual_information
    np.testing.assert_allclose(prediction.total_entropy, mixed, rtol=1e-12)


def closed_form(scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return y, and mean and variance of a linear network's outputs with noise 0.5."""
    y = (F - F.mean()) / F.std()  # which standardizing leaves as it is
    design = np.concatenate([np.ones((40, 1)), X], axis=1)
    precision = design.T @ design / 0.25 + np.eye(3) / scale**2
    mean = design @ np.linalg.solve(precision, design.T @ y) / 0.25
    return y, mean, np.einsum("ij,ij->i", design, np.linalg.solve(precision, design.T).T)


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_a_bayesian_linear_network_has_its_closed_form(scale: float) -> None:
    """All weights of a linear network, known noise, prior at zero; Laplace is exact there."""
    y, mean, variance = closed_form(scale)
    model = nb.BNN(LINE, likelihood=nb.Gaussian(noise=0.5), prior=scale)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        fit(model, y, backend="laplace", num_samples=3000, calibration=None)
    prediction = model.predict_distribution(X)
    error = np.abs(prediction.mean - mean)
    assert (error < 5 * np.sqrt(variance / 3000) + 1e-4).all()
    np.testing.assert_allclose(prediction.epistemic_variance, variance, rtol=0.12)
    np.testing.assert_allclose(prediction.aleatoric_variance, 0.25, rtol=1e-4)


def test_a_bnn_that_is_told_nothing_of_sampling_makes_its_own_run() -> None:
    y, mean, variance = closed_form(1.0)
    model = nb.BNN(LINE, likelihood=nb.Gaussian(noise=0.5))
    model.fit(X, y, num_chains=2, key=1, progress=False)
    steps = {"num_warmup": 0, "num_samples": 10_000, "num_chains": 2, "thin": 20}
    assert model.posterior.info.backend == "blackjax-mclmc"
    assert model.posterior.info.settings == steps
    prediction = model.predict_distribution(X)
    assert (np.abs(prediction.mean - mean) < 5 * np.sqrt(variance / 1500)).all()
    np.testing.assert_allclose(prediction.epistemic_variance, variance, rtol=0.2)
    assert not model.posterior.info.integrated_out  # nothing would be left to sample


def test_a_bnn_that_is_told_its_steps_samples_as_every_model_does() -> None:
    model = nb.BNN(LINE).fit(X, Y, num_samples=20, num_chains=1, progress=False)
    assert model.posterior.info.backend == "numpyro-nuts"
    steps = {"num_warmup": 1000, "num_samples": 20, "num_chains": 1, "thin": 1}
    assert model.posterior.info.settings == steps


def test_a_bnn_samples_everything_and_learns_the_noise_with_it() -> None:
    model = fit(nb.BNN(ONE), calibration=None)
    split = model.posterior.split
    assert split.size == split.total_size
    assert model.noise is None  # no row is unseen, and none needs to be
    np.testing.assert_allclose(model.posterior.likelihood.noise_prior.scale, 1.0, rtol=1e-5)
    np.testing.assert_allclose(model.predict(X)[0], model.det.predict(X), rtol=1e-5)
    assert fit(nb.BNN(ONE), 2 * Y, calibration=None).predict(X)[0].mean() > 30


def test_pretrained_weights_are_start_and_center() -> None:
    simulated = ONE.init(jax.random.key(5), X[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        model = fit(nb.BNN(ONE, pretrained_priors=simulated), calibration=None)
    target = model.posterior.target
    for path, center in target.prior.center.items():
        np.testing.assert_array_equal(center, model.posterior.split.stochastic[path])
    np.testing.assert_allclose(model.predict(X)[0], ONE.apply(simulated, X)[:, 0], rtol=1e-5)
    # The frozen weights of a partial network stay, its prior is where the simulation says.
    prior = nb.pretrained_priors(jax.tree.map(lambda a: a + 1, simulated), scale=0.2)
    partial = fit(head(ONE, simulated, prior=prior)).posterior.target
    path = "params/Dense1/bias"
    np.testing.assert_allclose(partial.prior.center[path] - partial.split.stochastic[path], 1.0)


@pytest.mark.slow
def test_an_unknown_scale_is_sampled_saved_and_refused_by_laplace(tmp_path: Path) -> None:
    params = ONE.init(jax.random.key(0), X[:1])
    prior = nb.NormalPrior({"Dense0": nb.LogNormal(0.5, 0.3), "Dense1": 1.0}, "zero")
    everything = nb.ProbabilisticSubset.everything()
    model = nb.PartialBNN(ONE, params, subset=everything, prior=prior)
    posterior = fit(model, backend=Spread(0.1)).posterior
    drawn = posterior.flat_draws()["prior/log_scale/Dense0"]
    assert drawn.shape == (1, 3)
    assert np.abs(drawn - np.log(0.5)).max() < 0.6
    posterior.save(tmp_path / "run")
    loaded = nb.Posterior.load(tmp_path / "run", ONE)
    jax.tree.map(np.testing.assert_array_equal, loaded.draws, posterior.draws)
    with pytest.raises(errors.OptionError, match="scale of the prior is unknown"):
        fit(model, backend="laplace")
    # What climbs to a mode for its metric holds the scale meanwhile.
    start = fit(model, backend="blackjax-mala", num_samples=2).posterior
    assert np.isfinite(start.draws["prior"]["log_scale/Dense0"]).all()


def test_expressiveness_is_not_asked_of_labels() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExpressivenessWarning)
        fit(head(likelihood=nb.Bernoulli()), Y > 20)
