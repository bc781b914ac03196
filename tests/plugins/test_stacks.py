"""Stacked layers: named, described and indexed one by one, in every framework."""

from __future__ import annotations

import itertools
import re

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from stacked import (
    MODELS,
    PARALLEL,
    SEQUENTIAL,
    SIZE,
    Block,
    LinenScan,
    Unrolled,
    X,
    network_and_params,
    unrolled,
)

import nbcore as nb
from nbcore.common.paths import leaves_by_path
from nbcore.errors import PairError, SelectionError, SubsetError, UnknownLayerError
from nbcore.networks.describe import layer_table
from nbcore.testing import NetworkCase, parametrize_with_checks

S = nb.ProbabilisticSubset
EVERY = pytest.mark.parametrize("name", MODELS)


def of_blocks(name):
    """The network, its parameters, and the layer `blocks/dense`."""
    network, params = network_and_params(name)
    (layer,) = (ly for ly in network.layers(params) if ly.name == "blocks/dense")
    return network, params, layer


def in_order(leaf, array):
    """An array of the stack as `(layers, in, out)`, or `(layers, out)`."""
    return np.transpose(np.asarray(array), leaf.pair_axes)


def chosen(split, layer):
    """Which entries are stochastic: kernel `(layers, in, out)` and bias `(layers, out)`."""
    (kernel,) = layer.weights
    return [in_order(leaf, split.mask(leaf)) for leaf in (kernel, layer.bias_of(kernel))]


@EVERY
def test_a_stack_is_described_as_one_of_its_layers(name):
    network, params, layer = of_blocks(name)
    (kernel,) = layer.weights
    bias = layer.bias_of(kernel)
    assert (layer.kind, kernel.role, bias.role) == ("dense", "kernel", "bias")
    assert (kernel.axes, kernel.pair_shape) == (("layer", "in", "out"), (SIZE, 4, 4))
    assert (bias.axes, bias.pair_shape) == (("layer", "out"), (SIZE, 4))
    order = "forward" if name in SEQUENTIAL else "parallel"
    assert kernel.stacks == bias.stacks == (nb.Stack("blocks", SIZE, order),)
    layers = network.layers(params)
    assert [ly.name for ly in layers] == ["first", "blocks/dense", "out"]
    assert [ly.is_output for ly in layers] == [False, False, True]
    line = next(ln for ln in layer_table(layers).splitlines() if ln.startswith("blocks/dense"))
    assert line.endswith("60  (in, out) 4x4 in each, the last is blocks[2]/dense")


@EVERY
def test_a_pair_is_in_all_layers_of_a_stack_or_in_one(name):
    network, params, layer = of_blocks(name)
    for key, pair, layers in [
        ("blocks/dense", (2, 1), range(SIZE)),
        ("blocks[*]/dense", (3, 1), range(SIZE)),
        ("blocks[1]/dense", (2, 1), [1]),
        ("blocks/dense[2]", (0, 3), [2]),
        ("blocks/dense", (1, 2, 1), [1]),
    ]:
        split = S.pairs({key: [pair]}).split(network, params)
        kernel, bias = chosen(split, layer)
        row, column = pair[-2:]
        assert np.argwhere(kernel).tolist() == [[i, row, column] for i in layers]
        assert np.argwhere(bias).tolist() == [[i, column] for i in layers]
        assert sorted(itertools.chain(*split.labels().values())) == sorted(
            [f"blocks[{i}]/dense[{row}, {column}]" for i in layers]
            + [f"blocks[{i}]/dense/bias[{column}]" for i in layers]
        )


@EVERY
def test_moving_one_layer_moves_the_outputs_of_its_layer(name):
    """`blocks[i]` is the i-th layer: against a network whose other layers do not change."""
    network, params, layer = of_blocks(name)
    for i in range(SIZE):
        split = S.layers(f"blocks[{i}]/dense").split(network, params)
        assert split.size == 20
        moved = split.merge({path: w + 1 for path, w in split.stochastic.items()})
        for leaf in layer.leaves:
            before, after = (leaves_by_path(p)[leaf.path] for p in (params, moved))
            change = in_order(leaf, after) - in_order(leaf, before)
            assert np.allclose(change[i], 1, atol=1e-6)
            assert not np.delete(change, i, axis=0).any()
        assert np.abs(network.apply(moved, X) - network.apply(params, X)).max() > 1e-4


