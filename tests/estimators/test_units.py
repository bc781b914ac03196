"""Units of y: a fit of s y + t is the fit of y, scaled and shifted."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import nbcore as nb
from nbcore.metrics import crps_gaussian
from nbcore.posterior.convergence import ess_mean
from nbcore.training.folds import CalibrationWarning
from nbcore_flax import FlaxMLP

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 2)).astype(np.float32)
Y = 2 * np.sin(X[:, 0]) + 0.3 * RNG.normal(size=24)
NET = nb.as_network(FlaxMLP(hidden_dims=(4,)), example=X[:1])
TWO_HEADS = nb.as_network(FlaxMLP(hidden_dims=(4,), target_dim=2), example=X[:1])
TRAINING = nb.TrainingOptions(epochs=4, batch_size=8)
TWO_FOLDS = nb.CalibrationOptions("crossfit", folds=2)
SHORT: dict[str, Any] = {
    "num_warmup": 5, "num_samples": 5, "num_chains": 1, "training": TRAINING, "progress": False,
}  # fmt: skip
MARGINALIZED = nb.SamplingOptions(marginalize=True)


def noise_of_x(x: jax.Array, parameters: dict[str, jax.Array]) -> jax.Array:
    return parameters["floor"] + parameters["slope"] * jnp.abs(x[:, 0])


def noise_model(s: float) -> nb.NoiseModel:
    priors = {"floor": nb.HalfNormal(0.2 * s), "slope": nb.HalfNormal(0.1 * s)}
    return nb.NoiseModel(noise_of_x, priors)


def sampled(
    model: nb.PartialBNN, calibration: Any = TWO_FOLDS, **options: Any
) -> Callable[..., Any]:
    return lambda y, **steps: model.fit(X, y, calibration=calibration, **SHORT | steps, **options)


# What is fitted, given the scale of y: everything else that has units of y is scaled alike.
MODELS: dict[str, Callable[[float], Callable[..., Any]]] = {
    "gaussian": lambda s: sampled(nb.PartialBNN(NET)),
    "noise prior": lambda s: sampled(nb.PartialBNN(NET, noise_prior=nb.HalfNormal(0.5 * s))),
    "known noise": lambda s: sampled(nb.PartialBNN(NET, likelihood=nb.Gaussian(noise=0.3 * s))),
    "student": lambda s: sampled(nb.PartialBNN(NET, likelihood=nb.StudentT())),
    "two heads": lambda s: sampled(
        nb.PartialBNN(TWO_HEADS, likelihood=nb.Heteroskedastic()), "holdout"
    ),
    "prior scale": lambda s: sampled(
        nb.PartialBNN(NET, prior=nb.PriorScaleSearch(scales=(0.3, 1.0)))
    ),
    "marginalized": lambda s: sampled(nb.PartialBNN(NET), sampling=MARGINALIZED),
    "mixture": lambda s: sampled(
        nb.PartialBNN(NET), nb.CalibrationOptions("crossfit", folds=2, ensemble=True)
    ),
    "all weights": lambda s: sampled(nb.BNN(NET), "none"),
}  # fmt: skip
BY_PARAMETERS_IN_UNITS = {
    "noise of x": lambda s: sampled(nb.PartialBNN(NET, likelihood=noise_model(s)))
}

# On a fifth of the examples a noise of two heads has tails whose mean no number of draws settles.
DETERMINED = {
    **MODELS,
    **BY_PARAMETERS_IN_UNITS,
    "two heads": lambda s: sampled(
        nb.PartialBNN(TWO_HEADS, likelihood=nb.Heteroskedastic()), "none"
    ),
}

exponents = st.floats(-30, 30)
offsets = st.floats(-1e9, 1e9)


@functools.cache
def reference(name: str) -> Any:
    return (MODELS | BY_PARAMETERS_IN_UNITS)[name](1.0)(Y)


@pytest.fixture(autouse=True)
def _nothing_is_lost() -> Iterator[None]:
    """Overflow and division by zero are errors, and no size of y is a remark about calibration."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("error", CalibrationWarning)
        yield


def leaves(model: Any) -> list[np.ndarray]:
    """Return the weights of all networks that a fit trained."""
    networks = [model.det] if model.cross is None else [model.cross.full, *model.cross.members]
    return [np.asarray(a) for det in networks if det for a in jax.tree.leaves(det.params)]


