"""Any flax module, linen or nnx, is the same function as a network."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import nbcore_flax
from nbcore.common.paths import leaf_paths
from nbcore.errors import NetworkError
from nbcore.networks.network import Padding, as_network
from nbcore_flax.linen_adapter import LinenNetwork
from nbcore_flax.nnx_adapter import NnxNetwork

KEY = jax.random.key(0)


def inputs(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(7), shape)


def parameters(network, x):
    """Random parameters: cheaper than initialized ones, and no bias or statistic is trivial."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(network.init, KEY, x))
    rng = np.random.default_rng(0)
    return structure.unflatten([rng.uniform(0.1, 1, a.shape).astype(np.float32) for a in leaves])


# --- modules as users write them -----------------------------------------------------------


class ConvNet(nn.Module):
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x, training=False):
        x = nn.Conv(4, (3, 3), padding=self.padding)(x)
        x = nn.BatchNorm(use_running_average=not training)(x)
        x = nn.relu(x).mean(axis=(1, 2))
        x = nn.Dropout(0.5, deterministic=not training)(x)
        return nn.Dense(2, name="head")(x)


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x, *, train: bool):
        x = nn.RNN(nn.LSTMCell(3))(x)
        x = nn.BatchNorm()(x[:, -1], not train)
        return nn.Dense(1)(x)


class Setup(nn.Module):
    """Modules made in setup, mode told by `deterministic`."""

    def setup(self):
        self.first = nn.Dense(4)
        self.norm = nn.LayerNorm(use_scale=False)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Dense(1)

    def __call__(self, x, deterministic=True):
        return self.last(self.drop(self.norm(self.first(x)), deterministic=deterministic))


class Several(nn.Module):
    """Layers that shapes alone would misread, in an order that names do not follow."""

    @nn.compact
    def __call__(self, x):  # (n, 6, 3)
        x = nn.DenseGeneral((2, 5), name="z_split")(x)
        x = nn.DenseGeneral(4, axis=(-2, -1), name="b_join")(x)
        return nn.ConvTranspose(2, (3,), transpose_kernel=True, name="a_up")(x).mean(axis=1)


class WithList(nn.Module):
    widths: list

    @nn.compact
    def __call__(self, x):
        return nn.Sequential([nn.Dense(width) for width in self.widths])(x)


LINEN = {
    "conv": (ConvNet(), inputs(3, 6, 6, 2), {"training": False}),
    "recurrent": (Recurrent(), inputs(3, 5, 2), {"train": False}),
    "setup": (Setup(), inputs(3, 2), {}),
    "several": (Several(), inputs(3, 6, 3), {}),
    "list": (WithList([4, 1]), inputs(3, 2), {}),
}


class NnxMLP(nnx.Module):
    def __init__(self, rngs):
        widths = (2, 5, 4, 1)
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(widths)])
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = self.drop(nnx.tanh(layer(x)))
        return self.layers[-1](x)


class NnxConvNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.out = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.norm(self.conv(x))).mean(axis=(1, 2)))


class NnxAttention(nnx.Module):
    def __init__(self, rngs):
        self.attend = nnx.MultiHeadAttention(2, 4, dropout_rate=0.5, decode=False, rngs=rngs)
        self.a_out = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.a_out(self.attend(x).mean(axis=1))


class NnxRecurrent(nnx.Module):
    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.LSTMCell(2, 3, rngs=rngs), rngs=rngs)
        self.dense = nnx.Linear(3, 1, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.rnn(x)[:, -1])


NNX = {
    "mlp": (NnxMLP, inputs(3, 2)),
    "conv": (NnxConvNet, inputs(3, 5, 5, 2)),
    "attention": (NnxAttention, inputs(3, 5, 4)),
    "recurrent": (NnxRecurrent, inputs(3, 5, 2)),
}


def nnx_module(name):
    cls, x = NNX[name]
    module = cls(nnx.Rngs(0))
    if isinstance(module, NnxConvNet):  # statistics that differ from those of any batch
        module.norm.mean[...] = jnp.arange(4.0)
        module.norm.var[...] = jnp.arange(1.0, 5.0)
    return module, x


# --- linen ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LINEN)
def test_linen_apply_is_the_modules_own_bit_for_bit(name):
    module, x, mode = LINEN[name]
    network = as_network(module, example=x)
    assert isinstance(network, LinenNetwork)
    params = parameters(network, x)
    own = jax.eval_shape(functools.partial(module.init, **mode), KEY, x)
    assert leaf_paths(params) == leaf_paths(own)
    expected = jax.jit(functools.partial(module.apply, **mode))(params, x)
    np.testing.assert_array_equal(jax.jit(network.apply)(params, x), expected)
    if set(params) == {"params"}:
        np.testing.assert_array_equal(jax.jit(network.apply)(params["params"], x), expected)
        bare = [layer.name for layer in network.layers(params["params"])]
        assert bare == [layer.name for layer in network.layers(params)]


