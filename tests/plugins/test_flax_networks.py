"""The ready-made flax networks compute what their docstrings say, and refuse bad input."""

from __future__ import annotations

import functools
import importlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbcore_flax
from nbcore.errors import OptionError, ShapeError, TokenError
from nbcore.networks.network import Padding, as_network
from nbcore_flax import FlaxMLP, FlaxTransformer

KEY = jax.random.key(0)
SMALL = {"d_model": 4, "nhead": 2, "num_layers": 1, "dim_feedforward": 6, "max_seq_length": 9}
VOCAB = 7

ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "gelu": lambda z: z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) / 2,
}


def transformer(**options):
    """A small network with parameters that depend on nothing but its shapes."""
    net = FlaxTransformer(**({"vocab_size": VOCAB, "pad_token_id": 0} | SMALL | options))
    shapes = {k: options[k] for k in ("input_dim", "target_dim", "num_layers") if k in options}
    return net, as_network(net), moved_parameters(**shapes)


@functools.cache
def moved_parameters(**shapes):
    """Random parameters, so that no bias or scale is trivial."""
    vocab_size = None if "input_dim" in shapes else VOCAB
    net = FlaxTransformer(**({"vocab_size": vocab_size} | SMALL | shapes))
    x = jnp.zeros((1, 2), int) if vocab_size else jnp.zeros((1, 2, net.input_dim))
    leaves, structure = jax.tree.flatten(jax.eval_shape(as_network(net).init, KEY, x))
    rng = np.random.default_rng(0)
    return structure.unflatten(
        [rng.normal(scale=0.5, size=a.shape).astype(np.float32) for a in leaves]
    )


@functools.partial(jax.jit, static_argnums=0)
def run(network, params, x):
    return network.apply(params, x)


# --- an independent transformer, in NumPy, one example at a time ----------------------------


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def layer_norm(p, x):
    z = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return z * p["scale"] + p["bias"]


def attention(p, x):
    q, k, v = (
        np.einsum("ti,ihf->htf", x, p[part]["kernel"]) + p[part]["bias"][:, None, :]
        for part in ("query", "key", "value")
    )
    scores = np.exp(np.einsum("htf,hsf->hts", q, k) / np.sqrt(q.shape[-1]))
    mixed = np.einsum("hts,hsf->thf", scores / scores.sum(-1, keepdims=True), v)
    return np.einsum("thf,hfo->to", mixed, p["out"]["kernel"]) + p["out"]["bias"]


