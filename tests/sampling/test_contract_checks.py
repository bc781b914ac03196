"""What the functions of a sampler return is checked before anything compiles, and named."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbcore as nb
from nbcore.errors import PluginError, SamplingError
from nbcore.sampling import driver
from nbcore.sampling.contract_checks import check_contract


class State(NamedTuple):
    at: Any
    scale: Any


def start(key: Any, target: Any, shared: Any, position: Any) -> State:
    return State(position, jnp.ones(()))


def move(key: Any, target: Any, shared: Any, state: State, t: Any) -> Any:
    at = state.at + jax.random.normal(key, (2,))
    return State(at, state.scale), nb.Stats(target.log_density(at), step_size=1.0)


RIGHT: dict[str, Any] = {
    "init": start, "warmup": move, "step": move, "position": lambda state: state.at,
}  # fmt: skip


@dataclass(frozen=True)
class Walk:
    """A random walk, of which functions can be replaced."""

    name: ClassVar[str] = "walk"
    capabilities: ClassVar[frozenset[str]] = frozenset({"exact"})
    replaced: tuple[tuple[str, Any], ...] = ()

    def kernel(self, num_warmup: int) -> Any:
        return nb.Kernel(**(RIGHT | dict(self.replaced)))


class Lost(RuntimeError):
    pass


def density(x: jax.Array) -> jax.Array:
    return -0.5 * jnp.sum(x**2)


TARGET = nb.Target.from_log_density(density, np.zeros(2))


def sample(backend: Any, target: nb.Target = TARGET, **options: Any) -> nb.Posterior:
    settings: dict[str, Any] = {
        "num_warmup": 2, "num_samples": 4, "num_chains": 2, "progress": False,
    }  # fmt: skip
    return nb.sample(target, backend, **(settings | options))


def stats_with(**fields: Any) -> Callable[..., Any]:
    def step(key: Any, target: Any, shared: Any, state: State, t: Any) -> Any:
        state, stats = move(key, target, shared, state, t)
        return state, stats._replace(**fields)

    return step


def returning(change: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Return a step that returns something else of its state and statistics."""
    return lambda *arguments: change(*move(*arguments))


def of_the_state(change: Callable[[State], Any]) -> Callable[..., Any]:
    return returning(lambda state, stats: (change(state), stats))


def constant_key(key: Any, target: Any, shared: Any, state: State, t: Any) -> Any:
    return move(jax.random.fold_in(jax.random.key(0), t), target, shared, state, t)


def numpy_noise(key: Any, target: Any, shared: Any, state: State, t: Any) -> Any:
    at = state.at + np.random.normal(size=2).astype(np.float32)
    return State(at, state.scale), nb.Stats(target.log_density(at))


