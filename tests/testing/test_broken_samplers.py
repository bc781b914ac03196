"""Samplers that declare `exact` and are not: checks of seconds fail, and name the fault."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import nbcore as nb
from nbcore.testing import ConformanceError, checks_for


class State(NamedTuple):
    position: Any
    momentum: Any
    step_size: Any


@dataclass(frozen=True)
class Langevin:
    """The Metropolis-adjusted Langevin algorithm, with methods that a fault replaces.

    It is one leapfrog step of Hamiltonian Monte Carlo.
    """

    name: ClassVar[str] = "langevin"
    capabilities: ClassVar[frozenset[str]] = frozenset({"exact", "fixed_cost"})
    step_size: float = 0.2

    def noise(self, key: Any, state: State, shape: Any, t: Any) -> Any:
        return jax.random.normal(key, shape)

    def proposed(self, x: Any, y: Any) -> Any:
        return y

    def decided(self, key: Any, rate: Any) -> Any:
        return jax.random.uniform(key) < rate

    def density(self, target: Any, position: Any) -> Any:
        return target.log_density(position)

    def stats(self, here: Any, there: Any, accepted: Any, rate: Any, size: Any) -> nb.Stats:
        return nb.Stats(jnp.where(accepted, there, here), rate, step_size=size)

    def next_size(self, state: State, rate: Any) -> Any:
        return state.step_size

    def kernel(self, num_warmup: int) -> nb.Kernel:
        def init(key: Any, target: Any, shared: Any, position: Any) -> State:
            momentum = jax.random.normal(key, ravel_pytree(position)[0].shape)
            return State(position, momentum, jnp.asarray(self.step_size))

        def step(key: Any, target: Any, shared: Any, state: State, t: Any) -> Any:
            x, unravel = ravel_pytree(state.position)
            for_noise, for_choice = jax.random.split(key)
            value = jax.value_and_grad(lambda x: self.density(target, unravel(x)))
            here, e = value(x), state.step_size
            p = self.noise(for_noise, state, x.shape, t)
            half = p + e / 2 * here[1]
            y = self.proposed(x, x + e * half)
            there = value(y)
            q = half + e / 2 * there[1]
            gain = there[0] - here[0] + (p @ p - q @ q) / 2
            rate = jnp.nan_to_num(jnp.exp(jnp.minimum(gain, 0.0)))
            accepted = self.decided(for_choice, rate)
            stats = self.stats(here[0], there[0], accepted, rate, e)
            new = State(unravel(jnp.where(accepted, y, x)), p, self.next_size(state, rate))
            return new, stats

        return nb.Kernel(init, step, step, lambda state: state.position)


class NumpyNoise(Langevin):
    def noise(self, key: Any, state: State, shape: Any, t: Any) -> Any:
        return np.random.normal(size=shape).astype(np.float32)


class NumpyGenerator(Langevin):
    def noise(self, key: Any, state: State, shape: Any, t: Any) -> Any:
        return np.random.default_rng().normal(size=shape).astype(np.float32)


class ConstantKey(Langevin):
    def noise(self, key: Any, state: State, shape: Any, t: Any) -> Any:
        return jax.random.normal(jax.random.fold_in(jax.random.key(0), t), shape)


class ConstantKeys(ConstantKey):
    def decided(self, key: Any, rate: Any) -> Any:
        return jax.random.uniform(jax.random.key(1)) < rate


class OldMomentum(Langevin):
    def noise(self, key: Any, state: State, shape: Any, t: Any) -> Any:
        return state.momentum


class AlwaysAccepts(Langevin):
    def decided(self, key: Any, rate: Any) -> Any:
        return jnp.asarray(True)


class FrozenDecision(Langevin):
    def decided(self, key: Any, rate: Any) -> Any:
        return rate > 0.5


class Unadjusted(AlwaysAccepts):
    """Unadjusted Langevin, which says so: it has no acceptance."""

    def stats(self, here: Any, there: Any, accepted: Any, rate: Any, size: Any) -> nb.Stats:
        return nb.Stats(there, step_size=size)


class Before(Langevin):
    def stats(self, here: Any, there: Any, accepted: Any, rate: Any, size: Any) -> nb.Stats:
        return nb.Stats(here, rate, step_size=size)


class Shifted(Langevin):
    def stats(self, *arguments: Any) -> nb.Stats:
        stats = super().stats(*arguments)
        return stats._replace(log_density=stats.log_density + 7)


class OfTheProposal(Langevin):
    def stats(self, here: Any, there: Any, accepted: Any, rate: Any, size: Any) -> nb.Stats:
        return nb.Stats(there, rate, step_size=size)


class Claiming(Langevin):
    def stats(self, *arguments: Any) -> nb.Stats:
        return super().stats(*arguments)._replace(acceptance_rate=0.8)


class WithoutPrior(Langevin):
    def density(self, target: Any, position: Any) -> Any:
        value = target.log_density(position)
        return value - target.log_prior(position) if hasattr(target, "log_prior") else value


class Hot(Langevin):
    def density(self, target: Any, position: Any) -> Any:
        return target.log_density(position) / 1.5


class OneCoordinate(Langevin):
    def proposed(self, x: Any, y: Any) -> Any:
        return x.at[0].set(y[0])


class Adapting(Langevin):
    capabilities: ClassVar[frozenset[str]] = frozenset({"exact", "adaptive", "fixed_cost"})

    def next_size(self, state: State, rate: Any) -> Any:
        return state.step_size * jnp.exp(0.1 * (rate - 0.6))


FAST = {
    "functions_return_what_the_driver_expects", "every_key_gives_another_step",
    "every_parameter_moves", "statistics_mean_what_they_say", "acceptance_is_what_it_claims",
    "known_moments_are_kept", "closed_form_is_kept", "step_does_not_adapt",
}  # fmt: skip


def faults(sampler: Any, *only: str) -> dict[str, str]:
    """Return the messages of the fast checks that a sampler fails."""
    found: dict[str, str] = {}
    for check in checks_for(sampler):
        if check.name in (only or FAST):
            assert not check.slow
            try:
                check(sampler)
            except ConformanceError as error:
                found[check.name] = str(error)
    return found


def test_a_sampler_without_a_fault_passes() -> None:
    assert faults(Langevin()) == {}


def test_numbers_of_numpy_are_named() -> None:
    found = faults(NumpyNoise(), "functions_return_what_the_driver_expects", "same_key_same_draws")
    assert all("numpy.random" in message for message in found.values())
    assert len(found) == 2
    found = faults(NumpyGenerator(), "every_key_gives_another_step")
    assert "numpy.random" in found["every_key_gives_another_step"]


def test_a_constant_key_is_named() -> None:
    found = faults(ConstantKey(), "every_key_gives_another_step")
    assert "jax.random.key(0)" in found["every_key_gives_another_step"]
    found = faults(ConstantKeys(), "functions_return_what_the_driver_expects")
    assert "not depend on its key" in found["functions_return_what_the_driver_expects"]


def test_a_step_that_always_accepts_is_named() -> None:
    found = faults(AlwaysAccepts(), "acceptance_is_what_it_claims", "known_moments_are_kept")
    assert all("always accepts" in message for message in found.values())
    assert len(found) == 2


@pytest.mark.parametrize("step_size", [1.0, 0.1, 0.02])
def test_langevin_steps_without_a_correction_are_named(step_size: float) -> None:
    found = faults(Unadjusted(step_size=step_size), "known_moments_are_kept")
    message = found["known_moments_are_kept"]
    assert "without an accept-reject decision (unadjusted Langevin)" in message


def test_statistics_of_the_position_before_are_named() -> None:
    found = faults(Before())
    assert list(found) == ["statistics_mean_what_they_say"]
    assert "the position before the step" in found["statistics_mean_what_they_say"]


@pytest.mark.parametrize(
    ("wrong", "check", "said"),
    [
        (Shifted, "statistics_mean_what_they_say", r"off by +7"),
        (OfTheProposal, "statistics_mean_what_they_say", "proposal if it was rejected"),
        (Claiming, "acceptance_is_what_it_claims", "acceptance_rate of these is 80.0%"),
        (FrozenDecision, "acceptance_is_what_it_claims", "does not come from the key"),
        (OldMomentum, "every_key_gives_another_step", "momentum"),
        (WithoutPrior, "closed_form_is_kept", "without its prior"),
        (Hot, "closed_form_is_kept", "temperature"),
        (OneCoordinate, "every_parameter_moves", "Head/bias[1]"),
        (Adapting, "step_does_not_adapt", "adaptation goes on"),
    ],
)
def test_other_faults_are_named(wrong: type[Langevin], check: str, said: str) -> None:
    assert said in faults(wrong(), check)[check]
