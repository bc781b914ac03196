"""The references: stored posteriors that fit their data, and samplers that fail them."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import reference_table
from samplers import PlainHMC, Spread

import nbcore as nb
from nbcore import references
from nbcore.common import storage
from nbcore.references.reference import FOLDER
from nbcore.testing import ConformanceError, checks_for
from nbcore.testing.oracle import closed_form


@pytest.mark.parametrize("name", references.list())
def test_a_reference_is_small_and_its_networks_fit_their_data(name: str) -> None:
    path = FOLDER / f"{name}.safetensors"
    assert path.stat().st_size < 150_000
    truth = references.load(name)
    assert len(set(truth.names)) == len(truth.names) == truth.mean.size == truth.draws.shape[1]
    assert np.all(truth.deviation > 0)
    if truth.is_settled:
        predicted = np.array([n.startswith("prediction") for n in truth.names])
        most = truth.deviation[predicted].max()
        assert np.all(truth.mean_error[predicted] < 0.05 * most)
        assert np.all(truth.deviation_error[predicted] < 0.1 * most)
    # The draws are of the same posterior: a mean of 300 is within 6 of its standard errors.
    off = (truth.draws.mean(axis=0) - truth.mean) / truth.deviation
    assert np.all(np.abs(off) < 6 / np.sqrt(len(truth.draws)) + 0.2 * (not truth.is_settled))
    y = truth.y
    outputs = np.asarray(truth.problem.apply(truth.params, truth.X), np.float64)
    if outputs.shape[1] == 10:
        assert np.mean(np.argmax(outputs, axis=1) == y) > 0.95
        rows = truth.mean[:80].reshape(-1, 10)
        np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-3)
    elif name == "logistic":
        assert np.mean((outputs[:, 0] > 0) == y) > 0.85
    else:
        error = np.sqrt(np.mean((outputs - y.reshape(outputs.shape)) ** 2))
        assert error < 0.75 * y.std()


pytestmark = pytest.mark.filterwarnings("ignore:Chains that do not move")


def linear() -> tuple[references.Reference, np.ndarray, np.ndarray]:
    """Return the linear reference, and mean and covariance of its weights in closed form."""
    truth = references.load("linear")
    h = np.asarray(truth.X, np.float64)
    for name in ("Layer0", "Layer1"):
        layer = truth.params[name]
        h = np.tanh(h @ np.float64(layer["kernel"]) + np.float64(layer["bias"]))
    layer = truth.params["Layer2"]
    centers = np.concatenate([np.float64(layer["bias"])[None], np.float64(layer["kernel"])])
    y = np.float64(truth.y)[:, None]
    mean, covariance = closed_form(h, y, (0.15,), 0.5, centers[:, 0])
    return truth, mean, covariance


def test_the_linear_reference_is_the_closed_form() -> None:
    truth, mean, covariance = linear()
    squared = np.array([truth.names.index("sum of squares of Layer2/bias")])
    np.testing.assert_allclose(truth.mean[squared], mean[0] ** 2 + covariance[0, 0], rtol=1e-4)
    spread = 2 * covariance[0, 0] ** 2 + 4 * mean[0] ** 2 * covariance[0, 0]
    np.testing.assert_allclose(truth.deviation[squared] ** 2, spread, rtol=1e-3)
    assert truth.status.startswith("Exact")


def exact_posterior(shift: float = 0.0, stretch: float = 1.0) -> tuple[Any, Any]:
    """Return the linear reference, and exact draws of it; all weights moved or stretched."""
    truth, mean, covariance = linear()
    rng = np.random.default_rng(1)
    normal = rng.normal(size=(4, 1000, mean.size)) @ np.linalg.cholesky(covariance).T
    weights = mean + shift * np.sqrt(np.diag(covariance)) + stretch * normal
    posterior = nb.sample(
        truth.target, Spread(), num_warmup=0, num_samples=1000, num_chains=4, progress=False
    )
    draws = {"Layer2/bias": weights[..., :1], "Layer2/kernel": weights[..., 1:, None]}
    draws = jax.tree.map(lambda a: a.astype(np.float32), draws)
    whole = {**posterior.draws, "weights": draws}
    return truth, dataclasses.replace(posterior, draws=whole)


def test_exact_draws_are_at_no_distance() -> None:
    truth, posterior = exact_posterior()
    found = truth.distance(posterior)
    assert np.all(np.abs(found.bias) < 4.5 * found.bias_error)
    assert np.all(np.abs(found.ratio - 1) < 4.5 * found.ratio_error)
    assert found.mean_bias < 2 * found.mean_bias_error
    assert found.sliced < 1.5 * found.sliced_error


def test_the_distance_of_stretched_draws_is_how_far_they_were_stretched() -> None:
    truth, posterior = exact_posterior(stretch=1.5)
    found = truth.distance(posterior)
    linear = np.array([name.startswith("prediction") for name in truth.names])
    np.testing.assert_allclose(found.ratio[linear], 1.5, rtol=0.06)
    assert np.all(np.abs(found.bias[linear]) < 4.5 * found.bias_error[linear])
    assert found.sliced > 2 * found.sliced_error
    assert "sum of squares" in found.worst


def test_draws_of_another_target_are_refused() -> None:
    _, posterior = exact_posterior()
    with pytest.raises(nb.errors.DataError, match="not of the reference 'mlp-ends'"):
        references.load("mlp-ends").distance(posterior)


def test_a_reference_is_pickled_by_its_name_with_or_without_its_target() -> None:
    truth = references.load("linear")
    assert truth.target.split.size == 7
    assert pickle.loads(pickle.dumps(truth)) is truth


def test_a_name_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(nb.errors.OptionError, match="Did you mean 'mlp-ends'"):
        references.load("mlp-end")


def test_a_reference_of_other_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays, facts = storage.read_arrays(FOLDER / "linear.safetensors")
    arrays["y"] = arrays["y"] + np.float32(1e-3)
    storage.write_arrays(tmp_path / "linear.safetensors", arrays, facts)
    monkeypatch.setattr("nbcore.references.reference.FOLDER", tmp_path)
    references.load.cache_clear()
    with pytest.raises(nb.errors.RunFolderError, match="not the reference of this version"):
        references.load("linear")
    references.load.cache_clear()


def test_functions_are_predictions_squares_and_the_logarithm_of_an_unknown_noise() -> None:
    truth = references.load("mlp-ends-noise")
    posterior = nb.sample(
        truth.target, Spread(), num_warmup=0, num_samples=4, num_chains=2, progress=False
    )
    found = dict(zip(truth.names, np.moveaxis(truth.functions(posterior), -1, 0), strict=True))
    noise = posterior.constrained()["likelihood"]["noise"]
    np.testing.assert_allclose(
        found["likelihood['noise'], unconstrained 0"], np.log(noise[..., 0]), rtol=1e-6
    )
    outputs = truth.problem.apply(truth.target.split.params, truth.probes)
    np.testing.assert_allclose(found["prediction 3"][1, 2], outputs[3, 0], rtol=1e-4)
    kernel = np.asarray(posterior.draws["weights"]["Layer0/kernel"], np.float64)
    np.testing.assert_allclose(
        found["sum of squares of Layer0/kernel"], np.sum(kernel**2, axis=(2, 3)), rtol=1e-5
    )


def fault(sampler: Any, name: str) -> str:
    (check,) = (c for c in checks_for(sampler) if c.name == name)
    with pytest.raises(ConformanceError) as raised:
        check(sampler)
    return str(raised.value)


def test_draws_around_the_trained_weights_fail() -> None:
    message = fault(Spread(scale=1e-3), "reference_of_a_perceptron")
    assert "of the reference 'mlp-ends'" in message


@pytest.mark.slow
def test_an_exact_sampler_passes_and_a_hot_one_fails() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Hot(PlainHMC):
        def kernel(self, num_warmup: int) -> nb.Kernel:
            kernel = super().kernel(num_warmup)

            def cooled(function: Any) -> Any:
                def call(key: Any, target: Any, *rest: Any) -> Any:
                    def density(z: Any) -> jax.Array:
                        return target.log_density(z) / 2

                    return function(key, nb.Target.from_log_density(density, target.start), *rest)

                return call

            return kernel._replace(warmup=cooled(kernel.warmup), step=cooled(kernel.step))

    assert "of predictions are those of the reference" in fault(Hot(), "reference_of_a_perceptron")
    nuts = nb.get_backend("numpyro-nuts")
    (check,) = (c for c in checks_for(nuts) if c.name == "reference_of_a_perceptron")
    check(nuts)


def test_the_page_lists_the_references_as_they_are() -> None:
    page = reference_table.PAGE.read_text(encoding="utf-8")
    assert reference_table.listing() in page, "Run reference_table.py --results FILE --write"