FAULTS: dict[str, tuple[str, Any, list[str]]] = {
    "only a state": ("step", returning(lambda state, stats: state), ["step(", "State", "pair"]),
    "nothing": ("step", returning(lambda state, stats: None), ["step(", "None", "pair"]),
    "a third part": (
        "warmup", returning(lambda state, stats: (state, stats, 1)), ["warmup(", "tuple of 3"],
    ),
    "the wrong way round": (
        "step", returning(lambda state, stats: (stats, state)), ["Stats first", "nb.Stats("],
    ),
    "a dict of statistics": (
        "step", returning(lambda state, stats: (state, {"log_density": 1.0})),
        ["dict", "second place", "nb.Stats("],
    ),
    "a state of another shape": (
        "step", of_the_state(lambda s: s._replace(scale=jnp.ones(3))),
        ["step(", "state.scale of float32[3]", "float32[]", "init"],
    ),
    "a state of another dtype": (
        "warmup", of_the_state(lambda s: s._replace(scale=jnp.ones((), jnp.int32))),
        ["warmup(", "state.scale of int32[]", "float32[]"],
    ),
    "a state of another structure": (
        "step", of_the_state(lambda s: s.at), ["structure float32[2]", "State(at=float32[2]"],
    ),
    "a function in the state": (
        "init", lambda *a: State(a[3], density), ["init(", "function", "result.scale", "arrays"],
    ),
    "a position of another shape": (
        "position", lambda state: state.at[:1], ["position(", "float32[1]", "float32[2]"],
    ),
    "a position of another dtype": (
        "position", lambda state: state.at.astype(jnp.float16), ["float16[2]", "float32[2]"],
    ),
    "a position of another structure": (
        "position", lambda state: {"x": state.at}, ["position(", "{x: float32[2]}"],
    ),
    "the state for the position": ("position", lambda state: state, ["State(at", "float32[2]"]),
    "a vector of acceptance": (
        "step", stats_with(acceptance_rate=jnp.ones(2)),
        ["acceptance_rate: one array, float32[2]", "scalar"],
    ),
    "a number of divergence": (
        "step", stats_with(is_divergent=jnp.zeros(())), ["is_divergent: float32[]", "a boolean"],
    ),
    "a fraction of gradients": (
        "step", stats_with(num_gradients=jnp.ones(())), ["num_gradients", "an integer"],
    ),
    "no statistic at all": ("step", stats_with(energy=None), ["energy", "None", "a real number"]),
    "too few arguments": (
        "step", lambda key, target, state: (state, nb.Stats(0.0)),
        ["step takes (key, target, state)", "step(key, target, shared, state, t)"],
    ),
    "a tuning of the wrong form": (
        "tune", lambda key, target, shared, state: state, ["tune(", "State", "pair"],
    ),
    "a key of its own": ("step", constant_key, ["step(", "does not depend on its key"]),
    "numpy's randomness": ("step", numpy_noise, ["step(", "numpy.random", "its key"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_before_anything_compiles(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: Any) -> Any:
        raise AssertionError("the driver went on")

    monkeypatch.setattr(driver, "start_positions", reached)
    name, function, words = FAULTS[fault]
    with pytest.raises(PluginError) as raised:
        sample(Walk(((name, function),)))
    for word in ("Walk ('walk')", *words):
        assert word in str(raised.value)


def test_a_sampler_that_keeps_the_contract_passes() -> None:
    assert sample(Walk()).draws.shape == (2, 4, 2)
    for name, spec in nb.list_backends().items():
        backend = nb.get_backend(name)
        if "minibatch" not in spec.capabilities:
            key = jax.random.key(0)
            check_contract(backend, backend.kernel(10), 10, key, TARGET)


def test_a_kernel_that_is_none_is_named() -> None:
    @dataclass(frozen=True)
    class Triple(Walk):
        def kernel(self, num_warmup: int) -> Any:
            return start, move, move

    with pytest.raises(PluginError, match=r"Triple.kernel\(num_warmup\) returned a tuple"):
        sample(Triple())
    with pytest.raises(PluginError, match=r"whose step is None.*step\(key, target, shared"):
        sample(Walk((("step", None),)))


def test_an_error_of_the_author_stays_and_says_where_it_was() -> None:
    def fail(*_: Any) -> Any:
        raise Lost("where am I?")

    with pytest.raises(Lost, match="where am I") as raised:
        sample(Walk((("step", fail),)))
    assert any("step(key, target, shared, state, t)" in n for n in raised.value.__notes__)


def test_keys_in_the_state_are_a_stream_of_their_own() -> None:
    def own_stream(key: Any, target: Any, shared: Any, state: State, t: Any) -> Any:
        mine, following = jax.random.split(state.scale)
        (at, _), stats = move(mine, target, shared, state, t)
        return State(at, following), stats

    replaced = {
        "init": lambda key, target, shared, position: State(position, key),
        "step": own_stream, "warmup": own_stream,
    }  # fmt: skip
    assert sample(Walk(tuple(replaced.items()))).draws.shape == (2, 4, 2)


@pytest.mark.parametrize("value", ["nan", "-inf"])
def test_a_start_without_density_is_named(value: str) -> None:
    target = nb.Target.from_log_density(
        lambda x: jnp.where(x[0] == 0, float(value), density(x)), np.zeros(2)
    )
    starts = np.zeros((2, 2), np.float32)
    starts[0] = 1.0
    with pytest.raises(SamplingError, match=f"log density is {value} at the start of chain 1"):
        sample(Walk(), target, init=starts)


@pytest.fixture
def drawing_thread() -> Iterator[None]:
    """A thread that draws all the time, as those of a cluster do now and then."""
    ended = threading.Event()

    def draw() -> None:
        while not ended.wait(0.001):
            random.random()

    thread = threading.Thread(target=draw)
    thread.start()
    yield
    ended.set()
    thread.join()


@pytest.mark.usefixtures("drawing_thread")
def test_random_numbers_of_another_thread_are_not_held_against_a_sampler() -> None:
    target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(3))
    plan = {"num_warmup": 0, "num_chains": 1, "progress": False}
    nb.sample(target, nb.get_backend("laplace"), num_samples=5, **plan)

    def drawn(key: Any, target: Any, shared: Any, position: Any) -> Any:
        return position + np.random.normal()

    kernel = nb.get_backend("laplace").kernel(0)._replace(init=drawn)
    with pytest.raises(PluginError, match=r"drew numbers from numpy\.random"):
        check_contract(nb.get_backend("laplace"), kernel, 0, jax.random.key(0), target)
