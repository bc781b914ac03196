"""Models of the drop-in hold what scripts of NeuroBayes read of them, in its words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from matplotlib import pyplot
from numpyro.infer import Predictive
from numpyro.infer.util import log_density
from samplers import Still

import nbcore
import nbcore_neurobayes as nb
from nbcore import errors
from nbcore_neurobayes import choice, words
from nbcore_neurobayes.numpyro_model import noise_distribution
from nbcore_neurobayes.utils import MCMCDiagnostics

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3)).astype(np.float32)
Y = X @ np.array([1.0, -2.0, 0.5]) + 0.1 * RNG.normal(size=30)
LABELS = (Y > 0).astype(int)
NET = nb.FlaxMLP([6], 1)
STILL: dict[str, Any] = {"progress_bar": False, "backend": Still()}
QUICK: dict[str, Any] = {**STILL, "sgd_epochs": 2, "num_warmup": 0, "num_samples": 2}
PAGE = Path(__file__).parents[2] / "docs" / "migrating.md"
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def det() -> nb.DeterministicNN:
    """A trained network."""
    det = nb.DeterministicNN(NET, (3,), learning_rate=0.02)
    det.train(X, Y, 20, 10)
    return det


@pytest.fixture(scope="module")
def fitted() -> nb.PartialBNN:
    """A network that was trained by the fit, with its output layer sampled."""
    model = nb.PartialBNN(NET, num_probabilistic_layers=0)
    model.fit(X, 100 + 7 * Y, **QUICK)
    return model


# Errors and messages


def test_errors_are_also_of_the_kinds_that_neurobayes_raises() -> None:
    for build in (
        lambda: nb.BNN(NET, num_classes=1),
        lambda: nb.PartialBNN(NET, num_classes=0, num_probabilistic_layers=0),
        lambda: nb.PartialBNN(object()),
        lambda: nb.DeterministicNN(NET, 3, loss="squared"),
        lambda: nb.EnsembleDeterministicNN(NET, 3).predict(X),
        lambda: nb.BNN(NET).predict(X),
        lambda: nb.BNN(NET).predict_classes(X),
        lambda: nb.flax_nets.extract_configs(NET),
        lambda: nb.priors.uniform_dist(low=0.0),
        lambda: MCMCDiagnostics().print_summary(),
    ):
        with pytest.raises(ValueError, match=r"Type|[gG]iven?|[gG]ot|classes|needs"):
            build()
    with pytest.raises(errors.NetworkError, match=r"builtins\.object"):
        nb.PartialBNN(object())
    assert not hasattr(nb.BNN(NET), "mcmc")  # as before a fit in NeuroBayes


def test_a_failed_selection_is_also_a_value_error(det: nb.DeterministicNN) -> None:
    with pytest.raises(errors.UnknownLayerError, match="Did you mean 'Dense0'") as caught:
        nb.select_bayesian_components(det, ["Dens0"])
    assert isinstance(caught.value, ValueError)
    with pytest.raises(errors.UnknownSelectorError) as caught:
        nb.select_bayesian_components(det, ["Dense0"], "magnitud")
    assert isinstance(caught.value, ValueError)


def test_messages_name_what_there_is_here(det: nb.DeterministicNN) -> None:
    with pytest.warns(UserWarning, match="probabilistic_layer_names") as caught:
        nb.PartialBNN(NET, det.get_params(), 0).fit(X, Y, 0, 1, **STILL)
    told = [str(each.message) for each in caught]
    with pytest.warns(UserWarning, match=r"X\.mean\(axis=0\)") as caught:
        nb.DeterministicNN(NET, 3).train(100 * X + 7, Y, 1)
    told += [str(each.message) for each in caught]
    with pytest.raises(errors.OptionError) as error:
        nb.PartialBNN(NET, det.get_params(), 0).fit(
            X, Y, select_neurons_config={"layer_names": ["Dense0"]}
        )
    told.append(str(error.value))
    for message in told:
        for name in re.findall(r"\bnb\.(\w+)", message):
            assert hasattr(nb, name), message
        assert "validation_data" not in message
        assert "calibration=" not in message
        assert "standardize_inputs=True" not in message or "nbcore.DeterministicNN" in message


def test_every_other_wording_matches_a_message_of_nbcore() -> None:
    sources = {
        re.sub(r'"\s*\n\s*f?"', "", path.read_text("utf-8"))
        for path in Path(nbcore.__file__).parent.rglob("*.py")
    }
    for pattern, _ in words._OTHER_WORDS:
        start = re.split(r"\(\.|\.\*|\\b", pattern.replace("\\(", "("))[0]
        start = start.rstrip("'(").replace("\\", "")
        assert any(start in text for text in sources), start


# Draws and their names


def test_draws_are_named_alike_for_given_and_for_trained_weights(
    det: nb.DeterministicNN, fitted: nb.PartialBNN
) -> None:
    given = nb.PartialBNN(NET, det.get_params(), num_probabilistic_layers=0)
    given.fit(X, Y, 0, 2, **STILL)
    shapes = {name: draws.shape for name, draws in given.get_samples().items()}
    assert shapes == {name: draws.shape for name, draws in fitted.get_samples().items()}
    assert shapes == {
        "Dense1/Dense1.bias": (2, 1),
        "Dense1/Dense1.kernel": (2, 6, 1),
        "sig": (2,),
        "mu": (2, 30, 1),
    }
    assert given.get_samples(chain_dim=True)["sig"].shape == (1, 2)


def test_the_noise_has_the_shape_of_its_prior_or_of_the_outputs() -> None:
    one = nb.BNN(NET, noise_prior=dist.HalfNormal(jnp.ones(1)))
    one.fit(X, Y, 0, 2, **STILL)
    assert one.get_samples()["sig"].shape == (2, 1)
    two = nb.BNN(nb.FlaxMLP([4], 2))
    two.fit(X, np.stack([Y, -Y], axis=1), 0, 2, **STILL)
    assert two.get_samples()["sig"].shape == (2, 2)
    assert two.predict(X)[0].shape == (30, 2)


def test_draws_are_in_the_units_of_y(fitted: nb.PartialBNN) -> None:
    samples = fitted.get_samples()
    assert samples["mu"].mean() == pytest.approx(100, abs=20)
    mean, variance = fitted.predict(X, samples)
    np.testing.assert_allclose(mean, fitted.predict(X)[0], rtol=1e-5)
    np.testing.assert_allclose(variance, fitted.predict(X)[1], rtol=1e-4)
    np.testing.assert_allclose(
        variance, samples["mu"].var(axis=0) + np.mean(samples["sig"] ** 2), rtol=1e-4
    )


def test_the_chains_have_numbers_and_a_last_state(fitted: nb.PartialBNN) -> None:
    mcmc = fitted.mcmc
    assert (mcmc.num_chains, mcmc.num_samples, mcmc.num_warmup) == (1, 2, 0)
    assert mcmc.last_state.z["sig"] == fitted.get_samples()["sig"][-1]
    assert mcmc.last_state.potential_energy == mcmc.get_extra_fields()["potential_energy"][-1]


# The NumPyro model


def test_the_numpyro_model_has_the_density_that_is_sampled(det: nb.DeterministicNN) -> None:
    """Up to log sig, since chains move in log sig."""
    model = nb.BNN(NET, noise_prior=dist.HalfNormal(0.3), pretrained_priors=det.get_params())
    model.fit(X, Y, 0, 1, priors_sigma=0.5, **STILL)
    draw = {k: v[0] for k, v in model.get_samples().items() if k != "mu"}
    found, _ = log_density(model.model, (X, Y, 0.5), {}, draw)
    sampled = float(model.posterior.stats.log_density[0, 0])
    assert float(found) + np.log(draw["sig"]) == pytest.approx(sampled, rel=1e-4)


def test_the_numpyro_model_predicts_what_predict_does(fitted: nb.PartialBNN) -> None:
    samples = fitted.get_samples()
    again = Predictive(fitted.model, samples)(jax.random.PRNGKey(0), X)
    np.testing.assert_allclose(again["mu"], samples["mu"], rtol=1e-5)
    labels = nb.PartialBNN(nb.FlaxMLP([6], 2), num_probabilistic_layers=0, num_classes=2)
    labels.fit(X, LABELS, **QUICK)
    samples = labels.get_samples()
    again = Predictive(labels.model, samples)(jax.random.PRNGKey(0), X)
    np.testing.assert_allclose(again["probs"], samples["probs"], rtol=1e-4, atol=1e-6)
    assert again["y"].shape == (2, 30)


def test_the_numpyro_model_draws_from_the_prior_before_a_fit(det: nb.DeterministicNN) -> None:
    drawn = Predictive(nb.BNN(NET).model, num_samples=500)(jax.random.PRNGKey(0), X)
    assert drawn["y"].shape == (500, 30, 1)
    assert np.std(drawn["nn/Dense0.kernel"]) == pytest.approx(1.0, rel=0.05)
    partial = nb.PartialBNN(NET, det.get_params(), num_probabilistic_layers=0)
    drawn = Predictive(partial.model, num_samples=3)(jax.random.PRNGKey(0), X)
    assert drawn["Dense1/Dense1.kernel"].shape == (3, 6, 1)
    wide = nb.BNN(NET, noise_prior=dist.LogNormal(0.0, 0.1))
    drawn = Predictive(wide.model, num_samples=200)(jax.random.PRNGKey(0), X)
    assert np.median(drawn["sig"]) == pytest.approx(1.0, abs=0.05)

    class Own:
        median, log_spread = 1.0, 1.0

    with pytest.raises(errors.OptionError, match="NumPyro knows its own distributions"):
        noise_distribution(Own(), 1.0, ())
    with pytest.raises(errors.TrainingError, match="not trained yet"):
        Predictive(nb.PartialBNN(NET).model, num_samples=3)(jax.random.PRNGKey(0), X)


def test_noises_of_two_heads_and_of_a_function_are_sites(det: nb.DeterministicNN) -> None:
    two = nb.FlaxMLP2Head([4], 1)
    heads = nb.HeteroskedasticPartialBNN(two, num_probabilistic_layers=0)
    heads.fit(X, 10 * Y, **QUICK)
    samples = heads.get_samples()
    again = Predictive(heads.model, samples)(jax.random.PRNGKey(0), X)
    np.testing.assert_allclose(again["sig"], samples["sig"], rtol=1e-4)
    np.testing.assert_allclose(heads.predict(X, samples)[1], heads.predict(X)[1], rtol=1e-4)

    def variance(x: Any, a: Any) -> Any:
        return a * jnp.ones(len(x))

    model = nb.VarianceModelHeteroskedasticBNN(
        NET, lambda x, p: variance(x, p["a"]), nb.priors.auto_normal_priors(variance)
    )
    model.fit(X, Y, 0, 2, **STILL)
    samples = model.get_samples()
    assert samples["a"].shape == (2,)
    assert np.all(samples["a"] > 0)  # where chains start, the variance is positive
    np.testing.assert_allclose(
        samples["sig"][:, :, 0], np.sqrt(samples["a"])[:, None] * np.ones(30), rtol=1e-5
    )
    again = Predictive(model.model, samples)(jax.random.PRNGKey(0), X)
    np.testing.assert_allclose(again["sig"], samples["sig"], rtol=1e-5)
    with pytest.raises(errors.OptionError, match="not positive at all X"):
        nb.VarianceModelHeteroskedasticBNN(NET, lambda x, p: -variance(x, p["a"] ** 2), lambda: {
            "a": numpyro.sample("a", dist.Normal(0.0, 1.0))
        }).fit(X, Y, 0, 1, **STILL)  # fmt: skip
    with pytest.raises(errors.OptionError, match="samples no parameter"):
        nb.VarianceModelHeteroskedasticBNN(NET, variance, lambda: {"a": 1.0})


# Networks


def test_a_network_has_weights_before_training_and_goes_on_from_them() -> None:
    det = nb.DeterministicNN(NET, 3, learning_rate=1e-6, swa_config={"start_pct": 0.0})
    initial = det.get_params()
    np.testing.assert_allclose(
        det.predict(X), NET.apply({"params": initial}, X, enable_dropout=False), rtol=1e-5
    )
    det.train(X, Y, 1)
    np.testing.assert_allclose(
        det.get_params()["Dense0"]["kernel"], initial["Dense0"]["kernel"], atol=1e-4
    )
    doubled = jax.tree.map(lambda w: 2 * w, initial)
    det.state = det.state.replace(params=doubled)
    np.testing.assert_allclose(
        det.predict(X),
        NET.apply({"params": doubled}, X, enable_dropout=False),
        rtol=1e-4,
        atol=1e-5,
    )
    chosen = nb.select_bayesian_components(det, "Dense0", "magnitude", 1)["Dense0"][0]
    assert np.abs(doubled["Dense0"]["kernel"]).max() == abs(doubled["Dense0"]["kernel"][chosen])
    det.train(X, Y, 1)
    np.testing.assert_allclose(
        det.get_params()["Dense0"]["kernel"], doubled["Dense0"]["kernel"], atol=1e-4
    )
    assert det.average_grads["Dense0"]["kernel"].shape == (3, 6)
    labels = nb.DeterministicNN(nb.FlaxMLP([4], 3), 3, loss="classification").set_data(X, LABELS)[1]
    np.testing.assert_array_equal(labels, np.eye(3)[LABELS])


def test_weights_that_a_fit_trained_keep_their_units(fitted: nb.PartialBNN) -> None:
    weights = fitted.deterministic_weights
    assert weights["Dense0"]["kernel"].shape == (3, 6)
    again = nb.PartialBNN(NET, weights, num_probabilistic_layers=0)
    assert again.deterministic_weights is weights
    again.fit(X, 100 + 7 * Y, 0, 1, **STILL)
    np.testing.assert_allclose(again.predict(X)[0], fitted.predict(X)[0], rtol=1e-4)
    assert type(jax.tree.map(lambda w: w, weights)) is dict
    again.deterministic_weights = {"Dense0": weights["Dense0"]}
    assert list(again.deterministic_weights) == ["Dense0"]


def test_architectures_are_called_as_in_neurobayes() -> None:
    net = nb.FlaxMLP([50], 1, hidden_dropout=0.5)
    variables = net.init(jax.random.PRNGKey(0), X)
    still = [net.apply(variables, X, enable_dropout=False) for _ in range(2)]
    np.testing.assert_array_equal(*still)
    dropped = net.apply(variables, X, rngs={"dropout": jax.random.PRNGKey(1)})
    assert np.abs(dropped - still[0]).max() > 1e-3


def test_layers_are_told_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    nb.print_layer_configs(nb.FlaxMLP([4], 1))
    assert "Dense1                      fc          1" in capsys.readouterr().out
    transformer = nb.FlaxTransformer(9, 8, 2, 1, 16)
    configs = nb.flax_nets.get_configs(transformer, pretty_print=False)
    assert [c["layer_type"] for c in configs[:3]] == ["embedding", "embedding", "attention"]
    assert configs[0]["num_embeddings"] == 9
    heads = nb.flax_nets.extract_configs(nb.FlaxConvNet2Head(1, [2], [3], 1), None, 1)
    sampled = [c["layer_name"] for c in heads if c["is_probabilistic"]]
    assert sampled == ["Dense0", "MeanHead", "LogScaleHead"]
    model = nb.PartialBayesianTransformer(transformer, num_probabilistic_layers=3)
    sampled = [c["layer_name"] for c in model.layer_configs if c["is_probabilistic"]]
    assert sampled == ["FinalDense1", "FinalDense2"]  # the norm before them is counted
    assert [c["is_probabilistic"] for c in nb.PartialBNN(NET).layer_configs] == [True, True]


def test_a_model_holds_what_it_was_made_of() -> None:
    prior = dist.HalfNormal(0.1)
    bnn = nb.BNN(NET, noise_prior=prior, pretrained_priors={"Dense0": {}})
    assert (bnn.nn, bnn.noise_prior, bnn.num_classes) == (NET, prior, None)
    assert bnn.pretrained_priors == {"Dense0": {}}
    assert nb.BNN(nb.FlaxMLP([4], 2), 2, noise_prior=prior).noise_prior is None
    model = nb.PartialBNN(NET, num_probabilistic_layers=0)
    assert model.architecture is model.deterministic_nn is NET
    assert model.deterministic_weights is None
    assert isinstance(model._model, nb.PartialBayesianMLP)
    ensemble = nb.EnsembleDeterministicNN(NET, 3, num_models=2)
    assert (len(ensemble.models), ensemble.trained) == (2, False)


# Options


def test_options_of_training_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}

    def trained(network: Any, X: Any, y: Any, folds: int, **options: Any) -> Any:
        found.update(options, folds=folds)
        raise InterruptedError

    monkeypatch.setattr(nbcore, "cross_fit", trained)
    for size, expected in ((None, 30), (7, 7), (1000, 30)):
        with pytest.raises(InterruptedError):
            nb.PartialBNN(NET).fit(
                X, Y, sgd_epochs=9, sgd_lr=0.3, sgd_batch_size=size, map_sigma=2.0,
                swa_config={"schedule": "cyclic"},
            )  # fmt: skip
        assert found["batch_size"] == expected
    wanted = {"epochs": 9, "learning_rate": 0.3, "sigma": 2.0, "swa": nbcore.SWA("cyclic")}
    assert {name: found[name] for name in wanted} == wanted
    with pytest.raises(InterruptedError):
        nb.PartialBNN(NET).fit(X, Y)
    assert (found["epochs"], found["folds"]) == (500, 5)
    with pytest.raises(InterruptedError):
        nb.PartialBNN(NET).fit(X[:3], Y[:3])  # a few measurements are enough to start with
    assert found["folds"] == 3


def test_options_of_sampling_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []

    def fit(self: Any, X: Any, y: Any, *steps: int, **options: Any) -> Any:
        found.append((steps, options))
        raise InterruptedError

    monkeypatch.setattr(nbcore.PartialBNN, "fit", fit)
    with pytest.raises(InterruptedError):
        nb.BNN(NET).fit(X, Y)
    assert found[-1][0] == (2000, 2000, 1)
    assert found[-1][1]["sampling"].chain_method == "sequential"
    assert found[-1][1]["backend"] == "numpyro-nuts"
    with pytest.raises(InterruptedError):
        nb.BNN(NET).fit(X, Y, 1, 2, 3, "parallel", progress_bar=False, device="cpu", rng_key=5)
    steps, options = found[-1]
    assert steps == (1, 2, 3)
    assert (options["sampling"].chain_method, options["progress"], options["key"]) == (
        "threads", False, 5,
    )  # fmt: skip


def test_the_noise_is_that_of_examples_that_the_weights_have_not_seen() -> None:
    """A network that fits 12 examples exactly is wrong on others by the noise and more."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 4)).astype(np.float32)
    y = rng.normal(size=12)
    model = nb.PartialBNN(nb.FlaxMLP([64], 1), num_probabilistic_layers=0)
    model.fit(x, y, **{**QUICK, "sgd_epochs": 200, "sgd_lr": 0.01, "map_sigma": 10.0})
    mean, variance = model.predict(x)
    assert np.sqrt(np.mean((mean[:, 0] - y) ** 2)) < 0.5
    assert np.sqrt(variance.mean()) > 0.7


