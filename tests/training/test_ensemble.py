"""An ensemble: each member is the network trained alone, and its spread is counted once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers import Stay

import nbcore as nb
from nbcore import errors
from nbcore.networks.network import Padding
from nbcore.training.folds import CalibrationWarning
from nbcore.training.minibatches import BatchPlan, Data, MemberBatches
from nbcore.training.train import Fit, train


def mlp(outputs: int, hidden: int = 6) -> nb.Network:
    """A perceptron in plain functions, which are quicker to trace than modules."""

    def init(key: Any, x: Any) -> Any:
        keys = jax.random.split(key)
        shapes = ((x.shape[1], hidden), (hidden, outputs))
        return {
            f"Dense{i}": {"kernel": 0.5 * jax.random.normal(k, shape), "bias": jnp.zeros(shape[1])}
            for i, (k, shape) in enumerate(zip(keys, shapes, strict=True))
        }

    def apply(params: Any, x: Any) -> Any:
        first, second = params["Dense0"], params["Dense1"]
        return jnp.tanh(x @ first["kernel"] + first["bias"]) @ second["kernel"] + second["bias"]

    return nb.as_network((init, apply), example=np.zeros((1, 3), np.float32))


RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
Y = 50 + 10 * X @ np.array([1.0, -2.0, 0.5]) + 3 * RNG.normal(size=40)
UNSEEN = (X[30:], Y[30:])
LABELS = (Y > 50).astype(int) + (Y > 60)
NET = mlp(1)
KEYS = [jax.random.split(jax.random.fold_in(jax.random.key(5), m), 3) for m in range(3)]
OPTIONS: dict[str, Any] = {"learning_rate": 0.02, "standardize": True}


def trained(**options: Any) -> nb.EnsembleDeterministicNN:
    call: dict[str, Any] = {"epochs": 8, "batch_size": 16, "key": 5, "progress": False}
    made = {name: options.pop(name) for name in ("patience", "num_models") if name in options}
    settings: dict[str, Any] = OPTIONS | {"num_models": 3} | made
    ensemble = nb.EnsembleDeterministicNN(NET, **settings)
    return ensemble.train(X[:30], Y[:30], **(call | options))


@pytest.fixture(scope="module")
def ensemble() -> nb.EnsembleDeterministicNN:
    """Three members, the noise of rows that none has seen, stopped early."""
    return trained(epochs=40, validation_data=UNSEEN, patience=3)


@pytest.fixture(scope="module")
def bagged() -> nb.EnsembleDeterministicNN:
    """Three members, each with rows of its own, in one batch."""
    return trained(bootstrap=True, batch_size=30)


def alone(m: int, data: Data, validation: Data | None, epochs: int, batch_size: int) -> Fit:
    """Train one network as member m of the ensemble is trained."""
    det = nb.DeterministicNN(NET, **OPTIONS, patience=3)
    return train(
        NET, det.likelihood, det.recipe, NET.init(KEYS[m][0], X[:1]), data,
        epochs=epochs, batch_size=batch_size, key=KEYS[0][2], validation=validation,
    )  # fmt: skip


def standardized(y: np.ndarray) -> np.ndarray:
    return ((y - Y[:30].mean()) / Y[:30].std())[:, None].astype(np.float32)


def assert_close(a: Any, b: Any) -> None:
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=2e-3, atol=1e-5), a, b)


def test_each_member_is_the_network_trained_alone(ensemble: nb.EnsembleDeterministicNN) -> None:
    data, unseen = (Data(x, standardized(y)) for x, y in ((X[:30], Y[:30]), UNSEEN))
    for m, member in enumerate(ensemble.members):
        found, expected = member.fit_result, alone(m, data, unseen, 40, 16)
        assert_close(found.params, expected.params)
        assert_close(jax.tree.map(lambda a, m=m: a[m], ensemble.params), found.params)
        assert_close(found.gradients, expected.gradients)
        assert len(found.losses) == len(expected.losses) == len(found.validation_losses)
        np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-3)
        assert (found.trajectory is None) == (expected.trajectory is None)
    # Members stop for themselves.
    assert len({len(member.fit_result.losses) for member in ensemble.members}) > 1


def test_bootstrapped_members_see_rows_of_their_own(bagged: nb.EnsembleDeterministicNN) -> None:
    for m, member in enumerate(bagged.members):
        rows = np.asarray(jax.random.choice(KEYS[m][1], 30, (30,)))
        assert len(set(rows.tolist())) < 30
        expected = alone(m, Data(X[rows], standardized(Y[rows])), None, 8, 30)
        assert_close(member.params, expected.params)
        assert member.trajectory is not None
        assert expected.trajectory is not None
        assert_close(member.trajectory.mean, expected.trajectory.mean)


def test_bootstrapped_batches_hold_each_row_as_often_as_it_was_drawn() -> None:
    tokens = np.where(np.arange(100) < RNG.integers(1, 100, (60, 1)), 1, 0)
    network = nb.Network.from_functions(
        lambda key, x: None, lambda p, x: x, padding=Padding(axis=1, value=0)
    )
    rows = RNG.integers(0, 60, (2, 45))
    plan = BatchPlan((20, 50, 100), (3, 5, 8))
    batches = MemberBatches(network, Data(tokens, np.arange(60.0)[:, None]), plan, rows)
    seen: list[list[float]] = [[], []]
    for batch in batches.epoch(jax.random.key(0)):
        for part in batch:
            for m in range(2):
                seen[m] += part.y[m][part.mask[m] == 1][:, 0].tolist()
    for m in range(2):
        assert sorted(seen[m]) == sorted(rows[m].tolist())


def test_mean_and_variance_are_those_of_the_mixture(ensemble: nb.EnsembleDeterministicNN) -> None:
    each = np.stack([member.predict(X) for member in ensemble.members])
    mean, variance = ensemble.predict(X)
    assert ensemble.noise is not None
    np.testing.assert_allclose(mean, each.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(variance, each.var(axis=0) + ensemble.noise[0] ** 2, rtol=1e-4)
    prediction = ensemble.predict_distribution(X)
    np.testing.assert_allclose(prediction.draw_means[:, :, 0], each, rtol=1e-5)
    np.testing.assert_allclose(prediction.epistemic_variance, each.var(axis=0), rtol=1e-3)


def test_the_mixture_is_as_wide_as_its_mean_errs(ensemble: nb.EnsembleDeterministicNN) -> None:
    mean, variance = ensemble.predict(UNSEEN[0])
    np.testing.assert_allclose(variance.mean(), np.mean((mean - UNSEEN[1]) ** 2), rtol=1e-4)
    assert ensemble.member_residuals is not None
    each = np.concatenate([UNSEEN[1] - m.predict(UNSEEN[0]) for m in ensemble.members])
    np.testing.assert_allclose(ensemble.member_residuals[:, 0], each, rtol=1e-4, atol=1e-4)


def test_the_noise_of_a_bootstrap_is_of_the_rows_left_out(
    bagged: nb.EnsembleDeterministicNN,
) -> None:
    unseen = np.ones((3, 30), bool)
    for m in range(3):
        unseen[m, np.asarray(jax.random.choice(KEYS[m][1], 30, (30,)))] = False
    each = np.stack([member.predict(X[:30]) for member in bagged.members])
    squared = np.mean((each - Y[:30])[unseen] ** 2)
    spread = [np.var(each[unseen[:, i], i], ddof=1) for i in range(30) if unseen[:, i].sum() > 1]
    expected = max(squared - 2 * np.mean(spread) * 2 / 3, squared / 4)
    assert bagged.member_residuals is not None
    assert bagged.noise is not None
    np.testing.assert_allclose(
        bagged.member_residuals[:, 0], (Y[:30] - each)[unseen], rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(bagged.noise**2, expected, rtol=1e-4)


def test_without_unseen_rows_it_warns_that_the_noise_is_too_small() -> None:
    with pytest.warns(CalibrationWarning, match=r"bootstrap=True"):
        seen = trained(epochs=1)
    assert seen.member_residuals is None
    assert seen.noise is not None


def test_keys_are_explicit() -> None:
    options: dict[str, Any] = {"epochs": 1, "validation_data": UNSEEN}
    first, again = (trained(**options).params for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    given = trained(key=[jax.random.fold_in(jax.random.key(5), m) for m in range(3)], **options)
    jax.tree.map(np.testing.assert_array_equal, first, given.params)
    kernels = np.asarray(first["Dense0"]["kernel"])
    assert not np.any(kernels[0] == kernels[1])


def test_classes_get_mean_probabilities() -> None:
    classes = mlp(3)
    ensemble = nb.EnsembleDeterministicNN(classes, "classification", 3, learning_rate=0.02)
    ensemble.train(X, LABELS, 4, progress=False)
    each = np.stack([member.predict(X) for member in ensemble.members])
    mean, variance = ensemble.predict(X)
    np.testing.assert_allclose(mean, each.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(variance, mean * (1 - mean), rtol=1e-4)
    assert ensemble.noise is None


def test_the_bootstrap_leaves_out_whole_groups() -> None:
    """Copies of an example, of which y is noise: a member knows it by one copy as by five."""
    rng = np.random.default_rng(3)
    x, y = np.repeat(rng.normal(size=(20, 3)), 5, axis=0), np.repeat(rng.normal(size=20), 5)
    group = np.repeat([f"molecule {k}" for k in range(20)], 5)
    found: dict[bool, nb.EnsembleDeterministicNN] = {}
    for knows in (False, True):
        ensemble = nb.EnsembleDeterministicNN(mlp(1, 64), num_models=3, learning_rate=0.05)
        found[knows] = ensemble.train(
            x.astype(np.float32), y, 200, 50, bootstrap=True, key=0, progress=False,
            groups=group if knows else None,
        )  # fmt: skip
    rms: dict[bool, float] = {}
    for knows, ensemble in found.items():
        residuals = ensemble.member_residuals
        assert residuals is not None
        rms[knows] = float(np.sqrt(np.mean(residuals**2)))
        counts = np.unique(np.round(residuals, 3), return_counts=True)[1]
        assert (counts.min() >= 5) == knows  # all copies of a molecule are left out together
    assert rms[False] < 0.5 < 0.9 < rms[True]  # the deviation of y is 1
    with pytest.raises(errors.ShapeError, match=r"groups.*\(30,\); got \(4,\)"):
        trained(bootstrap=True, groups=[1, 2, 3, 4])


def test_a_draw_that_cuts_its_last_group_leaves_out_the_rest_of_it_too() -> None:
    """53 of 100 examples in groups of 5: three of a last group are seen, and two are not."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(100, 3)).astype(np.float32), 100 * np.arange(100.0)
    group = np.repeat(np.arange(20), 5)
    ensemble = nb.EnsembleDeterministicNN(mlp(1), num_models=3, learning_rate=1e-6)
    ensemble.train(
        x, y, 1, 53, bootstrap=True, bootstrap_fraction=0.53, groups=group, key=0, progress=False
    )
    assert ensemble.member_residuals is not None
    examples = np.round(ensemble.member_residuals[:, 0] / 100).astype(int)  # predictions are small
    starts = np.flatnonzero(np.diff(examples, prepend=1000) < 0)
    for member in np.split(examples, starts[1:]):
        assert len(member) > 0
        assert set(np.unique(group[member], return_counts=True)[1]) == {5}


