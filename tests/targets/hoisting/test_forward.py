"""Computing once what is known changes no density and no gradient, and leaves little to do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import nbcore as nb
from nbcore.errors import TargetError
from nbcore.networks.evaluation import is_per_example
from nbcore.targets.hoisting import staging as hoisting
from nbcore.targets.hoisting.forward import Forward
from nbcore_flax import FlaxMLP, FlaxTransformer

S = nb.ProbabilisticSubset
KEY = jax.random.key(0)
TOKENS = np.array([[3, 1, 4, 1, 5], [5, 2, 0, 0, 0], [1, 6, 1, 1, 2], [4, 4, 0, 0, 0]])
ROWS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
IMAGES = np.random.default_rng(1).normal(size=(4, 5, 5, 2)).astype(np.float32)
SERIES = np.random.default_rng(2).normal(size=(4, 6, 2)).astype(np.float32)


class ConvNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True)(nn.Conv(3, (3, 3), name="stem")(x))
        x = nn.max_pool(nn.relu(x), (2, 2))
        return nn.Dense(2, name="head")(nn.Conv(3, (2, 2), name="second")(x).mean(axis=(1, 2)))


@jax.custom_jvp
def steep(x):
    return jnp.sign(x) * jnp.sqrt(jnp.abs(x))


@steep.defjvp
def _(primals, tangents):  # not the derivative: so it is seen whether this rule is used
    return steep(*primals), 3.0 * tangents[0]


def layer(p, x):
    return x @ p["kernel"] + p["bias"]


def activated(params, x):
    x = steep(layer(params["z"], x))
    x = jax.jit(lambda p, h: steep(layer(p, h)))(params["m"], x)
    return layer(params["a"], jax.checkpoint(jax.jit(jnp.cos))(x))


def recurrent(params, x):
    def run(p, x):
        def step(h, x):
            h = jnp.tanh(layer(p, jnp.concatenate([h, x], axis=1)))
            return h, h

        start = jnp.zeros((x.shape[0], 3), p["kernel"].dtype)
        return jnp.swapaxes(jax.lax.scan(step, start, jnp.swapaxes(x, 0, 1))[1], 0, 1)

    return layer(params["head"], run(params["above"], run(params["below"], x))[:, -1])


def make(**shapes):
    """Initializer of dense layers of some shapes."""
    ones = jnp.ones
    return lambda key, x: {n: {"kernel": ones(s), "bias": ones(s[1])} for n, s in shapes.items()}


NETWORKS = {
    "mlp": (FlaxMLP(hidden_dims=(4, 4)), ROWS),
    "transformer": (
        FlaxTransformer(
            vocab_size=7, d_model=4, nhead=2, num_layers=1, dim_feedforward=4, pad_token_id=0,
            max_seq_length=5,
        ),
        TOKENS,
    ),
    "convolution": (ConvNet(), IMAGES),
    "recurrent": ((make(below=(5, 3), above=(6, 3), head=(3, 1)), recurrent), SERIES),
    "custom derivative": ((make(z=(3, 4), m=(4, 4), a=(4, 2)), activated), ROWS),
}  # fmt: skip
CASES = [
    ("mlp", S.last(0)),
    ("mlp", S.first_and_last()),
    ("transformer", S.layers("FinalDense2")),
    ("transformer", S.layers("TokenEmbed", "Block0_LayerNorm1")),
    (
        "transformer",
        S.pairs({"Block0_Attention": {"query": [(0, 1, 1)], "out": [(1, 0, 3)]}}),
    ),
    ("convolution", S.layers("second")),
    ("convolution", S.pairs({"stem": [(0, 1), (1, 2)], "head": [(2, 0)]})),
    ("recurrent", S.layers("above")),
    ("recurrent", S.everything()),
    ("custom derivative", S.layers("m")),
    ("custom derivative", S.everything() - S.layers("m")),
]  # fmt: skip
IDS = [f"{name}-{i}" for i, (name, _) in enumerate(CASES)]


def target_of(name, subset, **options):
    model, x = NETWORKS[name]
    network = nb.as_network(model, example=x[:1])
    shapes = jax.eval_shape(network.init, KEY, jnp.asarray(x[:1]))
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda a: jnp.asarray(rng.uniform(0.1, 0.8, a.shape), a.dtype), shapes)
    width = jax.eval_shape(network.apply, params, jnp.asarray(x)).shape[1]
    y = rng.normal(size=(len(x), width))
    return network, nb.Target.build(network, params, subset, x, y, **options), x, y


def away(target, seed=4):
    start = jax.jit(lambda target, key: target.initial_position(key, jitter=0.2))
    return start(target, jax.random.key(seed))


def compare(network, target, x, y, tolerance):
    """Value and gradient against the plain density, relative to the sum of magnitudes."""
    position = away(target)
    arrays = (jnp.asarray(x), jnp.asarray(y))

    def one(position, target, x, y):
        outputs = network.apply(target.split.merge(position["weights"]), x)
        return target.likelihood.log_prob(outputs, y, position["likelihood"])

    @jax.jit
    def everything(position, target, x, y):
        """All in one compilation: prior and examples, each with gradients, and what is tested."""
        return (
            jax.value_and_grad(lambda p: target.log_prior(p))(position),
            (one(position, target, x, y), jax.jacobian(one)(position, target, x, y)),
            jax.value_and_grad(lambda p: target.log_density(p))(position),
        )

    found = jax.tree.map(np.asarray, everything(position, target, *arrays))
    (prior, prior_gradient), (values, jacobian), (density, gradient) = found
    magnitude = np.abs(values).sum() + abs(prior)
    assert abs(density - (prior + values.sum())) <= tolerance * magnitude
    for g, p, rows in zip(*map(jax.tree.leaves, (gradient, prior_gradient, jacobian)), strict=True):
        scale = (np.abs(p) + np.abs(rows).sum(axis=0)).max()
        assert np.abs(g - p - rows.sum(axis=0)).max() <= tolerance * scale
        assert scale > 0


@pytest.mark.parametrize("case", [i for i in range(len(CASES)) if i != 4], ids=lambda i: IDS[i])
def test_value_and_gradient_are_those_of_the_plain_density(case):
    network, target, x, y = target_of(*CASES[case])
    assert target.has_minibatches
    compare(network, target, x, y, 1e-5)
    for block in target.blocks:
        assert_only_what_depends_on_the_position(block.forward.program.staged)


@pytest.mark.slow
@pytest.mark.parametrize("case", [4, 8, 9], ids=lambda i: IDS[i])
def test_in_double_precision_to_ten_digits(case):
    with jax.enable_x64(True):
        network, target, x, y = target_of(*CASES[case])
        position = target.initial_position()
        assert position["likelihood"]["noise"].dtype == jnp.float64
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), target.split.params)
        target = nb.Target.build(network, wide, CASES[case][1], x, y)
        compare(network, target, x, y, 1e-10)


def assert_only_what_depends_on_the_position(staged: hoisting.CutNetwork) -> None:
    """Every staged equation reads the position, or costs nothing."""
    depends = set(staged.inputs[0])
    for i, eqn in enumerate(staged.equations):
        if depends.intersection(a for a in eqn.inputs if isinstance(a, int)):
            depends.update(eqn.outputs)
        elif i in staged.staged:
            assert eqn.name in ("broadcast_in_dim", "reshape", "squeeze", "iota", "transpose",
                                "expand_dims")  # fmt: skip


def staged_names(target) -> list[str]:
    (block,) = target.blocks
    staged = block.forward.program.staged
    return [staged.equations[i].name for i in staged.staged]


def test_the_last_layer_costs_one_product():
    for name in ("mlp", "transformer", "convolution"):
        _, target, x, _ = target_of(name, S.last(0))
        names = staged_names(target)  # one block: the length axis is gone
        assert names.count("dot_general") == 1
        assert not {"exp", "tanh", "logistic", "conv_general_dilated", "gather"}.intersection(names)
        (features,) = [f for f in target.blocks[0].features if f.ndim > 1]
        assert features.shape[0] == len(x)


def test_layers_below_are_not_computed_again():
    _, above, _, _ = target_of("recurrent", S.layers("above"))
    _, both, _, _ = target_of("recurrent", S.layers("below"))
    assert staged_names(above).count("scan") == 1
    assert staged_names(both).count("scan") == 2


@pytest.mark.parametrize(("name", "subset"), [CASES[7], CASES[9]], ids=["a", "b"])
def test_the_byte_budget_moves_the_cut_and_changes_no_output(name, subset):
    network, target, x, _ = target_of(name, subset)
    split, weights = target.split, away(target)["weights"]
    x = jnp.asarray(x)
    expected = network.apply(split.merge(weights), x)
    input_bytes = x[0].size * 4
    free = Forward.build(network, split, x).program.staged.example_bytes
    seen = []
    for share in sorted({input_bytes, free // 4, free // 2, free}):
        if share < input_bytes:
            continue
        forward = Forward.build(network, split, x, byte_budget=share)
        staged = forward.program.staged
        assert staged.example_bytes <= share
        stored = sum(f.nbytes for f in jax.tree.leaves(forward.features(split, x)))
        assert stored == staged.example_bytes * len(x)
        found = forward.outputs(weights, forward.features(split, x))
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)
        seen.append(len(staged.staged))
    assert seen == sorted(seen, reverse=True)  # more room, less to compute
    assert seen[0] > seen[-1]


def test_features_of_many_rows_are_computed_in_batches():
    network, target, _, _ = target_of("mlp", S.last(0))
    x = np.random.default_rng(5).normal(size=(600, 3)).astype(np.float32)
    forward = Forward.build(network, target.split, x)
    weights = away(target)["weights"]
    found = forward.outputs(weights, forward.features(target.split, x))
    expected = network.apply(target.split.merge(weights), x)
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)


# --- networks whose examples see each other ------------------------------------------------


def centered(params, x):
    return (x - x.mean(axis=0)) @ params["out"]["kernel"]


@pytest.mark.parametrize("kernel", [jnp.ones((3, 1)), jnp.zeros((3, 1))], ids=["ones", "zeros"])
def test_a_network_that_mixes_examples_is_computed_as_a_whole(kernel):
    network = nb.as_network((lambda key, x: None, centered))
    params, y = {"out": {"kernel": kernel}}, np.arange(5.0)[:, None]
    target = nb.Target.build(network, params, S.everything(), ROWS, y)
    assert not target.has_minibatches
    compare(network, target, ROWS, y, 1e-5)
    with pytest.raises(TargetError, match=r"mix examples.*'numpyro-nuts'"):
        target.batch(KEY, 0, 2)


def test_mixing_is_seen_past_rows_that_are_alike():
    network = nb.as_network((lambda key, x: None, centered))
    x = np.concatenate([np.ones((4, 3)), ROWS[:3]]).astype(np.float32)
    params = {"out": {"kernel": jnp.ones((3, 1))}}
    assert not is_per_example(network, params, x)
    alone = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))
    assert is_per_example(alone, params, x)
