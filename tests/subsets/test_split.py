"""A split network is the network: merging is the exact inverse of splitting, for any subset."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import nbcore as nb
from nbcore.common.paths import leaves_by_path
from nbcore.errors import ShapeError, SubsetError
from nbcore_flax import FlaxConvNet, FlaxConvNet2Head, FlaxMLP, FlaxTransformer2Head

S = nb.ProbabilisticSubset
KEY = jax.random.key(0)
TOKENS = jnp.array([[3, 1, 4, 1, 0, 0], [5, 2, 6, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
ROWS = jax.random.normal(KEY, (3, 4))
IMAGES = jax.random.normal(KEY, (3, 5, 5, 2))


class ConvNet(nn.Module):
    """A network as a user writes it, with running statistics."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), name="stem")(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.relu(nn.Conv(4, (3,), name="rows")(x))
        return nn.Dense(2, name="head")(x.mean(axis=(1, 2)))


class Attentive(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.heads = nnx.List([nnx.Linear(4, 1, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)])

    def __call__(self, x):
        h = self.norm(self.attention(x)).mean(axis=1)
        return jnp.concatenate([head(h) for head in self.heads], axis=1)


def plain_init(key, x):
    keys = jax.random.split(key, 3)
    return {
        "z": {"kernel": jax.random.normal(keys[0], (x.shape[1], 5)), "bias": jnp.zeros(5)},
        "a": [jax.random.normal(keys[1], (5, 2)), jax.random.normal(keys[2], (2,))],
        "count": jnp.arange(3),
    }


def plain_apply(params, x):
    h = jnp.tanh(x @ params["z"]["kernel"] + params["z"]["bias"])
    return h @ params["a"][0] + params["a"][1]


MODELS = {
    "transformer": lambda: (
        FlaxTransformer2Head(
            vocab_size=7, d_model=4, nhead=2, num_layers=1, dim_feedforward=4, pad_token_id=0,
            max_seq_length=6,
        ),
        TOKENS,
    ),
    "mlp": lambda: (FlaxMLP(hidden_dims=(5, 3)), ROWS),
    "convolution": lambda: (ConvNet(), IMAGES),
    "spectra": lambda: (FlaxConvNet(1, (2, 3), (4,)), IMAGES[:, 0]),
    "images": lambda: (FlaxConvNet2Head(2, (3,), (4,), kernel_size=(2, 3)), IMAGES),
    "volumes": lambda: (FlaxConvNet(3, (2,), (), kernel_size=2), IMAGES[..., None]),
    "nnx": lambda: (Attentive, IMAGES[:, 0, :, :].repeat(2, axis=2)),
    "plain": lambda: ((plain_init, plain_apply), ROWS),
}  # fmt: skip


class Case:
    """A network, parameters without a special value, inputs and what it computes."""

    def __init__(self, model, x):
        self.network = nb.as_network(model, example=x)
        rng = np.random.default_rng(0)
        self.params = jax.tree.map(
            lambda a: (
                jnp.asarray(rng.uniform(0.2, 0.9, a.shape), a.dtype)
                if jnp.issubdtype(a.dtype, jnp.floating)
                else a
            ),
            self.network.init(KEY, x),
        )
        self.layers = self.network.layers(self.params)
        self.apply = functools.partial(jax.jit(self.network.apply), x=x)
        self.outputs = np.asarray(self.apply(self.params))
        self.weights = {f.path for ly in self.layers for f in ly.leaves if f.role != "state"}


@functools.cache
def case(name: str) -> Case:
    return Case(*MODELS[name]())


def pairs_of(layer):
    """Strategy for pairs of one layer; by component where it has some."""

    def of(leaf):
        index = st.tuples(*(st.integers(0, n - 1) for n in leaf.pair_shape))
        return st.lists(index, min_size=1, max_size=3, unique=True)

    if not layer.components:
        return of(layer.weights[0])
    parts = {leaf.component: of(leaf) for leaf in layer.weights}
    return st.fixed_dictionaries({}, optional=parts).filter(bool)


def subsets_of(layers):
    """Strategy for subsets of every kind."""
    names = [ly.name for ly in layers if ly.size]
    with_pairs = {ly.name: pairs_of(ly) for ly in layers if ly.weights}
    pairs = st.fixed_dictionaries({}, optional=with_pairs).filter(bool)
    simple = st.one_of(
        st.lists(st.sampled_from(names), min_size=1, max_size=3).map(lambda n: S.layers(*n)),
        st.builds(lambda p, bias: S.pairs(p, include_bias=bias), pairs, st.booleans()),
        st.integers(0, sum(ly.is_hidden for ly in layers)).map(S.last),
        st.sampled_from([S.first_and_last(), S.everything()]),
    )
    join = lambda a, b, minus: a - b if minus else a | b  # noqa: E731
    return st.recursive(simple, lambda s: st.builds(join, s, s, st.booleans()), max_leaves=4)


def same_bits(a, b) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=12)
@given(st.data())
def test_merge_is_the_inverse_of_split(name, data):
    c = case(name)
    subset = data.draw(subsets_of(c.layers))
    masks = subset.masks(c.layers)
    size = sum(int(m.sum()) for m in masks.values())
    if size == 0:
        with pytest.raises(SubsetError, match="empty"):
            subset.split(c.network, c.params)
        return
    split = subset.split(c.network, c.params)
    assert split.size == size
    assert split.total_size == sum(leaves_by_path(c.params)[path].size for path in c.weights)

    merged = split.merge(split.stochastic)
    assert jax.tree.structure(merged) == jax.tree.structure(c.params)
    assert all(jax.tree.leaves(jax.tree.map(same_bits, merged, c.params)))
    assert same_bits(c.apply(merged), c.outputs)

    # host arrays here: eager updates of every new shape would be compiled one by one
    moved = split.merge({path: np.asarray(w) + 1 for path, w in split.stochastic.items()})
    before, after = leaves_by_path(c.params), leaves_by_path(moved)
    changed = {path: np.asarray(after[path]) != np.asarray(before[path]) for path in before}
    assert sum(int(m.sum()) for m in changed.values()) == split.size
    for path, where in changed.items():
        assert np.array_equal(where, masks[path]), path
        if path not in c.weights:
            assert same_bits(before[path], after[path]), path
    again = split.select(moved)
    assert all(same_bits(again[p], np.asarray(split.stochastic[p]) + 1) for p in split.paths)


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_matters_and_no_state_is_a_weight(name):
    c = case(name)
    split = S.everything().split(c.network, c.params)
    assert set(split.whole) == set(split.paths) == c.weights
    assert not split.indices
    assert set(split.frozen) == set(leaves_by_path(c.params)) - c.weights
    moved = split.merge({path: np.asarray(w) * 0.5 for path, w in split.stochastic.items()})
    assert not np.allclose(c.apply(moved), c.outputs)


