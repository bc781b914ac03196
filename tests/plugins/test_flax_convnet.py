"""The convolutional networks compute what their docstrings say, in one to three dimensions."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore.errors import OptionError, ShapeError
from nbcore_flax import FlaxConvNet, FlaxConvNet2Head

KEY = jax.random.key(0)
ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "gelu": lambda z: z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) / 2,
}


# --- an independent convolutional network, in NumPy, one example at a time -------------------


def conv(p, x):
    """A sum over the offsets of the window; zeros outside, one more of them at the end."""
    sizes = p["kernel"].shape[:-2]
    padded = np.pad(x, [((n - 1) // 2, n - 1 - (n - 1) // 2) for n in sizes] + [(0, 0)])
    moved = (
        padded[tuple(slice(o, o + s) for o, s in zip(offset, x.shape, strict=False))]
        @ p["kernel"][offset]
        for offset in np.ndindex(*sizes)
    )
    return sum(moved) + p["bias"]


def pool(x):
    for axis in range(x.ndim - 1):
        half = x.shape[axis] // 2
        pairs = np.take(x, np.arange(2 * half), axis).reshape(
            *x.shape[:axis], half, 2, *x.shape[axis + 1 :]
        )
        x = pairs.max(axis=axis + 1)
    return x


def reference(params, x, net):
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])
    act = ACTIVATIONS[net.activation]
    for i in range(len(net.conv_layers)):
        x = pool(act(conv(p[f"Conv{i}"], x)))
    x = x.reshape(-1)
    for i in range(len(net.fc_layers)):
        x = act(x @ p[f"Dense{i}"]["kernel"] + p[f"Dense{i}"]["bias"])
    outputs = ("MeanHead", "LogScaleHead")
    outputs = outputs if "MeanHead" in p else (f"Dense{len(net.fc_layers)}",)
    return np.concatenate([x @ p[o]["kernel"] + p[o]["bias"] for o in outputs])


CASES = {
    "spectra": (FlaxConvNet(1, (3, 2), (4,), 2, "tanh", kernel_size=4), (11, 2)),
    "images": (FlaxConvNet(2, [3, 2], [4, 3], 1, "silu", kernel_size=(2, 3)), (5, 7, 1)),
    "images2": (FlaxConvNet2Head(2, (2,), (3,), 2, "relu", kernel_size=(3, 1)), (4, 3, 2)),
    "volumes": (FlaxConvNet(3, (2,), (), 1, "gelu", kernel_size=(3, 2, 1)), (3, 2, 4, 2)),
    "no convolution": (FlaxConvNet(1, (), (3,), 1), (4, 2)),
}


@functools.cache
def case(name):
    net, shape = CASES[name]
    x = jax.random.normal(KEY, (3, *shape))
    network = nb.as_network(net)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: rng.normal(scale=0.5, size=a.shape).astype(np.float32),
        jax.eval_shape(network.init, KEY, x),
    )
    return net, network, params, x


@pytest.mark.parametrize("name", CASES)
def test_the_network_equals_the_reference(name):
    net, network, params, x = case(name)
    expected = [reference(params, np.asarray(row, np.float64), net) for row in x]
    np.testing.assert_allclose(jax.jit(network.apply)(params, x), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_its_own_example_is_one_that_its_weights_fit(name):
    net, network, params, x = case(name)
    example = net.example_input(params["params"])
    net.check_inputs(example)
    own = jax.eval_shape(network.init, KEY, example)
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, params)
    by_data = nb.as_network(net, example=x).layers(params)
    assert by_data == network.layers(params)


def test_a_pair_is_the_whole_window_between_two_channels():
    _, network, params, _ = case("images")
    layers = {layer.name: layer for layer in network.layers(params)}
    assert [layer.kind for layer in layers.values()] == ["convolution"] * 2 + ["dense"] * 3
    (kernel,) = layers["Conv1"].weights
    assert (kernel.axes, kernel.pair_shape) == (("in", "out"), (3, 2))
    split = nb.ProbabilisticSubset.pairs({"Conv1": [(2, 0)]}).split(network, params)
    assert split.size == 2 * 3 + 1
    moved = split.merge({path: w + 1 for path, w in split.stochastic.items()})
    change = moved["params"]["Conv1"]["kernel"] - params["params"]["Conv1"]["kernel"]
    assert np.argwhere(np.abs(change).sum(axis=(0, 1))).tolist() == [[2, 0]]
    assert np.all(change[:, :, 2, 0] != 0)


def test_dropout_of_each_kind_is_on_in_training_only():
    x = jax.random.normal(KEY, (4, 6, 1))
    kinds = ("conv_dropout", "hidden_dropout", "output_dropout")
    nets = {kind: FlaxConvNet(1, (8,), (8,), 3, **{kind: 0.5}) for kind in kinds}
    run = jax.jit(lambda net, *args, **mode: nb.as_network(net).apply(*args, **mode),
                  static_argnums=0, static_argnames="train")  # fmt: skip
    params = nb.as_network(FlaxConvNet(1, (8,), (8,), 3)).init(KEY, x)
    still = run(FlaxConvNet(1, (8,), (8,), 3), params, x)
    for kind, net in nets.items():
        np.testing.assert_array_equal(run(net, params, x), still)
        drawn = run(net, params, x, train=True, key=KEY)
        dropped = np.asarray(drawn) == 0
        assert 0 < dropped.sum() < dropped.size if kind == "output_dropout" else not dropped.any()
        if kind == "output_dropout":
            np.testing.assert_allclose(drawn[~dropped], 2 * still[~dropped], rtol=1e-6)
        else:
            assert not np.allclose(drawn, still)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"input_dim": 4}, r"input_dim=4.*1 \(spectra\)"),
        ({"kernel_size": (3,)}, r"kernel_size=\(3,\).*such as kernel_size=\(3, 3\)"),
        ({"kernel_size": 0}, "at least 1"),
        ({"kernel_size": 0.1}, r"kernel_size=0.1.*one integer"),
        ({"conv_layers": (4, 0)}, r"conv_layers=\(4, 0\)"),
        ({"fc_layers": (0,)}, r"fc_layers=\(0,\)"),
        ({"activation": "sliu"}, "Did you mean 'silu'"),
        ({"conv_dropout": 1.0}, r"conv_dropout=1.0.*\[0, 1\)"),
        ({"target_dim": 0}, "target_dim=0"),
    ],
)
def test_impossible_options(options, says):
    with pytest.raises(OptionError, match=says):
        FlaxConvNet(**options)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((2, 8, 8), r"\(2, 8, 8\).*\(examples, height, width, channels\).*X\[..., None\]"),
        ((2, 8, 8, 8, 1), r"needs \(examples, height, width, channels\)\."),
        ((2, 8, 3, 1), r"size 8 x 3; each of the 2 .*at most 1 conv_layers"),
        ((2, 8, 0, 1), r"size 8 x 0"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_while_tracing_too(shape, says):
    net = FlaxConvNet(2, (2, 2), (2,))
    with pytest.raises(ShapeError, match=says):
        net.check_inputs(np.zeros(shape))
    with pytest.raises(ShapeError, match=says):
        jax.eval_shape(nb.as_network(net).init, KEY, jnp.zeros(shape))
