"""Where chains start: trained weights, Laplace draws, draws of the prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers import without_warmup

import nbcore as nb
from nbcore.common.noise import with_noise
from nbcore.posterior.stats import Stats
from nbcore.sampling.backend import Kernel
from nbcore.sampling.starts import start_positions
from nbcore.targets.target import NetworkTarget


@dataclass(frozen=True)
class Near:
    """Draws are near the start of the chain."""

    capabilities: frozenset[str]
    name: ClassVar[str] = "near"

    def kernel(self, num_warmup: int) -> Kernel:
        def step(key: Any, target: nb.Target, shared: Any, state: Any, t: Any) -> Any:
            moved = with_noise(key, state, 1e-3)
            return moved, Stats(target.log_density(moved), num_gradients=1)

        return without_warmup(step)


def regression(
    noise: float | None, weight: float = 1.0, scale: Any = 3.0, num_examples: int = 50
) -> NetworkTarget:
    """y = 2 x with noise 0.5, weights around the trained one, with standard deviation 3."""
    x = np.linspace(-1, 1, num_examples, dtype=np.float32)[:, None]
    y = 2 * x[:, 0] + 0.5 * np.random.default_rng(0).normal(size=num_examples)
    network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))
    everything = nb.ProbabilisticSubset.everything()
    likelihood = nb.Gaussian(noise=noise, noise_prior=nb.LogNormal(0.5, 0.3))
    params, prior = {"out": {"kernel": jnp.full((1, 1), weight)}}, nb.NormalPrior(scale=scale)
    return nb.Target.build(network, params, everything, x, y, likelihood=likelihood, prior=prior)


def starts(target: nb.Target, init: Any, num_chains: int = 400) -> Any:
    keys = [jax.random.key(c) for c in range(num_chains)]
    return jax.tree.map(lambda *p: np.stack(p), *start_positions(target, keys, init).positions)


def test_chains_can_start_at_draws_of_the_prior() -> None:
    drawn = starts(regression(None), "prior")
    weight, noise = drawn["weights"]["out/kernel"].ravel(), drawn["likelihood"]["noise"].ravel()
    assert abs(weight.mean() - 1) < 4 * 3 / 20
    assert abs(weight.std() / 3 - 1) < 0.15
    assert abs(noise.mean()) < 4 / 20  # (log noise - log median) / spread is standard normal
    assert abs(noise.std() - 1) < 0.15


def test_chains_can_start_at_laplace_draws() -> None:
    target = regression(0.5)
    weight = starts(target, "laplace")["weights"]["out/kernel"].ravel()
    x, y = np.linspace(-1, 1, 50), np.asarray(target.blocks[0].y)[:, 0]
    precision = (x**2).sum() / 0.25 + 1 / 9
    mean = ((x * y).sum() / 0.25 + 1 / 9) / precision
    assert abs(weight.mean() - mean) < 4 / np.sqrt(400 * precision)
    assert abs(weight.std() * np.sqrt(precision) - 1) < 0.15


def test_laplace_draws_are_pulled_back_to_where_the_expansion_holds() -> None:
    """In two dimensions a normal falls by 1, with deviation 1; four deviations more are allowed."""

    def fall(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(x**2) + 50 * jnp.sum(x**4)

    steep = nb.Target.from_log_density(lambda x: -fall(x), jnp.full(2, 0.1))
    normal = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.full(2, 0.1))
    pulled, free = starts(steep, "laplace"), starts(normal, "laplace")
    falls = np.asarray(jax.vmap(fall)(pulled))
    assert falls.max() < 5.01
    reached = np.asarray(jax.vmap(fall)(free)) > 5.5
    assert reached.sum() > 100
    assert falls[reached].min() > 4.9
    np.testing.assert_allclose(pulled[~reached], free[~reached], atol=0.05)
    direction = np.sum(pulled * free, axis=1) / np.linalg.norm(free, axis=1)
    np.testing.assert_allclose(direction, np.linalg.norm(pulled, axis=1), atol=0.01)
    np.testing.assert_array_equal(starts(steep, "laplace"), pulled)


def test_chains_start_at_trained_weights_that_fit() -> None:
    """One parameter, the noise, moves to where it suits these weights: all chains alike."""
    known, unknown = regression(0.5, weight=2.0), regression(None, weight=2.0)
    np.testing.assert_array_equal(
        starts(known, "auto", 5)["weights"]["out/kernel"],
        starts(known, "trained", 5)["weights"]["out/kernel"],
    )
    kinds = ("auto", "trained")
    auto, trained = (starts(unknown, kind, 5)["likelihood"]["noise"] for kind in kinds)
    moved = float(auto.flat[0] - trained.flat[0])
    np.testing.assert_allclose(auto - trained, moved, atol=1e-6)
    densities = [
        float(unknown.log_density({**unknown.start, "likelihood": {"noise": jnp.asarray(u)}}))
        for u in np.linspace(moved - 1, moved + 1, 33)
    ]
    assert abs(np.argmax(densities) - 16) <= 1  # steps of the same 1/16


@pytest.mark.parametrize("noise", [0.5, None])
def test_chains_start_at_laplace_draws_if_trained_weights_are_far_away(noise: float | None) -> None:
    """20 standard deviations from the mode the density is 200 lower; 3.3 is usual in one.

    With a noise that suits the trained weights it is 50 log(1.8 / 0.5) lower, and 5 is usual.
    """
    far = regression(noise, weight=5.0)
    found = start_positions(far, [jax.random.key(0)], "auto")
    assert (found.kind, found.num_gradients > 2) == ("laplace", True)
    np.testing.assert_array_equal(
        starts(far, "auto", 3)["weights"]["out/kernel"],
        starts(far, "laplace", 3)["weights"]["out/kernel"],
    )
    plain = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.full(2, 9.0))
    assert start_positions(plain, [jax.random.key(0)], "auto")[1:] == ("trained", 0)


def test_an_unknown_scale_of_the_prior_calls_no_weights_far_away() -> None:
    """The joint density rises without bound as the scale and the distance from the center do."""
    target = regression(0.5, weight=2.0, scale=nb.LogNormal(1.0, 3.0))
    assert start_positions(target, [jax.random.key(0)], "auto").kind == "trained"


@pytest.mark.parametrize(
    ("capabilities", "num_examples", "kind"),
    [
        ((), 2000, "laplace"),
        (("minibatch",), 1024, "laplace"),
        (("minibatch",), 1025, "trained"),
        (("independent",), 50, "trained"),
    ],
)
def test_samplers_without_use_for_a_climb_start_at_the_trained_weights(
    capabilities: tuple[str, ...], num_examples: int, kind: str
) -> None:
    far = regression(0.5, weight=5.0, num_examples=num_examples)
    near = Near(frozenset({"fixed_cost", *capabilities}))
    run = nb.sample(far, near, num_warmup=0, num_samples=1, num_chains=1, progress=False)
    assert run.info.start == kind
