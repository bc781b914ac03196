"""`import nbcore_neurobayes as nb`: NeuroBayes' names and shapes, nbcore's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore
import nbcore_neurobayes as nb
from nbcore import errors
from nbcore.posterior.stats import Stats
from nbcore.sampling.backend import Kernel
from nbcore_neurobayes import arguments
from nbcore_neurobayes.choice import subset_of
from nbcore_neurobayes.flax_nets.parameter_selection import pairs_in

pytestmark = pytest.mark.filterwarnings("ignore::nbcore.training.folds.CalibrationWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3)).astype(np.float32)
Y = X @ np.array([1.0, -2.0, 0.5]) + 0.1 * RNG.normal(size=30)
LABELS = (Y > 0).astype(int)
NET = nb.FlaxMLP([6], 1)


@dataclass(frozen=True)
class Walk:
    """Chains that add 0.01 to every number in each step; acceptance is that of the last."""

    name: ClassVar[str] = "walk"
    capabilities: ClassVar[frozenset[str]] = frozenset({"fixed_cost"})

    def kernel(self, num_warmup: int) -> Kernel:
        def init(key: Any, target: Any, shared: Any, position: Any) -> Any:
            return target.start

        def step(key: Any, target: Any, shared: Any, state: Any, t: Any) -> Any:
            state = jax.tree.map(lambda a: a + 0.01, state)
            return state, Stats(target.log_density(state), acceptance_rate=0.4)

        return Kernel(init, step, step, lambda state: state)


WALK: dict[str, Any] = {"progress_bar": False, "backend": Walk()}


def walked(model: Any, y: Any = Y, *options: Any, **more: Any) -> Any:
    model.fit(X, y, *(options or (0, 4)), **(WALK | more))
    return model


@pytest.fixture(scope="module")
def det() -> nb.DeterministicNN:
    """A trained network."""
    det = nb.DeterministicNN(NET, (3,), learning_rate=0.02)
    det.train(X, Y, 40, 10)
    return det


@pytest.fixture(scope="module")
def model(det: nb.DeterministicNN) -> nb.PartialBNN:
    """Its last layer sampled: two chains of four draws."""
    return walked(nb.PartialBNN(NET, det, 0), Y, 0, 4, 2)


def test_the_network_predicts_in_columns(det: nb.DeterministicNN) -> None:
    mean = det.predict(X)
    assert mean.shape == (30, 1)
    np.testing.assert_array_equal(mean[:, 0], det.estimator.predict(X))
    assert det.model is NET
    outputs = det.model.apply({"params": det.get_params()}, X, enable_dropout=False)
    np.testing.assert_allclose(mean, outputs, rtol=1e-5, atol=1e-6)
    assert det.state.params["Dense0"]["kernel"].shape == (3, 6)


def test_samples_are_centered_at_the_trained_weights(
    model: nb.PartialBNN, det: nb.DeterministicNN
) -> None:
    samples = model.get_samples()
    kernel = det.get_params()["Dense1"]["kernel"]
    assert samples["Dense1/Dense1.kernel"].shape == (8, 6, 1)
    expected = kernel + 0.01 * np.array([1, 2, 3, 4] * 2)[:, None, None]
    np.testing.assert_allclose(samples["Dense1/Dense1.kernel"], expected, rtol=1e-4, atol=1e-6)
    assert model.get_samples(chain_dim=True)["Dense1/Dense1.kernel"].shape == (2, 4, 6, 1)
    assert np.all(samples["sig"] > 0)
    fields = model.mcmc.get_extra_fields()
    np.testing.assert_allclose(fields["accept_prob"], 0.4, rtol=1e-6)
    assert fields["potential_energy"].shape == (8,)


def test_predictions_are_mean_and_variance_in_columns(model: nb.PartialBNN) -> None:
    mean, variance = model.predict(X)
    assert mean.shape == variance.shape == (30, 1)
    samples = model.get_samples()
    sites = model.sample_from_posterior(jax.random.key(0), X, samples)
    assert sites["mu"].shape == sites["y"].shape == (8, 30, 1)
    np.testing.assert_allclose(mean, sites["mu"].mean(axis=0), rtol=1e-4, atol=1e-6)
    total = sites["mu"].var(axis=0) + np.mean(samples["sig"] ** 2)
    np.testing.assert_allclose(variance, total, rtol=1e-3)
    few = {name: draws[2:4] for name, draws in samples.items()}
    np.testing.assert_allclose(
        model.predict(X, few)[0], sites["mu"][2:4].mean(axis=0), rtol=1e-4, atol=1e-6
    )
    with pytest.raises(errors.OptionError, match="return_sites"):
        model.sample_from_posterior(jax.random.key(0), X, samples, ["mean"])
    with pytest.raises(errors.OptionError, match="keep all of its names"):
        model.predict(X, {"sig": samples["sig"]})


def test_classes_have_probabilities_and_their_total_entropy() -> None:
    net = nb.FlaxMLP([6], 2)
    params = net.init(jax.random.key(0), X)["params"]
    model = walked(nb.PartialBNN(net, params, 0, num_classes=2), LABELS)
    probabilities, entropy = model.predict(X)
    assert probabilities.shape == (30, 2)
    total = -np.sum(probabilities * np.log(probabilities), axis=1)
    np.testing.assert_allclose(entropy, total, rtol=1e-4)
    np.testing.assert_array_equal(model.predict_classes(X), probabilities.argmax(axis=1))


def test_layers_are_sampled_as_a_whole_or_in_their_pairs() -> None:
    subset = subset_of(NET, ["Dense0", "Dense1"], None, {"Dense0": [(0, 1), (2, 3)]})
    params = NET.init(jax.random.key(0), X)
    assert subset is not None
    split = subset.split(nbcore.as_network(NET, example=X[:1]), params)
    assert split.shapes["params/Dense0/kernel"] == (2,)
    assert split.shapes["params/Dense1/kernel"] == (6, 1)
    assert subset_of(NET, None, 1, None) == nbcore.ProbabilisticSubset.layers("Dense0", "Dense1")
    assert subset_of(NET, None, None, None) is None
    with pytest.raises(errors.OptionError, match="not both"):
        subset_of(NET, ["Dense0"], 1, None)
    with pytest.raises(errors.OptionError, match=r"Type: \['Dense0'\]"):
        subset_of(NET, "Dense0", None, None)


def test_a_layer_of_the_last_ones_is_sampled_in_its_pairs() -> None:
    net = nb.FlaxMLP([6, 5], 1)
    split = subset_of(
        net, None, 1, {"Dense1": [(0, 1), (2, 3)]}
    ).split(  # pyright: ignore[reportOptionalMemberAccess]
        nbcore.as_network(net, example=X[:1]), net.init(jax.random.key(0), X)
    )
    assert split.shapes["params/Dense1/kernel"] == (2,)
    assert split.shapes["params/Dense2/kernel"] == (5, 1)
    assert "params/Dense0/kernel" not in split.shapes


def test_pairs_of_layers_that_are_not_named_are_left_out_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="Pairs of Dense0 are left out"):
        chosen = subset_of(NET, ["Dense1"], None, {"Dense0": [(0, 1)]})
    assert chosen == nbcore.ProbabilisticSubset.layers("Dense1")


def test_weights_that_neurobayes_saved_are_read() -> None:
    params = NET.init(jax.random.key(0), X)
    nested = {f"MLPLayerModule_{i}": {f"Dense{i}": params["params"][f"Dense{i}"]} for i in (0, 1)}
    for weights in (nested, {"params": nested}):
        np.testing.assert_array_equal(
            NET.apply({"params": arguments.weights_of(weights)}, X), NET.apply(params, X)
        )
    block = {"TransformerBlock_0": {"LayerNormModule_0": {"Block0_LayerNorm1": {"scale": 1}}}}
    assert arguments.weights_of(block) == {"Block0_LayerNorm1": {"scale": 1}}
    with pytest.raises(errors.OptionError, match="VarianceHead"):
        arguments.weights_of({"MLPLayerModule_2": {"VarianceHead": {}}})


def test_pairs_are_returned_by_layer_and_component(det: nb.DeterministicNN) -> None:
    pairs = nb.select_bayesian_components(det, ["Dense0", "Dense1"], "magnitude", 3)
    magnitudes = np.abs(det.get_params()["Dense0"]["kernel"])
    largest = np.argwhere(magnitudes >= np.sort(magnitudes.ravel())[-3])
    assert pairs["Dense0"] == [tuple(pair) for pair in largest.tolist()]
    attention = nbcore.ProbabilisticSubset.pairs({"Block0_Attention": {"query": [(0, 1, 2)]}})
    assert pairs_in(attention) == {"Block0_Attention": {"query": [(0, 1, 2)]}}
    with pytest.raises(errors.OptionError, match="token_frequency"):
        nb.select_bayesian_components(det, "Dense0", param_info={})


def test_ensembles_have_the_shapes_of_neurobayes(tmp_path: Any) -> None:
    ensemble = nb.EnsembleDeterministicNN(NET, 3, num_models=3, init_random_seeds=[7])
    assert ensemble.seeds == [7, 1, 2]
    ensemble.train(X, Y, 3)
    mean, variance, each = ensemble.predict(X, return_individual=True)
    assert mean.shape == variance.shape == (30, 1)
    np.testing.assert_allclose(mean, np.mean(each, axis=0), rtol=1e-5)
    assert np.all(variance > np.var(each, axis=0))
    assert len(ensemble.get_params()) == 3
    file = str(tmp_path / "ensemble.npy")
    for name in (file, file, file.removesuffix(".npy")):  # one that is there is replaced
        ensemble.save_ensemble(name)
    assert [path.name for path in tmp_path.iterdir()] == ["ensemble.npy"]
    loaded = nb.EnsembleDeterministicNN.load_ensemble(file)
    np.testing.assert_array_equal(loaded.predict(X)[0], mean)
    assert loaded.trained
    assert (type(loaded.architecture), loaded.seeds) == (nb.FlaxMLP, [7, 1, 2])


def test_what_is_no_stored_ensemble_is_refused(tmp_path: Any) -> None:
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    for name, message in (("pickle.npy", "pickles, which run code"), ("no", "There is no file")):
        with pytest.raises(errors.RunFolderError, match=message):
            nb.EnsembleDeterministicNN.load_ensemble(str(tmp_path / name))
    untrained = nb.EnsembleDeterministicNN(NET, 3)
    assert not untrained.trained
    with pytest.raises(ValueError, match="not trained yet"):
        untrained.save_ensemble(str(tmp_path / "untrained"))


def test_the_number_of_runs_counts_the_first(det: nb.DeterministicNN) -> None:
    with pytest.warns(UserWarning, match="all 3 runs"):
        model = walked(nb.PartialBNN(NET, det, 0), max_num_restarts=3, min_accept_prob=0.5)
    assert len(model.posterior.info.acceptance_of_runs) == 3


def test_the_prior_scale_of_two_heads_counts() -> None:
    net = nb.FlaxMLP2Head([4], 1)
    params = net.init(jax.random.key(0), X)
    densities: list[float] = []
    for scale in (1.0, 0.1):
        model = walked(nb.HeteroskedasticPartialBNN(net, params, 0), priors_sigma=scale)
        target = model.posterior.target
        densities.append(float(target.log_prior(target.start)))
        heads = model.posterior.split
        assert {path.split("/")[1] for path in heads.paths} == {"MeanHead", "LogScaleHead"}
    assert densities[1] - densities[0] == pytest.approx(10 * np.log(10), rel=1e-4)
    noise, _ = model.predict_noise(X)
    outputs = net.apply(params, X)
    assert noise.shape == (30, 1)
    # Steps of 0.01 move the head but little.
    np.testing.assert_allclose(noise[:, 0], np.exp(outputs[:, 1]), rtol=0.2)
    mean, variance = model.predict(X)
    assert mean.shape == variance.shape == (30, 1)


def test_a_variance_model_returns_a_variance() -> None:
    def variance(x: Any, params: Any) -> Any:
        return params["floor"] + params["slope"] * jnp.abs(x[:, 0])

    priors = nb.priors.auto_lognormal_priors(lambda x, floor, slope: 0)
    model = walked(nb.VarianceModelHeteroskedasticBNN(NET, variance, priors), Y, 0, 1)
    drawn = {k: float(model.get_samples()[k][0]) for k in ("floor", "slope")}
    noise, _ = model.predict_noise(X)
    np.testing.assert_allclose(noise[:, 0] ** 2, variance(X, drawn), rtol=1e-3)


def test_metrics_align_columns_and_vectors() -> None:
    assert nb.utils.rmse(Y[:, None] + 2, Y) == pytest.approx(2.0)
    assert nb.utils.mse(Y, Y[:, None] + 2) == pytest.approx(4.0)
    assert nb.utils.mae(Y[:, None] - 2, Y[:, None]) == pytest.approx(2.0)
    assert nb.utils.coverage(Y, Y[:, None], np.ones((30, 1))) == 1.0
    density = 0.5 * np.log(2 * np.pi * (0.25 + 1e-6))
    assert nb.utils.nlpd(Y, Y[:, None], np.full((30, 1), 0.25)) == pytest.approx(density)
    with pytest.raises(errors.ShapeError):
        nb.utils.rmse(Y[:-1], Y)


def test_noise_priors_of_numpyro_are_read() -> None:
    dist = pytest.importorskip("numpyro.distributions")
    assert arguments.noise_prior_of(dist.HalfNormal(2.0)) == nbcore.HalfNormal(2.0)
    assert arguments.noise_prior_of(dist.LogNormal(0.0, 0.5)) == nbcore.LogNormal(1.0, 0.5)
    assert arguments.noise_prior_of(nb.priors.halfnormal_dist(0.3)) == nbcore.HalfNormal(0.3)
    assert arguments.noise_prior_of(dist.HalfNormal(jnp.ones(1))) == nbcore.HalfNormal(1.0)
    assert arguments.noise_prior_of(dist.HalfNormal(jnp.ones(2))) == nbcore.HalfNormal((1.0, 1.0))
    gamma = arguments.noise_prior_of(dist.Gamma(1.0, 2.0))
    found = nbcore.Gaussian(noise_prior=gamma).noise_prior.log_prob(np.float32(0.5))
    assert found == pytest.approx(np.log(2) - 1, rel=1e-5)


def test_chains_and_devices_have_names() -> None:
    assert arguments.chain_method_of("parallel") == "threads"
    with pytest.raises(errors.OptionError, match="Did you mean 'vectorized'"):
        arguments.chain_method_of("vectorize")
    with pytest.raises(errors.OptionError, match="Possible: cpu"), arguments.on_device("abacus"):
        pass
