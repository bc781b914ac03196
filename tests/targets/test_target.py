"""The target is prior plus likelihood, whole and by minibatches, and refuses what does not fit."""

from __future__ import annotations

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import nbcore as nb
from nbcore.errors import DataError, LabelError, NetworkError, ShapeError, TargetError, TokenError
from nbcore.networks import length_buckets as padding
from nbcore.networks.network import Padding
from nbcore.targets.strata import stratum_sizes
from nbcore_flax import FlaxTransformer

S = nb.ProbabilisticSubset
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
LENGTHS = np.repeat([7, 14, 20, 30], 4)[RNG.permutation(16)]
X = np.where(np.arange(40) < LENGTHS[:, None], RNG.integers(1, 6, size=(16, 40)), 0)
Y = RNG.normal(size=16)
PARAMS = {
    "embed": {"embedding": jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)},
    "out": {"kernel": jnp.asarray(RNG.normal(size=(3, 1)), jnp.float32), "bias": jnp.ones(1)},
}


def apply(p, x):
    pooled = jnp.tanh(p["embed"]["embedding"][x] * (x != 0)[:, :, None]).sum(axis=1)
    return pooled @ p["out"]["kernel"] + p["out"]["bias"]


NETWORK = nb.Network.from_functions(lambda key, x: PARAMS, apply, padding=Padding(1, 0))
with mock.patch.object(padding, "EXAMPLES_A_GROUP", 4):  # groups in data as small as these
    GROUPED = nb.Target.build(NETWORK, PARAMS, S.layers("embed"), X, Y)
    JOINED = nb.Target.build(NETWORK, PARAMS, S.layers("out"), X, Y)
POSITION = GROUPED.initial_position(jax.random.key(1), jitter=0.3)
density = jax.jit(lambda target, position: target.log_density(position))
minibatch = jax.jit(lambda target, position, batch: target.minibatch_log_density(position, batch))


def by_hand(position) -> np.ndarray:
    """log p(y_i | position) in numpy and scipy, float64."""
    params = jax.tree.map(np.float64, GROUPED.split.merge(position["weights"]))
    pooled = np.tanh(params["embed"]["embedding"][X] * (X != 0)[:, :, None]).sum(axis=1)
    outputs = (pooled @ params["out"]["kernel"] + params["out"]["bias"])[:, 0]
    noise = GROUPED.likelihood.constrain(position["likelihood"])["noise"][0]
    return stats.norm.logpdf(Y, outputs, float(noise))


def test_rows_of_one_length_share_a_block_and_blocks_join_when_the_length_is_gone():
    assert [block.count for block in GROUPED.blocks] == [4, 4, 4, 4]
    assert [block.count for block in JOINED.blocks] == [16]
    for target in (GROUPED, JOINED):
        rows = np.concatenate([block.indices for block in target.blocks])
        assert sorted(rows.tolist()) == list(range(16))
        assert target.num_examples == 16


def test_likelihood_and_outputs_are_in_the_order_of_the_data():
    assert np.allclose(GROUPED.log_likelihood(POSITION), by_hand(POSITION), rtol=1e-4)
    expected = apply(GROUPED.split.merge(POSITION["weights"]), X)
    assert np.allclose(GROUPED.outputs(POSITION["weights"]), expected, rtol=1e-5)
    joined = JOINED.initial_position(KEY, jitter=0.3)
    expected = apply(JOINED.split.merge(joined["weights"]), X)
    assert np.allclose(JOINED.outputs(joined["weights"]), expected, rtol=1e-5)


def test_the_density_is_prior_plus_likelihood():
    weights = POSITION["weights"]["embed/embedding"] - PARAMS["embed"]["embedding"]
    noise = float(GROUPED.likelihood.constrain(POSITION["likelihood"])["noise"][0])
    prior = stats.norm.logpdf(np.float64(weights)).sum()
    # the noise is sampled on a log scale of spread 1 about its median
    prior += stats.halfnorm.logpdf(noise, scale=Y.std()) + np.log(noise)  # as wide as y
    assert GROUPED.log_prior(POSITION) == pytest.approx(prior, rel=1e-5)
    expected = prior + by_hand(POSITION).sum()
    assert density(GROUPED, POSITION) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_goes_through_every_block():
    def plain(position):
        outputs = apply(GROUPED.split.merge(position["weights"]), X)
        each = GROUPED.likelihood.log_prob(outputs, jnp.asarray(Y)[:, None], position["likelihood"])
        return GROUPED.log_prior(position) + jnp.sum(each)

    expected = jax.jit(jax.grad(plain))(POSITION)
    found = jax.jit(jax.grad(GROUPED.log_density))(POSITION)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