def check_trained(model: Any, y: np.ndarray, s: float, t: float, reference: Any) -> None:
    """Trained networks, out-of-fold predictions and noise, to 1e-5 of the spread of y."""
    for found, expected in zip(leaves(model), leaves(reference), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    if model.cross is not None:
        in_units = (model.cross.predictions - t) / s
        np.testing.assert_allclose(in_units, reference.cross.predictions, atol=1e-5)
    if model.noise is not None:
        np.testing.assert_allclose(model.noise / s, reference.noise, rtol=1e-5)
    prediction = model.predict_distribution(X)
    low, high = prediction.interval(0.9)
    for part in (prediction.mean, prediction.variance, prediction.epistemic_variance, low, high):
        assert np.all(np.isfinite(part))
    assert np.all((low < high) & (prediction.variance > 0))
    assert np.isfinite([prediction.crps(y), prediction.nlpd(y)]).all()


@pytest.mark.parametrize("name", ["gaussian", "two heads"])
@settings(max_examples=1, deadline=None, suppress_health_check=list(HealthCheck))
@given(exponent=exponents, offset=offsets)
@example(exponent=-30, offset=1e9)
@example(exponent=30, offset=-1e9)
def test_networks_folds_and_noise_scale_with_y(name: str, exponent: float, offset: float) -> None:
    s, t = 10.0**exponent, offset * 10.0**exponent
    y = s * Y + t
    check_trained(MODELS[name](s)(y), y, s, t, reference(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MODELS, *BY_PARAMETERS_IN_UNITS])
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(exponent=exponents, offset=offsets)
@example(exponent=-30, offset=1e9)
@example(exponent=30, offset=-1e9)
def test_every_model_scales_with_y(name: str, exponent: float, offset: float) -> None:
    s, t = 10.0**exponent, offset * 10.0**exponent
    y = s * Y + t
    check_trained((MODELS | BY_PARAMETERS_IN_UNITS)[name](s)(y), y, s, t, reference(name))


def check_identical(model: Any, s: float, reference: Any) -> None:
    """Predictions, densities and scores, bit for bit in units of s."""
    y = s * Y
    found, expected = model.predict_distribution(X), reference.predict_distribution(X)
    for name, power in (("mean", 1), ("variance", 2), ("epistemic_variance", 2)):
        assert np.array_equal(getattr(found, name), s**power * getattr(expected, name)), name
    levels = [0.05, 0.5, 0.95]
    assert np.array_equal(found.quantile(levels), s * expected.quantile(levels))
    assert found.nlpd(y) == pytest.approx(expected.nlpd(Y) + np.log(s), abs=1e-9)
    assert found.crps(y) / s == pytest.approx(expected.crps(Y), rel=1e-12)
    assert found.coverage(y) == expected.coverage(Y)


@pytest.mark.parametrize(("name", "power"), [("gaussian", 99), *((n, -99) for n in MODELS)])
def test_powers_of_two_change_no_bit(name: str, power: int) -> None:
    model = MODELS[name](2.0**power)(2.0**power * Y)
    check_identical(model, 2.0**power, reference(name))
    for found, expected in zip(leaves(model), leaves(reference(name)), strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(power=st.integers(-99, 99))
def test_no_power_of_two_changes_a_bit(name: str, power: int) -> None:
    check_identical(MODELS[name](2.0**power)(2.0**power * Y), 2.0**power, reference(name))


@pytest.mark.parametrize(
    ("s", "t"), [(2.0**-99, 0.0), (2.0**99, 0.0), (1e-23, 1e-14), (1e30, 1e39)]
)
def test_posteriors_in_any_units_are_stored(s: float, t: float, tmp_path: Path) -> None:
    model = MODELS["gaussian"](s)(s * Y + t)
    model.posterior.save(tmp_path)
    loaded = nb.Posterior.load(tmp_path, FlaxMLP(hidden_dims=(4,))).predict(X)
    expected = model.predict_distribution(X)
    assert np.array_equal(loaded.mean, expected.mean)
    assert np.array_equal(loaded.variance, expected.variance)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DETERMINED])
