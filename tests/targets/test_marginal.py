"""Weights that are integrated out: the density of the rest, and their draws given it, are exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import on_devices
import pytest
from jax.flatten_util import ravel_pytree
from jax.scipy.stats import multivariate_normal
from samplers import Stay

import nbcore as nb
from nbcore.errors import OptionError, TargetError
from nbcore.posterior import diagnostics as nb_diagnostics
from nbcore.targets import marginalize as choice
from nbcore.targets.marginal import MarginalTarget, complete
from nbcore.targets.marginalize import marginalized
from nbcore_flax import FlaxMLP, FlaxMLP2Head

LIKELIHOODS: dict[str, nb.Likelihood] = {
    "unknown": nb.Gaussian(),
    "known": nb.Gaussian(noise=0.3),
    "shared": nb.Gaussian(shared=True, ratio=(1.0, 2.0)),
    "noise-model": nb.NoiseModel(
        lambda x, of: of["a"] + of["b"] * jnp.abs(x[:, 0]),
        {"a": nb.HalfNormal(1.0), "b": nb.HalfNormal(1.0)},
        num_targets=2,
    ),
}
PRIORS: dict[str, nb.Prior] = {
    "normal": nb.NormalPrior(0.7),
    "fan-in around zero": nb.NormalPrior(2.0, center="zero", fan_in=True),
    "unknown scale": nb.NormalPrior(nb.LogNormal(1.0, 0.5)),
}
SUBSETS = {
    "all": nb.ProbabilisticSubset.everything(),
    "output": nb.ProbabilisticSubset.layers("Dense2"),
    "pairs": nb.ProbabilisticSubset.layers("Dense0")
    | nb.ProbabilisticSubset.pairs({"Dense2": [(0, 1), (2, 0)]}),
}


def data(outputs: int, rows: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 3))
    y = np.sin(X @ rng.normal(size=(3, outputs))) + 0.1 * rng.normal(size=(rows, outputs))
    return X, y


def make(
    subset: str = "all", likelihood: str = "unknown", prior: str = "normal", **options: Any
) -> nb.Target:
    X, y = data(2)
    network = nb.as_network(FlaxMLP(hidden_dims=(4, 3), target_dim=2), example=X[:1])
    params = network.init(jax.random.key(0), X[:1])
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.result_type(float)), params)
    return nb.Target.build(
        network, params, SUBSETS[subset], X, y,
        likelihood=LIKELIHOODS[likelihood], prior=PRIORS[prior], **options,
    )  # fmt: skip


@jax.jit
def density(target: nb.Target, position: Any) -> jax.Array:
    return target.log_density(position)


def conditional(marginal: MarginalTarget, position: Any) -> tuple[jax.Array, jax.Array, Any]:
    """Mean and covariance of the weights that are integrated out, by the textbook, dense."""
    target = marginal.joint
    at = {p: target.start["weights"][p] for p in marginal.paths}
    zero, unravel = ravel_pytree(jax.tree.map(jnp.zeros_like, at))

    def log_density(u: jax.Array) -> jax.Array:
        weights = {**position["weights"], **unravel(u)}
        return target.log_density({**position, "weights": weights})

    curvature, slope = jax.jit(lambda u: (jax.hessian(log_density)(u), jax.grad(log_density)(u)))(
        zero
    )
    covariance = np.linalg.inv(-np.asarray(curvature))
    return covariance @ slope, covariance, jax.jit(log_density)


@pytest.mark.parametrize(
    ("subset", "likelihood", "prior"),
    [
        ("all", "unknown", "normal"),
        ("all", "noise-model", "unknown scale"),
        ("all", "known", "fan-in around zero"),
        ("output", "shared", "normal"),
        ("output", "known", "unknown scale"),
        ("pairs", "unknown", "unknown scale"),
        ("pairs", "shared", "fan-in around zero"),
    ],
)
def test_joint_is_marginal_times_conditional(subset: str, likelihood: str, prior: str) -> None:
    """log p(rest, u) = log p(rest) + log N(u | mean, covariance), at any rest and any u."""
    with jax.enable_x64(True):
        target = make(subset, likelihood, prior)
        marginal = nb.marginalize(target)
        position = marginal.initial_position(jax.random.key(1), jitter=0.3)
        mean, covariance, log_density = conditional(marginal, position)
        u = mean + 0.5 * jax.random.normal(jax.random.key(2), mean.shape)
        given_rest = multivariate_normal.logpdf(u, mean, covariance)
        expected = log_density(u) - given_rest
        np.testing.assert_allclose(density(marginal, position), expected, rtol=1e-9)


def test_chunks_change_nothing() -> None:
    with jax.enable_x64(True):
        position = nb.marginalize(make()).initial_position(jax.random.key(1), jitter=0.3)
        values, gradients = zip(*(
            jax.jit(jax.value_and_grad(nb.marginalize(make(**options)).log_density))(position)
            for options in ({}, {"chunk_size": 5})
        ), strict=True)  # fmt: skip
        np.testing.assert_allclose(*values, rtol=1e-12)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), *gradients
        )


def test_sequences_of_several_lengths_are_several_blocks() -> None:
    marginal = nb.marginalize(on_devices.make_target(layers=("embed", "out")))
    assert len(marginal.joint.blocks) == 2
    assert marginal.paths == ("out/kernel",)
    position = marginal.initial_position(jax.random.key(1), jitter=0.3)
    mean, covariance, log_density = conditional(marginal, position)
    expected = log_density(mean) - multivariate_normal.logpdf(mean, mean, covariance)
    np.testing.assert_allclose(density(marginal, position), expected, rtol=1e-4)


def test_weights_are_drawn_from_their_conditional() -> None:
    marginal = nb.marginalize(make())
    position = marginal.initial_position(jax.random.key(1), jitter=0.3)
    mean, covariance, _ = conditional(marginal, position)
    count = 10_000
    many = jax.tree.map(lambda a: jnp.broadcast_to(a, (1, count, *a.shape)), position)
    drawn = complete(marginal, jax.random.key(3), many)["weights"]
    flat = np.concatenate([drawn[p].reshape(count, -1) for p in marginal.paths], axis=1)
    error = np.sqrt(np.diag(covariance) / count)
    assert np.max(np.abs(flat.mean(axis=0) - mean) / error) < 4.5
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), (flat - mean).T)
    assert np.max(np.abs(whitened @ whitened.T / count - np.eye(len(mean)))) < 0.06


def test_draws_are_those_of_the_posterior() -> None:
    """A line with unknown noise: the exact posterior is an integral over one number."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(15, 2))
    y = x @ [1.0, -0.5] + 0.5 * rng.normal(size=15)
    network = nb.as_network((lambda key, x: {}, lambda p, x: x @ p["out"]["kernel"]))
    target = nb.Target.build(
        network, {"out": {"kernel": jnp.zeros((2, 1))}}, nb.ProbabilisticSubset.everything(), x, y
    )
    posterior = nb.sample(
        nb.marginalize(target), key=0, num_warmup=500, num_samples=2000, progress=False
    )
    noises = np.linspace(0.05, 3, 4000)
    log_p, means = [], []
    for noise in noises:
        covariance = np.eye(15) * noise**2 + x @ x.T
        log_p.append(
            -0.5 * (noise / y.std()) ** 2
            - 0.5 * (np.linalg.slogdet(covariance)[1] + y @ np.linalg.solve(covariance, y))
        )
        means.append(x.T @ np.linalg.solve(covariance, y))
    p = np.exp(np.array(log_p) - max(log_p))
    p /= p.sum()
    draws = posterior.flat_draws()["out/kernel"][..., 0]
    assert nb_diagnostics.ess_bulk(draws).min() > 2000
    error = nb_diagnostics.mcse_mean(draws)
    assert np.all(np.abs(draws.mean((0, 1)) - p @ np.array(means)) < 4.5 * error)
    noise = posterior.constrained()["likelihood"]["noise"]
    assert abs(noise.mean() - p @ noises) < 4.5 * nb_diagnostics.mcse_mean(noise)[0]
    assert posterior.predict(x).mean.shape == (15,)


