"""Linear regression: its evidence and posterior are those of linear algebra in double precision."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from nbcore.targets.regression import Regression, log_evidence


def in_blocks(design: np.ndarray, residual: np.ndarray, dtype: Any = np.float32) -> Any:
    """Return both in two blocks of rows, the first of which may be empty."""
    first = residual.size // 3
    return tuple(
        tuple(jnp.asarray(part, dtype) for part in np.split(array, [first], axis=-1))
        for array in (design, residual)
    )


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([1, 2, 6]),
    st.sampled_from([1, 4, 20]),
    st.integers(-4, 5),
    st.integers(0, 2**31),
)
def test_evidence_of_a_regression(size: int, rows: int, log_scale: int, seed: int) -> None:
    """In float32, of designs that are anything between nothing and almost without noise."""
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(size, rows)) * 10.0**log_scale
    residual = rng.normal(size=size) @ design + rng.normal(size=rows)
    got = log_evidence(*in_blocks(design, residual))
    covariance = design.T @ design + np.eye(rows)
    _, log_det = np.linalg.slogdet(np.eye(size) + design @ design.T)
    square = residual @ np.linalg.solve(covariance, residual)
    assert float(got) == pytest.approx(
        -0.5 * (square + log_det), rel=2e-3, abs=2e-2 * max(1.0, 10.0 ** (log_scale - 2))
    )


def test_derivatives_of_the_evidence() -> None:
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        arguments = in_blocks(rng.normal(size=(3, 8)), rng.normal(size=8), np.float64)
        check_grads(log_evidence, arguments, order=2, modes=["fwd", "rev"], rtol=1e-5)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_the_posterior_is_that_of_the_normal_equations(scale: float) -> None:
    rng = np.random.default_rng(1)
    design = scale * rng.normal(size=(3, 12))
    residual = rng.normal(size=12)
    found = Regression.of(*in_blocks(design, residual))
    covariance = np.linalg.inv(design @ design.T + np.eye(3))
    deviations = np.sqrt(np.diag(covariance))
    mean = covariance @ design @ residual
    np.testing.assert_allclose(found.mean / deviations, mean / deviations, atol=1e-3)
    draws = jax.vmap(found.draw)(jax.random.split(jax.random.key(0), 20_000)) / deviations
    error = 6 / np.sqrt(len(draws))
    np.testing.assert_allclose(draws.mean(axis=0), mean / deviations, atol=error)
    correlation = covariance / np.outer(deviations, deviations)
    np.testing.assert_allclose(np.cov(draws, rowvar=False), correlation, atol=error)