def test_targets_of_other_data_share_a_compiled_program():
    with mock.patch.object(padding, "EXAMPLES_A_GROUP", 4):
        other = nb.Target.build(NETWORK, PARAMS, S.layers("embed"), X, Y + 1)
    compiled = jax.jit(lambda target, position: target.log_density(position))
    assert compiled(other, POSITION) != compiled(GROUPED, POSITION)
    assert compiled._cache_size() == 1


# --- minibatches ---------------------------------------------------------------------------


def epoch(target, size, steps, key=KEY):
    return [target.batch(key, t, size) for t in steps]


@pytest.mark.parametrize(("target", "size"), [(GROUPED, 8), (GROUPED, 4), (JOINED, 4)])
def test_over_an_epoch_minibatches_average_to_the_full_density(target, size):
    position = target.initial_position(jax.random.key(1), jitter=0.3)
    for start in (0, 16 // size, 5 * 16 // size):
        batches = epoch(target, size, range(start, start + 16 // size))
        for g, block in enumerate(target.blocks):
            rows = np.concatenate([b.indices[g] for b in batches])
            assert sorted(rows.tolist()) == list(range(block.count))
        average = np.mean([minibatch(target, position, b) for b in batches])
        assert average == pytest.approx(float(density(target, position)), rel=1e-5)


@settings(max_examples=10)
@given(st.integers(1, 16), st.integers(0, 50))
def test_counts_are_fixed_and_no_epoch_repeats_a_row(size, number):
    for target in (GROUPED, JOINED):
        counts = stratum_sizes([b.count for b in target.blocks], size)
        assert sum(counts) == max(size, len(target.blocks))
        for g, (block, count) in enumerate(zip(target.blocks, counts, strict=True)):
            per_epoch = block.count // count
            batches = epoch(target, size, range(number * per_epoch, (number + 1) * per_epoch))
            rows = np.concatenate([b.indices[g] for b in batches])
            assert all(b.indices[g].shape == (count,) for b in batches)
            assert len(set(rows.tolist())) == len(rows) == per_epoch * count
            assert ((rows >= 0) & (rows < block.count)).all()


def test_what_an_epoch_leaves_out_differs_from_epoch_to_epoch():
    left_out = set()
    for number in range(30):
        (batch,) = epoch(JOINED, 15, [number])
        (row,) = set(range(16)) - set(batch.indices[0].tolist())
        left_out.add(row)
    assert len(left_out) > 8


def test_each_stratum_is_scaled_by_its_own_counts():
    batch = GROUPED.batch(KEY, 3, 7)
    each = by_hand(POSITION)
    expected = float(GROUPED.log_prior(POSITION))
    for block, rows in zip(GROUPED.blocks, batch.indices, strict=True):
        data_rows = np.asarray(block.indices)[np.asarray(rows)]
        expected += block.count / len(rows) * each[data_rows].sum()
    found = minibatch(GROUPED, POSITION, batch)
    assert found == pytest.approx(expected, rel=1e-4)


def test_minibatches_are_unbiased():
    def one(key, t):
        return GROUPED.minibatch_log_density(POSITION, GROUPED.batch(key, t, 5))

    keys = jax.random.split(jax.random.key(7), 4000)
    values = np.asarray(jax.jit(jax.vmap(one))(keys, jnp.arange(4000) % 11), np.float64)
    error = values.mean() - float(density(GROUPED, POSITION))
    assert values.std() > 0
    assert abs(error) < 5 * values.std() / np.sqrt(4000)


def test_the_step_and_the_key_decide_the_batch():
    def rows(key, t):
        return np.concatenate(GROUPED.batch(key, t, 8).indices).tolist()

    traced = jax.jit(lambda key, t: GROUPED.batch(key, t, 8))(KEY, 3)
    assert np.concatenate(traced.indices).tolist() == rows(KEY, 3)
    assert len({tuple(rows(jax.random.key(k), 0)) for k in range(5)}) == 5


@pytest.mark.parametrize("size", [0, 17, -1])
def test_impossible_batch_sizes(size):
    with pytest.raises(TargetError, match=f"1 to 16, got {size}"):
        GROUPED.batch(KEY, 0, size)


# --- start, and plain densities ------------------------------------------------------------


def test_chains_start_at_the_trained_weights_with_a_little_jitter():
    start = GROUPED.initial_position()
    assert np.array_equal(start["weights"]["embed/embedding"], PARAMS["embed"]["embedding"])
    assert start["prior"] == {}
    still = GROUPED.initial_position(KEY, jitter=0.0)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), still, start))
    moved = jax.vmap(GROUPED.initial_position)(jax.random.split(KEY, 500))
    steps = jax.tree.leaves(jax.tree.map(lambda a, b: np.asarray(a - b).ravel(), moved, start))
    assert np.concatenate(steps).std() == pytest.approx(0.01, rel=0.05)
    again = jax.vmap(GROUPED.initial_position)(jax.random.split(KEY, 500))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), moved, again))