def test_linen_init_is_the_modules_own():
    module, x, _ = LINEN["setup"]
    params = as_network(module).init(KEY, x)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6), params, module.init(KEY, x)
    )


def test_linen_layers_of_a_recurrent_network_with_statistics():
    module, x, _ = LINEN["recurrent"]
    network = as_network(module, example=x)
    params = parameters(network, x)
    layers = {layer.name: layer for layer in network.layers(params)}
    assert list(layers) == ["LSTMCell_0", "batch_stats/BatchNorm_0", "BatchNorm_0", "Dense_0"]
    assert [layer.kind for layer in layers.values() if layer.size] == ["recurrent", "norm", "dense"]
    assert [layer.name for layer in layers.values() if layer.is_output] == ["Dense_0"]
    state = layers["batch_stats/BatchNorm_0"]
    assert {leaf.role for leaf in state.leaves} == {"state"}
    assert state.size == 0
    assert set(layers["LSTMCell_0"].components) == {"ii", "if", "ig", "io", "hi", "hf", "hg", "ho"}
    covered = sorted(leaf.path for layer in layers.values() for leaf in layer.leaves)
    assert covered == sorted(leaf_paths(params))


def test_linen_call_order_comes_from_the_trace_and_kinds_from_the_modules():
    module, x, _ = LINEN["several"]
    network = as_network(module, example=x)
    layers = network.layers(parameters(network, x))
    assert [layer.name for layer in layers] == ["z_split", "b_join", "a_up"]
    assert [layer.kind for layer in layers] == ["dense", "dense", "convolution"]
    assert [layer.is_output for layer in layers] == [False, False, True]
    (split,), (join,), (up,) = (layer.weights for layer in layers)
    assert (split.axes, split.pair_shape) == (("in", "out0", "out1"), (3, 2, 5))
    assert (join.axes, join.pair_shape) == (("in0", "in1", "out"), (2, 5, 4))
    assert (up.axes, up.pair_shape) == (("in", "out"), (4, 2))
    assert layers[0].bias_of(split).axes == ("out0", "out1")


def test_pair_of_a_transposed_convolution_connects_its_two_channels():
    module = nn.ConvTranspose(3, (2,), transpose_kernel=True)
    x = inputs(1, 4, 2)
    network = as_network(module, example=x)
    params = parameters(network, x)
    (layer,) = network.layers(params)
    (kernel,) = layer.weights
    entries = kernel.entries(np.array([[1, 2]])).ravel()
    flat = jnp.ravel(params["params"]["kernel"]).at[entries].add(1.0)
    moved = {"params": params["params"] | {"kernel": flat.reshape(kernel.shape)}}
    change = network.apply(moved, x) - network.apply(params, x)
    assert (np.abs(change).max(axis=(0, 1)) > 0).tolist() == [False, False, True]
    only_other = x.at[..., 1].set(0.0)
    same = network.apply(moved, only_other), network.apply(params, only_other)
    np.testing.assert_array_equal(*same)


def test_norm_without_scale_is_a_norm():
    module, x, _ = LINEN["setup"]
    network = as_network(module, example=x)
    layers = network.layers(parameters(network, x))
    named = [(layer.name, layer.kind) for layer in layers]
    assert named == [("first", "dense"), ("norm", "norm"), ("last", "dense")]


def test_without_an_example_the_order_is_unknown():
    module, x, _ = LINEN["setup"]
    network = as_network(module)
    assert {layer.order for layer in network.layers(parameters(network, x))} == {None}


@pytest.mark.parametrize("name", ["conv", "recurrent"])
def test_batch_norm_uses_stored_statistics_in_training_too(name):
    module, x, mode = LINEN[name]
    network = as_network(module)
    params = parameters(network, x)
    kept = jax.tree.map(np.array, params)
    flag = next(iter(mode))
    apply = jax.jit(functools.partial(network.apply, train=True, key=KEY))
    out = apply(params, x)
    if name == "recurrent":  # no dropout: the mode makes no difference
        expected = jax.jit(functools.partial(module.apply, **{flag: False}))(params, x)
        np.testing.assert_array_equal(out, expected)
        alone = [apply(params, x[i : i + 1]) for i in range(len(x))]
        np.testing.assert_allclose(out, np.concatenate(alone), rtol=1e-5, atol=1e-6)
    else:
        assert not np.allclose(out, jax.jit(network.apply)(params, x))
    jax.tree.map(np.testing.assert_array_equal, kept, params)


