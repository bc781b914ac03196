"""Targets with missing values: what is observed alone counts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import nbcore as nb
from nbcore.errors import DataError, OptionError
from nbcore.posterior.scaler import Scaler
from nbcore_flax import FlaxMLP

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3)).astype(np.float32)
FULL = X @ np.array([[1.0, -1.0], [0.5, 2.0], [0.0, 1.0]]) + 0.3 * RNG.normal(size=(30, 2))
Y = np.where(RNG.uniform(size=FULL.shape) < 0.3, np.nan, FULL)
Y[3] = np.nan
SEEN = ~np.isnan(Y)
EVERYTHING = nb.ProbabilisticSubset.everything()
NETWORK = nb.as_network((lambda key, x: {}, lambda p, x: x @ p["out"]["kernel"]))
SHORT: dict[str, Any] = {
    "num_warmup": 10, "num_samples": 10, "num_chains": 1, "progress": False,
    "training": nb.TrainingOptions(epochs=4),
    "calibration": nb.CalibrationOptions("crossfit", folds=2),
}  # fmt: skip
LIKELIHOODS = {
    "normal": (nb.Gaussian(noise=0.3, missing="mask"), 2),
    "student": (nb.StudentT(noise=0.3, df=4.0, missing="mask"), 2),
    "two heads": (nb.Heteroskedastic(missing="mask"), 4),
}


def expected_log_prob(name: str, outputs: np.ndarray) -> np.ndarray:
    if name == "normal":
        each = stats.norm.logpdf(Y, outputs, 0.3)
    elif name == "student":
        each = stats.t.logpdf(Y, 4.0, outputs, 0.3)
    else:
        each = stats.norm.logpdf(Y, outputs[:, :2], np.exp(outputs[:, 2:]))
    return np.nansum(each, axis=1)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_what_is_missing_is_left_out_of_the_likelihood(name: str) -> None:
    likelihood, width = LIKELIHOODS[name]
    params = {"out": {"kernel": 0.3 * np.ones((3, width), np.float32)}}
    target = nb.Target.build(NETWORK, params, EVERYTHING, X, Y, likelihood=likelihood)
    expected = expected_log_prob(name, X @ params["out"]["kernel"])
    np.testing.assert_allclose(target.log_likelihood(target.start), expected, rtol=1e-4, atol=1e-4)
    gradient = jax.grad(target.log_density)(target.start)["weights"]["out/kernel"]
    assert np.isfinite(gradient).all()
    y = likelihood.check(Y, width)
    information = likelihood.information(jnp.asarray(X @ params["out"]["kernel"]), y, {})
    diagonal = np.diagonal(information, axis1=1, axis2=2)
    assert np.array_equal(diagonal > 0, np.tile(SEEN, width // 2))


def test_a_conjugate_posterior_is_that_of_the_observed_values() -> None:
    """Mean and covariance of each column's regression on its observed examples alone."""
    params = {"out": {"kernel": np.zeros((3, 2), np.float32)}}
    likelihood = nb.Gaussian(noise=0.3, missing="mask")
    target = nb.Target.build(NETWORK, params, EVERYTHING, X, Y, likelihood=likelihood)
    hessian = -jax.hessian(lambda w: target.log_density(_at(target, w)))(jnp.zeros((3, 2)))
    gradient = jax.grad(lambda w: target.log_density(_at(target, w)))(jnp.zeros((3, 2)))
    mode = np.linalg.solve(hessian.reshape(6, 6), gradient.reshape(6)).reshape(3, 2)
    for j in range(2):
        x, y = X[SEEN[:, j]], Y[SEEN[:, j], j]
        precision = x.T @ x / 0.3**2 + np.eye(3)
        np.testing.assert_allclose(hessian[:, j, :, j], precision, rtol=1e-4)
        np.testing.assert_allclose(mode[:, j], np.linalg.solve(precision, x.T @ y / 0.3**2),
                                   rtol=1e-3, atol=1e-4)  # fmt: skip


def _at(target: nb.Target, w: jax.Array) -> Any:
    return {**target.start, "weights": {"out/kernel": w}}


def test_evidence_is_that_of_the_observed_values() -> None:
    """With the last layer integrated out: a normal of the observed values alone."""
    noise_prior = nb.LogNormal(0.3, 0.5)
    likelihood = nb.Gaussian(noise_prior=noise_prior, missing="mask")
    params = {"out": {"kernel": np.zeros((3, 2), np.float32)}}
    whole = nb.Target.build(NETWORK, params, EVERYTHING, X, Y, likelihood=likelihood)
    marginal = nb.marginalize(whole)
    found = marginal.log_density(marginal.start) - likelihood.log_prior({"noise": jnp.zeros(2)})
    expected = sum(
        stats.multivariate_normal.logpdf(
            Y[SEEN[:, j], j],
            cov=X[SEEN[:, j]] @ X[SEEN[:, j]].T + 0.3**2 * np.eye(SEEN[:, j].sum()),
        )
        for j in range(2)
    )
    assert float(found) == pytest.approx(expected, rel=1e-3)


