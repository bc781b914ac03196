"""Draws that contradict the trained network are named first; good ones raise no alarm."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
import pytest
from samplers import PlainHMC, Spread, Stay

import nbcore as nb
from nbcore_flax import FlaxMLP


@functools.cache
def trained() -> tuple[nb.DeterministicNN, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3)).astype(np.float32)
    y = 2 * X[:, 0] + 0.1 * rng.normal(size=80)
    det = nb.DeterministicNN(FlaxMLP(hidden_dims=(6,)), learning_rate=1e-2, standardize=False)
    det.train(X, y, epochs=200, key=0, progress=False)
    return det, X, y


def target(prior: Any = None, likelihood: Any = None) -> Any:
    det, X, y = trained()
    subset = nb.ProbabilisticSubset.first_and_last()
    return nb.Target.build(
        det.network, det.params, subset, X, y,
        likelihood=likelihood or nb.Gaussian(noise=0.1), prior=prior,
    )  # fmt: skip


def sample(target: Any, backend: Any, **options: Any) -> nb.NetworkPosterior:
    settings: dict[str, Any] = {
        "num_warmup": 300, "num_samples": 300, "num_chains": 2, "progress": False, "key": 1,
    }  # fmt: skip
    return nb.sample(target, backend, **(settings | options))


def alarm(target: Any, backend: Any, **options: Any) -> nb.NetworkPosterior:
    """Sample, and check that the warning and the first lines of what is printed are the same."""
    with pytest.warns(nb.PosteriorWarning) as given:
        posterior = sample(target, backend, **options)
    found = posterior.info.alarms
    assert str(given[0].message) == "\n".join(found)
    assert str(posterior.summary()).startswith(found[0])
    assert posterior.diagnostics().verdict().startswith(found[0])
    return posterior


@dataclass(frozen=True)
class Tight(Spread):
    """Draws around the start that hardly differ: what R-hat calls converged."""

    name: ClassVar[str] = "tight"


FAST = ("numpyro-nuts", "laplace")
BACKENDS = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
    for name in nb.list_backends()
]  # fmt: skip


@pytest.mark.parametrize(
    "likelihood",
    [nb.Gaussian(noise=0.1), pytest.param(nb.Gaussian(), marks=pytest.mark.slow)],
    ids=["", "noise"],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_good_run_raises_no_alarm(backend: str, likelihood: nb.Likelihood) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", nb.PosteriorWarning)
        posterior = sample(target(likelihood=likelihood), backend)
    assert posterior.info.alarms == []


def test_draws_far_from_the_density_are_named() -> None:
    alarms = alarm(target(), Spread(scale=1.0)).info.alarms
    assert any("log density" in a and "chains 0, 1" in a for a in alarms)
    assert any(a.startswith("The RMSE on the sampled examples is") for a in alarms)


def test_draws_that_agree_with_each_other_and_not_with_the_data_are_named(tmp_path: Path) -> None:
    """All chains a unit away from the trained weights, with a jitter: R-hat is 1."""
    centered = target()
    away = jax.tree.map(lambda a: a + 1, centered.start["weights"])
    moved = nb.Target.build(
        centered.network, centered.split.merge(away), nb.ProbabilisticSubset.first_and_last(),
        *trained()[1:], likelihood=nb.Gaussian(noise=0.1),
    )  # fmt: skip
    draws = sample(moved, Tight(scale=1e-3)).draws
    starts = jax.tree.map(lambda a: a[:, -1], draws)
    posterior = alarm(centered, PlainHMC(step_size=1e-6), num_warmup=0, init=starts)
    assert any("predictive standard deviations" in a for a in posterior.info.alarms)
    posterior.save(tmp_path / "run")
    loaded = nb.Posterior.load(tmp_path / "run", centered.network)
    assert loaded.info.alarms == posterior.info.alarms


def test_a_prior_that_forbids_the_trained_network_is_named() -> None:
    narrow = nb.NormalPrior(scale=0.01, center="zero")
    alarms = alarm(target(prior=narrow), "numpyro-nuts").info.alarms
    assert any("the prior is too narrow" in a for a in alarms)


def test_chains_that_do_not_move_are_told_so_and_not_to_run_longer() -> None:
    posterior = alarm(target(), PlainHMC(step_size=1e3), num_warmup=0)
    (first, *_) = posterior.info.alarms
    assert first.startswith("Chains that do not move: 0, 1 (mean acceptance 0)")
    verdict = posterior.diagnostics().verdict()
    assert "num_samples" not in verdict
    assert "run longer" not in verdict
    assert verdict.count("do not move") == 1
    assert "do not move: 0, 1." in alarm(target(), Stay()).info.alarms[0]


def test_fit_warns_too() -> None:
    det, X, y = trained()
    model = nb.PartialBNN(det.model, det, prior=nb.NormalPrior(scale=0.01, center="zero"))
    with pytest.warns(nb.PosteriorWarning, match="The RMSE on the sampled examples"):
        model.fit(X, y, num_warmup=200, num_samples=100, num_chains=2, progress=False)


def test_classes_and_plain_densities_are_judged() -> None:
    _, X, _ = trained()
    labels = (X[:, 0] > 0).astype(int) + (X[:, 1] > 1)
    det = nb.DeterministicNN(
        FlaxMLP(hidden_dims=(6,), target_dim=3), loss="classification", learning_rate=1e-2
    )
    det.train(X, labels, epochs=200, key=0, progress=False)
    classes = nb.Target.build(
        det.network, det.params, nb.ProbabilisticSubset.first_and_last(), X, labels,
        likelihood=nb.Categorical(),
    )  # fmt: skip
    assert sample(classes, "numpyro-nuts").info.alarms == []
    assert any("RMSE" in a for a in alarm(classes, Spread(scale=30.0)).info.alarms)
    density = nb.Target.from_log_density(lambda z: -0.5 * (z**2).sum(), np.zeros(3))
    assert sample(density, PlainHMC()).info.alarms == []
    assert "log density" in alarm(density, Spread(scale=100.0)).info.alarms[0]