def test_missing_targets_are_left_out_of_training_and_noise() -> None:
    """An example without any target is as if it were not there; of others the noise is each's."""
    rng = np.random.default_rng(5)
    y = np.stack([Y, -Y], axis=1)[:30]
    y[rng.uniform(size=y.shape) < 0.3] = np.nan
    masked = nb.Gaussian(noise=1.0, missing="mask")
    ensemble = nb.EnsembleDeterministicNN(mlp(2), loss=masked, num_models=3, standardize=True)
    ensemble.train(X[:30], y, 3, 30, validation_data=(X[:30], y), key=5, progress=False)
    assert ensemble.noise is not None
    assert ensemble.scaler is not None
    for member in ensemble.members:
        assert np.isfinite(member.fit_result.losses).all()
    means = ensemble.predict_distribution(X[:30]).draw_means
    for j in range(2):
        known = ~np.isnan(y[:, j])
        own = means[:, known, j]
        squared = np.mean((y[known, j] - own) ** 2)
        between = own.var(axis=0, ddof=1).mean() * (1 - 1 / 3)
        expected = np.sqrt(max(squared - 2 * between, squared / 4))
        assert ensemble.noise[j] == pytest.approx(expected, rel=1e-5)


def test_a_saved_ensemble_predicts_the_same(
    ensemble: nb.EnsembleDeterministicNN, tmp_path: Path
) -> None:
    ensemble.save(tmp_path / "run")
    loaded = nb.load(tmp_path / "run", NET)
    np.testing.assert_array_equal(loaded.predict(X), ensemble.predict(X))
    assert loaded.member_residuals is not None
    np.testing.assert_array_equal(loaded.member_residuals, ensemble.member_residuals)
    assert loaded.members[0].recipe == ensemble.members[0].recipe
    assert loaded.members[2].gradients is None
    with pytest.raises(errors.RunFolderError, match="overwrite=True"):
        ensemble.save(tmp_path / "run")
    with pytest.raises(errors.RunFolderError, match="no readable posterior"):
        nb.Posterior.load(tmp_path / "run", NET)


