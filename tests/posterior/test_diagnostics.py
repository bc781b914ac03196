"""R-hat, ESS and their relatives against closed forms, identities and ArviZ; the verdict."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcore.errors import DataError, ShapeError
from nbcore.posterior.diagnostics import (
    diagnose,
    e_bfmi,
    ess_bulk,
    ess_mean,
    ess_tail,
    mcse_mean,
    r_hat,
)

ALL = [r_hat, ess_bulk, ess_tail, ess_mean, mcse_mean]
each = pytest.mark.parametrize("function", ALL, ids=lambda f: f.__name__)
seeds = st.integers(0, 2**32 - 1)


def autoregressive(rho: float, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return stationary AR(1) chains of unit variance."""
    x = np.random.default_rng(seed).normal(size=shape)
    for t in range(1, shape[1]):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * x[:, t]
    return x


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# Closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [-0.3, 0.0, 0.5, 0.9])
def test_ess_of_autoregressive_chains(rho):
    draws = autoregressive(rho, (4, 5000, 8))
    expected = draws[..., 0].size * (1 - rho) / (1 + rho)
    for function in (ess_mean, ess_bulk):
        assert np.mean(function(draws)) == pytest.approx(expected, rel=0.06)


def test_monte_carlo_error_is_the_scatter_of_the_mean():
    rho = 0.8
    draws = autoregressive(rho, (4, 1000, 200))
    expected = math.sqrt((1 + rho) / (1 - rho) / 4000)
    assert np.mean(mcse_mean(draws)) == pytest.approx(expected, rel=0.05)
    assert np.std(draws.mean(axis=(0, 1))) == pytest.approx(expected, rel=0.15)


def test_tail_ess_of_independent_draws_is_their_number():
    assert np.mean(ess_tail(normal(4, 2000, 20))) == pytest.approx(8000, rel=0.06)


def test_antithetic_chains_are_worth_at_most_n_log_n():
    alternating = np.tile([-1.0, 1.0], (4, 500))[..., None] + 1e-3 * normal(4, 1000, 3)
    np.testing.assert_allclose(ess_mean(alternating), 4000 * math.log10(4000), rtol=1e-12)


def test_r_hat_of_agreeing_chains_is_one():
    values = r_hat(normal(4, 2000, 50))
    assert values.max() < 1.01
    assert np.mean(values) == pytest.approx(1, abs=2e-3)


# Ranks of two chains that do not overlap are the lower and the upper half: half-normal scores with
# means ±sqrt(2/π) and variance 1 - 2/π, twice each, for there are two halves of a chain.
SEPARATE = math.sqrt(4 / 3 * (2 / math.pi) / (1 - 2 / math.pi) + 1)


def test_r_hat_of_chains_that_do_not_overlap():
    draws = normal(2, 4000, 3) + np.array([0.0, 100.0])[:, None, None]
    np.testing.assert_allclose(r_hat(draws), SEPARATE, rtol=2e-3)


def test_r_hat_sees_chains_that_differ_in_scale_alone():
    draws = normal(2, 4000, 3) * np.array([1.0, 1e5])[:, None, None]
    np.testing.assert_allclose(r_hat(draws), SEPARATE, rtol=2e-3)


def test_r_hat_of_one_chain_compares_its_halves():
    steady = normal(1, 4000, 1)
    jumped = steady + 100 * (np.arange(4000) >= 2000)[None, :, None]
    assert r_hat(steady)[0] < 1.01
    # two halves: the variance of two means ±m is 2·m²
    expected = math.sqrt(2 * (2 / math.pi) / (1 - 2 / math.pi) + 1)
    assert r_hat(jumped)[0] == pytest.approx(expected, rel=2e-3)


def test_e_bfmi_by_hand_and_of_autoregressive_energies():
    np.testing.assert_array_equal(e_bfmi([[0.0, 1.0, 0.0, 1.0], [0.0, 2.0, 4.0, 6.0]]), [3, 0.6])
    energies = autoregressive(0.9, (3, 50_000))
    np.testing.assert_allclose(e_bfmi(energies), 2 * (1 - 0.9), rtol=0.1)


# Identities -----------------------------------------------------------------------------------


