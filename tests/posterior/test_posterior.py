"""Posteriors: saved and loaded, and predictions against direct computation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import nbcore as nb
from nbcore import errors
from nbcore.extend import register_pytree
from nbcore.posterior.posterior import NetworkPosterior
from nbcore.posterior.prediction import Prediction
from nbcore.posterior.predictive import EXAMPLES_AT_ONCE
from nbcore.posterior.run_info import RunInfo
from nbcore.posterior.scaler import Scaler
from nbcore.targets.target import NetworkTarget
from nbcore_flax import FlaxMLP, FlaxTransformer

CHAINS, DRAWS = 2, 9
INFO = RunInfo(
    "none",
    {"step_size": 0.1},
    {"thin": 1},
    "sequential",
    {"total": 1.5},
    {"sampling": 9},
    {"jax": "x"},
)
NOISY = nb.Gaussian(noise_prior=nb.LogNormal((0.3, 0.4), 0.2))


def posterior_of(target: NetworkTarget, scaler: Scaler | None = None) -> NetworkPosterior:
    """Return a posterior whose draws are the start plus standard normal numbers."""
    rng = np.random.default_rng(0)
    draws = jax.tree.map(
        lambda a: np.asarray(a + rng.normal(size=(CHAINS, DRAWS, *a.shape)), a.dtype), target.start
    )
    numbers = rng.normal(size=(len(nb.Stats._fields), CHAINS, DRAWS)).astype(np.float32)
    posterior = NetworkPosterior.of(target, draws, nb.Stats(*numbers), INFO)
    return posterior.in_units_of(scaler) if scaler else posterior


def make_mlp(outputs: int = 2, **options: Any) -> Callable[[], Any]:
    return lambda: FlaxMLP(hidden_dims=(6,), target_dim=outputs, **options)


def target_of(
    net: Any, X: np.ndarray, y: np.ndarray, likelihood: Any, subset: nb.ProbabilisticSubset
) -> NetworkTarget:
    network = nb.as_network(net, example=X[:1])
    params = network.init(jax.random.key(1), X[:1])
    return nb.Target.build(network, params, subset, X, y, likelihood=likelihood)


X_TABLE = np.random.default_rng(1).normal(size=(30, 3)).astype(np.float32)
X_NEW = np.random.default_rng(2).normal(size=(EXAMPLES_AT_ONCE + 44, 3)).astype(np.float32)
Y_TABLE = np.random.default_rng(3).normal(size=(30, 2))
PAIRS = nb.ProbabilisticSubset.pairs({"Dense0": [(0, 1), (2, 3)]})
BOTH = PAIRS | nb.ProbabilisticSubset.layers("Dense1")

CASES: dict[str, tuple[Any, Any, Scaler | None]] = {
    "known noise": (nb.Gaussian(noise=(0.1, 0.7)), Y_TABLE, None),
    "unknown noise": (NOISY, Y_TABLE, None),
    "scaled": (NOISY, Y_TABLE, Scaler(np.array([1 / 3, -7.0]), np.array([2.0, np.pi]))),
    "classes": (nb.Categorical(), (Y_TABLE[:, 0] > 0).astype(int), None),
}


@pytest.fixture(params=CASES)
def posterior(request: Any) -> NetworkPosterior:
    """One of the cases."""
    likelihood, y, scaler = CASES[request.param]
    return posterior_of(target_of(make_mlp()(), X_TABLE, y, likelihood, BOTH), scaler)


def test_saved_and_loaded_posteriors_predict_bit_for_bit_the_same(
    posterior: NetworkPosterior, tmp_path: Path
) -> None:
    posterior.save(tmp_path / "new" / "run")
    loaded = nb.Posterior.load(tmp_path / "new" / "run", make_mlp()())
    before, after = posterior.predict(X_NEW), loaded.predict(X_NEW)
    np.testing.assert_array_equal(before.draw_means, after.draw_means)
    np.testing.assert_array_equal(before.draw_variances, after.draw_variances)
    np.testing.assert_array_equal(before.mean, after.mean)
    assert loaded.info == posterior.info
    assert type(loaded.likelihood) is type(posterior.likelihood)
    jax.tree.map(np.testing.assert_array_equal, loaded.stats, posterior.stats)
    jax.tree.map(np.testing.assert_array_equal, loaded.draws, posterior.draws)
    assert loaded.labels() == posterior.labels()


class Twisted(nn.Module):
    """A module whose layers have names in another order than they are called in."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.tanh(nn.Dense(5, name="z")(x))
        x = nn.tanh(nn.Dense(4, name="a")(x))
        return nn.Dense(2, name="m")(x)


