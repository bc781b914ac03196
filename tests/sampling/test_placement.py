"""Meshes and processes: what one process can tell, the rest in processes of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import on_devices
import pytest

import nbcore as nb
from nbcore.errors import OptionError
from nbcore.sampling.placement import connect, mesh_of, placement_for, spread

COMMAND = "import sys; from nbcore.cli import main; sys.exit(main(sys.argv[1:]))"
CONFIG = """\
seed = 3

[data]
path = "rows.csv"
features = ["a", "b"]
target = "y"

[network]
name = "mlp"
hidden_dims = [4]

[training]
epochs = 4

[sample]
num_warmup = 40
num_samples = 30
num_chains = 4

[calibration]
folds = 2
"""


def start(*arguments: str, devices: int, **variables: str) -> subprocess.Popen[str]:
    """Start a process that sees so many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    here = str(Path(__file__).parents[1])
    paths = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), here) if p)
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": paths, **variables},
    )


def finish(*processes: subprocess.Popen[str], timeout: float = 300) -> list[str]:
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert codes == [0] * len(processes), "\n\n".join(outputs)
    return outputs


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return str(probe.getsockname()[1])


@pytest.mark.slow
def test_four_devices(tmp_path: Path) -> None:
    target = on_devices.make_target()
    for phase, done in (("warmup", 3), ("sampling", 3)):
        on_devices.interrupted(
            target, phase, done, chain_method="sequential", checkpoint=tmp_path / "resumed"
        )
    whole = on_devices.sample(target, chain_method="sequential")
    np.save(tmp_path / "draws.npy", whole.flat_draws()["embed/embedding"])
    script = str(Path(on_devices.__file__))
    assert finish(start(script, "four", str(tmp_path), devices=4))[0].endswith("all is well\n")


@pytest.mark.slow
def test_draws_are_the_same_bit_for_bit_as_users_compile_them(tmp_path: Path) -> None:
    """Without the flags of tests/conftest.py, under which XLA optimizes less."""
    script = str(Path(on_devices.__file__))
    for name in ("usual_first", "usual_second"):
        process = start(script, name, str(tmp_path), devices=1, XLA_FLAGS="")
        assert finish(process, timeout=900)[0].endswith("all is well\n")


@pytest.mark.slow
def test_every_sampler_runs_on_a_mesh(tmp_path: Path) -> None:
    script = str(Path(on_devices.__file__))
    process = start(script, "samplers", str(tmp_path), devices=4)
    assert finish(process, timeout=900)[0].endswith("all is well\n")


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    script, address = str(Path(on_devices.__file__)), f"localhost:{free_port()}"
    both = [
        start(script, "processes", str(tmp_path), address, str(number), "2", devices=2)
        for number in range(2)
    ]
    assert all(output.endswith("all is well\n") for output in finish(*both))


@pytest.mark.slow
def test_a_distributed_run_is_written_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["a,b,y", *(f"{a:.4f},{b:.4f},{a - b:.4f}" for a, b in rng.normal(size=(30, 2)))]
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "config.toml").write_text(CONFIG, encoding="utf-8")
    common = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
    }
    out, checkpoint = tmp_path / "run", tmp_path / "checkpoint"
    arguments = ["run", str(tmp_path / "config.toml"), "--out", str(out), "--distributed"]
    arguments += ["--checkpoint", str(checkpoint)]
    both = [
        start("-c", COMMAND, *arguments, devices=2, JAX_PROCESS_ID=str(number), **common)
        for number in range(2)
    ]
    first, second = finish(*both)
    assert "report.html" in first
    assert "Run:" not in second
    info = json.loads((out / "posterior" / "posterior.json").read_text(encoding="utf-8"))["info"]
    assert info["mesh"] == {"chain": 4, "data": 1}
    posterior = nb.Posterior.load(out / "posterior", network_of(out))
    assert posterior.num_chains == 4
    parts = sorted(p.name for p in (checkpoint / "member-0").iterdir())
    assert parts == ["process-0", "process-1"]


def network_of(out: Path) -> Any:
    from nbcore.common import plugins

    network = json.loads((out / "run.json").read_text(encoding="utf-8"))["network"]
    return plugins.build("network", network["name"], network["options"])


def test_a_mesh_of_one_device_changes_nothing() -> None:
    target = on_devices.make_target()
    for method in ("sequential", "vectorized"):
        plain = on_devices.sample(target, chain_method=method)
        meshed = on_devices.sample(target, chain_method=method, mesh=spread(4))
        on_devices.close(meshed.draws, plain.draws)
        assert meshed.info.num_gradients == plain.info.num_gradients
    assert (plain.info.mesh, meshed.info.mesh) == ({}, {"chain": 1, "data": 1})


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (2, r"jax\.sharding\.Mesh, got int.*jax\.make_mesh"),
        (jax.make_mesh((1,), ("chains",)), "'chains'.*Did you mean 'chain'"),
        (jax.make_mesh((1, 1), ("chain", "model")), "'model'"),
        (jax.sharding.Mesh(np.array(jax.devices()[0]), ()), "got none"),
    ],
)
def test_impossible_meshes_are_refused(mesh: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        placement_for(mesh, 4)


def test_threads_share_no_mesh() -> None:
    with pytest.raises(OptionError, match="threads"):
        on_devices.sample(on_devices.make_target(), chain_method="threads", mesh=spread(4))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"chain": 2, "data": 3}, "needs 6 devices; there are 1"),
        ({"chain": 0}, "at least 1"),
        ({"chain": 1.0}, "integers"),
        ({"dat": 1}, "Did you mean 'data'"),
        ({}, "got none"),
    ],
)
def test_impossible_sizes_are_refused(sizes: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        mesh_of(sizes)


@pytest.mark.parametrize(
    "environment",
    [
        {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "2"},
        {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "two"},
        {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
    ],
)
def test_processes_that_cannot_meet_say_what_to_set(environment: dict[str, str]) -> None:
    with pytest.raises(OptionError, match="JAX_COORDINATOR_ADDRESS=host:port"):
        connect(environment)