@EVERY
def test_fan_in_and_prior_scales_are_those_of_one_layer(name):
    network, params, layer = of_blocks(name)
    split = S.everything().split(network, params)
    scales = nb.NormalPrior(fan_in=True).resolve(split).scale
    (kernel,) = layer.weights
    assert np.allclose(scales[kernel.path], 0.5)
    assert np.allclose(scales[layer.bias_of(kernel).path], 1)
    assert np.allclose(min(scales.values()), 0.5)
    own = nb.NormalPrior(scale={"**": 2.0, "blocks[1]/dense": 0.1}).resolve(split).scale
    by_layer = in_order(kernel, np.broadcast_to(own[kernel.path], kernel.shape))
    assert np.allclose(by_layer, np.array([2, 0.1, 2])[:, None, None])
    part = S.pairs({"blocks/dense": [(2, 1)]}).split(network, params)
    own = nb.NormalPrior(scale={"**": 2.0, "blocks[1]/dense": 0.1}).resolve(part).scale
    assert np.allclose(own[kernel.path], [2, 0.1, 2])


# --- a stack is the network without ---------------------------------------------------------


def as_unrolled(label):
    return re.sub(r"blocks\[(\d)\]", r"blocks_\1", label)


SUBSETS = {
    "everything": S.everything(),
    "first_and_last": S.first_and_last(),
    **{f"last({n})": S.last(n) for n in range(SIZE + 2)},
    "biases": S.layers("**/bias"),
    "kernels": S.layers(role="kernel"),
    "dense": S.layers("blocks*/dense", kind="dense"),
}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_every_rule_takes_what_it_takes_without_a_stack(axis, reverse):
    network = nb.as_network(LinenScan(axis, reverse), example=X)
    other = nb.as_network(Unrolled(reverse), example=X)
    params = network.init(jax.random.key(0), X)
    assert np.allclose(network.apply(params, X), other.apply(unrolled(params, axis), X), atol=1e-6)
    for name, subset in SUBSETS.items():
        split = subset.split(network, params)
        expected = subset.split(other, unrolled(params, axis))
        labels = [as_unrolled(label) for part in split.labels().values() for label in part]
        assert sorted(labels) == sorted(itertools.chain(*expected.labels().values())), name
        moved = split.merge({path: w + 0.5 for path, w in split.stochastic.items()})
        same = expected.merge({path: w + 0.5 for path, w in expected.stochastic.items()})
        assert jax.tree.all(jax.tree.map(np.array_equal, unrolled(moved, axis), same)), name


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_last_takes_the_layers_of_a_stack_one_by_one(name):
    network, params, layer = of_blocks(name)
    kernel, bias = chosen(S.last(2).split(network, params), layer)
    assert kernel.all(axis=(1, 2)).tolist() == bias.all(axis=1).tolist() == [False, True, True]
    assert S.last(2).split(network, params).size == 2 * 20 + 5
    with pytest.raises(SubsetError, match=r"4 \(first, blocks\[0\]/dense, blocks\[1\]/dense"):
        S.last(5).split(network, params)


@pytest.mark.parametrize("name", PARALLEL)
def test_last_takes_layers_that_are_called_at_once_together(name):
    network, params, _ = of_blocks(name)
    assert S.last(1).split(network, params).size == 60 + 5
    assert S.last(2).split(network, params).size == 81


# --- nested stacks, whole networks, what is no stack -----------------------------------------


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        stack = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return stack(name="inner")(nn.Dense(4, name="before")(x), None)[0], None


class Nested(nn.Module):
    @nn.compact
    def __call__(self, x):
        stack = nn.scan(Inner, variable_axes={"params": 1}, split_rngs={"params": True}, length=3)
        return nn.Dense(1, name="out")(stack(name="outer")(nn.Dense(4, name="first")(x), None)[0])


