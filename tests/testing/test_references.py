"""The nonlinear references: stored posteriors that fit their data, and samplers that fail them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from samplers import PlainHMC, Spread

import nbcore as nb
from nbcore.testing import ConformanceError, checks_for
from nbcore.testing.references import PATH, PROBLEMS, reference


def test_the_file_is_small_and_holds_every_problem() -> None:
    assert PATH.stat().st_size < 40_000
    with np.load(PATH) as stored:
        assert {name.partition("/")[0] for name in stored} == set(PROBLEMS)


@pytest.mark.parametrize("name", PROBLEMS)
def test_moments_are_those_of_networks_that_fit_their_data(name: str) -> None:
    truth = reference(name)
    assert np.all(truth.deviation_error < 0.1 * truth.deviation.max())
    assert np.all(truth.mean_error < 0.05 * truth.deviation.max())
    start = truth.target.start
    mean, variance = truth.target.likelihood.moments(
        truth.target.outputs(start["weights"]), start["likelihood"]
    )
    y = truth.target.targets()
    if name == "convolution":
        assert np.mean(np.argmax(mean, axis=1) == y) > 0.95
        rows = truth.mean.reshape(-1, 10)
        np.testing.assert_allclose(rows.sum(axis=1), 1, atol=0.02)
    else:
        assert np.sqrt(np.mean((np.asarray(mean) - y) ** 2)) < 0.25
    assert np.all(np.asarray(variance) >= 0)


def test_predictions_are_outputs_and_the_logarithm_of_an_unknown_noise() -> None:
    truth = reference("mlp_unknown_noise")
    posterior = nb.sample(
        truth.target, Spread(), num_warmup=0, num_samples=3, num_chains=2, progress=False
    )
    found = truth.predictions(posterior)
    assert found.shape == (2, 3, truth.mean.size)
    noise = posterior.constrained()["likelihood"]["noise"]
    np.testing.assert_allclose(found[..., -1:], np.log(noise), rtol=1e-6)
    outputs = truth.problem.apply(truth.target.split.params, truth.probes)
    np.testing.assert_allclose(found[1, 2, :-1], np.ravel(outputs), rtol=1e-4, atol=1e-5)


def fault(sampler: Any, name: str) -> str:
    (check,) = (c for c in checks_for(sampler) if c.name == name)
    with pytest.raises(ConformanceError) as raised:
        check(sampler)
    return str(raised.value)


def test_draws_around_the_trained_weights_fail() -> None:
    message = fault(Spread(scale=1e-3), "reference_of_a_perceptron")
    assert "of the reference 'mlp'" in message


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

    assert "eviations of predictions" in fault(Hot(), "reference_of_a_perceptron")
    nuts = nb.get_backend("numpyro-nuts")
    (check,) = (c for c in checks_for(nuts) if c.name == "reference_of_a_perceptron")
    check(nuts)
