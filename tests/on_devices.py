"""What the tests of devices run in processes of their own; each function asserts what it is for.

python tests/on_devices.py NAME FOLDER [COORDINATOR NUMBER COUNT]
"""

from __future__ import annotations

import functools
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np

LENGTHS = np.repeat([7, 14], [5, 7])  # no length has a multiple of two rows or of four


@dataclass(frozen=True)
class Wander:
    """Langevin steps, of which each draw takes 1 to 5: no chain may wait for another."""

    name: ClassVar[str] = "wander"
    capabilities: ClassVar[frozenset[str]] = frozenset()
    batch_size: int = 0

    def kernel(self, num_warmup: int) -> Any:
        import jax
        import jax.numpy as jnp

        from nbcore.posterior.stats import Stats
        from nbcore.sampling.backend import Kernel

        def init(key: Any, target: Any, shared: Any, position: Any) -> Any:
            return {"position": position, "key": key, "moves": jnp.int32(0)}

        def density(target: Any, state: Any, t: Any, z: Any) -> Any:
            if not self.batch_size:
                return target.log_density(z)
            batch = target.batch(state["key"], t, self.batch_size)
            return target.minibatch_log_density(z, batch)

        def step(key: Any, target: Any, shared: Any, state: Any, t: Any) -> Any:
            count_key, noise_key = jax.random.split(key)
            count = jax.random.randint(count_key, (), 1, 6)

            def move(i: Any, carry: Any) -> Any:
                z = carry[0]
                value, gradient = jax.value_and_grad(lambda z: density(target, state, t, z))(z)
                keys = jax.random.split(jax.random.fold_in(noise_key, i), len(jax.tree.leaves(z)))
                keys = jax.tree.unflatten(jax.tree.structure(z), list(keys))
                moved = jax.tree.map(
                    lambda a, g, k: a + 1e-3 * g + 0.02 * jax.random.normal(k, a.shape),
                    z, gradient, keys,
                )  # fmt: skip
                return moved, value

            start = (state["position"], jnp.zeros(()))
            position, value = jax.lax.fori_loop(0, count, move, start)
            new = {**state, "position": position, "moves": state["moves"] + count}
            return new, Stats(value, num_gradients=count)

        def tune(key: Any, target: Any, shared: Any, state: Any) -> Any:
            moved = jax.tree.map(lambda a: a + 0.1 * jax.random.uniform(key), state["position"])
            return {**state, "position": moved}, Stats(0.0, num_gradients=2)

        return Kernel(init, step, step, lambda s: s["position"], tune=tune)


@functools.cache
def network_of(mixes: bool) -> tuple[Any, Any]:
    import jax.numpy as jnp

    import nbcore as nb
    from nbcore.networks.network import Padding

    rng = np.random.default_rng(1)
    params = {
        "embed": {"embedding": jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)},
        "out": {"kernel": jnp.asarray(rng.normal(size=(3, 1)), jnp.float32)},
    }

    def apply(p: Any, x: Any) -> Any:
        pooled = jnp.tanh(p["embed"]["embedding"][x] * (x != 0)[:, :, None]).sum(axis=1)
        pooled = pooled - pooled.mean(axis=0) if mixes else pooled
        return pooled @ p["out"]["kernel"]

    pads = None if mixes else Padding(1, 0)
    return nb.Network.from_functions(lambda key, x: params, apply, padding=pads), params


def make_target(
    *, layers: tuple[str, ...] = ("embed",), mixes: bool = False, shift: float = 0.0
) -> Any:
    """Sequences of two lengths, so two blocks; or a network whose outputs mix examples."""
    import nbcore as nb
    from nbcore.networks import length_buckets as padding

    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 6, size=(len(LENGTHS), 16))
    X = np.where(np.arange(16) < LENGTHS[:, None], tokens, 0)
    y = rng.normal(size=len(X)) + shift
    network, params = network_of(mixes)
    with mock.patch.object(padding, "EXAMPLES_A_GROUP", 4):  # groups in data as small as these
        return nb.Target.build(network, params, nb.ProbabilisticSubset.layers(*layers), X, y)


RUN = {"key": 5, "num_warmup": 6, "num_samples": 6, "num_chains": 4, "chunk_size": 3}


def sample(target: Any, **options: Any) -> Any:
    import nbcore as nb

    return nb.sample(
        target, options.pop("backend", Wander()), **({"progress": False} | RUN | options)
    )


class Stop(Exception):
    """What interrupts a run."""


def interrupted(target: Any, phase: str, done: int, **options: Any) -> None:
    """Run until a progress report, and no further."""

    def report(at: Any) -> None:
        if (at.phase, at.done) == (phase, done):
            raise Stop

    import pytest

    with pytest.raises(Stop):
        sample(target, progress=report, **options)