def test_stacks_in_stacks_have_a_number_each():
    network = nb.as_network(Nested(), example=X)
    params = network.init(jax.random.key(0), X)
    inner = params["params"]["outer"]["inner"]["dense"]
    assert (inner["kernel"].shape, inner["bias"].shape) == ((2, 3, 4, 4), (2, 3, 4))
    split = S.pairs({"outer[1]/inner[0]/dense": [(2, 3)]}).split(network, params)
    assert [len(w) for w in split.stochastic.values()] == [1, 1]
    moved = split.merge({path: w + 1 for path, w in split.stochastic.items()})
    change = moved["params"]["outer"]["inner"]["dense"]["kernel"] - inner["kernel"]
    assert np.argwhere(change).tolist() == [[0, 1, 2, 3]]
    sizes = {
        "outer/inner[0]/dense": 3 * 20,
        "outer[2]/inner/dense": 2 * 20,
        "outer[2]": 3 * 20,
        "outer/before[0]": 20,
        "outer[0]/*/dense/bias": 2 * 4,
    }
    for name, size in sizes.items():
        assert S.layers(name).split(network, params).size == size, name
    names = [
        sorted({label.rpartition("[")[0] for part in labels.values() for label in part})
        for labels in (S.last(n).split(network, params).labels() for n in (1, 2, 3, 4))
    ]
    last = "outer[2]/inner[1]/dense"
    assert names[0] == ["out", "out/bias", last, f"{last}/bias"]
    assert "outer[2]/inner[0]/dense" in names[1]
    assert "outer[2]/before" in names[2]
    assert "outer[1]/inner[1]/dense" in names[3]
    assert len(names[3]) == 10
    fan_in = nb.NormalPrior(fan_in=True).resolve(S.everything().split(network, params)).scale
    assert np.allclose(fan_in["params/outer/inner/dense/kernel"], 0.5)


def lifted(x):
    """Networks that were made under `vmap`, side by side."""
    inner = hk.transform(lambda x: hk.nets.MLP([4, 2], name="mlp")(x))
    make = jax.vmap(inner.init, in_axes=(0, None))
    key = hk.next_rng_key() if hk.running_init() else None
    params = hk.lift(lambda key, x: make(jax.random.split(key, 5), x), name="members")(key, x)
    return jax.vmap(inner.apply, in_axes=(0, None, None))(params, None, x).mean(axis=0)


class Ensemble(eqx.Module):
    members: eqx.nn.MLP

    def __init__(self, key):
        make = eqx.filter_vmap(lambda key: eqx.nn.MLP(3, 2, 4, 1, key=key))
        self.members = make(jax.random.split(key, 5))

    def __call__(self, x):
        return eqx.filter_vmap(lambda member: member(x))(self.members).mean(axis=0)


class Convolutions(nn.Module):
    """One layer under `vmap`, of which a trace sees a convolution in groups."""

    @nn.compact
    def __call__(self, x):
        stack = nn.vmap(
            nn.Conv, variable_axes={"params": 0}, split_rngs={"params": True},
            in_axes=None, axis_size=5,
        )  # fmt: skip
        return stack(2, (3,), name="members")(x[..., None]).mean(axis=(0, 2))


@pytest.mark.parametrize(
    ("model", "layer", "sizes"),
    [
        (hk.transform(lifted), "members[1]/mlp/~/linear_0", (16, 26)),
        (Ensemble, "members[1]/layers/0", (16, 26)),
        (Convolutions(), "members[1]", (8, 8)),
    ],
    ids=["haiku", "equinox", "linen convolutions"],
)
def test_members_that_are_whole_networks_are_a_stack(model, layer, sizes):
    network = nb.as_network(model, example=X)
    params = network.init(jax.random.key(0), X)
    assert S.layers(layer).split(network, params).size == sizes[0]
    split = S.layers("members[1]").split(network, params)
    assert split.size == sizes[1]
    assert 5 * split.size == split.total_size
    moved = split.merge({path: w + 1 for path, w in split.stochastic.items()})
    assert np.all(network.apply(moved, X) != network.apply(params, X))


def test_a_bias_that_the_layers_share_belongs_to_all_of_them():
    def apply(params, x):
        def step(h, kernel):
            return jnp.tanh(h @ kernel + params["dense"]["bias"]), None

        return jax.lax.scan(step, x @ params["first"]["kernel"], params["dense"]["kernel"])[0]

    params = {
        "first": {"kernel": jnp.ones((3, 4))},
        "dense": {"kernel": jnp.ones((SIZE, 4, 4)), "bias": jnp.ones(4)},
    }
    network = nb.as_network((lambda key, x: params, apply), example=X)
    assert S.pairs({"dense[1]": [(2, 1)]}).split(network, params).labels() == {
        "dense/bias": ["dense/bias[1]"],
        "dense/kernel": ["dense[1][2, 1]"],
    }


