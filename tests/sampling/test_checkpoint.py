"""Checkpoints: a run that was stopped goes on as if it had not been, and only the same run does."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import on_devices
import pytest
from on_devices import Stop, Wander, interrupted, same, sample

import nbcore as nb
from nbcore.common import storage
from nbcore.errors import CheckpointError, RunFolderError
from nbcore.sampling import checkpoint as checkpoints
from nbcore.sampling.checkpoint import Part

TARGET = on_devices.make_target()
METHODS = ("vectorized", "threads", "sequential")
ENDS = [("warmup", 3), ("warmup", 6), ("tuning", 0), ("tuning", 1), ("sampling", 3)]


@functools.cache
def whole(method: str) -> nb.Posterior:
    """A run that nobody stopped."""
    return sample(TARGET, chain_method=method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("end", ENDS, ids=str)
def test_a_run_that_was_stopped_gives_the_same_draws(
    tmp_path: Path, method: str, end: tuple[str, int]
) -> None:
    at = {"chain_method": method, "checkpoint": tmp_path / "c"}
    interrupted(TARGET, *end, **at)
    same(sample(TARGET, **at), whole(method))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_may_be_stopped_again_and_again(tmp_path: Path, method: str) -> None:
    at = {"chain_method": method, "checkpoint": str(tmp_path / "c")}
    for end in ENDS:
        interrupted(TARGET, *end, **at)
    same(sample(TARGET, **at), whole(method))


def test_steps_that_are_done_are_not_done_again(tmp_path: Path) -> None:
    at = {"chain_method": "vectorized", "checkpoint": tmp_path}
    interrupted(TARGET, "sampling", 3, **at)
    for expected in ([("sampling", 3), ("sampling", 6)], [("sampling", 6)]):
        seen: list[Any] = []
        sample(TARGET, progress=seen.append, **at)
        assert [(r.phase, r.done) for r in seen if r.total] == expected


def test_one_state_is_kept_and_nothing_needs_pickle(tmp_path: Path) -> None:
    sample(TARGET, chain_method="threads", checkpoint=tmp_path)
    files = sorted(path.name for path in (tmp_path / "process-0").iterdir())
    each = [f"chain-{c}-{rest}" for c in range(4) for rest in (
        "draws-00000.safetensors", "draws-00001.safetensors", "state-00005.safetensors",
    )]  # fmt: skip
    assert files == ["chain-0-draws-00000.safetensors", *each[1:], "checkpoint.json"]


@pytest.mark.parametrize("what", ["draws", "state"])
def test_a_file_that_was_not_finished_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The disk is full when the first draws, or the state after them, are written."""
    at = {"chain_method": "vectorized", "checkpoint": tmp_path}
    name = {"draws": "chains-1-draws-00000", "state": "chains-1-state-00004"}[what]
    save = storage.save_file

    def full(arrays: Any, path: Path, **more: Any) -> None:
        save(arrays, path, **more)
        if name in path.name:
            raise OSError("No space left on device")

    monkeypatch.setattr(storage, "save_file", full)
    with pytest.raises(RunFolderError, match=f"{name}.*No space left"):
        sample(TARGET, **at)
    monkeypatch.undo()
    assert not list((tmp_path / "process-0").glob(".*"))
    same(sample(TARGET, **at), whole("vectorized"))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("begun")
    interrupted(TARGET, "warmup", 3, chain_method="sequential", checkpoint=path)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_warmup": 3}, "num_warmup was 6 and is 3"),
        ({"num_chains": 3}, "num_chains was 4 and is 3"),
        ({"thin": 2}, "thin was 1 and is 2"),
        ({"chunk_size": 6}, "chunk_size was 3 and is 6"),
        ({"key": 6}, r"key was '.* \[0, 5\]' and is '.* \[0, 6\]'"),
        ({"chain_method": "threads"}, "chain_method was 'sequential' and is 'threads'"),
        ({"backend": Wander(batch_size=9)}, "option batch_size was 0 and is 9"),
        ({"init": "prior"}, "start was"),
    ],
)
def test_another_run_is_refused_and_the_difference_named(
    begun: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        sample(TARGET, **({"chain_method": "sequential", "checkpoint": begun} | options))


X = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
NETWORK = nb.as_network(
    (lambda key, x: {}, lambda p, x: jnp.tanh(x @ p["in"]["kernel"]) @ p["out"]["kernel"])
)
REGRESSION = nb.Target.build(
    NETWORK, {"in": {"kernel": jnp.eye(2)}, "out": {"kernel": jnp.ones((2, 1))}},
    nb.ProbabilisticSubset.everything(), X, X[:, 0], likelihood=nb.Gaussian(noise=0.5),
    prior=nb.NormalPrior(0.3),
)  # fmt: skip
PLAN: dict[str, Any] = {"num_warmup": 10, "num_chains": 2, "key": 3, "progress": False}


@pytest.mark.parametrize("thin", [1, 3])
@pytest.mark.parametrize("backend", nb.list_backends())
def test_a_finished_run_is_extended(tmp_path: Path, backend: str, thin: int) -> None:
    """Its draws stay the first, and all are those of a run of that length from the beginning."""
    options = {**PLAN, "backend": backend, "thin": thin}
    at = {**options, "checkpoint": tmp_path}
    short = nb.sample(REGRESSION, num_samples=10, **at)
    longer = nb.sample(REGRESSION, num_samples=25, **at)
    whole = nb.sample(REGRESSION, num_samples=25, **options)
    assert (short.num_draws, longer.num_draws) == (10 // thin, 25 // thin)
    for first, all_, expected in zip(
        *(jax.tree.leaves(p.draws) for p in (short, longer, whole)), strict=True
    ):
        assert np.array_equal(first, all_[:, : 10 // thin])
        assert np.array_equal(all_, expected)
    assert longer.info.settings["num_samples"] == 25
    assert longer.info.num_gradients == whole.info.num_gradients
    with pytest.raises(CheckpointError, match=f"holds {25 // thin} draws of a chain"):
        nb.sample(REGRESSION, num_samples=10, **at)


def test_weights_that_are_integrated_out_are_extended(tmp_path: Path) -> None:
    target = nb.marginalize(REGRESSION)
    short, longer = (
        nb.sample(target, num_samples=n, checkpoint=tmp_path, **PLAN) for n in (10, 25)
    )
    for first, all_ in zip(*(jax.tree.leaves(p.draws) for p in (short, longer)), strict=True):
        assert np.array_equal(first, all_[:, :10])


def only_difference(begun: Path, target: Any, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        sample(target, chain_method="sequential", checkpoint=begun, **options)
    text = str(caught.value).partition("another run: ")[2].partition(". Go on")[0]
    return "; ".join(part.partition(" was ")[0] for part in text.split("; "))


def test_other_data_are_another_run(begun: Path) -> None:
    assert only_difference(begun, on_devices.make_target(shift=1e-6)) == "data and weights"


def test_another_density_is_another_run(tmp_path: Path) -> None:
    scale = np.array([1.0, 2.0])  # a constant of the function, of which no leaf tells

    def target_of(scale: Any) -> nb.Target:
        return nb.Target.from_log_density(
            lambda z: -0.5 * jax.numpy.sum((z / scale) ** 2), np.zeros(2)
        )

    interrupted(target_of(scale), "warmup", 3, chain_method="sequential", checkpoint=tmp_path)
    assert only_difference(tmp_path, target_of(scale + 1)) == "log density"
    assert only_difference(tmp_path, target_of(scale.copy()), key=6) == "key; start"


def test_other_versions_are_another_run(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "versions_of", lambda backend: {"jax": "0.1"})
    with pytest.raises(CheckpointError, match=r"version of jax was .* and is '0.1'"):
        sample(TARGET, chain_method="sequential", checkpoint=begun)


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    at = {"chain_method": "vectorized", "checkpoint": tmp_path / "c"}
    interrupted(TARGET, "sampling", 3, **at)
    draws = tmp_path / "c" / "process-0" / "chains-0-draws-00000.safetensors"
    kept = draws.read_bytes()
    draws.write_bytes(kept[:-5])
    with pytest.raises(RunFolderError, match=r"draws-00000.*cannot be read"):
        sample(TARGET, **at)
    draws.unlink()
    with pytest.raises(RunFolderError, match="draws-00000"):
        sample(TARGET, **at)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot hold a checkpoint"):
        sample(TARGET, checkpoint=tmp_path / "file")


def test_a_state_of_another_shape_is_refused(tmp_path: Path) -> None:
    at = {"chain_method": "vectorized", "checkpoint": tmp_path}
    interrupted(TARGET, "warmup", 3, **at)
    (state,) = (tmp_path / "process-0").glob("chains-0-state-*")
    arrays, facts = storage.read_arrays(state)
    storage.write_arrays(state, {**arrays, "['moves']": np.zeros(3, np.int32)}, facts)
    with pytest.raises(CheckpointError, match=r"\['moves'\]"):
        sample(TARGET, **at)


def test_a_chain_that_fails_stops_the_others() -> None:
    seen: list[Any] = []

    def report(at: Any) -> None:
        seen.append(at)
        if at.chain == 0 and at.phase == "warmup":
            raise Stop

    with pytest.raises(Stop):
        sample(TARGET, chain_method="threads", progress=report, num_samples=6000)
    assert max(r.done for r in seen) < 1000


ARRAYS = {"x": np.arange(3.0), "n": np.int32(4), "flag": np.array([True])}


def test_processes_go_back_to_the_last_state_that_all_have(tmp_path: Path) -> None:
    Part(tmp_path, "chains", lambda n: n).write(ARRAYS, {"done": 1}, None)

    def dies(number: int) -> int:
        raise Stop  # the other process is gone before it has written this state

    doomed = Part(tmp_path, "chains", dies, 1)
    with pytest.raises(Stop):
        doomed.write(ARRAYS, {"done": 2}, ARRAYS)
    answers = iter([1, 1])  # the other's last state, and that both have it
    again = Part(tmp_path, "chains", lambda n: min(n, next(answers, n)))
    stored = again.read()
    assert stored is not None
    arrays, facts, draws = stored
    assert (facts, draws) == ({"done": 1, "chunks": 0}, [])
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == np.asarray(array).dtype
    assert [p.name for p in tmp_path.glob("*state*")] == ["chains-state-00001.safetensors"]


def test_processes_that_share_no_state_begin_anew(tmp_path: Path) -> None:
    part = Part(tmp_path, "chains", lambda n: n)
    for _ in range(3):
        part.write(ARRAYS, {}, None)
    answers = iter([1, 0])
    assert Part(tmp_path, "chains", lambda n: min(n, next(answers))).read() is None
    assert not list(tmp_path.glob("*state*"))