def test_without_a_choice_the_first_and_the_output_layer_are_sampled() -> None:
    model = nb.PartialBNN(nb.FlaxMLP([6, 5], 1))
    model.fit(X, Y, **QUICK)
    names = {name.partition("/")[0] for name in model.get_samples()}
    assert names == {"Dense0", "Dense2", "sig", "mu"}


def test_patterns_name_layers_and_their_pairs_stay_pairs() -> None:
    net = nb.FlaxMLP([6, 5], 1)
    subset = choice.subset_of(net, ["Dense*"], None, {"Dense1": [(0, 1)]})
    assert subset is not None
    split = subset.split(nbcore.as_network(net, example=X[:1]), net.init(jax.random.key(0), X))
    shapes = {path: shape for path, shape in split.shapes.items() if "kernel" in path}
    assert shapes == {
        "params/Dense0/kernel": (3, 6),
        "params/Dense1/kernel": (1,),
        "params/Dense2/kernel": (5, 1),
    }


def test_diagnostics_are_those_of_layers(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    samples = {
        "nn/Dense0.kernel": rng.normal(size=(2, 200, 3)),
        "Dense1_kernel_prob": rng.normal(size=(2, 200, 2)) + np.array([0.0, 5.0])[:, None, None],
        "sig": rng.normal(size=(2, 200)),
    }
    found = MCMCDiagnostics().run_diagnostics(samples)
    assert found["by_layer"]["Dense0"]["percent_bad"] == 0
    assert found["by_layer"]["Dense1"]["percent_bad"] == 100
    assert found["overall"]["total_params"] == 5
    assert [each["param"] for each in found["worst_params"]] == ["Dense1_kernel_prob"]
    assert "Dense1" in capsys.readouterr().out


def test_helpers_do_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nb.utils.split_in_batches(np.arange(5), 2)[2].tolist() == [4]
    assert nb.utils.split_dict({"a": np.arange(5)}, 3)[1]["a"].tolist() == [3, 4]
    assert nb.utils.calculate_sigma(np.array([[3.0, 4.0]])) == pytest.approx(np.sqrt(12.5))
    assert nb.utils.infer_device("cpu").platform == "cpu"
    assert nb.utils.put_on_device(None, 1, 2) == (1, 2)
    assert nb.utils.put_on_device("cpu", np.ones(2))[0].shape == (2,)
    nested = {"MLPLayerModule_0": {"Dense0": {"kernel": 1.0, "bias": 2.0}}}
    assert nb.utils.flatten_params_dict(nested) == {"Dense0": {"kernel": 1.0, "bias": 2.0}}
    draws = {"nn/a.b.kernel": np.array([1.0, 3.0]), "sig": np.array([1.0, 2.0])}
    assert nb.utils.get_prior_means_from_samples(draws) == {"a": {"b": {"kernel": 2.0}}}
    assert nb.utils.get_flax_compatible_dict(draws)["sig"].tolist() == [1.0, 2.0]
    low, high = nb.utils.confidence_interval(np.zeros(1), np.ones(1))
    assert (low[0], high[0]) == (-1.96, 1.96)
    matplotlib.use("Agg")
    monkeypatch.setattr(nb.utils, "get_rhats", lambda model: np.array([1.0, 1.1]))
    nb.utils.plot_rhats(None)
    assert pyplot.gca().get_xlabel() == "R-hat"
    pyplot.close()


def test_priors_are_distributions_of_numpyro_and_statements_of_models() -> None:
    assert nb.priors.gamma_dist(input_vec=np.array([0.0, 4.0])).concentration == 2
    assert nb.priors.uniform_dist(input_vec=np.array([-1.0, 3.0])).low == -1
    assert nb.priors.normal_dist(1.0).loc == 1.0

    def place() -> Any:
        nb.priors.place_uniform_prior("u", 0.0, 1.0)
        nb.priors.place_gamma_prior("g", 2.0)
        nb.priors.place_halfnormal_prior("h", 2.0)
        return nb.priors.auto_priors(lambda x, t, a: a, 2, "lognormal", 1.0)()

    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as sites:
        place()
    assert {n: type(s["fn"]).__name__ for n, s in sites.items()} == {
        "u": "Uniform", "g": "Gamma", "h": "HalfNormal", "a": "LogNormal",
    }  # fmt: skip
    assert sites["a"]["fn"].loc == 1.0


# The page


def test_each_line_of_the_page_names_its_tests() -> None:
    page = PAGE.read_text("utf-8").split("## Every name")[0]
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    heads = [row for row in rows if row.endswith("| test |")]
    assert len(heads) == 3
    named = [row for row in rows if row not in heads]
    assert len(named) > 60
    for row in named:
        tests = re.findall(r"`(\w+)::(\w+)`", row.rsplit("|", 2)[1])
        assert tests, row
        for file, test in tests:
            assert test in _tests(file), f"{file}::{test}"


def _tests(file: str) -> set[str]:
    """Return the names of the tests of a file, `names` for `test_neurobayes_names.py`."""
    own = TESTS / "plugins" / f"test_neurobayes_{file}.py"
    (path,) = [own] if own.exists() else TESTS.rglob(f"test_{file}.py")
    names = set(re.findall(r"^def (\w+)", path.read_text("utf-8"), re.M))
    return {name for name in names if name.startswith("test_") or file == "scripts"}