def test_a_head_of_the_noise_stays() -> None:
    X, y = data(1)
    network = nb.as_network(FlaxMLP2Head(hidden_dims=(4,)), example=X[:1])
    params = network.init(jax.random.key(0), X[:1])
    target = nb.Target.build(
        network, params, nb.ProbabilisticSubset.everything(), X, y, likelihood=nb.Heteroskedastic()
    )
    names = {target.split.owner(path)[0].name for path in nb.marginalize(target).paths}
    heads = {layer.name for layer in target.split.layers if layer.name != "Dense0"}
    assert len(names) == 1
    assert names < heads


def test_same_key_same_draws_from_any_start_and_after_a_stop(tmp_path: Path) -> None:
    marginal = nb.marginalize(make())
    run = {"key": 1, "num_warmup": 30, "num_samples": 20, "num_chains": 2}
    run |= {"progress": False, "chunk_size": 10, "chain_method": "vectorized"}
    once = nb.sample(marginal, **run)

    def stop(report: Any) -> None:
        if (report.phase, report.done) == ("sampling", 10):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        nb.sample(marginal, **run | {"progress": stop}, checkpoint=tmp_path)
    phases: list[str] = []
    progress = {"progress": lambda report: phases.append(report.phase)}
    resumed = nb.sample(marginal, **run | progress, checkpoint=tmp_path)
    assert "warmup" not in phases  # it went on, and did not begin again
    jax.tree.map(np.testing.assert_array_equal, resumed.draws, once.draws)
    assert jax.tree.structure(once.draws) == jax.tree.structure(marginal.joint.start)
    last = jax.tree.map(lambda a: a[:, -1], once.draws)
    for init in ("laplace", last, marginal.marginal_position(last)):
        assert np.all(np.isfinite(nb.sample(marginal, init=init, **run).stats.log_density))


