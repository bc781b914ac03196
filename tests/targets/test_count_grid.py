"""Examples that are filled up to a grid of numbers: the same log density, by fewer programs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import nbcore as nb
from nbcore.targets.count_grid import LEAST, STEPS, count_on_grid
from nbcore.targets.curvature import approximate
from nbcore.targets.target import NetworkTarget


def apply(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["first"]["kernel"]) @ params["out"]["kernel"]


def mixing(params: Any, x: jax.Array) -> jax.Array:
    return apply(params, x) + jnp.mean(apply(params, x), axis=0)


NETWORK, MIXING = (
    nb.Network.from_functions(lambda k, x: {}, f, example=None) for f in (apply, mixing)
)


def target_of(
    count: int, network: Any = NETWORK, missing: bool = False, **more: Any
) -> NetworkTarget:
    rng = np.random.default_rng(count)
    X = rng.normal(size=(count, 3)).astype(np.float32)
    y = rng.normal(size=(count, 2)).astype(np.float32)
    if missing:
        y[0, 0] = np.nan
        more["likelihood"] = nb.Gaussian(missing="mask", noise_prior=nb.HalfNormal(1.0))
    params = {
        "first": {"kernel": rng.normal(size=(3, 4)).astype(np.float32)},
        "out": {"kernel": rng.normal(size=(4, 2)).astype(np.float32)},
    }
    more.setdefault("likelihood", nb.Gaussian(noise_prior=nb.HalfNormal(1.0)))
    subset = nb.ProbabilisticSubset.everything()
    return nb.Target.build(network, params, subset, X, y, **more)


def value_and_gradient(target: nb.Target, position: Any) -> tuple[float, np.ndarray]:
    value, gradient = jax.jit(lambda t, z: jax.value_and_grad(t.log_density)(z))(target, position)
    return float(value), np.asarray(ravel_pytree(gradient)[0])


@given(st.integers(1, 10_000))
def test_the_grid_is_ascending_and_close(count: int) -> None:
    found = count_on_grid(count)
    assert found >= count
    assert count_on_grid(found) == found
    assert found <= max(LEAST, count * (1 + 1 / STEPS) + 1)
    assert count_on_grid(count + 1) >= found


@settings(max_examples=8)
@given(st.integers(1, 300), st.sampled_from([None, 1, 7, 64]), st.booleans())
def test_value_and_gradient_do_not_depend_on_the_filling(
    count: int, chunk: int | None, missing: bool
) -> None:
    target = target_of(count, missing=missing, chunk_size=chunk)
    position = target.initial_position(jax.random.key(1), jitter=0.3)
    value, gradient = value_and_gradient(target, position)
    again, other = value_and_gradient(target.on_grid(), position)
    np.testing.assert_allclose(again, value, rtol=2e-5, atol=1e-3)
    np.testing.assert_allclose(other, gradient, rtol=2e-4, atol=2e-4 * np.abs(gradient).max())


def test_examples_that_fill_up_weigh_nothing_whatever_they_hold() -> None:
    target = target_of(40)
    filled = target.on_grid()
    (block,) = filled.blocks
    assert len(block.y) == LEAST
    features, y = jax.tree.map(lambda a: a.at[40:].set(1e6), (block.features, block.y))
    changed = replace(filled, blocks=(replace(block, features=features, y=y),))
    expected, other = value_and_gradient(target, target.start)
    for each in (filled, changed):
        value, gradient = value_and_gradient(each, target.start)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=1e-3)


def test_outputs_of_several_blocks_begin_with_those_of_the_data_in_their_order() -> None:
    target = target_of(40)
    (block,) = target.blocks
    parts = [block.at(jnp.arange(k, 40, 2)) for k in (1, 0)]
    split = replace(target, blocks=tuple(parts))
    weights = target.start["weights"]
    outputs = split.on_grid().outputs(weights)
    assert len(outputs) == 2 * LEAST
    np.testing.assert_allclose(outputs[:40], target.outputs(weights), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(split.targets(), target.targets())


def test_integrating_out_and_normal_approximations_do_not_depend_on_the_filling() -> None:
    target = target_of(40, likelihood=nb.Gaussian(noise=0.7))
    noisy = target_of(40)
    marginal = nb.marginalize(noisy)
    for each in (marginal,):
        value, gradient = value_and_gradient(each, each.start)
        again, other = value_and_gradient(each.on_grid(), each.start)
        np.testing.assert_allclose(again, value, rtol=1e-4)
        np.testing.assert_allclose(other, gradient, rtol=1e-3, atol=1e-2)
    key = jax.random.key(0)
    for each in (target, noisy):
        found, expected = (approximate(key, t, each.start) for t in (each.on_grid(), each))
        np.testing.assert_allclose(found.log_density, expected.log_density, atol=0.02)
        np.testing.assert_allclose(found.whitening.center, expected.whitening.center, atol=0.03)


def test_targets_that_cannot_be_filled_up_stay_as_they_are() -> None:
    mixed = target_of(40, MIXING)
    assert mixed.on_grid().blocks == mixed.blocks
    plain = nb.Target.from_log_density(lambda x: -jnp.sum(x**2), jnp.zeros(2))
    assert plain.on_grid() is plain


@pytest.mark.parametrize("backend", ["numpyro-hmc", "laplace"])
def test_refits_with_a_few_examples_more_compile_nothing_anew(backend: str) -> None:
    settings = {"num_warmup": 5, "num_samples": 5, "num_chains": 1, "progress": False}
    nb.sample(target_of(30), backend, **settings)
    compiled: list[str] = []

    def listen(event: str, seconds: float, **about: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(str(about["fun_name"]))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        nb.sample(target_of(40), backend, **settings)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    names = ("value_and_gradient", "_shared", "_start", "_advance", "_evaluated")
    assert not [c for c in compiled if any(name in c for name in names)]