@given(seeds, st.integers(1, 4), st.integers(4, 60))
def test_ranks_make_bulk_ess_blind_to_increasing_maps(seed, chains, draws):
    x = normal(chains, draws, 3, seed=seed)
    np.testing.assert_array_equal(ess_bulk(np.exp(x)), ess_bulk(x))


@given(seeds, st.integers(1, 4), st.integers(4, 60), st.floats(0.1, 10), st.floats(-10, 10))
def test_units_do_not_matter(seed, chains, draws, scale, shift):
    x = normal(chains, draws, 3, seed=seed)
    for function in (ess_bulk, ess_tail, ess_mean):
        np.testing.assert_allclose(function(scale * x + shift), function(x), rtol=1e-6)
    np.testing.assert_allclose(mcse_mean(scale * x + shift), scale * mcse_mean(x), rtol=1e-6)


@given(seeds, st.integers(1, 4), st.integers(4, 60), st.integers(-9, 9), st.sampled_from([-1, 1]))
def test_r_hat_does_not_depend_on_units_and_sign(seed, chains, draws, power, sign):
    # a power of two rounds nothing: distances to the median tie for the two middle draws
    x = normal(chains, draws, 3, seed=seed)
    np.testing.assert_allclose(r_hat(sign * 2.0**power * x), r_hat(x), rtol=1e-9)


@given(seeds, st.permutations(range(4)))
def test_the_order_of_chains_does_not_matter(seed, order):
    x = autoregressive(0.5, (4, 40, 3), seed)
    for function in ALL:
        np.testing.assert_allclose(function(x[order]), function(x), rtol=1e-9)


@each
def test_each_number_is_treated_by_itself(function, monkeypatch):
    draws = autoregressive(0.5, (3, 50, 2, 5))
    together = function(draws)
    assert together.shape == (2, 5)
    assert together.dtype == np.float64
    alone = [[function(draws[:, :, i, j]) for j in range(5)] for i in range(2)]
    np.testing.assert_array_equal(together, alone)
    blocks_of_4_4_and_2 = 3 * 50 * 4
    monkeypatch.setattr("nbcore.posterior.convergence._AT_ONCE", blocks_of_4_4_and_2)
    np.testing.assert_array_equal(function(draws), together)


@each
def test_float32_and_integers_are_taken_as_float64(function):
    draws = normal(2, 100, 3).astype(np.float32)
    np.testing.assert_array_equal(function(draws), function(draws.astype(np.float64)))
    whole = np.round(draws * 10).astype(int)
    np.testing.assert_array_equal(function(whole), function(whole.astype(np.float64)))


# Edges ----------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_draw_that_is_not_finite_spoils_its_own_number_only(function, bad):
    draws = normal(2, 20, 3)
    clean = function(draws)
    draws[1, 7, 1] = bad
    spoilt = function(draws)
    assert np.isnan(spoilt[1])
    np.testing.assert_array_equal(spoilt[[0, 2]], clean[[0, 2]])


def test_a_number_that_never_moves():
    still = np.full((4, 100, 2), 0.1)
    assert np.isnan(r_hat(still)).all()
    for function in (ess_bulk, ess_tail, ess_mean):
        np.testing.assert_array_equal(function(still), 400)
    np.testing.assert_allclose(mcse_mean(still), 0, atol=1e-15)


@each
def test_fewer_than_four_draws_tell_nothing(function):
    assert np.isnan(function(normal(4, 3, 2))).all()
    assert np.isfinite(function(normal(4, 4, 2))).all()


@each
@pytest.mark.parametrize("shape", [(), (100,), (0, 100), (4, 0, 3)])
def test_missing_axes_are_refused(function, shape):
    with pytest.raises(ShapeError, match=r"expected \(chain, draw, \.\.\.\)"):
        function(np.zeros(shape))


@each
def test_what_is_no_real_number_is_refused(function):
    with pytest.raises(DataError, match="complex128"):
        function(np.zeros((4, 10), complex))
    with pytest.raises(DataError, match="<U1"):
        function(np.full((4, 10), "a"))


def test_e_bfmi_edges():
    assert np.isnan(e_bfmi([[1.0], [2.0]])).all()
    assert np.isnan(e_bfmi([[1.0, 1.0, 1.0]])).all()
    with pytest.raises(ShapeError, match="energy\\[None\\]"):
        e_bfmi(np.zeros(10))


