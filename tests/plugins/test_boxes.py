"""Parameters in boxes: layers and subsets are those without."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx, struct
from flax.core import freeze

import nbcore as nb
from nbcore.errors import NetworkError

S = nb.ProbabilisticSubset
KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
Y = X[:, 0]


class Tagged(struct.PyTreeNode, nn.meta.AxisMetadata):
    """A box of the user's own."""

    value: Any

    def unbox(self):
        return self.value

    def replace_boxed(self, val):
        return self.replace(value=val)

    def add_axis(self, index, params):
        return self

    def remove_axis(self, index, params):
        return self


def tagged(init, names):
    return lambda *args: Tagged(init(*args))


def unboxed(init, names):
    return init


class Net(nn.Module):
    box: Any

    @nn.compact
    def __call__(self, x):
        kernel = self.box(nn.initializers.lecun_normal(), ("in", "out"))
        bias = self.box(nn.initializers.zeros, ("out",))
        x = nn.tanh(nn.Dense(4, kernel_init=kernel, bias_init=bias, name="a")(x))
        return nn.Dense(1, kernel_init=kernel, bias_init=bias, name="b")(x)


BOXES = pytest.mark.parametrize(
    "box", [nn.with_partitioning, nn.with_logical_partitioning, tagged], ids=lambda b: b.__name__
)


@BOXES
@pytest.mark.parametrize("freezes", [False, True])
def test_boxed_weights_are_those_without_boxes(box, freezes, tmp_path):
    boxed, plain = Net(box).init(KEY, X), Net(unboxed).init(KEY, X)
    assert jax.tree.structure(boxed) != jax.tree.structure(plain)
    boxed = freeze(boxed) if freezes else boxed
    network, other = nb.as_network(Net(box), example=X), nb.as_network(Net(unboxed), example=X)
    assert network.layers(boxed) == other.layers(plain)
    split = S.first_and_last().split(network, boxed)
    assert split.size == split.total_size == 21
    assert jax.tree.structure(split.params) == jax.tree.structure(plain)
    assert jax.tree.structure(network.init(KEY, X)) == jax.tree.structure(plain)
    det = nb.DeterministicNN(Net(box)).train(X, Y, epochs=1, progress=False)
    assert jax.tree.structure(det.params) == jax.tree.structure(plain)
    target = nb.Target.build(network, boxed, S.everything(), X, Y, likelihood=nb.Gaussian(1.0))
    posterior = nb.sample(target, "laplace", num_warmup=0, num_samples=2, progress=False)
    posterior.save(tmp_path / "run")
    loaded = nb.Posterior.load(tmp_path / "run", network)
    assert np.array_equal(loaded.predict(X).mean, posterior.predict(X).mean)


class BoxedBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        kernel = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
        bias = nn.with_partitioning(nn.initializers.zeros, ("out",))
        return nn.tanh(nn.Dense(4, kernel_init=kernel, bias_init=bias, name="dense")(x)), None


class BoxedStack(nn.Module):
    @nn.compact
    def __call__(self, x):
        stack = nn.scan(
            BoxedBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=3,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )  # fmt: skip
        x, _ = stack(name="blocks")(nn.Dense(4, name="first")(x), None)
        return nn.Dense(1, name="out")(x)


@pytest.mark.parametrize("freezes", [False, True])
def test_boxes_around_stacked_layers_leave_their_layers_apart(freezes):
    network, boxed = nb.as_network(BoxedStack(), example=X), BoxedStack().init(KEY, X)
    boxed = freeze(boxed) if freezes else boxed
    pair = S.pairs({"blocks/dense": [(2, 1)]}).split(network, boxed).labels()
    of_each = [f"blocks[{i}]/dense" for i in range(3)]
    assert sorted(name for names in pair.values() for name in names) == sorted(
        [*(f"{layer}/bias[1]" for layer in of_each), *(f"{layer}[2, 1]" for layer in of_each)]
    )
    assert S.layers("blocks[1]/dense").split(network, boxed).size == 4 * 4 + 4
    assert S.first_and_last().split(network, boxed).size == 16 + 5  # biases included


def test_a_pair_of_functions_with_boxes_is_refused_before_sampling():
    net = Net(nn.with_partitioning)
    pair, params = (net.init, net.apply), net.init(KEY, X)
    with pytest.raises(NetworkError, match=r"'params/a/kernel' they are .*Partitioned.*unbox"):
        nb.Target.build(pair, params, S.everything(), X, Y)
    plain = (lambda key, x: nn.meta.unbox(net.init(key, x)), net.apply)
    assert nb.Target.build(plain, plain[0](KEY, X), S.everything(), X, Y).split.size == 21


class Sharded(nnx.Module):
    def __init__(self, rngs):
        kernel = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("in", "out"))
        self.a = nnx.Linear(3, 4, kernel_init=kernel, rngs=rngs)
        self.b = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.b(nnx.tanh(self.a(x)))


def test_variables_with_sharding_and_states_are_plain_arrays():
    with nnx.use_eager_sharding(False):
        module = Sharded(nnx.Rngs(0))
        network = nb.as_network(module, example=X)
        assert "out_sharding" in module.a.kernel.get_metadata()
        assert [layer.size for layer in network.layers(network.params)] == [16, 5]
        state = nnx.state(module, nnx.Param)
        split = S.first_and_last().split(network, state)
        assert split.size == split.total_size == 21
        assert np.array_equal(network.apply(state, X), module(X))
        assert np.array_equal(network.apply(split.merge(split.stochastic), X), module(X))