def attention(params, x):
    h = jnp.tanh(x[:, :, None] * params["embed"]["w"] + params["position"])
    q, k, v = (jnp.einsum("bti,ihf->bthf", h, params[n]["kernel"]) for n in ("q", "k", "v"))
    weights = jax.nn.softmax(jnp.einsum("bthf,bshf->bhts", q, k))
    mixed = jnp.einsum("bhts,bshf->bthf", weights, v)
    return jnp.einsum("bthf,hfo->bto", mixed, params["o"]["kernel"]).sum(axis=1)


def gates(params, x):
    def step(h, t):
        return jnp.tanh(h @ params["u"]["w"] + t[:, None] @ params["v"]["w"]), None

    return jax.lax.scan(step, jnp.zeros((len(x), 4)), x.T)[0]


NO_STACKS = {
    "attention": (
        attention,
        {
            "embed": {"w": jnp.ones((1, 4))},
            "position": jnp.ones((3, 4)),
            **{n: {"kernel": jnp.ones((4, 2, 3))} for n in ("q", "k", "v")},
            "o": {"kernel": jnp.ones((2, 3, 1))},
        },
    ),
    "recurrent": (gates, {"u": {"w": jnp.ones((4, 4))}, "v": {"w": jnp.ones((1, 4))}}),
    "lookup": (
        lambda p, x: p["e"]["embedding"][jnp.arange(3)].sum() + p["e"]["embedding"][0] @ x.T,
        {"e": {"embedding": jnp.ones((5, 3))}},
    ),
    "numbers": (lambda p, x: p["a"][0] * x[:, 0] + p["a"][1], {"a": jnp.ones(2)}),
}


@pytest.mark.parametrize("name", NO_STACKS)
def test_what_is_no_stack_is_none(name):
    apply, params = NO_STACKS[name]
    network = nb.as_network((lambda key, x: params, apply), example=X)
    assert not any(layer.stacks for layer in network.layers(params))


# --- errors ----------------------------------------------------------------------------------


def test_numbers_that_do_not_exist_are_named():
    network, params, _ = of_blocks("linen scan")
    with pytest.raises(UnknownLayerError, match=r"in the stacks blocks\[0\] to blocks\[2\]"):
        S.layers("blocks[3]/dense").split(network, params)
    with pytest.raises(UnknownLayerError, match="'first' is no stack"):
        S.pairs({"first[0]": [(0, 0)]}).split(network, params)
    with pytest.raises(PairError, match=r"'blocks\[1\]/dense' is out of range: out 4"):
        S.pairs({"blocks[1]/dense": [(0, 4)]}).split(network, params)
    with pytest.raises(PairError, match="layer 3, possible 0 to 2"):
        S.pairs({"blocks/dense": [(3, 0, 0)]}).split(network, params)
    with pytest.raises(PairError, match=r"\(in, out\), got \(0, 0, 0\)"):
        S.pairs({"blocks[1]/dense": [(0, 0, 0)]}).split(network, params)


def test_without_a_trace_no_bias_is_guessed():
    network = nb.as_network(LinenScan())
    params = network.init(jax.random.key(0), X)
    with pytest.raises(PairError, match=r"bias.*shape \(3, 4\).*example=X"):
        S.pairs({"blocks/dense": [(2, 1)]}).split(network, params)


def test_subsets_with_numbers_are_values():
    subset = S.layers("blocks[1]/dense") | S.pairs({"blocks[0]/dense": [(2, 1)]})
    assert S.from_json(subset.to_json()) == subset
    assert hash(S.from_json(subset.to_json())) == hash(subset)


# --- choice, expressiveness, sampling --------------------------------------------------------


class Trained:
    trajectory = None

    def __init__(self, name):
        self.network, self.params = network_and_params(name)


@EVERY
def test_pairs_are_chosen_in_each_layer_of_a_stack(name):
    network, params, layer = of_blocks(name)
    (kernel,) = layer.weights
    values = np.abs(in_order(kernel, leaves_by_path(params)[kernel.path]))
    subset = nb.select_bayesian_components(Trained(name), ["blocks/dense"], "magnitude", 3)
    mask, _ = chosen(subset.split(network, params), layer)
    for value, own in zip(values, mask, strict=True):
        assert own.sum() == 3
        assert value[own].min() > value[~own].max()
    options = {"num_weights": 30, "exclude": ["first", "out", "blocks[0]/**"]}
    subset = nb.select_bayesian_components(Trained(name), None, "magnitude", **options)
    mask, bias = chosen(subset.split(network, params), layer)
    assert mask.sum() + bias.sum() == 30
    assert not mask[0].any()
    assert np.array_equal(mask.any(axis=1), bias)
    control = nb.select_bayesian_components(
        Trained(name), ["blocks/dense"], "permuted", 3, selector="magnitude"
    )
    mask, _ = chosen(control.split(network, params), layer)
    assert mask.sum(axis=(1, 2)).tolist() == [3, 3, 3]


