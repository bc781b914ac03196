"""What a gradient costs is told before anything is compiled, and what a run costs before it."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore.sampling.backend import get_backend
from nbcore.sampling.cost import estimate_cost, no_u_turn_gradients
from nbcore.targets.hoisting.forward import Forward
from nbcore.targets.target import NetworkTarget
from nbcore_flax import FlaxMLP

S = nb.ProbabilisticSubset
X = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
NETWORK = nb.as_network(FlaxMLP(hidden_dims=(16, 32)), example=X[:1])
PARAMS = NETWORK.init(jax.random.key(0), X[:1])


def build(subset, **options) -> NetworkTarget:
    return nb.Target.build(NETWORK, PARAMS, subset, X, X[:, 0], **options)


def test_the_head_costs_the_head():
    cost = build(S.last(0)).cost()
    assert cost.layers == ("Dense2",)
    assert cost.hoisted_bytes == cost.wanted_bytes == 50 * 32 * 4
    assert cost.recomputed == 0
    assert cost.blocks[0][0] == 50
    head, all_layers = 50 * 32, 50 * (6 * 16 + 16 * 32 + 32)
    assert 4 * head < cost.flops < 8 * head  # forward and backward, and the likelihood
    assert 2 * all_layers < cost.plain_flops < 5 * all_layers  # forward, and the head backward


def test_everything_costs_everything():
    cost = build(S.everything()).cost()
    assert cost.layers == ("Dense0", "Dense1", "Dense2")
    assert cost.flops == pytest.approx(cost.plain_flops, rel=0.1)
    assert cost.hoisted_bytes == X.nbytes


def test_layers_below_are_not_computed_and_layers_above_are():
    assert build(S.layers("Dense1")).cost().layers == ("Dense1", "Dense2")
    assert build(S.pairs({"Dense0": [(0, 0)]})).cost().layers == ("Dense0", "Dense1", "Dense2")


def test_what_exceeds_the_byte_budget_is_computed_again_and_said():
    with pytest.warns(UserWarning, match=r"byte_budget=6400"):
        target = build(S.last(0), byte_budget=4000)
    cost = target.cost()
    assert cost.hoisted_bytes == 50 * 16 * 4 <= 4000 < cost.wanted_bytes == 6400
    assert cost.recomputed
    assert "Dense1" in cost.layers
    assert "byte_budget=6400" in str(cost)
    full = build(S.last(0))
    assert cost.flops > full.cost().flops
    position = full.initial_position(jax.random.key(1), jitter=0.3)
    found, expected = (jax.value_and_grad(t.log_density)(position) for t in (target, full))
    for f, g in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(f, g, rtol=1e-4, atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(S.last(0), byte_budget=6400)


def test_chunks_change_no_cost_and_are_told():
    target = build(S.layers("Dense1"), chunk_size=8)
    assert target.cost().blocks == ((50, 8),)
    assert "8 at a time" in str(target.cost())
    assert target.cost().flops == build(S.layers("Dense1")).cost().flops


def test_chunks_change_no_density_and_no_minibatch():
    whole, parts = build(S.layers("Dense1")), build(S.layers("Dense1"), chunk_size=8)
    assert whole.blocks[0].forward.chunk_size > 50
    position = whole.initial_position(jax.random.key(1), jitter=0.3)
    batch = whole.batch(jax.random.key(2), 0, 20)

    @jax.jit
    def everything(target, position):
        return (
            jax.value_and_grad(lambda z: target.log_density(z))(position),
            jax.value_and_grad(lambda z: target.minibatch_log_density(z, batch))(position),
            target.log_likelihood(position),
        )

    found, expected = everything(parts, position), everything(whole, position)
    for f, g in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(f, g, rtol=1e-4, atol=1e-3)


def test_a_network_that_mixes_examples_is_hoisted_as_a_whole():
    def graph(params, x):
        hidden = jnp.exp((x - x.mean(axis=0)) @ params["a"]["kernel"])
        return jnp.tanh(hidden @ hidden.T @ hidden / 99) @ params["b"]["kernel"]

    network = nb.as_network((lambda key, x: None, graph))
    params = {"a": {"kernel": jnp.ones((6, 4)) / 9}, "b": {"kernel": jnp.ones((4, 1))}}
    target = nb.Target.build(network, params, S.layers("b"), X, X[:, 0])
    assert not target.has_minibatches
    assert target.cost().hoisted_bytes == 50 * 4 * 4
    assert target.cost().layers == ("b",)
    weights = jax.tree.map(lambda w: 2 * w, target.split.position)
    np.testing.assert_allclose(target.outputs(weights), 2 * graph(params, X), rtol=1e-5)
    forward = Forward.build(network, target.split, X[:7])
    found = forward.outputs(weights, forward.features(target.split, X[:7]))
    np.testing.assert_allclose(found, 2 * graph(params, X[:7]), rtol=1e-5)


@pytest.mark.parametrize("num_warmup", [100, 400])
@pytest.mark.parametrize("spread", [1.0, 0.1, 0.01])
def test_trajectories_of_gaussians_are_foretold_within_a_factor_of_two(spread, num_warmup):
    size = 20
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(size, size)))[0]
    deviations = np.geomspace(spread, 1.0, size)
    precision = jnp.asarray(rotation / deviations**2 @ rotation.T, jnp.float32)
    target = nb.Target.from_log_density(lambda x: -0.5 * x @ precision @ x, jnp.zeros(size))
    options = {"num_warmup": num_warmup, "num_samples": 200, "num_chains": 1}
    posterior = nb.sample(target, key=1, progress=False, **options)
    gradient = jax.jit(jax.grad(target.log_density))
    backend = get_backend("numpyro-nuts")
    steps = {"side_by_side": 1, "gradient": gradient, "start": target.start}
    both = estimate_cost(target, backend, 1.0, **options, **steps).num_gradients
    after = no_u_turn_gradients(gradient, target.start, 1023, 0.8)
    taken = posterior.info.num_gradients
    assert after is not None
    assert 0.5 <= after[1] * 200 / taken["sampling"] <= 2
    assert 0.5 <= both / sum(taken.values()) <= 2


@pytest.mark.parametrize("stiff", [30.0, 200.0, 3000.0])
def test_one_narrow_direction_is_foretold_within_a_factor_of_two(stiff):
    """As the noise is beside weights that only the prior knows."""
    precision = jnp.ones(33).at[0].set(stiff)
    target = nb.Target.from_log_density(lambda x: -0.5 * x @ (precision * x), jnp.zeros(33))
    backend = get_backend("numpyro-nuts", adapt_mass_matrix=False)
    count = {"num_warmup": 200, "num_samples": 300, "num_chains": 1}
    posterior = nb.sample(target, backend, progress=False, **count)
    first, _ = no_u_turn_gradients(jax.jit(jax.grad(target.log_density)), target.start, 1023, 0.8)
    assert 0.5 <= first * 300 / posterior.info.num_gradients["sampling"] <= 2


def test_the_estimate_multiplies_steps_chains_and_rows():
    target = build(S.last(0))
    count = {"num_warmup": 30, "num_samples": 20, "num_chains": 4, "side_by_side": 2}
    cost = estimate_cost(target, get_backend("blackjax-mclmc", num_moves=1), 0.5, **count)
    assert (cost.num_gradients, cost.seconds) == (400, 100)
    cost = estimate_cost(target, get_backend("sgld", batch_size=5), 0.5, **count)
    assert cost.seconds == pytest.approx(50)  # 10 leaps


def test_a_density_without_curvature_is_not_foretold():
    for gradient in (jnp.zeros_like, lambda x: jnp.full_like(x, jnp.nan)):
        assert no_u_turn_gradients(gradient, jnp.ones(3), 1023, 0.8) is None