def test_units_and_noise_are_those_of_the_observed_values() -> None:
    scaler = Scaler.fit(Y)
    np.testing.assert_allclose(scaler.shift, np.nanmean(Y, axis=0))
    np.testing.assert_allclose(scaler.scale, np.nanstd(Y, axis=0))
    estimated = nb.Gaussian(missing="mask").with_estimated_noise(Y, 30)
    root = np.sqrt(np.nanmean(Y**2, axis=0))
    assert estimated.noise_prior is not None
    np.testing.assert_allclose(estimated.noise_prior.median, root)
    columns = [Y[SEEN[:, j], j] for j in range(2)]
    for j, column in enumerate(columns):
        both = nb.StudentT(df=4.0, missing="mask").with_estimated_noise(Y, 30)
        alone = nb.StudentT(df=4.0).with_estimated_noise(column[:, None], 30)
        assert both.noise_prior.median[j] == pytest.approx(alone.noise_prior.median[0])


def test_a_fit_and_its_scores_leave_missing_values_out() -> None:
    module = FlaxMLP(hidden_dims=(4,), target_dim=2)
    model = nb.PartialBNN(module, likelihood=nb.Gaussian(missing="mask")).fit(X, Y, **SHORT)
    assert model.cross is not None
    errors = Y - model.cross.predictions
    np.testing.assert_allclose(model.noise, np.sqrt(np.nanmean(errors**2, axis=0)))
    prediction = model.predict_distribution(X)
    assert np.isfinite(prediction.variance).all()
    means, variances = prediction.draw_means, prediction.draw_variances
    each = np.where(SEEN, stats.norm.logpdf(Y, means, np.sqrt(variances)), 0).sum(axis=2)
    density = np.log(np.exp(each).mean(axis=0))
    assert prediction.nlpd(Y, missing="mask") == pytest.approx(-density[SEEN.any(axis=1)].mean())
    low, high = prediction.interval(0.9)
    inside = ((low <= Y) & (high >= Y))[SEEN].mean()
    assert prediction.coverage(Y, 0.9, missing="mask") == pytest.approx(inside)
    assert np.isfinite(prediction.crps(Y, missing="mask"))
    per_draw = model.posterior.log_likelihood()[0]
    np.testing.assert_allclose(per_draw, each, rtol=1e-3, atol=1e-3)
    assert np.isfinite(model.cross.nlpd(Y))
    for score in (prediction.nlpd, prediction.coverage, prediction.crps, prediction.log_density):
        with pytest.raises(DataError, match="missing='mask'"):
            score(Y)
        with pytest.raises(DataError, match="nothing to score"):
            score(np.full_like(Y, np.nan), missing="mask")


@pytest.mark.parametrize("method", ["fisher", "laplace-variance", "greedy-predictive"])
def test_selectors_leave_missing_values_out(method: str) -> None:
    """Examples without any target are as if they were not given; the noise is that of the rest."""
    loss = nb.Gaussian(noise=1.0, missing="mask")
    module = FlaxMLP(hidden_dims=(4,), target_dim=2)
    det = nb.DeterministicNN(module, loss, swa=None).train(X, Y, 3, progress=False)
    gone = np.arange(30) % 3 == 0
    given = ((X, np.where(gone[:, None], np.nan, Y)), (X[~gone], Y[~gone]))
    chosen = [
        nb.select_bayesian_components(det, method=method, num_weights=5, X=x, y=y) for x, y in given
    ]
    few = [subset.split(det.network, det.params) for subset in chosen]
    assert few[0].labels() == few[1].labels()
    assert 0 < few[0].size <= 5
    for_all, for_rest = (det.curvature(x, y) for x, y in given)
    np.testing.assert_allclose(
        for_all.likelihood.noise, for_rest.likelihood.noise, rtol=1e-6  # pyright: ignore[reportAttributeAccessIssue]
    )  # fmt: skip


def test_missing_values_are_an_error_that_names_the_option() -> None:
    module = FlaxMLP(hidden_dims=(4,), target_dim=2)
    with pytest.raises(DataError, match=r"not finite in .* examples.*nb.Gaussian\(missing='mask'"):
        nb.PartialBNN(module).fit(X, Y, **SHORT)
    with pytest.raises(DataError, match="not finite"):
        nb.PartialBNN(module, likelihood=nb.Poisson()).fit(X, Y, **SHORT)
    infinite = np.where(np.isnan(Y), np.inf, Y)
    empty = np.stack([FULL[:, 0], np.full(30, np.nan)], axis=1)
    with pytest.raises(DataError, match="not finite"):
        nb.PartialBNN(module, likelihood=nb.Gaussian(missing="mask")).fit(X, infinite, **SHORT)
    with pytest.raises(OptionError, match="missing is one of"):
        nb.Gaussian(missing="drop")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="Column 1 of y has no value"):
        nb.DeterministicNN(module, nb.Gaussian(noise=1.0, missing="mask")).train(X, empty, 1)