def test_special_values_keep_their_bits():
    special = jnp.array([[-0.0, jnp.nan], [jnp.inf, 1e-42], [-jnp.inf, 0.0]], jnp.float32)
    network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))
    params = {"out": {"kernel": special}, "half": {"w": special.astype(jnp.bfloat16)}}
    for pairs in ({"out": [(0, 0), (1, 1)]}, {"half": [(0, 1), (2, 0)]}):
        split = S.pairs(pairs).split(network, params)
        merged = split.merge(split.stochastic)
        assert all(jax.tree.leaves(jax.tree.map(same_bits, merged, params)))
    assert split.stochastic["half/w"].dtype == jnp.bfloat16


def test_merge_works_under_jit_vmap_and_grad():
    c = case("plain")
    split = S.pairs({"z": [(1, 2), (0, 4)], "a": [(3, 1)]}).split(c.network, c.params)

    def total(weights, split):
        return jnp.sum(c.apply(split.merge(weights)) ** 2)

    gradient = jax.jit(jax.grad(total))(split.stochastic, split)
    full = jax.grad(lambda p: jnp.sum(c.apply(p) ** 2), allow_int=True)(c.params)
    for path, g in split.select(full).items():
        assert np.allclose(gradient[path], g, rtol=1e-5), path
    several = jax.tree.map(lambda w: jnp.stack([w, w + 1]), split.stochastic)
    both = jax.vmap(split.merge)(several)["z"]["kernel"]
    assert same_bits(both[0], c.params["z"]["kernel"])
    assert np.sum(both[1] != both[0]) == 2


def test_labels_name_every_number():
    c = case("transformer")
    split = S.pairs(
        {"MeanHead": [(2, 0)], "Block0_Attention": {"query": [(1, 0, 1), (3, 1, 0)]}}
    ).split(c.network, c.params)
    assert sorted(name for names in split.labels().values() for name in names) == [
        "Block0_Attention/query/bias[0, 1]", "Block0_Attention/query/bias[1, 0]",
        "Block0_Attention/query[1, 0, 1]", "Block0_Attention/query[3, 1, 0]",
        "MeanHead/bias[0]", "MeanHead[2, 0]",
    ]  # fmt: skip
    layer, leaf = split.owner("params/MeanHead/bias")
    assert (layer.name, leaf.role) == ("MeanHead", "bias")


def test_the_summary_adds_up():
    c = case("plain")
    split = S.pairs({"z": [(1, 2), (0, 2)]}).split(c.network, c.params)
    rows = [line.split() for line in split.summary().splitlines()[1:]]
    assert {r[0]: (int(r[-2]), int(r[-1])) for r in rows} == {
        "z": (3, 25), "a": (0, 12), "params": (0, 0), "total": (3, 37),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda w: {}, "expected .*Start from split.stochastic"),
        (lambda w: {**w, "more": jnp.ones(1)}, "'more'"),
        (lambda w: {p: a[:1] for p, a in w.items()}, r"shape \(1,\), expected \(2,\)"),
    ],
)
def test_merge_refuses_other_weights(wrong, says):
    c = case("plain")
    split = S.pairs({"z": [(1, 2), (0, 4)]}).split(c.network, c.params)
    with pytest.raises(ShapeError, match=says):
        split.merge(wrong(split.stochastic))