@pytest.mark.parametrize("name", ["conv", "setup"])
def test_linen_dropout_is_drawn_from_the_key(name):
    module, x, _ = LINEN[name]
    network = as_network(module)
    params = parameters(network, x)
    draw = jax.jit(functools.partial(network.apply, params, x, train=True))
    still = jax.jit(functools.partial(network.apply, params, x))
    np.testing.assert_array_equal(draw(key=KEY), draw(key=jax.random.key(0)))
    np.testing.assert_array_equal(draw(key=KEY), draw(key=jax.random.PRNGKey(0)))
    assert not np.array_equal(draw(key=KEY), draw(key=jax.random.key(1)))
    np.testing.assert_array_equal(still(key=KEY), still())
    with pytest.raises(NetworkError, match="key="):
        draw()


def test_linen_networks_are_static_arguments():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def apply(network, params, x):
        traces.append(network)
        return network.apply(params, x)

    x = inputs(3, 2)
    for module, again, traced in (
        (nn.Dense(2), nn.Dense(2), 1),
        (nn.Dense(3), nn.Dense(3), 2),
        (LINEN["list"][0], LINEN["list"][0], 3),
        (WithList([4, 1]), WithList([4, 1]), 5),  # lists cannot be hashed: equal by identity
    ):
        first, second = as_network(module, example=x), as_network(again)
        params = parameters(first, x)
        apply(first, params, x)
        apply(second, params, x)
        assert len(traces) == traced


def test_padding_is_read_where_it_is_a_padding():
    class Padded(nn.Module):
        padding = Padding(1, 3)

        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(x)

    assert as_network(Padded()).padding == Padding(1, 3)
    assert as_network(ConvNet()).padding is None


# --- nnx -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NNX)
def test_nnx_apply_is_the_modules_own_bit_for_bit(name):
    module, x = nnx_module(name)
    before = nnx.state(module)
    network = as_network(module, example=x)
    assert isinstance(network, NnxNetwork)
    params = network.params
    jax.jit(functools.partial(network.apply, train=True))(params, x, key=KEY)
    out = jax.jit(network.apply)(params, x)
    bare = jax.jit(network.apply)(params["params"], x)
    after = nnx.state(module)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert a is b
    module.eval()
    expected = nnx.jit(lambda module, x: module(x))(module, x)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(bare, expected)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_nnx_params_are_the_values_of_the_module():
    module, _ = nnx_module("conv")
    params = as_network(module).params
    np.testing.assert_array_equal(params["params"]["conv"]["kernel"], module.conv.kernel[...])
    np.testing.assert_array_equal(params["state"]["norm"]["mean"], np.arange(4.0))


def test_nnx_state_and_weights_can_be_replaced():
    module, x = nnx_module("conv")
    network = as_network(module)
    params = network.params
    params["state"] = jax.tree.map(lambda a: a + 1.0, params["state"])
    params["params"]["out"]["bias"] += 2.0
    module.norm.mean[...] += 1.0
    module.norm.var[...] += 1.0
    module.out.bias[...] += 2.0
    module.eval()
    np.testing.assert_array_equal(network.apply(params, x), module(x))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp", [("layers/0", "dense"), ("layers/1", "dense"), ("layers/2", "dense")]),
        ("conv", [("conv", "convolution"), ("norm", "norm"), ("out", "dense")]),
        ("attention", [("attend", "attention"), ("a_out", "dense")]),
        ("recurrent", [("rnn/cell", "recurrent"), ("dense", "dense")]),
    ],
)
def test_nnx_layers(name, expected):
    module, x = nnx_module(name)
    network = as_network(module, example=x)
    params = network.params
    layers = network.layers(params)
    assert [(layer.name, layer.kind) for layer in layers if layer.size] == expected
    assert [layer.name for layer in layers if layer.is_output] == [expected[-1][0]]
    state = [leaf for layer in layers if not layer.size for leaf in layer.leaves]
    assert {leaf.role for leaf in state} <= {"state"}
    assert len(state) == (2 if name == "conv" else 0)
    covered = sorted(leaf.path for layer in layers for leaf in layer.leaves)
    assert covered == sorted(leaf_paths(params))
    bare = [layer.name for layer in network.layers(params["params"])]
    assert bare == [name for name, _ in expected]