@pytest.mark.parametrize(
    "subset",
    [
        nb.ProbabilisticSubset.first_and_last(),
        nb.ProbabilisticSubset.last(1) - nb.ProbabilisticSubset.layers("m", role="bias"),
    ],
    ids=["default", "last"],
)
def test_loading_asks_for_no_example(subset: nb.ProbabilisticSubset, tmp_path: Path) -> None:
    posterior = posterior_of(target_of(Twisted(), X_TABLE, Y_TABLE, NOISY, subset))
    posterior.save(tmp_path / "run")
    loaded = nb.Posterior.load(tmp_path / "run", Twisted())
    assert loaded.split.subset == subset
    assert loaded.labels() == posterior.labels()
    assert loaded.split.layers == posterior.split.layers  # in call order
    np.testing.assert_array_equal(posterior.predict(X_NEW).mean, loaded.predict(X_NEW).mean)
    with pytest.raises(errors.ShapeError, match="2 columns instead of 3"):
        loaded.predict(X_NEW[:, :2])


def test_stochastic_entries_are_those_of_the_file_whatever_the_call_order(tmp_path: Path) -> None:
    def apply(params: Any, x: Any) -> jax.Array:
        return jnp.tanh(x @ params["in"]["kernel"]) @ params["out"]["kernel"]

    def init(key: Any, x: Any) -> Any:
        return {"in": {"kernel": jnp.ones((3, 4))}, "out": {"kernel": jnp.ones((4, 2))}}

    class Own:
        """A network of one's own, which knows no example, and its layers in order once only."""

        padding, is_ordered = None, True

        def init(self, key: Any, x: Any) -> Any:
            return init(key, x)

        def apply(self, params: Any, x: Any, *, train: bool = False, key: Any = None) -> jax.Array:
            return apply(params, x)

        def layers(self, params: Any) -> Any:
            example = X_TABLE[:1] if self.is_ordered else None
            return nb.Network.from_functions(init, apply, example=example).layers(params)

    last = nb.ProbabilisticSubset.last(0)
    posterior = posterior_of(target_of(Own(), X_TABLE, Y_TABLE, NOISY, last))
    posterior.save(tmp_path / "run")
    other = Own()
    other.is_ordered = False
    with pytest.raises(errors.NetworkError, match="order"):
        last.split(other, init(None, None))
    loaded = nb.Posterior.load(tmp_path / "run", other)
    assert loaded.split.paths == ("out/kernel",)
    np.testing.assert_array_equal(posterior.predict(X_NEW).mean, loaded.predict(X_NEW).mean)


