"""What was wrong in NeuroBayes 0.0.14, one test for each fault, under the name of what is right."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers import Still

import nbcore as nb
from nbcore import errors
from nbcore.training.minibatches import Data, Part, batch_loss
from nbcore.training.outputs import network_outputs
from nbcore.training.recipe import Recipe
from nbcore.training.train import train
from nbcore_flax import FlaxMLP, FlaxTransformer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 3)).astype(np.float32)
Y = X @ np.array([1.0, -2.0, 0.5]) + 0.3 * RNG.normal(size=48)
TOKENS = np.where(np.arange(7) < RNG.integers(2, 8, (12, 1)), RNG.integers(1, 9, (12, 7)), 0)
MLP = nb.as_network(FlaxMLP(hidden_dims=(6,), target_dim=3), example=X[:1])
MODULE = FlaxTransformer(
    vocab_size=9, d_model=6, nhead=2, num_layers=1, dim_feedforward=4, pad_token_id=0
)
TRANSFORMER = nb.as_network(MODULE)


STILL: dict[str, Any] = {
    "num_warmup": 0, "num_samples": 1, "num_chains": 1, "backend": Still(), "progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def weights() -> Any:
    """Weights of the transformer; the biases are not zero."""
    params = TRANSFORMER.init(jax.random.key(0), TOKENS[:1])
    return jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(1), a.shape), params)


def test_transformer_forward_is_the_trained_network(weights: Any) -> None:
    """NeuroBayes pools before its head when it trains, and after it when it samples."""
    subset = nb.ProbabilisticSubset.pairs(
        {
            "Block0_Attention": {"query": [(0, 1, 2)], "out": [(1, 2, 5)]},
            "FinalDense1": [(0, 0), (3, 1)],
        }
    )
    target = nb.Target.build(TRANSFORMER, weights, subset, TOKENS, np.zeros(12))
    sampled = target.outputs(target.split.stochastic)
    np.testing.assert_allclose(sampled, MODULE.apply(weights, TOKENS), rtol=1e-5, atol=1e-6)  # pyright: ignore[reportArgumentType]


def test_attention_out_indices_address_the_kernels_own_entries(weights: Any) -> None:
    """The kernel of `out` is (head, feature, out); 2 heads, 3 features, 6 outputs."""
    pairs = [(1, 2, 5), (0, 1, 4)]
    subset = nb.ProbabilisticSubset.pairs({"Block0_Attention": {"out": pairs}})
    split = subset.split(TRANSFORMER, weights)
    moved = split.merge({path: w + 1 for path, w in split.stochastic.items()})
    changed = jax.tree.map(lambda a, b: np.argwhere(a != b).tolist(), moved, weights)
    attention = changed["params"]["Block0_Attention"]
    assert attention["out"] == {"kernel": [[0, 1, 4], [1, 2, 5]], "bias": [[4], [5]]}
    assert sum(len(leaf) for leaf in jax.tree.leaves(changed, is_leaf=_is_list)) == 4


def _is_list(node: Any) -> bool:
    return isinstance(node, list)


def test_softmax_happens_once() -> None:
    """`classification=True` changes no output, and the likelihood reads logits."""
    logits = nb.as_network(FlaxMLP(hidden_dims=(6,), target_dim=3, classification=True))
    params = MLP.init(jax.random.key(0), X[:1])
    outputs = MLP.apply(params, X)
    np.testing.assert_array_equal(logits.apply(params, X), outputs)
    labels = np.arange(48) % 3
    target = nb.Target.build(
        MLP, params, nb.ProbabilisticSubset.everything(), X, labels, likelihood=nb.Categorical()
    )
    expected = np.asarray(jax.nn.log_softmax(outputs))[np.arange(48), labels]
    np.testing.assert_allclose(target.log_likelihood(target.start), expected, rtol=1e-5)
    model = nb.PartialBNN(MLP, params, num_classes=3, probabilistic_layer_names=["Dense1"])
    probabilities, _ = model.fit(X, labels, **STILL).predict(X)
    np.testing.assert_allclose(probabilities, jax.nn.softmax(outputs), rtol=1e-5)


def test_one_bias_per_output() -> None:
    """Three pairs that lead to one output share its bias, which is sampled once."""
    subset = nb.ProbabilisticSubset.pairs({"Dense0": [(0, 1), (1, 1), (2, 1)]}, include_bias=True)
    split = subset.split(MLP, MLP.init(jax.random.key(0), X[:1]))
    assert split.shapes == {"params/Dense0/kernel": (3,), "params/Dense0/bias": (1,)}
    assert split.indices["params/Dense0/bias"].tolist() == [1]


def test_misspelt_names_raise() -> None:
    """NeuroBayes samples nothing of a layer whose name it does not know, and does not say so."""
    params = MLP.init(jax.random.key(0), X[:1])
    for options in (
        {"probabilistic_layer_names": ["Dense0", "Dens1"]},
        {"probabilistic_neurons": {"Dens1": [(0, 0)]}},
    ):
        model = nb.PartialBNN(MLP, params, likelihood=nb.Gaussian(noise=1.0), **options)
        with pytest.raises(errors.UnknownLayerError, match="Did you mean 'Dense1'"):
            model.fit(X, np.stack([Y] * 3, axis=1), **STILL)


def test_metrics_refuse_columns_against_vectors() -> None:
    """(n, 1) - (n,) is (n, n): an error of every prediction against every target."""
    column, row = Y[:, None], np.ones(48)
    for call in (
        lambda: nb.metrics.rmse(column, Y),
        lambda: nb.metrics.mae(Y, column),
        lambda: nb.metrics.nlpd(column, Y, row),
        lambda: nb.metrics.nlpd(Y, Y, row[:, None]),
        lambda: nb.metrics.coverage(Y, column, row),
        lambda: nb.metrics.interval_coverage(column, Y - 1, Y + 1),
    ):
        with pytest.raises(errors.ShapeError):
            call()


@pytest.fixture(scope="module")
def trained() -> nb.DeterministicNN:
    """A trained network, without snapshots."""
    det = nb.DeterministicNN(MLP, learning_rate=0.01, swa=None)
    return det.train(X, np.stack([Y, -Y, Y**2], axis=1), 2, 16, progress=False)


def test_clustering_is_seeded_without_duplicates_in_full(trained: nb.DeterministicNN) -> None:
    def choose(key: int) -> nb.ProbabilisticSubset:
        return nb.select_bayesian_components(trained, ["Dense0"], "clustering", 11, key=key)

    first, other = choose(0), choose(1)
    assert first == choose(0)
    assert first != other
    for subset in (first, other):
        split = subset.split(MLP, trained.params)
        indices = split.indices["params/Dense0/kernel"].tolist()
        assert len(indices) == len(set(indices)) == 11


def test_failed_selection_raises(trained: nb.DeterministicNN) -> None:
    """NeuroBayes prints the error, and goes on with what was chosen so far."""
    with pytest.raises(errors.SelectionError, match=r"swa=nb\.SWA"):
        nb.select_bayesian_components(trained, ["Dense0"], "variance", 2)
    with pytest.raises(errors.SelectionError, match="has 18 of 19"):
        nb.select_bayesian_components(trained, ["Dense0"], "magnitude", 19)
    with pytest.raises(errors.UnknownLayerError):
        nb.select_bayesian_components(trained, ["Dense0", "Dense7"], "magnitude", 2)
    with pytest.raises(errors.UnknownSelectorError):
        nb.select_bayesian_components(trained, ["Dense0"], "magnitud", 2)


def test_minibatch_map_scales_the_prior_by_n() -> None:
    """Minibatches of 8 find the ridge solution of all 48 rows, not that of a prior 6 times over."""
    network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]), example=X)
    zeros = {"out": {"kernel": jnp.zeros((3, 1))}}
    data = Data(X, np.asarray(Y, np.float32)[:, None])
    sigma = 0.2
    recipe = Recipe(learning_rate=0.03, schedule="cosine", sigma=sigma, swa=None)
    found = train(
        network, nb.Gaussian(noise=1.0), recipe, zeros, data,
        epochs=60, batch_size=8, key=jax.random.key(0),
    )  # fmt: skip

    def ridge(times: float) -> np.ndarray:
        return np.linalg.solve(X.T @ X + times * np.eye(3) / sigma**2, X.T @ Y)

    weights = np.asarray(found.params["out"]["kernel"])[:, 0]
    assert np.abs(weights - ridge(1)).max() < 0.05
    assert np.abs(weights - ridge(6)).max() > 0.4


def test_padding_does_not_change_predictions(weights: Any) -> None:
    outputs = network_outputs(TRANSFORMER, weights, TOKENS)
    longer = np.pad(TOKENS, ((0, 0), (0, 5)))
    np.testing.assert_allclose(
        network_outputs(TRANSFORMER, weights, longer), outputs, rtol=1e-5, atol=1e-6
    )
    shortest = int((TOKENS > 0).sum(axis=1).argmin())
    length = int((TOKENS[shortest] > 0).sum())
    assert length < 7
    alone = TRANSFORMER.apply(weights, TOKENS[shortest : shortest + 1, :length])
    np.testing.assert_allclose(alone[0], outputs[shortest], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::nbcore.training.folds.CalibrationWarning")
def test_second_fit_uses_the_new_data() -> None:
    """NeuroBayes keeps the network of the first fit."""
    network = nb.as_network(FlaxMLP(hidden_dims=(6,)), example=X[:1])
    model = nb.PartialBNN(network, probabilistic_layer_names=["Dense1"])
    training: dict[str, Any] = {"calibration": "holdout", "training": nb.TrainingOptions(epochs=1)}
    first = model.fit(X, Y, **training, **STILL).predict(X)[0]
    second = model.fit(X, Y + 100, **training, **STILL).predict(X)[0]
    # The same key trains the same network on the standardized targets.
    np.testing.assert_allclose(second, first + 100, atol=1e-2)


def test_variance_is_not_standard_deviation() -> None:
    """`predict` returns variances, `nlpd` and `coverage` read them: noise 0.5 is variance 0.25."""
    network = nb.as_network(FlaxMLP(hidden_dims=(6,)), example=X[:1])
    params = network.init(jax.random.key(0), X[:1])
    model = nb.PartialBNN(
        network, params, likelihood=nb.Gaussian(noise=0.5), probabilistic_layer_names=["Dense1"]
    )
    mean, variance = model.fit(X, Y, **STILL).predict(X)
    np.testing.assert_allclose(variance, 0.25, rtol=1e-5)
    density = -0.5 * ((Y - mean) ** 2 / 0.25 + np.log(2 * np.pi * 0.25))
    assert nb.metrics.nlpd(Y, mean, variance) == pytest.approx(-density.mean(), rel=1e-5)


HEADS = nb.as_network(FlaxMLP(hidden_dims=(4,), target_dim=2), example=X[:1])


def test_prior_scale_is_respected_in_heteroskedastic_models() -> None:
    """NeuroBayes hands `priors_sigma` to another argument, and samples with 1 whatever is asked."""
    params = HEADS.init(jax.random.key(0), X[:1])
    options: dict[str, Any] = {"likelihood": nb.Heteroskedastic(), "prior": 0.1}
    models = (
        (nb.BNN(HEADS, pretrained_priors=params, **options), 26),
        (nb.PartialBNN(HEADS, params, num_probabilistic_layers=0, **options), 10),
    )
    for model, count in models:
        target = model.fit(X, Y, **STILL).posterior.target
        assert target is not None
        # Each weight is at its center, where log N(0; 0, s^2) = -log(s sqrt(2 pi)).
        expected = -count * np.log(0.1 * np.sqrt(2 * np.pi))
        assert float(target.log_prior(target.start)) == pytest.approx(expected, rel=1e-4)


def test_the_second_head_is_the_log_deviation_everywhere() -> None:
    """NeuroBayes trains it as a variance, and samples it as a standard deviation."""
    params = HEADS.init(jax.random.key(0), X[:1])
    mean, log_deviation = np.asarray(HEADS.apply(params, X), np.float64).T
    density = -0.5 * ((Y - mean) / np.exp(log_deviation)) ** 2 - log_deviation
    density -= 0.5 * np.log(2 * np.pi)
    likelihood = nb.Heteroskedastic()
    targets = np.asarray(Y, np.float32)[:, None]
    batch = (Part(X, targets, np.ones(48, np.float32)),)
    trained = batch_loss(HEADS, likelihood, params, batch, None)
    assert float(trained) == pytest.approx(-density.mean(), rel=1e-4)
    subset = nb.ProbabilisticSubset.layers("Dense0")
    model = nb.PartialBNN(HEADS, params, subset=subset, likelihood=likelihood).fit(X, Y, **STILL)
    np.testing.assert_allclose(model.posterior.log_likelihood()[0, 0], density, rtol=1e-3)
    np.testing.assert_allclose(model.predict(X)[1], np.exp(2 * log_deviation), rtol=1e-4)


def test_total_entropy_is_total() -> None:
    """NeuroBayes returns the expected entropy: two sure and contrary draws leave it at zero."""
    probabilities = np.array([[[0.999, 0.001]], [[0.001, 0.999]]])
    prediction = nb.Prediction(nb.CategoricalDistribution(np.log(probabilities)))
    np.testing.assert_allclose(prediction.total_entropy, np.log(2), rtol=1e-6)
    expected = -np.sum(probabilities * np.log(probabilities), axis=-1).mean()
    np.testing.assert_allclose(prediction.expected_entropy, expected, rtol=1e-6)
    np.testing.assert_allclose(prediction.mutual_information, np.log(2) - expected, rtol=1e-6)