def test_any_density_is_a_target():
    start = {"a": np.array([1, 2]), "b": 3}
    target = nb.Target.from_log_density(lambda p: -jnp.sum(p["a"] ** 2) - p["b"], start)
    start = target.initial_position()
    assert target.log_density(start) == -8.0
    assert jax.jit(jax.grad(lambda p: target.log_density(p)))(start)["b"] == -1.0
    assert target.num_examples == 0
    with pytest.raises(TargetError, match="'numpyro-nuts'"):
        target.batch(KEY, 0, 1)
    with pytest.raises(TargetError, match="no data"):
        target.minibatch_log_density(start, None)


MIXING = nb.as_network((lambda key, x: None, lambda p, x: (x - x.mean(0)) @ p["out"]["kernel"]))


def test_a_density_that_overflows_is_not_a_number() -> None:
    """Any sampler would accept +inf, and never leave."""
    target = nb.Target.from_log_density(lambda x: 1e38 * x[0] ** 2, jnp.ones(1))
    assert float(target.log_density(jnp.ones(1))) == pytest.approx(1e38)
    assert np.isnan(float(target.log_density(jnp.full(1, 10.0))))


PLAIN = nb.Target.from_log_density(lambda p: -jnp.sum(p["weights"] ** 2), {"weights": jnp.ones(2)})


def mixing_target():
    params, x = {"out": {"kernel": jnp.ones((2, 1))}}, RNG.normal(size=(9, 2))
    return nb.Target.build(MIXING, params, S.everything(), x, RNG.normal(size=9))


def test_targets_say_what_they_can_do():
    marginal = nb.marginalize(JOINED)
    mixing = mixing_target()
    targets = {"plain": PLAIN, "network": JOINED, "marginal": marginal, "mixing": mixing}
    can = {name: target.has_minibatches for name, target in targets.items()}
    assert can == {"plain": False, "network": True, "marginal": False, "mixing": False}
    assert PLAIN.network_target is None
    assert marginal.network_target is JOINED.network_target is JOINED
    for name, why in (("plain", "no data"), ("marginal", "integrated out"), ("mixing", "mix")):
        with pytest.raises(TargetError, match=f"(?s){why}.*'numpyro-nuts'"):
            targets[name].batch(KEY, 0, 1)
        assert "'numpyro-nuts'" in str(targets[name].no_minibatches())


def test_parameters_of_the_prior_are_kept_where_there_are_some():
    prior = nb.NormalPrior(scale=nb.HalfNormal(1.0))
    target = nb.Target.build(NETWORK, PARAMS, S.layers("out"), X, Y, prior=prior)
    for one in (target, nb.marginalize(target)):
        assert one.has_hyperparameters
        moved = one.initial_position(KEY, jitter=1.0)
        kept = one.with_hyperparameters_of(moved, one.start)
        assert kept["prior"] == one.start["prior"] != moved["prior"]
        assert kept["likelihood"] is moved["likelihood"]
    assert not JOINED.has_hyperparameters
    assert not PLAIN.has_hyperparameters
    assert PLAIN.with_hyperparameters_of(PLAIN.start, None) is PLAIN.start