@pytest.mark.parametrize(("s", "t"), [(1e-30, 1e-21), (1e30, -1e39), (3e-23, 0.0)])
def test_moments_agree_to_monte_carlo_error(name: str, s: float, t: float) -> None:
    steps = {"num_warmup": 500, "num_samples": 1000, "num_chains": 2}
    make = DETERMINED[name]
    models = make(1.0)(Y, **steps), make(s)(s * Y + t, **steps)
    expected, found = (model.predict_distribution(X) for model in models)
    sizes = [
        ess_mean(p.outputs(X)[..., 0].reshape(p.num_chains, p.num_draws, len(X)))
        for model in models for p in model.posteriors
    ]  # fmt: skip
    size = np.min(sizes, axis=0)
    error = np.sqrt(2 * expected.epistemic_variance / size)
    assert np.all(np.abs((found.mean - t) / s - expected.mean) < 5 * error + 1e-4)
    ratio = found.variance / s**2 / expected.variance
    assert np.all(np.abs(np.log(ratio)) < 10 * np.sqrt(2 / size) + 1e-4)
    assert found.nlpd(s * Y + t) - np.log(s) == pytest.approx(expected.nlpd(Y), abs=0.1)


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(exponent=exponents, offset=offsets)
@example(exponent=-30, offset=1e9)
def test_deterministic_networks_and_ensembles_scale_with_y(exponent: float, offset: float) -> None:
    s, t = 10.0**exponent, offset * 10.0**exponent
    y = s * Y + t
    (det, ensemble), (other, others) = _trained(Y), _trained(y)
    np.testing.assert_allclose((other.predict(X) - t) / s, det.predict(X), atol=1e-5)
    for a, b in zip(jax.tree.leaves(ensemble.params), jax.tree.leaves(others.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    mean, variance = others.predict(X)
    np.testing.assert_allclose((mean - t) / s, ensemble.predict(X)[0], atol=1e-5)
    np.testing.assert_allclose(variance / s**2, ensemble.predict(X)[1], rtol=1e-4)
    assert others.noise / s == pytest.approx(ensemble.noise, rel=1e-5)
    nlpd = nb.metrics.nlpd(y, mean, variance) - np.log(s)
    assert nlpd == pytest.approx(nb.metrics.nlpd(Y, *ensemble.predict(X)), abs=1e-4)
    assert crps_gaussian(y, mean, variance) / s == pytest.approx(
        crps_gaussian(Y, *ensemble.predict(X)), rel=1e-4
    )


def _trained(y: np.ndarray) -> tuple[nb.DeterministicNN, nb.EnsembleDeterministicNN]:
    det = nb.DeterministicNN(NET, standardize=True).train(X, y, 4, progress=False)
    ensemble = nb.EnsembleDeterministicNN(NET, num_models=2, standardize=True)
    return det, ensemble.train(X, y, 4, bootstrap=True, progress=False)


@settings(max_examples=3, deadline=None)
@given(power=st.integers(-90, 90))
@example(power=-90)
@example(power=90)
def test_likelihoods_take_targets_in_any_units(power: int) -> None:
    """The log density of s y is that of y minus N log s, its gradient that of y over s."""
    network = nb.as_network((lambda key, x: {}, lambda p, x: x @ p["out"]["kernel"]))
    params = {"out": {"kernel": np.ones((2, 1), np.float32)}}

    def density(s: float) -> tuple[float, float]:
        target = nb.Target.build(
            network, jax.tree.map(lambda w: np.float32(s) * w, params),
            nb.ProbabilisticSubset.everything(), X, s * Y, likelihood=nb.Gaussian(noise=0.3 * s),
        )  # fmt: skip
        function = jax.jit(jax.value_and_grad(lambda t, z: jnp.sum(t.log_likelihood(z)), 1))
        value, gradient = function(target, target.start)
        return float(value), float(jnp.sum(gradient["weights"]["out/kernel"]) * s)

    (value, gradient), (expected, slope) = density(2.0**power), density(1.0)
    assert value == pytest.approx(expected - len(Y) * power * np.log(2), rel=1e-4, abs=1e-2)
    assert gradient == pytest.approx(slope, rel=1e-4)


def test_targets_without_digits_are_refused() -> None:
    """In the user's own units, single precision would make one value of all of them."""
    for y in (Y + 1e8, 1e39 * Y, 1e-46 * Y, np.full(24, 1e40)):
        with pytest.raises(nb.errors.DataError, match="loses its digits in float32"):
            nb.DeterministicNN(NET).train(X, y, 1, progress=False)
    for y in (Y + 1e5, np.full(24, 0.1), np.zeros(24), np.arange(24, dtype=np.int64)):
        nb.DeterministicNN(NET).train(X, y, 1, progress=False)


def test_equal_targets_are_in_units_of_their_size() -> None:
    for value in (0.1, 1e-30, -1e30):
        scaler = nb.posterior.scaler.Scaler.fit(np.full(7, value))
        assert scaler.scale == pytest.approx(abs(value))
        assert np.abs(scaler.standardize(np.full(7, value))).max() < 1e-10
    assert nb.posterior.scaler.Scaler.fit(np.zeros(3)).scale == 1.0
