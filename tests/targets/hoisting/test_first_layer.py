"""A few stochastic rows of a layer with known input cost a few rows, and change no density."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore.targets.hoisting import first_layer
from nbcore_flax import FlaxTransformer

S = nb.ProbabilisticSubset
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 60, size=(7, 5))
ROWS = RNG.normal(size=(6, 40)).astype(np.float32)


def dense(p, x):
    return jnp.tanh(x @ p["in"]["kernel"]) @ p["out"]["kernel"]


def transposed(p, x):
    """Storage (out, in), one example at a time, as some frameworks have it."""
    return jax.vmap(lambda row: p["in"]["weight"] @ row)(x)


def lookup(p, x):
    return jnp.tanh(p["embed"]["embedding"][x]).sum(axis=1) @ p["out"]["kernel"]


def arrays(**shapes):
    return {
        name: {part: jnp.asarray(RNG.normal(size=shape) / 4, jnp.float32)}
        for name, (part, shape) in shapes.items()
    }


def plain(fn):
    return nb.as_network((lambda key, x: None, fn))


CASES = {
    "dense": (
        plain(dense), arrays(**{"in": ("kernel", (40, 9)), "out": ("kernel", (9, 1))}), ROWS,
        S.pairs({"in": [(3, 1), (3, 8), (39, 0), (17, 4)]}), "40,9",
    ),
    "embedding": (
        plain(lookup), arrays(embed=("embedding", (60, 4)), out=("kernel", (4, 1))), TOKENS,
        S.pairs({"embed": [(int(TOKENS[0, 0]), 1), (int(TOKENS[3, 2]), 3), (59, 0)]}), "60,4",
    ),
}  # fmt: skip


SINGLE = pytest.param(False, id="single", marks=pytest.mark.slow)


@pytest.mark.parametrize("x64", [SINGLE, pytest.param(True, id="double", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_those_of_the_whole_layer(name, x64):
    network, params, x, subset, shape = CASES[name]
    with jax.enable_x64(x64):
        dtype = jnp.float64 if x64 else jnp.float32
        params = jax.tree.map(lambda a: jnp.asarray(a, dtype), params)
        y = RNG.normal(size=len(x))
        target = nb.Target.build(network, params, subset, x, y, likelihood=nb.Gaussian(noise=0.5))
        position = target.initial_position(jax.random.key(1), jitter=0.5)

        def whole(z):
            outputs = network.apply(target.split.merge(z["weights"]), jnp.asarray(x))
            each = target.likelihood.log_prob(outputs, jnp.asarray(y, dtype)[:, None], {})
            return target.log_prior(z) + jnp.sum(each)

        text = str(jax.make_jaxpr(jax.grad(target.log_density))(position))
        assert f"[{shape}]" not in text  # nothing of the size of the leaf is left
        tolerance = 1e-10 if x64 else 1e-5
        for f, g in zip(
            *(
                jax.tree.leaves(jax.value_and_grad(h)(position))
                for h in (target.log_density, whole)
            ),
            strict=True,
        ):
            np.testing.assert_allclose(
                f, g, rtol=tolerance, atol=tolerance * float(jnp.abs(g).max())
            )


def test_of_a_residual_layer_one_known_sum_is_stored():
    def residual(p, x):
        h = x @ p["in"]["kernel"] + p["in"]["bias"]
        return jnp.tanh(x + h) @ p["out"]["kernel"]

    params = arrays(**{"in": ("kernel", (40, 40)), "out": ("kernel", (40, 1))})
    params["in"]["bias"] = jnp.asarray(RNG.normal(size=40), jnp.float32)
    target = nb.Target.build(
        plain(residual), params, S.pairs({"in": [(3, 1), (17, 4)]}), ROWS, np.zeros(6)
    )
    weights = jax.tree.map(lambda w: w + 0.5, target.split.position)
    assert weights["in/bias"].size == 2
    expected = residual(target.split.merge(weights), ROWS)
    np.testing.assert_allclose(target.outputs(weights), expected, rtol=1e-5, atol=1e-5)
    stored = sorted(a.shape for a in jax.tree.leaves(target.blocks) if a.shape[:1] == (6,))
    # Two entries of x that the stochastic rows read, the sum x K + x, and y.
    assert [int(np.prod(shape[1:])) for shape in stored if np.prod(shape) > 6] == [2, 40]


def test_rows_of_an_axis_that_is_stored_last():
    layers = (
        nb.Layer("in", "dense", (nb.Leaf("in/weight", "kernel", (9, 40), (1, 0), ("in", "out")),)),
    )
    network = nb.Network.from_functions(lambda k, x: None, transposed, layers=lambda p: layers)
    params = {"in": {"weight": jnp.asarray(RNG.normal(size=(9, 40)), jnp.float32)}}
    subset = S.pairs({"in": [(39, 0), (2, 8)]})
    target = nb.Target.build(network, params, subset, ROWS, RNG.normal(size=(6, 9)))
    weights = jax.tree.map(lambda w: w + 1, target.split.position)
    expected = transposed(target.split.merge(weights), ROWS)
    np.testing.assert_allclose(target.outputs(weights), expected, rtol=1e-5, atol=1e-5)
    assert "[9,40]" not in str(jax.make_jaxpr(target.outputs)(weights))


def test_many_rows_and_few_columns_of_them_are_merged_as_a_whole():
    network, params, *_ = CASES["dense"]
    for pairs in ([(i, 0) for i in range(21)], [(i, i % 9) for i in range(40)]):
        assert not first_layer.stochastic_rows(S.pairs({"in": pairs}).split(network, params))
    small = arrays(**{"in": ("kernel", (31, 9)), "out": ("kernel", (9, 1))})
    assert not first_layer.stochastic_rows(S.pairs({"in": [(0, 0)]}).split(network, small))


@pytest.mark.slow
def test_a_partly_stochastic_embedding_below_attention():
    net = FlaxTransformer(
        vocab_size=60, d_model=4, nhead=2, num_layers=1, dim_feedforward=4, max_seq_length=5,
        pad_token_id=0,
    )  # fmt: skip
    params = net.init(jax.random.key(0), jnp.asarray(TOKENS))
    pairs = {"TokenEmbed": [(int(TOKENS[0, 0]), 1), (int(TOKENS[3, 2]), 3)],
             "Block0_Attention": {"query": [(0, 1, 1)]}}  # fmt: skip
    target = nb.Target.build(net, params, S.pairs(pairs), TOKENS, np.arange(7.0))
    weights = jax.tree.map(lambda w: w + 0.5, target.split.position)
    expected = net.apply(target.split.merge(weights), TOKENS)
    np.testing.assert_allclose(target.outputs(weights), expected, rtol=1e-4, atol=1e-5)