# --- bad input -----------------------------------------------------------------------------

TRANSFORMER = FlaxTransformer(
    vocab_size=6, d_model=4, nhead=2, num_layers=1, dim_feedforward=4, max_seq_length=40,
    pad_token_id=0,
)  # fmt: skip
TRAINED = TRANSFORMER.init(KEY, jnp.asarray(X[:1]))
DENSE = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))
KERNEL = {"out": {"kernel": jnp.ones((2, 1))}}
ROWS = RNG.normal(size=(6, 2))


def spoilt(array, *rows, value=np.nan):
    array = np.array(array, float)
    array[list(rows)] = value
    return array


@pytest.mark.parametrize(
    ("x", "y", "error", "says"),
    [
        (spoilt(ROWS, 1, 4), Y[:6], DataError, r"X is not finite in 2 of 6 examples: 1, 4"),
        (spoilt(ROWS, 2, value=np.inf), Y[:6], DataError, r"X is not finite in 1 of 6 examples: 2"),
        (
            ROWS,
            spoilt(Y[:6], 0, 1, 2, 3, 4, 5),
            DataError,
            r"y .* 6 of 6 examples: 0, 1, 2, 3, 4, \.\.\.",
        ),
        (ROWS, Y[:5], ShapeError, r"X has 6 examples and y has 5 examples"),
        (ROWS, 1.0, ShapeError, r"y has no axis"),
        (ROWS, np.ones((6, 2)), ShapeError, r"y has shape \(6, 2\).*1 output"),
        (ROWS[:0], Y[:0], ShapeError, r"X holds no example"),
        (ROWS.tolist(), Y[:6], ShapeError, r"X must be an array"),
        ({"a": ROWS, "b": ROWS[:2]}, Y[:6], ShapeError, r"lengths \[2, 6\]"),
        (np.full((6, 2), "CCO"), Y[:6], DataError, r"X must hold numbers"),
        (ROWS, ["a"] * 6, DataError, r"y must hold numbers"),
    ],
)
def test_bad_data(x, y, error, says):
    with pytest.raises(error, match=says):
        nb.Target.build(DENSE, KERNEL, S.everything(), x, y)


@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        (X.astype(float), TokenError, "(?i)integer"),
        (np.where(X == 5, 6, X), TokenError, "6"),
        (np.where(X == 5, -1, X), TokenError, "-1"),
        (np.concatenate([X, X], axis=1), TokenError, "80.*40|40.*80"),
    ],
    ids=["floats", "beyond the vocabulary", "negative", "too long"],
)
def test_bad_tokens(x, error, says):
    with pytest.raises(error, match=says):
        nb.Target.build(TRANSFORMER, TRAINED, S.layers("FinalDense2"), x, Y)


def test_labels_outside_the_classes():
    params = {"out": {"kernel": jnp.ones((2, 3))}}
    with pytest.raises(LabelError, match="label 3 of example 5"):
        nb.Target.build(
            DENSE, params, S.everything(), ROWS, [0, 1, 2, 0, 1, 3], likelihood=nb.Categorical()
        )


@pytest.mark.parametrize("scale", [1.0, 0.0], ids=["trained", "a head of zeros"])
def test_a_network_that_reads_its_padding_is_refused(scale):
    def reads(p, x):
        return p["embed"]["embedding"][x].mean(axis=1) @ p["out"]["kernel"] + p["out"]["bias"]

    network = nb.Network.from_functions(lambda key, x: PARAMS, reads, padding=Padding(1, 0))
    params = {"embed": PARAMS["embed"], "out": jax.tree.map(lambda a: a * scale, PARAMS["out"])}
    with pytest.raises(NetworkError, match="padding=None"):
        nb.Target.build(network, params, S.layers("out"), X, Y)