def test_the_files_hold_no_pickle_and_each_draw_only_what_is_stochastic(tmp_path: Path) -> None:
    target = target_of(make_mlp()(), X_TABLE, Y_TABLE, NOISY, PAIRS)
    posterior_of(target).save(tmp_path / "run")
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {"arrays.safetensors", "posterior.json"}
    json.loads((tmp_path / "run" / "posterior.json").read_text())
    raw = (tmp_path / "run" / "arrays.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])  # the format's own layout
    sizes = {k: np.prod(v["shape"][2:]) for k, v in header.items() if k.startswith("draws/")}
    assert sum(sizes.values()) == target.split.size + 2 == 2 + 2 + 2  # pairs, biases, noises


def test_what_is_there_is_not_overwritten(posterior: NetworkPosterior, tmp_path: Path) -> None:
    posterior.save(tmp_path / "run")
    before = (tmp_path / "run" / "posterior.json").read_bytes()
    with pytest.raises(errors.RunFolderError, match="overwrite=True"):
        posterior.save(tmp_path / "run")
    assert (tmp_path / "run" / "posterior.json").read_bytes() == before
    posterior.save(tmp_path / "run", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_somebody_else_is_never_replaced(
    posterior: NetworkPosterior, tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for place in ("thesis", "file"):
        with pytest.raises(errors.RunFolderError, match=place):
            posterior.save(tmp_path / place, overwrite=overwrite)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "precious"
    assert (tmp_path / "file").read_text() == "precious"


def damage_json(folder: Path) -> None:
    (folder / "posterior.json").write_text("{not json")


def damage_format(folder: Path) -> None:
    (folder / "posterior.json").write_text('{"format": "nbcore-posterior-0"}')


def damage_facts(folder: Path) -> None:
    facts = json.loads((folder / "posterior.json").read_text())
    del facts["tree"]
    (folder / "posterior.json").write_text(json.dumps(facts))


def damage_arrays(folder: Path) -> None:
    raw = (folder / "arrays.safetensors").read_bytes()
    (folder / "arrays.safetensors").write_bytes(raw[:-8])


def drop_arrays(folder: Path) -> None:
    (folder / "arrays.safetensors").unlink()


def drop_facts(folder: Path) -> None:
    (folder / "posterior.json").unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_json, r"no readable posterior \(.*property name"),
        (damage_format, r"format 'nbcore-posterior-0'; this version reads 'nbcore-posterior-\d'"),
        (damage_facts, r"a damaged posterior \(KeyError: 'tree'\)"),
        (damage_arrays, r"no readable posterior \(.*file not fully covered"),
        (drop_arrays, r"no readable posterior \(No such file .*arrays\.safetensors"),
        (drop_facts, r"no readable posterior \(.*No such file .*posterior\.json"),
    ],
    ids=["json", "format", "fact", "arrays", "no arrays", "no facts"],
)
def test_a_damaged_folder_is_refused(
    damage: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    posterior_of(target_of(make_mlp()(), X_TABLE, Y_TABLE, NOISY, PAIRS)).save(tmp_path / "saved")
    damage(tmp_path / "saved")
    with pytest.raises(errors.RunFolderError, match=f"saved (holds|has).*{says}"):
        nb.Posterior.load(tmp_path / "saved", make_mlp()())
    with pytest.raises(errors.RunFolderError, match="nowhere holds no readable posterior"):
        nb.Posterior.load(tmp_path / "nowhere", make_mlp()())


@pytest.mark.parametrize(
    "other",
    [
        FlaxMLP(hidden_dims=(7,), target_dim=2),
        FlaxMLP(hidden_dims=(6,), target_dim=3),
        FlaxMLP(hidden_dims=(6, 6), target_dim=2),
        FlaxMLP(hidden_dims=(), target_dim=2),
        FlaxTransformer(vocab_size=5, d_model=4, nhead=1, num_layers=1, dim_feedforward=4),
    ],
)
def test_another_network_is_refused(other: nn.Module, tmp_path: Path) -> None:
    posterior_of(target_of(make_mlp()(), X_TABLE, Y_TABLE, NOISY, BOTH)).save(tmp_path / "run")
    with pytest.raises(
        errors.ShapeError, match=r"(?s)do not fit this network \(.*the network that was sampled"
    ):
        nb.Posterior.load(tmp_path / "run", other)


class Strange(NamedTuple):
    """A container that JSON cannot tell from a tuple."""

    kernel: Any


def test_containers_that_cannot_be_stored_are_refused_before_sampling() -> None:
    network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"].kernel))
    with pytest.raises(errors.NetworkError, match="Strange"):
        nb.Target.build(
            network,
            {"out": Strange(jnp.ones((3, 2)))},
            nb.ProbabilisticSubset.everything(),
            X_TABLE,
            Y_TABLE,
        )


def test_a_full_disk_leaves_what_was_there(
    posterior: NetworkPosterior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posterior.save(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}

    def fail(*args: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("nbcore.common.storage.save_file", fail)
    with pytest.raises(OSError, match="No space"):
        posterior.save(tmp_path / "run", overwrite=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


class Laplace(nb.Gaussian):
    """A likelihood that is not one of nbcore's own."""


register_pytree(Laplace)


def test_a_likelihood_of_ones_own_is_given_again(tmp_path: Path) -> None:
    mine = Laplace(noise=0.5)
    posterior_of(target_of(make_mlp()(), X_TABLE, Y_TABLE, mine, BOTH)).save(tmp_path / "run")
    with pytest.raises(errors.OptionError, match="likelihood="):
        nb.Posterior.load(tmp_path / "run", make_mlp()())
    loaded = nb.Posterior.load(tmp_path / "run", make_mlp()(), likelihood=mine)
    np.testing.assert_allclose(loaded.predict(X_NEW).aleatoric_variance, 0.25, rtol=1e-6)


def plain(draws: Any) -> nb.Posterior:
    """Return the posterior of a plain density with these draws."""
    shape = np.shape(jax.tree.leaves(draws)[0])[:2]
    numbers = np.random.default_rng(0).normal(size=(len(nb.Stats._fields), *shape))
    return nb.Posterior(draws, nb.Stats(*numbers.astype(np.float32)), INFO)


DRAWN = np.random.default_rng(5).normal(size=(CHAINS, DRAWS, 2)).astype(np.float32)


@pytest.mark.parametrize(
    "draws",
    [DRAWN, {"a": DRAWN, "b": [DRAWN[..., 0], (DRAWN,)]}, {"weights": {"likelihood/x": DRAWN}}],
    ids=["array", "pytree", "names of a network"],
)
def test_posteriors_of_plain_densities_are_saved_and_loaded(draws: Any, tmp_path: Path) -> None:
    posterior = plain(draws)
    posterior.save(tmp_path / "run")
    loaded = nb.Posterior.load(tmp_path / "run")
    assert type(loaded) is nb.Posterior
    assert jax.tree.structure(loaded.draws) == jax.tree.structure(draws)
    jax.tree.map(np.testing.assert_array_equal, loaded.draws, draws)
    jax.tree.map(np.testing.assert_array_equal, loaded.stats, posterior.stats)
    assert loaded.info == INFO
    assert str(loaded.summary()) == str(posterior.summary())
    assert loaded.labels() == posterior.labels()
    with pytest.raises(errors.RunFolderError, match="overwrite=True"):
        posterior.save(tmp_path / "run")
    with pytest.raises(errors.OptionError, match=r"plain density.*load\(folder\)"):
        nb.Posterior.load(tmp_path / "run", make_mlp()())


def test_weights_are_loaded_with_their_network_alone(tmp_path: Path) -> None:
    posterior_of(target_of(make_mlp()(), X_TABLE, Y_TABLE, NOISY, BOTH)).save(tmp_path / "run")
    with pytest.raises(errors.OptionError, match=r"load\(folder, network\)"):
        nb.Posterior.load(tmp_path / "run")
    loaded = nb.NetworkPosterior.load(tmp_path / "run", make_mlp()())
    assert type(loaded) is nb.NetworkPosterior


def test_the_posterior_of_a_plain_density_has_what_every_posterior_has() -> None:
    posterior = plain({"a": DRAWN, "b": DRAWN[..., 0]})
    assert (posterior.num_chains, posterior.num_draws) == (CHAINS, DRAWS)
    assert posterior.labels() == {"a": ["a[0]", "a[1]"], "b": ["b"]}
    table = posterior.summary()
    assert list(table.columns["layer"]) == ["a", "a", "b"]
    assert str(table).endswith("2 chains × 9 draws kept = 18 draws")
    assert list(posterior.summary("layer").columns["parameters"]) == [2, 1]
    assert set(posterior.diagnostics().r_hat) == {"a", "b"}
    for name in ("predict", "outputs", "network", "split", "log_likelihood", "in_units_of"):
        assert hasattr(nb.NetworkPosterior, name) or name in {"network", "split"}
        assert not hasattr(posterior, name)


def direct(posterior: NetworkPosterior, X: Any, chain: int, draw: int) -> np.ndarray:
    """Return the outputs of one draw: merge, then apply, without anything of nbcore's driver."""
    weights = {k: v[chain, draw] for k, v in posterior.draws["weights"].items()}
    return np.asarray(posterior.network.apply(posterior.split.merge(weights), jnp.asarray(X)))


def test_predictions_in_batches_are_those_of_merged_weights(posterior: NetworkPosterior) -> None:
    outputs = posterior.outputs(X_NEW)
    assert outputs.shape == (CHAINS * DRAWS, len(X_NEW), 2)
    for chain, draw in ((0, 0), (0, 5), (1, 8)):
        expected = direct(posterior, X_NEW, chain, draw)
        np.testing.assert_allclose(outputs[chain * DRAWS + draw], expected, rtol=1e-5, atol=1e-5)


def test_rows_keep_their_order_through_groups_of_length() -> None:
    rng = np.random.default_rng(4)
    tokens = rng.integers(1, 9, size=(EXAMPLES_AT_ONCE + 20, 12), dtype=np.int32)
    lengths = rng.choice([4, 12], size=len(tokens))
    tokens[np.arange(12) >= lengths[:, None]] = 0
    net = FlaxTransformer(
        vocab_size=9, d_model=8, nhead=2, num_layers=0, dim_feedforward=4, pad_token_id=0
    )
    subset = nb.ProbabilisticSubset.layers("TokenEmbed", "FinalDense2")
    posterior = posterior_of(target_of(net, tokens[:20], lengths[:20], nb.Gaussian(), subset))
    outputs = posterior.outputs(tokens, max_draws=2)
    np.testing.assert_allclose(outputs[0], direct(posterior, tokens, 0, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs[1], direct(posterior, tokens, 1, 8), rtol=1e-4, atol=1e-5)
    few = posterior.outputs(tokens[[7, 3, 250]], max_draws=2)
    np.testing.assert_allclose(few, outputs[:, [7, 3, 250]], rtol=1e-4, atol=1e-5)


def test_a_network_that_mixes_examples_predicts_all_of_them_together() -> None:
    network = nb.as_network(
        (lambda key, x: None, lambda p, x: (x - x.mean(0)) @ p["out"]["kernel"])
    )
    target = nb.Target.build(
        network,
        {"out": {"kernel": jnp.ones((3, 2))}},
        nb.ProbabilisticSubset.everything(),
        X_TABLE,
        Y_TABLE,
    )
    posterior = posterior_of(target)
    kernel = posterior.draws["weights"]["out/kernel"][0, 0]
    expected = (X_NEW - X_NEW.mean(0)) @ kernel
    np.testing.assert_allclose(posterior.outputs(X_NEW, max_draws=1)[0], expected, atol=1e-4)


@pytest.mark.parametrize("count", [1, 5, 18, 1000])
def test_fewer_draws_are_evenly_spaced_and_keep_their_noise(count: int) -> None:
    posterior = posterior_of(target_of(make_mlp()(), X_TABLE, Y_TABLE, NOISY, BOTH))
    every, some = posterior.predict(X_NEW[:3]), posterior.predict(X_NEW[:3], max_draws=count)
    chosen = np.linspace(0, 17, min(count, 18)).round().astype(int)
    np.testing.assert_allclose(some.draw_means, every.draw_means[chosen], atol=1e-6)
    np.testing.assert_allclose(some.draw_variances, every.draw_variances[chosen], rtol=1e-6)


def test_no_draw_at_all_is_refused() -> None:
    posterior = posterior_of(target_of(make_mlp()(), X_TABLE, Y_TABLE, NOISY, BOTH))
    with pytest.raises(errors.OptionError, match="max_draws"):
        posterior.predict(X_NEW, max_draws=0)
    with pytest.raises(errors.ShapeError):
        posterior.predict(X_NEW[:0])
    with pytest.raises(errors.DataError, match=r"of 2 examples: 1"):
        posterior.predict(np.array([[0.0, 0, 0], [np.nan, 0, 0]]))


def test_a_scaler_moves_means_and_scales_variances() -> None:
    target = target_of(make_mlp()(), X_TABLE, Y_TABLE, NOISY, BOTH)
    scaler = Scaler(np.array([10.0, 0.0]), np.array([3.0, 0.5]))
    plain, scaled = posterior_of(target).predict(X_NEW), posterior_of(target, scaler).predict(X_NEW)
    np.testing.assert_allclose(
        scaled.mean, scaler.shift + scaler.scale * plain.mean, rtol=1e-4, atol=1e-4
    )
    for name in ("epistemic_variance", "aleatoric_variance", "variance"):
        expected = scaler.scale**2 * getattr(plain, name)
        np.testing.assert_allclose(getattr(scaled, name), expected, rtol=1e-3)


def test_constrained_draws_hold_the_noise() -> None:
    posterior = posterior_of(target_of(make_mlp()(), X_TABLE, Y_TABLE, NOISY, BOTH))
    noise = posterior.constrained()["likelihood"]["noise"]
    # NOISY: log noise ~ N(log median, 0.2^2), and the draws are standard normal numbers.
    unconstrained = np.log(noise / np.array([0.3, 0.4])) / 0.2
    drawn = posterior.draws["likelihood"]["noise"]
    np.testing.assert_allclose(unconstrained, drawn, rtol=1e-3, atol=1e-4)
    prediction = posterior.predict(X_NEW)
    by_draw = np.broadcast_to(prediction.draw_variances, prediction.draw_means.shape)[:, 0]
    np.testing.assert_allclose(by_draw, (noise**2).reshape(-1, 2), rtol=1e-5)


def test_diagnostics_name_each_number() -> None:
    posterior = posterior_of(target_of(make_mlp()(), X_TABLE, Y_TABLE, NOISY, PAIRS))
    labels = [label for names in posterior.labels().values() for label in names]
    assert len(labels) == len(set(labels)) == 6
    assert {"Dense0[0, 1]", "Dense0[2, 3]", "likelihood/noise[1]"} <= set(labels)
    assert posterior.diagnostics().num_chains == CHAINS


@pytest.fixture(scope="module")
def mixture() -> tuple[Prediction, np.ndarray, np.ndarray]:
    """A mixture of normals, with its means and variances `(draws, examples, outputs)`."""
    rng = np.random.default_rng(5)
    means, variances = rng.normal(size=(7, 4, 1)), rng.uniform(0.1, 2.0, size=(7, 4, 1))
    return Prediction.normal(means, variances), means, variances


def test_mixture_moments_follow_the_law_of_total_variance(mixture: Any) -> None:
    prediction, means, variances = mixture
    second = (variances + means**2).mean(axis=0)[:, 0]
    np.testing.assert_allclose(prediction.variance, second - means.mean(axis=0)[:, 0] ** 2)
    assert prediction.mean.shape == (4,)


def test_mixture_density_and_quantiles_are_those_of_the_mixture(mixture: Any) -> None:
    from scipy import stats

    prediction, means, variances = mixture
    y = np.array([-1.0, 0.0, 0.5, 3.0])
    each = stats.norm.pdf(y[None, :, None], means, np.sqrt(variances))
    np.testing.assert_allclose(prediction.log_density(y), np.log(each.mean(axis=0)[:, 0]))
    np.testing.assert_allclose(prediction.nlpd(y), -np.log(each.mean(axis=0)[:, 0]).mean())
    for q in (0.025, 0.5, 0.9):
        at = prediction.quantile(q)[None, :, None]
        below = stats.norm.cdf(at, means, np.sqrt(variances)).mean(axis=0)
        np.testing.assert_allclose(below, q, atol=1e-5)
    low, high = prediction.interval(0.5)
    assert prediction.coverage((low + high) / 2, 0.5) == 1.0
    assert prediction.coverage(high + 1e-3, 0.5) == 0.0


def test_a_mixture_of_predictions_is_the_mixture_of_their_draws(mixture: Any) -> None:
    prediction, means, _ = mixture
    other = Prediction.normal(means + 1, np.ones((1, 1, 1)))
    joined = Prediction.mixture([prediction, other])
    np.testing.assert_array_equal(joined.draw_means, np.concatenate([means, means + 1]))
    np.testing.assert_array_equal(joined.draw_variances[7:], np.ones((7, 4, 1)))
    with pytest.raises(errors.DataError):
        Prediction.mixture([])


def test_predictions_refuse_what_does_not_fit(mixture: Any) -> None:
    prediction = mixture[0]
    with pytest.raises(errors.ShapeError):
        prediction.log_density(np.zeros((4, 1)))
    with pytest.raises(errors.ShapeError):
        prediction.coverage(np.zeros(3))
    with pytest.raises(errors.OptionError):
        prediction.quantile(1.0)
    classes = Prediction(nb.CategoricalDistribution(np.zeros((3, 2, 4))))
    np.testing.assert_allclose(classes.log_density(np.array([0, 3])), np.log(0.25))
    for call in (lambda: classes.quantile(0.5), lambda: prediction.labels):
        with pytest.raises(errors.OptionError):
            call()
    with pytest.raises(errors.ShapeError):
        classes.log_density(np.zeros(3))
    with pytest.raises(errors.LabelError):
        classes.log_density(np.array([0, 4]))