def test_nnx_attention_pairs_are_head_by_head():
    module, x = nnx_module("attention")
    network = as_network(module, example=x)
    attention = network.layers(network.params)[0]
    shapes = {leaf.component: (leaf.axes, leaf.pair_shape) for leaf in attention.weights}
    assert shapes["query"] == (("in", "head", "feature"), (4, 2, 2))
    assert shapes["out"] == (("head", "feature", "out"), (2, 2, 4))


@pytest.mark.parametrize("name", ["mlp", "attention"])
def test_nnx_dropout_is_drawn_from_the_key(name):
    module, x = nnx_module(name)
    network = as_network(module)
    params = network.params
    draw = jax.jit(functools.partial(network.apply, params, x, train=True))
    still = jax.jit(functools.partial(network.apply, params, x))
    np.testing.assert_array_equal(draw(key=KEY), draw(key=jax.random.key(0)))
    np.testing.assert_array_equal(draw(key=KEY), draw(key=jax.random.PRNGKey(0)))
    assert not np.array_equal(draw(key=KEY), draw(key=jax.random.key(1)))
    np.testing.assert_array_equal(still(key=KEY), still())
    with pytest.raises(NetworkError, match="key="):
        draw()


def test_nnx_batch_norm_uses_stored_statistics_in_training_too():
    module, x = nnx_module("conv")
    network = as_network(module)
    params = network.params
    out = network.apply(params, x, train=True)
    np.testing.assert_array_equal(out, network.apply(params, x))


def test_nnx_networks_are_static_arguments_and_know_their_values():
    module, x = nnx_module("mlp")
    other = NnxMLP(nnx.Rngs(1))
    held = jax.jit(lambda network: network.params, static_argnums=0)
    assert as_network(module) == as_network(module, example=x)
    assert hash(as_network(module)) == hash(as_network(module))
    assert as_network(module) != as_network(other)
    held(as_network(module))
    kernel = held(as_network(other))["params"]["layers"][0]["kernel"]
    np.testing.assert_array_equal(kernel, other.layers[0].kernel[...])
    apply = jax.jit(lambda network, p, x: network.apply(p, x), static_argnums=0)
    network = as_network(module)
    params = network.params
    np.testing.assert_allclose(apply(network, params, x), network.apply(params, x), rtol=1e-5)


def test_nnx_gradients_and_vmap_go_through():
    module, x = nnx_module("recurrent")
    network = as_network(module)
    params = network.params
    one = jax.grad(lambda p, x: network.apply(p, x[None])[0, 0])
    each = jax.jit(jax.vmap(one, in_axes=(None, 0)))(params, x)
    whole = jax.jit(jax.grad(lambda p: network.apply(p, x).sum()))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a.sum(0), b, rtol=1e-4, atol=1e-5), each, whole
    )


# --- the plugin ----------------------------------------------------------------------------


def test_other_models_are_not_claimed():
    assert nbcore_flax.nbcore_as_network(object(), None) is None


def test_module_hints_reach_the_network():
    class Hinted(nn.Module):
        def check_inputs(self, x):
            raise ValueError(f"seen {x}")

        def example_input(self, params):
            return jnp.ones((1, params["first"]["kernel"].shape[0]))

        @nn.compact
        def __call__(self, x):
            return nn.Dense(1, name="a_last")(nn.Dense(2, name="first")(x))

    network = as_network(Hinted())
    layers = network.layers(parameters(network, inputs(2, 3)))
    assert [(layer.name, layer.order) for layer in layers] == [("first", 0), ("a_last", 1)]
    with pytest.raises(ValueError, match="seen 3"):
        network.check_inputs(3)


def run_python(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_plugin_imports_nothing_heavy():
    run_python(
        "import sys, nbcore_flax as f\n"
        "assert f.nbcore_as_network(3, None) is None\n"
        "assert 'convnet-2head' in [s.name for s in f.nbcore_register_networks()]\n"
        "assert not {'flax', 'jax', 'optax'} & set(sys.modules)\n"
        "assert f.FlaxMLP.__name__ == 'FlaxMLP' and 'FlaxTransformer' in dir(f)\n"
    )


def test_missing_flax_is_named():
    run_python(
        "import sys; sys.modules['flax'] = None\n"
        "import nbcore_flax\n"
        "from nbcore.errors import MissingExtraError\n"
        "try:\n"
        "    nbcore_flax.FlaxTransformer\n"
        "except MissingExtraError as error:\n"
        "    assert \"pip install 'nbcore[flax]'\" in str(error)\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
    )