def reference(params, sequence, *, activation="silu", pooling="mean", num_layers=1):
    """The output for one sequence without its padding."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    act = ACTIVATIONS[activation]
    if sequence.ndim == 1:
        x = p["TokenEmbed"]["embedding"][sequence]
    else:
        x = dense(p["TokenEmbed"], sequence)
    x = x + p["PosEmbed"]["embedding"][: len(sequence)]
    for i in range(num_layers):
        x = layer_norm(p[f"Block{i}_LayerNorm1"], x + attention(p[f"Block{i}_Attention"], x))
        hidden = dense(p[f"Block{i}_MLP_dense2"], act(dense(p[f"Block{i}_MLP_dense1"], x)))
        x = layer_norm(p[f"Block{i}_LayerNorm2"], x + hidden)
    pooled = x.mean(0) if pooling == "mean" else x.sum(0)
    return dense(p["FinalDense2"], act(dense(p["FinalDense1"], pooled)))


TOKENS = np.array([[3, 1, 4, 1, 5], [2, 6, 0, 0, 0], [5, 0, 0, 0, 0]])
UNPADDED = [row[row != 0] for row in TOKENS]


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "silu", "pooling": "mean", "num_layers": 2},
        {"activation": "tanh", "pooling": "sum"},
        {"activation": "relu", "pooling": "mean"},
        {"activation": "gelu", "pooling": "sum"},
    ],
    ids=str,
)
def test_transformer_equals_the_reference(options):
    _, network, params = transformer(**options, target_dim=2)
    out = run(network, params, TOKENS)
    expected = [reference(params["params"], row, **options) for row in UNPADDED]
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)


def test_transformer_without_padding_reads_every_token():
    _, network, params = transformer(pad_token_id=None)
    expected = [reference(params["params"], row) for row in TOKENS]
    out = run(network, params, TOKENS)
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)


def test_transformer_on_continuous_sequences():
    net, network, params = transformer(vocab_size=None, input_dim=3, pad_token_id=None)
    x = np.asarray(jax.random.normal(KEY, (4, 5, 3)))
    expected = [reference(params["params"], row) for row in x]
    np.testing.assert_allclose(run(network, params, x), expected, rtol=2e-5, atol=2e-5)
    assert net.padding is None
    assert params["params"]["TokenEmbed"]["kernel"].shape == (3, 4)
    assert [layer.name for layer in network.layers(params)][:2] == ["TokenEmbed", "PosEmbed"]


def test_transformer_layers_in_call_order_with_one_output():
    _, network, params = transformer(num_layers=2)
    layers = network.layers(params)
    blocks = ("Attention", "LayerNorm1", "MLP_dense1", "MLP_dense2", "LayerNorm2")
    assert [layer.name for layer in layers] == [
        *("TokenEmbed", "PosEmbed"),
        *(f"Block{i}_{part}" for i in range(2) for part in blocks),
        *("FinalDense1", "FinalDense2"),
    ]
    assert [layer.order for layer in layers] == list(range(14))
    assert [layer.name for layer in layers if layer.is_output] == ["FinalDense2"]
    kinds = {layer.name: layer.kind for layer in layers}
    assert kinds["TokenEmbed"] == kinds["PosEmbed"] == "embedding"
    assert kinds["Block0_Attention"] == "attention"
    assert kinds["Block1_LayerNorm2"] == "norm"
    assert kinds["FinalDense1"] == "dense"
    assert sum(layer.size for layer in layers) == sum(a.size for a in jax.tree.leaves(params))


def test_transformer_pair_axes():
    _, network, params = transformer()
    layers = {layer.name: layer for layer in network.layers(params)}
    (embedding,) = layers["TokenEmbed"].weights
    assert (embedding.axes, embedding.pair_shape) == (("token", "feature"), (VOCAB, 4))
    attention_layer = layers["Block0_Attention"]
    parts = {leaf.component: leaf for leaf in attention_layer.weights}
    assert sorted(parts) == ["key", "out", "query", "value"]
    for part in ("query", "key", "value"):
        assert (parts[part].axes, parts[part].pair_shape) == (("in", "head", "feature"), (4, 2, 2))
        assert attention_layer.bias_of(parts[part]).axes == ("head", "feature")
    assert (parts["out"].axes, parts["out"].pair_shape) == (("head", "feature", "out"), (2, 2, 4))
    assert attention_layer.bias_of(parts["out"]).axes == ("out",)
    (head,) = layers["FinalDense2"].weights
    assert (head.axes, head.pair_shape) == (("in", "out"), (6, 1))


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(
        st.lists(st.integers(1, VOCAB - 1), min_size=1, max_size=5), min_size=3, max_size=3
    ),
    pooling=st.sampled_from(["mean", "sum"]),
)
def test_outputs_do_not_depend_on_the_amount_of_padding(rows, pooling):
    _, network, params = transformer(pooling=pooling)
    tight = np.array([row + [0] * (5 - len(row)) for row in rows])
    wide = np.pad(tight, ((0, 0), (0, 4)))
    np.testing.assert_allclose(
        run(network, params, wide), run(network, params, tight), rtol=2e-5, atol=2e-6
    )


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_rows_of_padding_alone_are_finite_and_so_are_their_gradients(pooling):
    _, network, params = transformer(pooling=pooling)
    x = jnp.array([[0, 0, 0], [1, 2, 0]])
    value, gradient = jax.jit(jax.value_and_grad(lambda p: network.apply(p, x).sum()))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradient))


def test_padding_of_the_network():
    assert transformer()[1].padding == Padding(axis=1, value=0)
    assert transformer(pad_token_id=3)[1].padding == Padding(axis=1, value=3)
    assert transformer(pad_token_id=None)[1].padding is None


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_dropout_is_drawn_from_the_key_in_training_only(kind):
    if kind == "transformer":
        _, network, params = transformer(dropout_rate=0.5)
        x = jnp.asarray(TOKENS)
    else:
        network, x = as_network(FlaxMLP(hidden_dropout=0.5)), jnp.ones((4, 3))
        params = network.init(KEY, x)
    draw = jax.jit(functools.partial(network.apply, params, x, train=True))
    np.testing.assert_array_equal(draw(key=KEY), draw(key=jax.random.key(0)))
    assert not np.array_equal(draw(key=KEY), draw(key=jax.random.key(1)))
    still = jax.jit(functools.partial(network.apply, params, x))
    np.testing.assert_array_equal(still(key=KEY), still())


def test_dropout_leaves_the_mean_of_a_linear_head_unchanged():
    network = as_network(FlaxMLP(hidden_dims=(50,), hidden_dropout=0.3))
    x = jnp.ones((1, 3))
    params = network.init(KEY, x)
    keys = jax.random.split(KEY, 2000)
    outs = jax.jit(jax.vmap(lambda k: network.apply(params, x, train=True, key=k)))(keys).ravel()
    error = outs.std() / np.sqrt(len(outs))
    assert abs(outs.mean() - network.apply(params, x)[0, 0]) < 4 * error


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"activation": "sliu"}, "Did you mean 'silu'"),
        ({"activation": "swish"}, "'gelu', 'relu', 'silu', 'tanh'"),
        ({"pooling": "men"}, "Did you mean 'mean'"),
        ({"d_model": 10, "nhead": 4}, "d_model=8"),
        ({"d_model": 2, "nhead": 4}, "d_model=4"),
        ({"vocab_size": None}, "vocab_size="),
        ({"input_dim": 2}, "Give one of them"),
        ({"pad_token_id": VOCAB}, "0 … 6"),
        ({"pad_token_id": -1}, "0 … 6"),
        ({"vocab_size": None, "input_dim": 2, "pad_token_id": 0}, "None with input_dim"),
        ({"dropout_rate": 1.0}, r"\[0, 1\)"),
        ({"num_layers": -1}, "num_layers"),
        ({"target_dim": 0}, "target_dim=0"),
        ({"max_seq_length": 0}, "max_seq_length=0"),
    ],
)
def test_impossible_transformer_options(options, says):
    with pytest.raises(OptionError, match=says):
        FlaxTransformer(**({"vocab_size": VOCAB} | options))


@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        (np.ones((2, 3)), TokenError, "dtype float.*astype"),
        (np.ones((2, 10), int), TokenError, "length 10.*max_seq_length=9.*max_seq_length=10"),
        (np.ones(3, int), ShapeError, r"\(3,\).*\(examples, length\)"),
        (np.ones((2, 0), int), ShapeError, r"\(2, 0\)"),
    ],
)
def test_bad_form_is_refused_while_tracing_too(x, error, says):
    net, network, params = transformer()
    for call in (
        lambda: network.check_inputs(x),
        lambda: net.check_inputs(x),
        lambda: jax.eval_shape(network.apply, params, x),
    ):
        with pytest.raises(error, match=says):
            call()


def test_bad_continuous_sequences_are_refused():
    net, _, _ = transformer(vocab_size=None, input_dim=3, pad_token_id=None)
    net.check_inputs(np.ones((2, 4, 3)))
    with pytest.raises(ShapeError, match=r"\(examples, length, 3\)"):
        net.check_inputs(np.ones((2, 4, 2)))


def test_tokens_outside_the_vocabulary_name_their_rows():
    net, _, _ = transformer()
    x = np.ones((9, 3), int)
    net.check_inputs(x)
    x[[2, 5], 1] = 7
    with pytest.raises(TokenError, match=r"token 7 .*0 … 6 \(rows 2, 5\).*vocab_size=8"):
        net.check_inputs(x)
    x[:] = -1
    with pytest.raises(TokenError, match=r"token -1 .*rows 0, 1, 2, 3, 4 and 4 more"):
        net.check_inputs(x)


def test_inputs_that_look_padded_warn_only_when_padding_is_not_masked():
    padded = np.array([[1, 2, 3, 4], [1, 2, 5, 5], [1, 2, 3, 5]])
    net, _, _ = transformer(pad_token_id=None)
    with pytest.warns(UserWarning, match=r"token 5 \(2 of 3 rows.*pad_token_id=5"):
        net.check_inputs(padded)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transformer(pad_token_id=5)[0].check_inputs(padded)
        net.check_inputs(np.array([[1, 5, 5], [5, 2, 3]]))  # 5 is a token like any other
        net.check_inputs(np.array([[1, 2, 5], [3, 4, 5]]))  # an end mark, not padding


def test_mlp_equals_the_formula():
    x = np.asarray(jax.random.normal(KEY, (5, 3)))
    params = as_network(FlaxMLP(hidden_dims=[4, 2], target_dim=3)).init(KEY, x)
    p = jax.tree.map(np.asarray, params["params"])
    for activation, act in ACTIVATIONS.items():
        network = as_network(FlaxMLP(hidden_dims=[4, 2], target_dim=3, activation=activation))
        expected = dense(p["Dense2"], act(dense(p["Dense1"], act(dense(p["Dense0"], x)))))
        np.testing.assert_allclose(run(network, params, x), expected, rtol=1e-5, atol=1e-6)
    layers = network.layers(params)
    assert [layer.name for layer in layers] == ["Dense0", "Dense1", "Dense2"]
    assert [layer.is_output for layer in layers] == [False, False, True]
    assert hash(network) == hash(as_network(FlaxMLP((4, 2), 3, activation)))


def test_classification_returns_logits():
    x = jnp.ones((2, 3))
    plain, classes = (FlaxMLP(target_dim=4, classification=c) for c in (False, True))
    params = plain.init(KEY, x)
    np.testing.assert_array_equal(plain.apply(params, x), classes.apply(params, x))
    _, network, params = transformer()
    _, classes, _ = transformer(classification=True)
    np.testing.assert_array_equal(run(network, params, TOKENS), run(classes, params, TOKENS))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"activation": "tan"}, "Did you mean 'tanh'"),
        ({"hidden_dims": (4, 0)}, "at least 1"),
        ({"target_dim": 0}, "target_dim=0"),
        ({"hidden_dropout": -0.1}, r"hidden_dropout=-0.1.*\[0, 1\)"),
        ({"output_dropout": 1.0}, r"output_dropout=1.0.*\[0, 1\)"),
    ],
)
def test_impossible_mlp_options(options, says):
    with pytest.raises(OptionError, match=says):
        FlaxMLP(**options)


def test_mlp_refuses_what_is_no_table():
    with pytest.raises(ShapeError, match=r"X\[:, None\]"):
        FlaxMLP().init(KEY, jnp.ones(3))


def test_specs_name_classes_that_exist():
    for spec in nbcore_flax.nbcore_register_networks():
        module, _, name = spec.target.partition(":")
        assert getattr(importlib.import_module(module), name) is getattr(nbcore_flax, name)
        assert spec.extra == "flax"