def test_clusters_are_of_the_inputs_of_all_layers():
    network, params, layer = of_blocks("linen scan")
    subset = nb.select_bayesian_components(Trained("linen scan"), ["blocks/dense"], "clustering", 2)
    assert chosen(subset.split(network, params), layer)[0].sum() == 6
    with pytest.raises(SelectionError, match="all layers that are stacked in 'blocks/dense'"):
        nb.select_bayesian_components(Trained("linen scan"), ["blocks[1]"], "clustering", 2)


class StackFirst(nn.Module):
    @nn.compact
    def __call__(self, x):
        stack = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return stack(name="blocks")(x, None)[0]


def test_the_first_and_the_last_layer_of_a_stack_are_first_and_last():
    x = np.ones((2, 4), np.float32)
    network = nb.as_network(StackFirst(), example=x)
    params = network.init(jax.random.key(0), x)
    split = S.first_and_last().split(network, params)
    names = {label.rpartition("[")[0] for part in split.labels().values() for label in part}
    assert names == {f"blocks[{i}]/dense{b}" for i in (0, 2) for b in ("", "/bias")}
    assert nb.check_expressiveness(split, num_outputs=4)
    later = S.layers("blocks[1]", "blocks[2]").split(network, params)
    with pytest.warns(nb.ExpressivenessWarning, match=r"'blocks\[0\]/dense', 0 units"):
        assert not nb.check_expressiveness(later, num_outputs=4)
    det = type("Det", (), {"network": network, "params": params, "trajectory": None})()
    subset = nb.select_bayesian_components(det, None, "first-and-last", 2, selector="magnitude")
    chosen_in = subset.split(network, params).mask(network.layers(params)[0].weights[0])
    assert chosen_in.sum(axis=(1, 2)).tolist() == [2, 0, 2]


@pytest.mark.parametrize("name", ["linen scan", "equinox filter_vmap", "functions loop"])
def test_one_layer_of_a_stack_is_sampled(name):
    """The density is that of the network with this layer moved, and the others stay."""
    network, params = network_and_params(name)
    y = X[:, 0]
    subset = S.layers("blocks[1]/dense")
    target = nb.Target.build(
        network, params, subset, X, y, likelihood=nb.Gaussian(noise=0.5), prior=nb.NormalPrior()
    )
    position = target.initial_position(jax.random.key(1), jitter=0.3)
    outputs = np.asarray(network.apply(target.split.merge(position["weights"]), X))[:, 0]
    moves = [np.ravel(position["weights"][p] - w) for p, w in target.split.position.items()]
    expected = -0.5 * np.sum(((y - outputs) / 0.5) ** 2) - 0.5 * np.sum(np.concatenate(moves) ** 2)
    expected -= len(y) * np.log(0.5) + 0.5 * (len(y) + 20) * np.log(2 * np.pi)
    np.testing.assert_allclose(target.log_density(position), expected, rtol=1e-5)
    posterior = nb.sample(target, "laplace", num_warmup=0, num_samples=5, progress=False)
    assert posterior.predict(X).mean.shape == (9,)
    labels = [label for part in posterior.labels().values() for label in part]
    assert len(set(labels)) == len(labels) == 20 + len(posterior.draws["likelihood"])


@parametrize_with_checks(
    [
        NetworkCase(LinenScan(), X),
        NetworkCase(MODELS["linen vmap, axis 1"], X),
        NetworkCase(MODELS["nnx scan, axis 1"], X),
        NetworkCase(MODELS["equinox scan"], X),
        NetworkCase(MODELS["haiku layer_stack"], X),
        NetworkCase(MODELS["functions fori_loop"], X),
        NetworkCase(Nested(), X),
    ]
)
def test_the_contract_of_networks(subject, check):
    check(subject)
