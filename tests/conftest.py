"""What every test runs under: JAX on the CPU, and the same hypothesis examples each time."""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before anything imports jax
# Tests compile much and compute little, so compilers need not try hard.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)

from hypothesis import settings

settings.register_profile(
    "nbcore", max_examples=25, deadline=None, derandomize=True, database=None, print_blob=False
)
settings.load_profile("nbcore")