AT_WEIGHTS = nb.SamplingOptions(init="trained")
STAY: dict[str, Any] = {
    "num_warmup": 0, "num_samples": 1, "backend": Stay(), "key": 1, "progress": False,
}  # fmt: skip
EVERYTHING = nb.ProbabilisticSubset.everything()


def target(subset: nb.ProbabilisticSubset, params: Any) -> nb.Target:
    return nb.Target.build(NET, params, subset, X, standardized(Y))


def test_chains_start_at_a_member_each(ensemble: nb.EnsembleDeterministicNN) -> None:
    fresh = NET.init(jax.random.key(9), X[:1])
    posterior = nb.sample(target(EVERYTHING, fresh), init=ensemble, num_chains=3, **STAY)
    for c, member in enumerate(ensemble.members):
        for path, draws in posterior.draws["weights"].items():
            layer, leaf = path.split("/")
            np.testing.assert_array_equal(draws[c, 0], member.params[layer][leaf])


def test_all_weights_have_one_posterior_with_a_chain_from_each_member(
    ensemble: nb.EnsembleDeterministicNN,
) -> None:
    model = nb.PartialBNN(NET, ensemble, subset=EVERYTHING)
    model.fit(X[:30], Y[:30], num_chains=3, **STAY)
    mean, _ = model.predict(X)
    np.testing.assert_allclose(mean, ensemble.predict(X)[0], rtol=1e-4)
    # The prior does not favor one member: it is around zero.
    first = model.posterior.stats.log_density[:, 0]
    sampled = model.posterior.target
    assert sampled is not None
    kernels = [model.posterior.draws["weights"][p] for p in sampled.split.paths]
    zeros = jax.tree.map(jnp.zeros_like, sampled.split.stochastic)
    norm = float(sampled.prior.log_density(zeros, {}))
    for c in range(3):
        squares = sum(float(np.sum(k[c, 0] ** 2)) for k in kernels)
        position = jax.tree.map(lambda a, c=c: jnp.asarray(a[c, 0]), model.posterior.draws)
        assert float(sampled.log_prior(position)) == pytest.approx(
            norm - squares / 2 + float(sampled.likelihood.log_prior(position["likelihood"])),
            rel=1e-4,
        )
        assert np.isfinite(first[c])


