"""What holds for every ready-made architecture: two heads, ways of choosing, the contract."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore.common import plugins
from nbcore.errors import OptionError
from nbcore.estimators.choice import Choice
from nbcore.estimators.frozen import Examples, FrozenNetwork
from nbcore.testing import NetworkCase, parametrize_with_checks
from nbcore_flax import (
    FlaxConvNet,
    FlaxConvNet2Head,
    FlaxMLP,
    FlaxMLP2Head,
    FlaxTransformer,
    FlaxTransformer2Head,
)

KEY = jax.random.key(0)
TOKENS = jnp.array([[3, 1, 4, 1], [2, 6, 5, 0], [5, 1, 0, 0]])
ROWS = jax.random.normal(KEY, (3, 4))
SMALL = {
    "vocab_size": 7, "d_model": 4, "nhead": 2, "num_layers": 1, "dim_feedforward": 3,
    "pad_token_id": 0, "max_seq_length": 4, "target_dim": 2,
}  # fmt: skip
CONV = {"conv_layers": (2, 3), "fc_layers": (4,), "target_dim": 2}
INPUTS = {n: jax.random.normal(KEY, (3, *(5, 4, 4)[:n], 2)) for n in (1, 2, 3)}

NETS = {
    "mlp": (FlaxMLP((4, 3), 2), ROWS),
    "mlp-2head": (FlaxMLP2Head((4, 3), 2), ROWS),
    "convnet-1d": (FlaxConvNet(1, **CONV), INPUTS[1]),
    "convnet-2d": (FlaxConvNet(2, **CONV), INPUTS[2]),
    "convnet-3d": (FlaxConvNet(3, **CONV), INPUTS[3]),
    "convnet-2head": (FlaxConvNet2Head(2, **CONV, kernel_size=(2, 3)), INPUTS[2]),
    "transformer": (FlaxTransformer(**SMALL), TOKENS),
    "transformer-2head": (FlaxTransformer2Head(**SMALL), TOKENS),
}
HEADS = ["MeanHead", "LogScaleHead"]
# The hidden layers from the last to the first; then the output layer or the layers of the heads.
HIDDEN = {
    "mlp": (["Dense1", "Dense0"], ["Dense2"]),
    "mlp-2head": (["Dense1", "Dense0"], HEADS),
    "convnet-1d": (["Dense0", "Conv1", "Conv0"], ["Dense1"]),
    "convnet-2d": (["Dense0", "Conv1", "Conv0"], ["Dense1"]),
    "convnet-3d": (["Dense0", "Conv1", "Conv0"], ["Dense1"]),
    "convnet-2head": (["Dense0", "Conv1", "Conv0"], HEADS),
    "transformer": (
        ["FinalDense1", "Block0_MLP_dense2", "Block0_MLP_dense1", "Block0_Attention"],
        ["FinalDense2"],
    ),
    "transformer-2head": (
        ["FinalDense1", "Block0_MLP_dense2", "Block0_MLP_dense1", "Block0_Attention"],
        HEADS,
    ),
}


@functools.cache
def made(name):
    """A network without example inputs, its layers found once, and random parameters."""
    net, x = NETS[name]
    network = nb.as_network(net)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: rng.normal(size=a.shape).astype(np.float32),
        jax.eval_shape(network.init, KEY, x),
    )
    layers = network.layers(params)
    return nb.Network.from_functions(network.init, network.apply, layers=lambda _: layers), params


def chosen(name, **way):
    """The layers, and how many of their weights, an estimator would sample."""
    network, params = made(name)
    frozen = FrozenNetwork(network, params, None, np.arange(0), None, None, None)
    subset = Choice(**way).resolve(frozen, Examples(None, None))
    split = subset.split(network, params)
    return sorted({split.owner(path)[0].name for path in split.paths}), split.size


def sizes(name, layers):
    network, params = made(name)
    return sorted(layers), sum(ly.size for ly in network.layers(params) if ly.name in layers)


@pytest.mark.parametrize("name", NETS)
def test_the_last_k_hidden_layers_and_the_outputs(name):
    hidden, outputs = HIDDEN[name]
    for k in range(len(hidden) + 1):
        assert chosen(name, num_probabilistic_layers=k) == sizes(name, hidden[:k] + outputs)


@pytest.mark.parametrize("name", NETS)
def test_layers_by_name_and_the_default(name):
    hidden, outputs = HIDDEN[name]
    names = [hidden[0], outputs[-1]]
    assert chosen(name, probabilistic_layer_names=names) == sizes(name, names)
    first = "TokenEmbed" if "transformer" in name else hidden[-1]
    assert chosen(name) == sizes(name, [first, *outputs])


@pytest.mark.parametrize("name", NETS)
def test_pairs_of_every_kernel(name):
    network, params = made(name)
    for layer in network.layers(params):
        corners = {
            leaf.component: [(0,) * len(leaf.pair_shape), tuple(n - 1 for n in leaf.pair_shape)]
            for leaf in layer.weights
        }
        if not corners:
            continue
        pairs = corners if layer.components else corners[""]
        by_pairs = chosen(name, probabilistic_neurons={layer.name: pairs})
        subset = nb.ProbabilisticSubset.pairs({layer.name: pairs})
        assert chosen(name, subset=subset) == by_pairs
        weights = sum(2 * leaf.size // leaf.num_pairs for leaf in layer.weights)
        biases = sum(2 for leaf in layer.weights if layer.bias_of(leaf))
        assert by_pairs == ([layer.name], weights + biases)


@pytest.mark.parametrize("name", ["mlp-2head", "convnet-2head", "transformer-2head"])
def test_two_heads_are_the_means_then_the_log_standard_deviations(name):
    net, x = NETS[name]
    network, params = made(name)
    single, _ = made({"convnet-2head": "convnet-2d"}.get(name, name.removesuffix("-2head")))
    if name == "convnet-2head":  # with the windows of its sibling
        single = nb.as_network(FlaxConvNet(2, **CONV, kernel_size=(2, 3)))
    output = HIDDEN[name.removesuffix("-2head") + "-2d" * (name == "convnet-2head")][1][0]
    weights = dict(params["params"])
    mean, log_scale = (weights.pop(head) for head in HEADS)
    both = [
        jax.jit(single.apply)({"params": {**weights, output: head}}, x)
        for head in (mean, log_scale)
    ]
    outputs = jax.jit(network.apply)(params, x)
    assert outputs.shape == (3, 2 * net.target_dim)
    np.testing.assert_allclose(outputs, np.concatenate(both, axis=1), rtol=1e-5, atol=1e-5)
    heads = [layer for layer in network.layers(params) if layer.is_output]
    assert [layer.name for layer in heads] == HEADS


@pytest.mark.parametrize(
    ("cls", "options"),
    [(FlaxMLP2Head, {}), (FlaxConvNet2Head, {}), (FlaxTransformer2Head, {"vocab_size": 3})],
)
def test_two_heads_are_not_for_classes(cls, options):
    sibling = cls.__name__.removesuffix("2Head")
    with pytest.raises(OptionError, match=rf"Type {sibling}\(..., classification=True\)"):
        cls(**options, classification=True)


@pytest.mark.parametrize("name", ["mlp", "mlp-2head", "convnet", "convnet-2head", "transformer"])
def test_configurations_name_the_architectures(name):
    options = {"vocab_size": 3} if name == "transformer" else {}
    built = plugins.build("network", name, options)
    assert type(built).__name__.lower() == f"flax{name.replace('-', '')}"


@pytest.mark.slow
@parametrize_with_checks([NetworkCase(net, x) for net, x in NETS.values()])
def test_the_contract_of_networks(subject, check):
    check(subject)