def close(got: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    import jax

    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def same(got: Any, expected: Any) -> None:
    """Draws, statistics and counts are equal to the last bit."""
    import jax

    for a, b in zip(
        jax.tree.leaves((got.draws, got.stats)),
        jax.tree.leaves((expected.draws, expected.stats)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert got.info.num_gradients == expected.info.num_gradients


def refused(message: str, call: Any) -> None:
    import pytest

    from nbcore.errors import NbcoreError

    with pytest.raises(NbcoreError, match=re.escape(message)):
        call()


def four(folder: Path) -> None:
    """Four devices of one process."""
    import jax
    import jax.numpy as jnp

    import nbcore as nb
    from nbcore.sampling.placement import CHAIN, DATA, placement_for, spread

    # A run that was interrupted in another process goes on here.
    target = make_target()
    reference = sample(target, chain_method="sequential", checkpoint=folder / "resumed")
    np.testing.assert_array_equal(
        reference.flat_draws()["embed/embedding"], np.load(folder / "draws.npy")
    )

    # The density on sharded, padded rows; and rows in the order of the data.
    placed = placement_for(jax.make_mesh((4,), (DATA,)), 1).target(target)
    assert [(b.count, b.padding) for b in placed.blocks] == [(5, 3), (7, 1)]
    assert all(len(leaf.sharding.device_set) == 4 for leaf in jax.tree.leaves(placed))
    assert {s.data.shape for s in placed.blocks[0].y.addressable_shards} == {(2, 1)}

    @jax.jit
    def everything(t: Any, z: Any) -> Any:
        batch = t.batch(jax.random.key(2), 1, 9)
        whole = jax.value_and_grad(lambda z: t.log_density(z))(z)
        part = jax.value_and_grad(lambda z: t.minibatch_log_density(z, batch))(z)
        return whole, batch, part, t.log_likelihood(z), t.outputs(z["weights"])

    z = target.initial_position(jax.random.key(1), jitter=0.3)
    close(everything(placed, z), everything(target, z))
    np.testing.assert_array_equal(placed.targets(), target.targets())
    assert placed.num_examples == len(LENGTHS)

    # Chains and examples; chains alone, as many as there are devices.
    both = jax.make_mesh((2, 2), (CHAIN, DATA))
    swapped = placement_for(jax.sharding.Mesh(both.devices.T, (DATA, CHAIN)), 4)
    assert swapped == placement_for(both, 4)
    for mesh, method in ((both, "sequential"), (spread(4), "vectorized")):
        got = sample(target, mesh=mesh, chain_method="auto" if mesh is both else method)
        close(got.draws, reference.draws, atol=1e-4)
        close(got.stats.log_density, reference.stats.log_density)
        np.testing.assert_array_equal(got.stats.num_gradients, reference.stats.num_gradients)
        assert got.info.num_gradients == reference.info.num_gradients
        assert (got.info.chain_method, set(got.info.mesh)) == (method, {CHAIN, DATA})
    assert spread(4).shape == {CHAIN: 4, DATA: 1}
    assert spread(6).shape == {CHAIN: 2, DATA: 2}

    # Weights that are integrated out depend on the examples of all devices.
    marginal = nb.marginalize(make_target(layers=("embed", "out")))
    got, expected = sample(marginal, mesh=both), sample(marginal)
    assert got.info.integrated_out == ["out/kernel"]
    close(got.draws, expected.draws, atol=1e-4)
    close(got.stats.log_density, expected.stats.log_density)

    # The same draws when it is stopped and goes on; another mesh is another run.
    at = {"mesh": both, "checkpoint": folder / "mesh"}
    for phase, done in (("warmup", 3), ("tuning", 0), ("sampling", 3)):
        interrupted(target, phase, done, **at)
    same(sample(target, **at), sample(target, mesh=both))
    refused("mesh was {'chain': 2, 'data': 2}", lambda: sample(target, checkpoint=at["checkpoint"]))

    refused("Give num_chains=8", lambda: sample(target, num_chains=6, mesh=spread(4)))
    refused("mix", lambda: sample(make_target(mixes=True), mesh=both))
    plain = type(target).from_log_density(lambda x: -jnp.sum(x**2), jnp.zeros(2))
    refused("has none", lambda: sample(plain, mesh=both))


def processes(folder: Path) -> None:
    """Two processes with two devices each."""
    import jax

    import nbcore as nb
    from nbcore.sampling.placement import AXES, placement_for

    assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 4, 2)
    target = make_target()
    reference = sample(target, chain_method="sequential")  # here alone
    devices = np.array(jax.devices()).reshape(2, 2)
    across = {  # chains on either side, and examples on either side
        "chains": jax.sharding.Mesh(devices, AXES),
        "data": jax.sharding.Mesh(devices.T, AXES),
    }
    z = target.initial_position(jax.random.key(1), jitter=0.3)
    density = jax.jit(lambda t, z: t.log_density(z))
    for name, mesh in across.items():
        place = placement_for(mesh, 4)
        there = density(place.target(target), place.replicate(z))
        close(np.asarray(there), density(target, z))
        got = sample(target, mesh=mesh)
        close(got.draws, reference.draws, atol=1e-4)
        np.testing.assert_array_equal(got.stats.num_gradients, reference.stats.num_gradients)
        assert got.info.num_gradients == reference.info.num_gradients
        marginal = nb.marginalize(make_target(layers=("embed", "out")))
        close(sample(marginal, mesh=mesh).draws, sample(marginal).draws, atol=1e-4)
        at = {"mesh": mesh, "checkpoint": folder / name}
        interrupted(target, "sampling", 3, **at)
        own = folder / name / f"process-{jax.process_index()}"
        (state,) = own.glob("chains-state-*.safetensors")
        if name == "chains" and jax.process_index() == 1:  # as if it had been killed before
            state.rename(state.with_name("chains-state-00003.safetensors"))
        same(sample(target, **at), got)
    refused("devices of all 2 processes", lambda: placement_for(spread_over_others(), 2))
    refused(
        "different data",
        lambda: sample(make_target(shift=jax.process_index()), mesh=across["data"]),
    )


def spread_over_others() -> Any:
    import jax

    other = [d for d in jax.devices() if d.process_index != jax.process_index()]
    return jax.sharding.Mesh(np.array(other), ("chain",))


def samplers(folder: Path) -> None:
    """Every sampler runs on chains and examples that are spread, and finds the same posterior."""
    import jax

    import nbcore as nb
    from nbcore.posterior.convergence import mcse_mean

    target, mesh = make_target(), jax.make_mesh((2, 2), ("chain", "data"))
    run = {"num_warmup": 200, "num_samples": 600, "thin": 1, "chunk_size": None}
    for name, spec in nb.list_backends().items():
        if "minibatch" in spec.capabilities and "exact" not in spec.capabilities:
            run_of = {**run, "num_samples": 200}
        else:
            run_of = run
        plain, meshed = (
            sample(target, backend=name, mesh=m, **run_of).flat_draws() for m in (None, mesh)
        )
        for path, draws in meshed.items():
            assert np.all(np.isfinite(draws)), name
            if run_of is run:
                error = np.hypot(mcse_mean(draws), mcse_mean(plain[path]))
                moved = np.abs(draws.mean((0, 1)) - plain[path].mean((0, 1)))
                assert np.all(moved < 6 * error + 1e-3), (name, path, moved / error)


USUAL = {
    "numpyro-nuts": ("threads", "vectorized"),
    "blackjax-hmc": ("sequential",),
    "sgld": ("vectorized",),
}


def usual_runs() -> Any:
    """Yield a name and the options of runs, of each sort of sampler and way to run chains."""
    lengths = {"num_warmup": 40, "num_samples": 60, "num_chains": 2, "chunk_size": 20}
    for backend, methods in USUAL.items():
        for method in methods:
            yield f"{backend}-{method}", {"backend": backend, "chain_method": method, **lengths}


def usual_first(folder: Path) -> None:
    """Compiled as by users: other chunk sizes change no draw; and runs that are interrupted."""
    import os

    assert not os.environ.get("XLA_FLAGS")
    target = make_target()
    for name, options in usual_runs():
        whole = sample(target, **options)
        same(sample(target, **{**options, "chunk_size": 7}), whole)
        np.save(folder / f"{name}.npy", whole.flat_draws()["embed/embedding"])
        interrupted(target, "sampling", 20, checkpoint=folder / name, **options)


def usual_second(folder: Path) -> None:
    """In another process they go on, with the draws of runs that nobody stopped."""
    target = make_target()
    for name, options in usual_runs():
        seen: list[Any] = []
        report = {"checkpoint": folder / name, "progress": seen.append}
        draws = sample(target, **options, **report).flat_draws()["embed/embedding"]
        np.testing.assert_array_equal(draws, np.load(folder / f"{name}.npy"))
        if options["chain_method"] == "vectorized":  # else a chain may have been in warmup
            assert "warmup" not in {report.phase for report in seen}


def main() -> None:
    name, folder, *where = sys.argv[1:]
    if where:
        from nbcore.sampling.placement import connect

        names = ("JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_ID", "JAX_NUM_PROCESSES")
        connect(dict(zip(names, where, strict=True)))
    functions = (four, samplers, processes, usual_first, usual_second)
    {function.__name__: function for function in functions}[name](Path(folder))
    print("all is well")


if __name__ == "__main__":
    main()
