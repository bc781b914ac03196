"""The driver: keys, chunks, thinning, chain methods, and what it refuses."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers import Stay, without_warmup

import nbcore as nb
from nbcore import errors
from nbcore.common.progress import Report
from nbcore.posterior import convergence
from nbcore.posterior.stats import Stats
from nbcore.sampling import programs
from nbcore.sampling.backend import Kernel

NUTS = """
import hashlib, jax.numpy as jnp, numpy as np, nbcore as nb

def density(x):
    return -0.5 * jnp.sum((x - jnp.array([1.0, -2.0])) ** 2 / jnp.array([1.0, 0.25]))

target = nb.Target.from_log_density(density, jnp.zeros(2))
posterior = nb.sample(
    target, key=11, num_warmup=60, num_samples=60, num_chains=2, chain_method="sequential",
    progress=False,
)
digest = hashlib.sha256(np.ascontiguousarray(posterior.draws).tobytes()).hexdigest()
"""


@dataclass(frozen=True)
class Walk:
    """A random walk whose steps tell where they come from, for tests of the driver."""

    name: ClassVar[str] = "walk"
    capabilities: ClassVar[frozenset[str]] = frozenset({"fixed_cost"})
    tuned: bool = False

    def kernel(self, num_warmup: int) -> Kernel:
        def init(key: Any, target: nb.Target, shared: Any, position: Any) -> Any:
            return (position, jnp.zeros(()), jax.random.uniform(key), shared)

        def move(key: Any, target: nb.Target, shared: Any, state: Any, t: Any) -> Any:
            position = state[0] + jax.random.normal(key, state[0].shape)
            stats = Stats(target.log_density(position), num_gradients=1, tree_depth=t)
            return (position, state[1] + 1, state[2], shared), stats

        def tune(key: Any, target: nb.Target, shared: Any, state: Any) -> Any:
            return (state[0] + 1000, *state[1:]), Stats(jnp.zeros(()))

        def start(key: Any, target: nb.Target, position: Any) -> Any:
            return jax.random.uniform(key)

        return Kernel(init, move, move, lambda s: s[0], start, tune if self.tuned else None)


@dataclass(frozen=True)
class Inspect:
    """Draws are (start of the chain's init key, steps so far, shared value)."""

    name: ClassVar[str] = "inspect"
    capabilities: ClassVar[frozenset[str]] = frozenset({"fixed_cost"})

    def kernel(self, num_warmup: int) -> Kernel:
        walk = Walk().kernel(num_warmup)
        return walk._replace(position=lambda s: jnp.stack([s[2], s[1], s[3]]))


def flat(x: jax.Array) -> jax.Array:
    return -0.5 * jnp.sum(x**2)


TARGET = nb.Target.from_log_density(flat, jnp.zeros(3))


def walk(**options: Any) -> nb.Posterior:
    settings = {"key": 3, "num_warmup": 7, "num_samples": 24, "num_chains": 3, "progress": False}
    return nb.sample(TARGET, options.pop("backend", Walk()), **(settings | options))


@pytest.fixture(scope="module")
def here() -> dict[str, Any]:
    """A NUTS run in this process; the same text runs in another one."""
    scope: dict[str, Any] = {}
    exec(NUTS, scope)
    return scope


def run_nuts(here: dict[str, Any], **options: Any) -> Any:
    settings = {"key": 11, "num_warmup": 60, "num_samples": 60, "num_chains": 2, "progress": False}
    return nb.sample(here["target"], **(settings | options)).draws


def test_same_key_gives_identical_draws_in_another_process(here: dict[str, Any]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NUTS + "print(digest)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == here["digest"]


def test_threads_and_one_after_the_other_give_identical_draws(here: dict[str, Any]) -> None:
    threads = run_nuts(here, chain_method="threads")
    np.testing.assert_array_equal(threads, here["posterior"].draws)
    assert hashlib.sha256(threads.tobytes()).hexdigest() == here["digest"]


def test_another_key_and_another_chain_give_other_draws(here: dict[str, Any]) -> None:
    draws = here["posterior"].draws
    assert not np.any(draws[0] == draws[1])
    assert not np.any(run_nuts(here, key=12, chain_method="sequential") == draws)


@pytest.mark.parametrize("chunk_size", [25, 1000])
def test_nuts_draws_do_not_depend_on_the_chunk_size(here: dict[str, Any], chunk_size: int) -> None:
    draws = run_nuts(here, chunk_size=chunk_size, chain_method="sequential")
    np.testing.assert_array_equal(draws, here["posterior"].draws)


@pytest.mark.slow
def test_vectorized_nuts_agrees_in_distribution(here: dict[str, Any]) -> None:
    draws = run_nuts(
        here, chain_method="vectorized", num_warmup=200, num_samples=1000, num_chains=4
    )
    assert np.all(convergence.ess_bulk(draws) > 1000)
    assert np.all(np.abs(draws.mean((0, 1)) - [1, -2]) < 4 * convergence.mcse_mean(draws))
    np.testing.assert_allclose(draws.std((0, 1)), [1, 0.5], rtol=0.1)


@pytest.mark.parametrize("method", ["vectorized", "threads", "sequential"])
@pytest.mark.parametrize("chunk_size", [1, 5, 24, 99])
def test_draws_depend_on_neither_chunks_nor_the_way_chains_run(
    method: str, chunk_size: int
) -> None:
    expected = walk(chain_method="sequential")
    got = walk(chain_method=method, chunk_size=chunk_size)
    np.testing.assert_array_equal(got.draws, expected.draws)
    np.testing.assert_array_equal(got.stats.tree_depth, np.tile(np.arange(24), (3, 1)))


@pytest.mark.parametrize(("num_chains", "num_groups"), [(2, 1), (4, 2), (7, 1), (8, 2), (12, 3)])
def test_groups_of_vectorized_chains_are_the_same_chains(
    num_chains: int, num_groups: int, tmp_path: Path
) -> None:
    expected = walk(num_chains=num_chains, chain_method="sequential")
    seen: list[Report] = []
    options: dict[str, Any] = {"num_chains": num_chains, "chunk_size": 6, "checkpoint": tmp_path}
    got = walk(progress=seen.append, **options)
    resumed = walk(**options)
    for posterior in (got, resumed):
        np.testing.assert_array_equal(posterior.draws, expected.draws)
        np.testing.assert_array_equal(posterior.stats.tree_depth, expected.stats.tree_depth)
        assert posterior.info.num_gradients == expected.info.num_gradients
    assert len(list(tmp_path.glob("*/*-state-*"))) == num_groups
    # However many groups there are, progress is that of the slowest.
    assert {report.chain for report in seen} == {None}
    assert [r.done for r in seen if r.phase == "sampling" and r.total] == [6, 12, 18, 24]


def test_each_step_has_the_documented_key() -> None:
    posterior = walk(num_warmup=0)
    chain = jax.random.fold_in(jax.random.key(3), 2)
    steps = [
        jax.random.normal(jax.random.fold_in(jax.random.fold_in(chain, 3), t), (3,))
        for t in range(24)
    ]
    moved = np.diff(posterior.draws[2], axis=0)
    np.testing.assert_allclose(moved, np.stack(steps)[1:], atol=1e-5)


def test_thinning_keeps_every_so_many_steps_of_the_same_chain() -> None:
    all_steps, thinned = walk(), walk(thin=5)
    assert thinned.draws.shape == (3, 24 // 5, 3)
    np.testing.assert_array_equal(thinned.draws, all_steps.draws[:, 4::5])
    np.testing.assert_array_equal(thinned.stats.log_density, all_steps.stats.log_density[:, 4::5])
    # The gradients of the steps between are counted too.
    np.testing.assert_array_equal(thinned.stats.num_gradients, 5)


@pytest.mark.slow
def test_thinned_nuts_is_the_same_chain(here: dict[str, Any]) -> None:
    thinned = run_nuts(here, thin=4, chain_method="sequential")
    np.testing.assert_allclose(thinned, here["posterior"].draws[:, 3::4], rtol=1e-4, atol=1e-4)


def test_phases_run_in_order_and_shared_values_are_the_same_for_all_chains() -> None:
    draws = walk(backend=Inspect(), chain_method="threads").draws
    init, steps, shared = np.moveaxis(draws, 2, 0)
    np.testing.assert_array_equal(steps, np.tile(np.arange(7 + 1, 7 + 24 + 1), (3, 1)))
    assert len(np.unique(init)) == 3
    assert len(np.unique(shared)) == 1
    assert not np.isin(shared, init).any()


def test_every_program_is_compiled_once_before_the_chains_move_and_its_seconds_are_told() -> None:
    compiled: list[str] = []

    def listen(event: str, seconds: float, **about: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(str(about["fun_name"]))

    def progress(report: Report) -> None:
        if report.phase == "warmup" and not done:
            done.extend(compiled)

    done: list[str] = []
    target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        settings = {"num_warmup": 3, "num_samples": 4, "num_chains": 2, "progress": progress}
        info = nb.sample(target, Walk(tuned=True), chain_method="threads", **settings).info
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    for name in ("value_and_gradient", "_shared", "_start", "_tune", "_advance"):
        assert [c for c in compiled if name in c] == [c for c in done if name in c]
        assert sum(name in c for c in compiled) == 1
    assert set(info.compile_seconds) == {"gradient", "shared", "start", "tune", "sampling"}
    assert 0 < max(info.compile_seconds.values()) < info.seconds["compile"]


@pytest.mark.parametrize("thin", [1, 3])
def test_a_draw_of_several_steps_of_several_moves_holds_the_density_once(thin: int) -> None:
    target = nb.Target.from_log_density(lambda x: jnp.sum(jnp.cos(x)), jnp.zeros(2))
    kernel = nb.get_backend("blackjax-mala").kernel(1)
    key, run = jax.random.key(0), programs.ONE_CHAIN
    shared = programs.make_shared(kernel, key, target, target.start)
    state = run.start(kernel, key, target, shared, target.start)
    arguments = (kernel.step, kernel.position, 2, thin, key, target, shared, state)
    lowered = run.advance.lower(*arguments, programs.STEP, 0, 2)
    assert lowered.as_text().count("stablehlo.cosine") == 1


@pytest.mark.parametrize("method", ["vectorized", "sequential"])
def test_tune_runs_once_between_warmup_and_sampling(method: str) -> None:
    plain = walk(chain_method=method)
    tuned = walk(backend=Walk(tuned=True), chain_method=method)
    np.testing.assert_allclose(tuned.draws - plain.draws, 1000, atol=1e-3)


def test_start_positions_can_be_given() -> None:
    start = jnp.arange(9.0).reshape(3, 3) * 100
    posterior = walk(init=start, num_warmup=0, num_samples=1)
    assert np.abs(posterior.draws[:, 0] - start).max() < 6  # one standard normal step
    np.testing.assert_array_equal(
        walk(init=np.asarray(start, np.float64), num_warmup=0, num_samples=1).draws, posterior.draws
    )


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(errors.OptionError, match=r"'laplac'.*Did you mean 'laplace'"):
        walk(init="laplac")
    with pytest.raises(errors.TargetError, match=r"no prior to draw from.*init='trained'"):
        walk(init="prior")


@pytest.mark.parametrize("init", [jnp.zeros(3), jnp.zeros((2, 3)), {"x": jnp.zeros((3, 3))}])
def test_start_positions_of_another_shape_are_refused(init: Any) -> None:
    with pytest.raises(errors.OptionError, match=r"position for each chain.*\(3, 3\)"):
        walk(init=init)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples is an integer of at least 1"),
        ({"num_warmup": -1}, "num_warmup"),
        ({"num_chains": 0}, "num_chains"),
        ({"num_chains": 2.0}, "num_chains"),
        ({"thin": 0}, "thin"),
        ({"thin": 25}, "keeps none"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"chain_method": "vectorised"}, "Did you mean 'vectorized'"),
        ({"key": "seed"}, "random key"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.OptionError, match=message):
        walk(**options)


def test_a_target_is_needed() -> None:
    with pytest.raises(errors.OptionError, match=r"nb\.Target\.build"):
        nb.sample(flat, progress=False)  # pyright: ignore[reportArgumentType]


def traces_of(num_samples: int, method: str) -> int:
    count = 0

    def density(x: jax.Array) -> jax.Array:
        nonlocal count
        count += 1
        return -0.5 * jnp.sum(x**2)

    target = nb.Target.from_log_density(density, jnp.zeros(3))
    for _ in range(2):
        nb.sample(
            target, Walk(), num_warmup=10, num_samples=num_samples, num_chains=3, chunk_size=5,
            chain_method=method, progress=False,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
    return count


@pytest.mark.parametrize("method", ["vectorized", "threads", "sequential"])
def test_the_density_is_traced_no_more_for_more_draws(method: str) -> None:
    few = traces_of(5, method)
    assert few > 0
    assert traces_of(500, method) == few


def test_progress_moves_in_warmup_and_in_sampling() -> None:
    seen: list[Report] = []
    walk(progress=seen.append, chunk_size=6, chain_method="sequential")
    for chain in range(3):
        mine = [r for r in seen if r.chain == chain]
        assert [(r.phase, r.done, r.total) for r in mine] == [
            ("warmup", 6, 7), ("warmup", 7, 7),
            *[("sampling", n, 24) for n in (6, 12, 18, 24)],
        ]  # fmt: skip
    together: list[Report] = []
    walk(progress=together.append, chunk_size=24, chain_method="vectorized")
    cost, *steps = together
    assert (cost.done, cost.total) == (0, 0)
    assert re.match("walk: .*gradient", cost.note)
    assert [(r.phase, r.chain, r.done) for r in steps] == [
        ("warmup", None, 7),
        ("sampling", None, 24),
    ]


def linear_target(x: Any) -> nb.Target:
    network = nb.as_network((lambda key, x: None, lambda p, x: jnp.sqrt(x) @ p["out"]["kernel"]))
    return nb.Target.build(
        network,
        {"out": {"kernel": jnp.ones((1, 1))}},
        nb.ProbabilisticSubset.everything(),
        x,
        jnp.zeros(len(x)),
        likelihood=nb.Gaussian(noise=1.0),
    )


def test_a_density_that_is_not_finite_at_the_start_names_the_examples() -> None:
    x = jnp.ones((6, 1)).at[jnp.array([2, 4])].set(-1.0)  # the root is NaN
    message = r"start of chain 0.*not finite in examples \[2, 4\]"
    with pytest.raises(errors.SamplingError, match=message):
        nb.sample(linear_target(x), Stay(), progress=False)


def test_a_gradient_that_is_not_finite_at_the_start_is_refused() -> None:
    target = nb.Target.from_log_density(lambda x: -jnp.sum(jnp.sqrt(jnp.abs(x))), jnp.zeros(2))
    with pytest.raises(errors.SamplingError, match=r"gradient.*start of chain 1"):
        nb.sample(
            target, Walk(), num_chains=2, init=jnp.array([[1.0, 1.0], [0.0, 1.0]]), progress=False
        )


@dataclass(frozen=True)
class Lost:
    """A chain that produces a non-finite value at a given step."""

    at: int
    name: ClassVar[str] = "lost"
    capabilities: ClassVar[frozenset[str]] = frozenset({"fixed_cost"})

    def kernel(self, num_warmup: int) -> Kernel:
        def step(key: Any, target: nb.Target, shared: Any, state: Any, t: Any) -> Any:
            return jnp.where(t == self.at, jnp.nan, state), Stats(jnp.zeros(()))

        return without_warmup(step)


@pytest.mark.parametrize(("at", "where"), [(3, "step 3 of warmup"), (9, "step 9 of sampling")])
@pytest.mark.parametrize("method", ["vectorized", "threads"])
def test_a_chain_that_leaves_the_finite_numbers_is_stopped(
    at: int, where: str, method: str
) -> None:
    with pytest.raises(errors.SamplingError, match=where):
        walk(backend=Lost(at), chain_method=method, chunk_size=4)


def test_a_run_says_how_it_was_made() -> None:
    info = walk(thin=2).info
    assert info.backend == "walk"
    assert info.options == {"tuned": False}
    assert info.settings == {"num_warmup": 7, "num_samples": 24, "num_chains": 3, "thin": 2}
    assert info.chain_method == "vectorized"  # of a sampler with steps of fixed cost
    assert walk(num_chains=1).info.chain_method == "sequential"
    assert set(info.seconds) == {"compile", "warmup", "sampling", "total"}
    parts = [info.seconds[name] for name in ("compile", "warmup", "sampling")]
    assert sum(parts) == pytest.approx(info.seconds["total"])
    assert info.num_gradients == {"start": 0, "warmup": 3 * 7, "sampling": 3 * 24}
    assert (info.start, walk(init=np.zeros((3, 3))).info.start) == ("trained", "given")


def test_old_and_new_keys_give_the_same_draws() -> None:
    keys: list[Callable[[], Any]] = [lambda: jax.random.key(3), lambda: jax.random.PRNGKey(3)]
    for key in keys:
        np.testing.assert_array_equal(walk(key=key()).draws, walk(key=3).draws)
    np.testing.assert_array_equal(walk(key=None).draws, walk(key=0).draws)


def test_posteriors_of_plain_densities_cannot_predict() -> None:
    posterior = walk()
    assert posterior.flat_draws()["position"].shape == (3, 24, 3)
    assert not hasattr(posterior, "predict")


FACTORIZING = """
import jax, jax.numpy as jnp, nbcore as nb
from nbcore import Kernel, Stats

class Factorizing:
    name, capabilities = "factorizing", frozenset({"fixed_cost"})

    def kernel(self, num_warmup):
        def init(key, target, shared, position):
            return position

        def step(key, target, shared, state, t):
            matrix = jax.random.normal(key, (40, 40))
            values = jnp.linalg.eigvalsh(matrix @ matrix.T)
            return state + values[:1] / 1e6, Stats(target.log_density(state), num_gradients=1)

        return Kernel(init, step, step, lambda state: state)

target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(1))
posterior = nb.sample(
    target, Factorizing(), num_warmup=100, num_samples=100, num_chains=8, progress=False
)
print(posterior.draws.shape)
"""


def test_samplers_that_factorize_a_matrix_come_to_an_end() -> None:
    """Groups of vectorized chains would wait for each other, see `nbcore.common.matrices`."""
    done = subprocess.run(
        [sys.executable, "-c", FACTORIZING], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["(8,", "100,", "1)"]