def test_part_of_the_weights_has_a_posterior_for_each_frozen_network(
    ensemble: nb.EnsembleDeterministicNN,
) -> None:
    model = nb.PartialBNN(NET, ensemble, probabilistic_layer_names=["Dense1"])
    model.fit(X[:30], Y[:30], num_chains=1, sampling=AT_WEIGHTS, **STAY)
    assert len(model.posteriors) == 3
    for member, posterior in zip(ensemble.members, model.posteriors, strict=True):
        assert posterior.split is not None
        frozen = posterior.split.frozen["Dense0/kernel"]
        np.testing.assert_array_equal(frozen, member.params["Dense0"]["kernel"])
    means = model.predict_distribution(X).draw_means[:, :, 0]
    each = np.stack([member.predict(X) for member in ensemble.members])
    np.testing.assert_allclose(means, each, atol=3.0)  # starts have a small jitter
    assert np.abs(each[0] - each[1]).max() > 6.0
    # Where unseen residuals are known, the noise is theirs; without them it warns.
    assert ensemble.member_residuals is not None
    assert model.noise is not None
    np.testing.assert_allclose(model.noise, np.sqrt(np.mean(ensemble.member_residuals**2, axis=0)))


BAD: dict[str, tuple[Callable[[nb.EnsembleDeterministicNN], Any], type[Exception], str]] = {
    "chains": (
        lambda e: e.chain_starts(target(EVERYTHING, e.members[0].params), 4),
        errors.OptionError, "num_chains=3",
    ),
    "frozen": (
        lambda e: e.chain_starts(
            target(nb.ProbabilisticSubset.layers("Dense1"), e.members[0].params), 2
        ),
        errors.OptionError, r"24 of 31 weights are frozen.*everything\(\)",
    ),
    "density": (
        lambda e: e.chain_starts(nb.Target.from_log_density(jnp.sum, jnp.zeros(2)), 2),
        errors.OptionError, "density",
    ),
    "network": (
        lambda e: e.chain_starts(
            nb.Target.build(mlp(1, 2), mlp(1, 2).init(jax.random.key(0), X[:1]), EVERYTHING, X, Y),
            2,
        ),
        errors.ShapeError,
        r"weights .*'Dense0/kernel': \(3, 2\).*, and the ensemble .*'Dense0/kernel': \(3, 6\)",
    ),
    "count": (lambda e: nb.EnsembleDeterministicNN(NET, num_models=0), errors.OptionError, "least"),
    "loss": (
        lambda e: nb.EnsembleDeterministicNN(NET, "homoscedastic"),  # pyright: ignore[reportArgumentType]
        errors.OptionError, "Did you mean",
    ),
    "fraction": (
        lambda e: trained(bootstrap=True, bootstrap_fraction=1.5), errors.OptionError, "fraction"
    ),
    "keys": (lambda e: trained(key=[1, 2]), errors.OptionError, "3 members; got 2"),
    "untrained": (
        lambda e: nb.EnsembleDeterministicNN(NET).predict(X), errors.TrainingError, "not trained"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_calls_are_told_what_to_type(case: str, ensemble: nb.EnsembleDeterministicNN) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call(ensemble)
