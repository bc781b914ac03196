"""Draws as ArviZ data, and the summary table."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore import errors
from nbcore.posterior import diagnostics, to_arviz
from nbcore.posterior.scaler import Scaler

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

NOISE, PAIRS = 0.5, [(0, 0), (2, 1)]
X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = X @ np.array([[1.0, 0.5], [-2.0, 0.0], [0.5, 1.0]]) + NOISE * np.random.default_rng(1).normal(
    size=(40, 2)
)


def network() -> nb.Network:
    return nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))


def posterior(noise: Any = None, y: np.ndarray = Y) -> nb.NetworkPosterior:
    params = {"out": {"kernel": jnp.zeros((3, y.shape[1])).at[0].set(1.0)}}
    target = nb.Target.build(
        network(),
        params,
        nb.ProbabilisticSubset.pairs({"out": [p for p in PAIRS if p[1] < y.shape[1]]}),
        X,
        y,
        likelihood=nb.Gaussian(noise=noise, noise_prior=nb.LogNormal(1.0, 0.5)),
    )
    return nb.sample(target, key=3, num_warmup=200, num_samples=200, num_chains=2, progress=False)


@pytest.fixture(scope="module")
def drawn() -> nb.NetworkPosterior:
    return posterior()


@pytest.fixture(scope="module")
def az() -> Any:
    return importlib.import_module("arviz")


def test_coordinates_name_layer_and_index(drawn: nb.NetworkPosterior) -> None:
    data = drawn.to_arviz()
    assert set(data["posterior"].data_vars) == {"out", "likelihood.noise"}
    weights = data["posterior"]["out"]
    assert weights.dims == ("chain", "draw", "out_index")
    assert weights.coords["out_index"].values.tolist() == ["0, 0", "2, 1"]
    at = weights.sel(out_index="2, 1").values
    np.testing.assert_array_equal(at, drawn.draws["weights"]["out/kernel"][..., 1])
    noise = data["posterior"]["likelihood.noise"].values
    np.testing.assert_array_equal(noise, drawn.constrained()["likelihood"]["noise"])


def test_statistics_have_the_names_of_arviz(drawn: nb.NetworkPosterior) -> None:
    stats = drawn.to_arviz()["sample_stats"]
    names = {"lp", "acceptance_rate", "diverging", "n_steps", "tree_depth", "step_size", "energy"}
    assert set(stats.data_vars) == names
    np.testing.assert_array_equal(stats["lp"].values, drawn.stats.log_density)


def test_log_likelihood_is_that_of_each_row(drawn: nb.NetworkPosterior) -> None:
    each = drawn.to_arviz()["log_likelihood"]["y"].values
    assert each.shape == (2, 200, 40)
    outputs = drawn.outputs(X).reshape(2, 200, 40, 2)
    noise = drawn.constrained()["likelihood"]["noise"][:, :, None, :]
    expected = -0.5 * ((Y - outputs) / noise) ** 2 - np.log(noise * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(each, expected.sum(axis=3), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(drawn.to_arviz()["observed_data"]["y_observed"].values, Y, rtol=1e-6)


def test_a_large_log_likelihood_is_left_out_unless_it_is_asked_for(
    drawn: nb.NetworkPosterior, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = drawn.to_arviz()["log_likelihood"]["y"].values  # 400 draws, 40 examples
    monkeypatch.setattr(to_arviz, "MAX_LOG_LIKELIHOODS", 400 * 40 - 1)
    with pytest.warns(UserWarning, match=r"log likelihood, 16,000 values.*log_likelihood=True"):
        data = drawn.to_arviz()
    assert not hasattr(data, "log_likelihood")
    assert data["observed_data"]["y"].shape == (40, 2)
    asked = drawn.to_arviz(log_likelihood=True)["log_likelihood"]["y"].values
    np.testing.assert_array_equal(asked, whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert not hasattr(drawn.to_arviz(log_likelihood=False), "log_likelihood")


def test_units_of_y_are_the_users(drawn: nb.NetworkPosterior) -> None:
    scaler = Scaler(np.array([3.0, -1.0]), np.array([2.0, 10.0]))
    scaled = drawn.in_units_of(scaler).to_arviz()
    plain = drawn.to_arviz()
    difference = plain["log_likelihood"]["y"].values - scaled["log_likelihood"]["y"].values
    np.testing.assert_allclose(difference, np.log(20.0), rtol=1e-4)
    observed = scaled["observed_data"]["y_observed"].values
    np.testing.assert_allclose(observed, scaler.shift + scaler.scale * Y, rtol=1e-5)
    ratio = scaled["posterior"]["likelihood.noise"] / plain["posterior"]["likelihood.noise"]
    np.testing.assert_allclose(ratio.mean(("chain", "draw")).values, [2.0, 10.0], rtol=1e-6)


def test_loo_is_that_of_the_exact_leave_one_out_densities(az: Any) -> None:
    """One output, known noise: the density of each row given the others is in closed form."""
    y = Y[:, :1]
    loo = az.loo(posterior(noise=NOISE, y=y).to_arviz())
    design, rest = X[:, :1].astype(np.float64), y[:, 0]
    exact = 0.0
    for i in range(len(y)):
        keep = np.arange(len(y)) != i
        precision = design[keep].T @ design[keep] / NOISE**2 + np.eye(1)
        mean = np.linalg.solve(precision, design[keep].T @ rest[keep] / NOISE**2 + 1.0)
        variance = NOISE**2 + design[i] @ np.linalg.solve(precision, design[i])
        exact += -0.5 * ((rest[i] - design[i] @ mean) ** 2 / variance)
        exact -= 0.5 * np.log(2 * np.pi * variance)
    found = float(getattr(loo, "elpd_loo", None) or loo.elpd)
    assert found == pytest.approx(float(exact), abs=0.5)


def test_diagnostics_are_those_of_arviz(drawn: nb.NetworkPosterior, az: Any) -> None:
    data, mine = drawn.to_arviz(), drawn.summary().columns
    for name, function, options in [
        ("r_hat", az.rhat, {}),
        ("ess_bulk", az.ess, {"method": "bulk"}),
        ("ess_tail", az.ess, {"method": "tail", "prob": (0.05, 0.95)}),
    ]:
        theirs = function(data, **options)
        theirs = theirs["posterior"] if "posterior" in getattr(theirs, "children", {}) else theirs
        np.testing.assert_allclose(mine[name][:2], theirs["out"].values, rtol=1e-6)
    assert len(az.summary(data)) == 4


def test_a_plain_density_has_no_data(az: Any) -> None:
    target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(3))
    plain = nb.sample(target, num_warmup=50, num_samples=50, thin=2, num_chains=2, progress=False)
    data = plain.to_arviz()
    assert data["posterior"]["position"].shape == (2, 25, 3)
    assert data["sample_stats"]["lp"].shape == (2, 25)
    assert "log_likelihood" not in (data.groups() if callable(data.groups) else data.children)
    assert not hasattr(plain, "log_likelihood")
    assert str(plain.summary()).endswith("2 chains × 25 draws kept = 50 draws")


def test_known_noise_is_no_unknown() -> None:
    known = posterior(noise=NOISE)
    assert known.constrained()["likelihood"] == {}
    assert set(known.to_arviz()["posterior"].data_vars) == {"out"}


def test_a_loaded_posterior_has_draws_alone(drawn: nb.NetworkPosterior, tmp_path: Path) -> None:
    drawn.save(tmp_path / "run")
    loaded = nb.Posterior.load(tmp_path / "run", network())
    np.testing.assert_array_equal(
        loaded.to_arviz()["posterior"]["out"].values, drawn.to_arviz()["posterior"]["out"].values
    )
    with pytest.raises(errors.OptionError, match="loaded"):
        loaded.log_likelihood()
    with pytest.raises(errors.OptionError, match="loaded"):
        loaded.to_arviz(log_likelihood=True)


def test_the_summary_is_of_every_parameter(drawn: nb.NetworkPosterior) -> None:
    table = drawn.summary()
    columns = table.columns
    assert list(columns["name"][:2]) == ["out[0, 0]", "out[2, 1]"]
    weights = drawn.draws["weights"]["out/kernel"].reshape(-1, 2)
    np.testing.assert_allclose(columns["mean"][:2], weights.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(columns["sd"][:2], weights.std(axis=0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(columns["5%"][:2], np.quantile(weights, 0.05, axis=0), rtol=1e-5)
    assert len(str(table).splitlines()) == len(table) + 2 == 6


def test_a_layer_is_as_good_as_its_worst_parameter(drawn: nb.NetworkPosterior) -> None:
    table, weights = drawn.summary(by="layer").columns, drawn.summary().columns
    assert list(table["layer"]) == ["out", "likelihood"]
    assert list(table["parameters"]) == [2, 2]
    assert table["r_hat"][0] == weights["r_hat"][:2].max()
    assert table["ess_bulk"][1] == weights["ess_bulk"][2:].min()
    with pytest.raises(errors.OptionError, match="weight or layer, got 'chain'"):
        drawn.summary(by="chain")  # pyright: ignore[reportArgumentType]


def test_diagnostics_in_prediction_space(drawn: nb.NetworkPosterior) -> None:
    found = drawn.diagnostics(X[:5])
    outputs = drawn.outputs(X[:5]).reshape(2, 200, 5, 2)
    np.testing.assert_allclose(found.r_hat["output"], diagnostics.r_hat(outputs))
    assert found.worst(1)[0][0].startswith("output[")
    assert jax.tree.map(np.shape, found.ess_bulk) == {"output": (5, 2)}