def test_members_of_an_ensemble_start_chains() -> None:
    """Each chain starts at its member, in what is not integrated out; the rest is drawn."""
    X, y = data(1, 30)
    ensemble = nb.EnsembleDeterministicNN(FlaxMLP(hidden_dims=(4,)), num_models=2)
    ensemble.train(X, y, epochs=3, key=0, progress=False)
    model = nb.PartialBNN(
        FlaxMLP(hidden_dims=(4,)), ensemble, subset=nb.ProbabilisticSubset.everything()
    )
    marginalized = nb.SamplingOptions(marginalize=True)
    model.fit(X, y, 0, 2, 2, backend=Stay(), sampling=marginalized, progress=False)
    for c, member in enumerate(ensemble.members):
        for path, trained in model.posterior.split.select(member.params).items():
            draws = model.posterior.draws["weights"][path][c]
            assert np.array_equal(draws[0], trained) == ("Dense0" in path)
            assert np.array_equal(draws[0], draws[1]) == ("Dense0" in path)


class Cauchy(nb.NormalPrior):
    """A prior that is not normal once it is resolved."""

    def resolve(self, split: Any) -> Any:
        return object()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "likelihood": ({"likelihood": nb.StudentT()}, "normal likelihood, and this one is StudentT"),
    "prior": ({"prior": Cauchy()}, "normal prior, and this one is object"),
    "hidden layer": ({"subset": nb.ProbabilisticSubset.layers("Dense0")}, "Dense0/kernel"),
    "nothing left": (
        {"subset": SUBSETS["output"], "likelihood": nb.Gaussian(noise=1.0)},
        "leaves nothing to sample",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_integrated_out_is_refused(name: str) -> None:
    options, message = REFUSED[name]
    X, y = data(1)
    network = nb.as_network(FlaxMLP(hidden_dims=(4, 3)), example=X[:1])
    options = {"subset": SUBSETS["all"], **options}
    target = nb.Target.build(
        network, network.init(jax.random.key(0), X[:1]), options.pop("subset"), X, y, **options
    )
    with pytest.raises(TargetError, match=message):
        nb.marginalize(target)


def test_auto_is_where_it_can_be() -> None:
    target = make()
    found = marginalized(target, "auto", ())
    assert found.integrated_out == ("params/Dense2/bias", "params/Dense2/kernel")
    for capabilities, options in (
        (("minibatch",), {}),
        ((), {"likelihood": "known", "subset": "output"}),
    ):
        plain = make(**options)
        assert marginalized(plain, "auto", capabilities) is plain
        with pytest.raises(TargetError):
            marginalized(plain, True, capabilities)
    X, y = data(1)
    line = nb.as_network((lambda key, x: {}, lambda p, x: x @ p["out"]["kernel"]))
    params = {"out": {"kernel": jnp.zeros((3, 1))}}
    plain = nb.Target.build(line, params, nb.ProbabilisticSubset.everything(), X, y)
    assert marginalized(plain, "auto", ()) is plain  # the noise alone would be left
    assert marginalized(plain, True, ()).integrated_out == ("out/kernel",)
    assert marginalized(plain, False, ()) is plain


def test_auto_is_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    target = make()
    size, terms = 3 * 2 + 2, 12 * 2  # kernel and bias of the output layer; numbers in y
    wanted = 6 * 4 * size * (terms + size)
    monkeypatch.setattr(choice, "AUTO_BYTES", wanted)
    assert marginalized(target, "auto", ()).integrated_out
    monkeypatch.setattr(choice, "AUTO_BYTES", wanted - 1)
    assert marginalized(target, "auto", ()) is target
    assert marginalized(target, True, ()).integrated_out
    monkeypatch.undo()
    monkeypatch.setattr(choice, "AUTO_SIZE", 5)
    assert marginalized(target, "auto", ()).integrated_out == ("params/Dense2/bias",)


@pytest.mark.slow
def test_a_bnn_that_is_told_nothing_integrates_out() -> None:
    X, y = data(1, 40)
    model = nb.BNN(FlaxMLP(hidden_dims=(3,))).fit(X, y, num_chains=2, progress=False)
    paths = ["params/Dense1/bias", "params/Dense1/kernel"]
    assert model.posterior.info.integrated_out == paths
    assert model.posterior.diagnostics(X).r_hat["output"].max() < 1.1
    plain = nb.BNN(FlaxMLP(hidden_dims=(3,)))
    plain.fit(X, y, num_samples=2000, num_chains=2, progress=False)
    assert not plain.posterior.info.integrated_out
    np.testing.assert_allclose(model.predict(X)[0], plain.predict(X)[0], atol=0.1)


def test_leaves_beyond_the_byte_budget_are_left_to_the_sampler() -> None:
    target = make()
    whole, bias = 6 * 4 * 8 * (24 + 8), 6 * 4 * 2 * (24 + 2)
    assert len(nb.marginalize(target, byte_budget=whole).paths) == 2
    assert nb.marginalize(target, byte_budget=whole - 1).paths == ("params/Dense2/bias",)
    with pytest.raises(TargetError, match=rf"2 weights of params/Dense2/bias.*byte_budget={bias}"):
        nb.marginalize(target, byte_budget=bias - 1)
    assert nb.marginalize(target, byte_budget=bias).paths == ("params/Dense2/bias",)


def test_memory_is_what_a_gradient_takes() -> None:
    """More weights than 512: what XLA says a gradient holds is within the budget's formula."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 2)), rng.normal(size=200)
    network = nb.as_network(
        (lambda key, x: {}, lambda p, x: jnp.tanh(x @ p["in"]["w"]) @ p["out"]["w"])
    )
    params = {"in": {"w": jnp.ones((2, 600))}, "out": {"w": jnp.ones((600, 1))}}
    target = nb.Target.build(network, params, nb.ProbabilisticSubset.everything(), X, y)
    marginal = nb.marginalize(target)
    assert marginal.paths == ("out/w",)
    gradient = jax.jit(jax.grad(lambda z, target: target.log_density(z)))
    memory = gradient.lower(marginal.start, marginal).compile().memory_analysis()
    formula = 4 * choice.MATRICES * 600 * (200 + 600)
    assert 0.3 < memory.temp_size_in_bytes / formula < 1.3


def test_fit_refuses_before_it_trains() -> None:
    X, y = data(1)
    reports: list[Any] = []
    with pytest.raises(OptionError, match="True, False or 'auto', got 'yes'"):
        nb.SamplingOptions(marginalize="yes")  # pyright: ignore[reportArgumentType]
    marginalized = nb.SamplingOptions(marginalize=True)
    model = nb.PartialBNN(FlaxMLP(hidden_dims=(4,)))
    with pytest.raises(TargetError, match="no minibatches"):
        model.fit(X, y, backend="sgld", sampling=marginalized, progress=reports.append)
    with pytest.raises(TargetError, match="StudentT"):
        nb.PartialBNN(FlaxMLP(hidden_dims=(4,)), likelihood=nb.StudentT()).fit(
            X, y, sampling=marginalized, progress=reports.append
        )
    assert not reports
    with pytest.raises(TargetError, match="no minibatches"):
        nb.sample(nb.marginalize(make()), "sgld", progress=False)