# ArviZ ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("shape", [(2, 4), (3, 5), (4, 7), (2, 10), (4, 101), (3, 400)])
@pytest.mark.parametrize("rho", [-0.9, -0.3, 0.0, 0.5, 0.95])
def test_equal_to_arviz(shape, rho):
    arviz = pytest.importorskip("arviz")
    plain = autoregressive(rho, (*shape, 2))
    draws = np.concatenate([plain, np.tan(plain), np.round(plain * 2)], axis=-1)  # ties in the last
    theirs = {
        r_hat: arviz.rhat,
        ess_bulk: arviz.ess,
        ess_tail: lambda x: arviz.ess(x, method="tail"),
        ess_mean: lambda x: arviz.ess(x, method="mean"),
        mcse_mean: arviz.mcse,
    }
    for ours, reference in theirs.items():
        expected = [reference(draws[..., i]) for i in range(draws.shape[-1])]
        # ArviZ's quantiles of tied draws may miss the tied value by rounding
        checked = slice(4) if ours is ess_tail else slice(None)
        np.testing.assert_allclose(ours(draws)[checked], expected[checked], rtol=1e-6)
    np.testing.assert_allclose(e_bfmi(plain[..., 0]), arviz.bfmi(plain[..., 0]), rtol=1e-6)


# diagnose -------------------------------------------------------------------------------------


def run_stats(shape=(4, 500), **changed) -> SimpleNamespace:
    usual = {
        "is_divergent": np.zeros(shape, bool),
        "energy": normal(*shape, seed=9),
        "tree_depth": np.full(shape, 3),
        "acceptance_rate": np.full(shape, 0.8),
    }
    return SimpleNamespace(**(usual | changed))


MISSING = np.full((4, 500), np.nan)
SGLD = {"energy": MISSING, "acceptance_rate": MISSING, "tree_depth": np.zeros((4, 500))}
LABELS = {"Dense0/kernel": ["a", "b", "c", "d", "e", "f"], "noise": ["noise"]}


def good_draws() -> dict[str, np.ndarray]:
    return {"Dense0/kernel": normal(4, 500, 2, 3), "noise": normal(4, 500, seed=1)}


def test_diagnose_keeps_leaves_and_finds_nothing_wrong():
    draws = good_draws()
    result = diagnose(draws, run_stats(), LABELS, max_tree_depth=10)
    for name, function in (("r_hat", r_hat), ("ess_bulk", ess_bulk), ("ess_tail", ess_tail)):
        values = getattr(result, name)
        assert list(values) == list(draws)
        for path in draws:
            np.testing.assert_array_equal(values[path], function(draws[path]))
    assert result.verdict().startswith("No problem found")
    assert (result.num_divergences, result.saturation) == (0, 0.0)
    assert result.acceptance_rate == pytest.approx(0.8)
    assert "4 chains × 500 draws of 7 parameters" in str(result)


def test_worst_is_sorted_with_what_cannot_be_judged_first():
    draws = good_draws()
    draws["Dense0/kernel"][0, :, 0, 1] += 2
    draws["Dense0/kernel"][0, :, 1, 2] += 9
    draws["Dense0/kernel"][:, :, 1, 0] = 0.5
    result = diagnose(draws, run_stats(), LABELS)
    worst = result.worst(3)
    assert [label for label, _, _ in worst] == ["d", "f", "b"]
    assert math.isnan(worst[0][1])
    assert worst[1][1:] == (
        result.r_hat["Dense0/kernel"][1, 2],
        result.ess_bulk["Dense0/kernel"][1, 2],
    )
    assert len(result.worst(100)) == 7


def test_verdict_on_chains_that_disagree():
    draws = good_draws()
    draws["Dense0/kernel"][0, :, 1, 2] += 9
    verdict = diagnose(draws, run_stats(), LABELS).verdict()
    value = r_hat(draws["Dense0/kernel"])[1, 2]
    assert (
        f"R-hat {value:.4g} for f: chains disagree; run longer (num_warmup, num_samples)" in verdict
    )
    assert "raise target_acceptance_rate" in verdict
    # where nothing is accepted or rejected, there is no rate to raise
    stats = run_stats(**SGLD)
    assert "target_acceptance_rate" not in diagnose(draws, stats, LABELS).verdict()


