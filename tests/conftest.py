"""What every test runs under: JAX on the CPU, and the same hypothesis examples each time."""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before anything imports jax
# Tests compile much and compute little, so compilers need not try hard: half of the suite's time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)
# Set, so that commands which tests run keep no compiled programs in the user's cache folder.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "true")

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile(
    "nbcore", max_examples=25, deadline=None, derandomize=True, database=None, print_blob=False
)
settings.load_profile("nbcore")

# A project of its own, which is installed to be tested; and scripts, which a test runs.
collect_ignore = ["external_plugin", "plugins/neurobayes/scripts"]


MAPS = Path("/proc/self/maps")
MAX_MAPS = 30_000


class FewMemoryMaps:
    """Forget compiled programs in time: each takes memory maps, of which Linux allows 65,530."""

    tests = 0

    def pytest_runtest_logfinish(self) -> None:
        self.tests += 1
        if self.tests % 20 == 0 and MAPS.exists() and MAPS.read_bytes().count(b"\n") > MAX_MAPS:
            import jax

            jax.clear_caches()


FAST_BACKENDS = ("numpyro-nuts", "blackjax-hmc", "sgld", "laplace")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Every backend compiles programs of its own, so the fast suite holds one of each sort to the
    # contract; `make test-all`, and the kit by itself, all of them.
    for item in items:
        callspec = getattr(item, "callspec", None)
        subject = callspec.params.get("subject") if callspec else None
        is_ours = (
            item.path.name == "test_conformance.py" and getattr(subject, "kind", "") == "backend"
        )
        if is_ours and subject.spec.name not in FAST_BACKENDS:
            item.add_marker(pytest.mark.slow)


def pytest_configure(config: pytest.Config) -> None:
    # As a plugin, for the docstring examples outside of this folder too.
    config.pluginmanager.register(FewMemoryMaps())