def test_verdict_on_weights_that_can_trade_places_sends_to_predictions():
    draws = good_draws()
    draws["Dense0/kernel"][0, :, 1, 2] += 9
    result = replace(diagnose(draws, run_stats(), LABELS), has_symmetry=True)
    assert "trade places" in result.verdict()
    assert "posterior.diagnostics(X)" in result.verdict()
    assert "run longer" not in result.verdict()
    independent = replace(result, is_independent=True)
    assert "No problem found" in independent.verdict()
    agreeing = replace(diagnose(good_draws(), run_stats(), LABELS), has_symmetry=True)
    assert "No problem" in agreeing.verdict()


def test_verdict_on_too_few_effective_draws():
    draws = {"w": autoregressive(0.99, (4, 500))}
    result = diagnose(draws, run_stats(), {"w": ["w"]})
    ess = min(float(result.ess_bulk["w"]), float(result.ess_tail["w"]))
    assert f"ESS {ess:.0f} for w" in result.verdict()
    assert f"raise num_samples about {math.ceil(400 / ess)} times" in result.verdict()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"is_divergent": np.arange(2000).reshape(4, 500) < 12}, "12 divergent steps"),
        ({"is_divergent": np.arange(2000).reshape(4, 500) < 12}, "raise target_acceptance_rate"),
        ({"is_divergent": np.ones((4, 500)), **SGLD}, "lower step_size"),
        ({"tree_depth": np.where(np.arange(500) < 50, 10, 4)}, "10% of the steps reached max_tree"),
        (
            {"energy": np.stack([normal(500), np.arange(500.0), normal(500), normal(500)])},
            "E-BFMI 0.00 (chains below 0.3: 1)",
        ),
    ],
)
def test_verdict_on_the_sampler(changed, words):
    verdict = diagnose(good_draws(), run_stats(**changed), LABELS, max_tree_depth=10).verdict()
    assert words in verdict
    assert len(verdict.splitlines()) == 1  # and nothing else is found


def test_verdict_on_draws_that_are_stuck_or_not_finite():
    draws = good_draws()
    draws["Dense0/kernel"][:, :, 0, 0] = 1.0
    draws["Dense0/kernel"][2, 3, 0, 2] = np.inf
    verdict = diagnose(draws, run_stats(), LABELS).verdict()
    assert "c: draws are not finite" in verdict
    assert "a: no chain ever moved" in verdict
    assert len(verdict.splitlines()) == 2


def test_short_runs_and_single_chains_say_so():
    short = diagnose({"w": normal(4, 3, 2)}, run_stats((4, 3)), {"w": ["a", "b"]})
    assert short.verdict() == "Too few draws to judge: 3 of each chain, and at least 4 are needed."
    assert "R-hat ≤ nan" in str(short)
    single = diagnose({"w": normal(1, 500, 2)}, run_stats((1, 500)), {"w": ["a", "b"]})
    assert single.verdict().startswith("One chain cannot show")


def test_samplers_without_energy_or_trees():
    result = diagnose(good_draws(), run_stats(**SGLD), LABELS)
    assert np.isnan(result.e_bfmi).all()
    assert math.isnan(result.acceptance_rate)
    assert math.isnan(result.saturation)
    assert "divergent steps 0\n" in str(result)  # what is not known is not shown
    assert result.verdict().startswith("No problem found")


def test_bad_input_is_refused():
    draws = good_draws()
    with pytest.raises(DataError, match="no draws to diagnose"):
        diagnose({}, run_stats(), {})
    with pytest.raises(ShapeError, match=r"noise: \(4, 400\)"):
        diagnose(draws | {"noise": normal(4, 400)}, run_stats(), LABELS)
    with pytest.raises(ShapeError, match="has 1 labels; expected 6"):
        diagnose(draws, run_stats(), LABELS | {"Dense0/kernel": ["a"]})
    with pytest.raises(DataError, match=r"no labels\. Did you mean 'Dense0/kernl'"):
        diagnose(draws, run_stats(), {"Dense0/kernl": ["a"]})
