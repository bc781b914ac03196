"""Checks that draws come from the posterior: closed forms, quantiles, rank uniformity."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nbcore.posterior import convergence
from nbcore.sampling.backend import Backend
from nbcore.testing import calibration, runs, shapes
from nbcore.testing.cases import check
from nbcore.testing.declared import options_of
from nbcore.testing.failure import require
from nbcore.testing.oracle import oracle
from nbcore.testing.runs import Settled

STANDARD_ERRORS = 4.0
DEVIATION_LIMIT = 0.1
LEAST_ESS = 50
BIAS_TOLERANCE = 0.25
"""Bias of a sampler that is not exact and states no `bias_tolerance`, in posterior deviations."""

WRONG_TARGET = (
    "a density that is not the target's (a prior or a temperature applied twice); draws kept "
    "while the sampler still adapts; an accept step that leaves out part of the Hamiltonian."
)


def is_exact(declared: frozenset[str]) -> bool:
    """Exact everywhere, or independent draws of a normal, which this posterior is."""
    return bool(declared & {"exact", "independent"})


@check("backend", applies=is_exact, slow=True)
def check_closed_form(backend: Backend) -> None:
    """Mean and covariance are those of the conjugate posterior, at an ESS of at least 1,000."""
    settled = runs.settled_on_oracle(backend)
    errors, ratios = figures(settled)
    require(
        np.all(np.abs(errors) < STANDARD_ERRORS),
        "Means are those of the closed-form posterior",
        measured=f"off by up to {np.abs(errors).max():.1f} Monte Carlo standard errors",
        limit=f"{STANDARD_ERRORS:.0f} in each of 20 directions, at ESS {settled.ess.min():,.0f}",
        cause=WRONG_TARGET,
    )
    require(
        np.all(np.abs(ratios - 1) < DEVIATION_LIMIT),
        "Standard deviations are those of the closed-form posterior",
        measured=f"{ratios.min():.3f} to {ratios.max():.3f} times the true ones",
        limit=f"within {DEVIATION_LIMIT:.0%} in each of 20 directions",
        cause=WRONG_TARGET,
    )


@check("backend", applies=lambda declared: not is_exact(declared), slow=True)
def check_bias_within_tolerance(backend: Backend) -> None:
    """The bias of means and deviations is at most what the backend states."""
    _check_bias(runs.sampled_on_oracle(backend), tolerance_of(backend), "The bias")


@check(
    "backend",
    applies=lambda declared: not is_exact(declared),
    options=frozenset({"step_size"}),
    slow=True,
)
def check_bias_falls_with_the_step_size(backend: Backend) -> None:
    """At a quarter of the step size the bias is less than half, towards the closed form."""
    coarse = runs.settled_on_oracle(backend)
    taken = np.asarray(coarse.posterior.stats.step_size, np.float64)
    require(
        np.all(np.isfinite(taken)),
        "A backend with the option step_size reports the step size that it takes",
        measured=taken.ravel()[:3],
        limit="finite Stats.step_size",
        cause="the field left at its default, NaN.",
    )
    finer = type(backend)(**{**options_of(backend), "step_size": float(taken.max()) / 4})
    fine = runs.settle(oracle().target, finer, oracle().standardized)
    _check_bias(fine, tolerance_of(backend) / 2, "The bias at a quarter of the step size")
    (large, _), (small, noise) = variance_excess(coarse), variance_excess(fine)
    require(
        abs(small) < abs(large) / 2 + STANDARD_ERRORS * noise,
        "The bias falls with the step size",
        measured=f"variances off by {large:+.1%} at the step size {taken.max():.3g}, and by "
        f"{small:+.1%} at a quarter of it",
        limit=f"less than half, up to {STANDARD_ERRORS:.0f} standard errors of {noise:.1%}",
        cause="a bias that does not come from the step size: a temperature other than 1, a "
        "minibatch density without the factor N / B, noise of the wrong size.",
    )


@check("backend", applies=lambda declared: "exact" in declared, slow=True)
def check_skewed_target(backend: Backend) -> None:
    """Quantiles of logarithms of gamma variates are exact, started far from the mode."""
    _check_quantiles(backend, shapes.log_gamma)


@check("backend", applies=lambda declared: "exact" in declared, slow=True)
def check_correlated_target(backend: Backend) -> None:
    """Quantiles of a normal of condition number 1,000 are exact, started far from the mode."""
    _check_quantiles(backend, shapes.correlated_normal)


@check("backend", applies=lambda declared: {"exact", "adaptive"} <= declared, slow=True)
def check_rank_uniformity(backend: Backend) -> None:
    """Simulation-based calibration: the rank of what drew the data is uniform among the draws."""
    p_values = calibration.rank_p_values(backend)
    limit = calibration.LEAST_P / len(p_values)
    require(
        np.all(p_values > limit),
        "Ranks of the true values among their posterior draws are uniform",
        measured=f"smallest p-value {p_values.min():.2g} of {len(p_values)} chi-square tests",
        limit=f"above {limit:.2g}",
        cause=WRONG_TARGET,
    )


def tolerance_of(backend: Backend) -> float:
    """Return the bias that a backend states, in posterior standard deviations."""
    return float(getattr(backend, "bias_tolerance", BIAS_TOLERANCE))


def figures(settled: Settled) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return errors of means in Monte Carlo standard errors, and deviations over true ones."""
    values = settled.values
    errors = values.mean(axis=(0, 1)) / convergence.mcse_mean(values)
    return errors, values.std(axis=(0, 1))


def variance_excess(settled: Settled) -> tuple[float, float]:
    """Return the relative excess of the variance over independent directions, and its error."""
    half = settled.values.shape[-1] // 2
    variances = settled.values[..., half:].var(axis=(0, 1))
    noise = np.sqrt(2 / np.sum(settled.ess[half:]))
    return float(np.mean(variances) - 1), float(noise * np.mean(variances))


def _check_bias(settled: Settled, tolerance: float, what: str) -> None:
    require(
        settled.ess.min() >= LEAST_ESS,
        "The draws are worth enough to measure a bias",
        measured=f"ESS {settled.ess.min():.0f} of {settled.values[..., 0].size:,} draws",
        limit=f"at least {LEAST_ESS}",
        cause="a default step size that is far too small, or chains that never meet.",
    )
    means = np.abs(settled.values.mean(axis=(0, 1)))
    ratios = settled.values.std(axis=(0, 1))
    for name, bias, noise in (
        ("means", means, convergence.mcse_mean(settled.values)),
        ("standard deviations", np.abs(ratios - 1), ratios / np.sqrt(2 * settled.ess)),
    ):
        require(
            np.all(bias < tolerance + STANDARD_ERRORS * noise),
            f"{what} of {name} is within the tolerance that the backend states",
            measured=f"{bias.max():.3f} posterior standard deviations",
            limit=f"{tolerance:.3f} and {STANDARD_ERRORS:.0f} standard errors of {noise.max():.3f}",
            cause="a default step size that is too large; or " + WRONG_TARGET,
        )


def _check_quantiles(backend: Backend, make: Callable[[], shapes.Shape]) -> None:
    shape = make()
    settled = runs.settle(
        shape.target, backend, shape.below, convergence.ess_mean, init=shape.far_starts(),
        num_warmup=shape.num_warmup, again=f"nbcore.testing.shapes.{make.__name__}().target",
    )  # fmt: skip
    # The first tenth by itself too: whoever keeps draws of the way from the start is seen there,
    # however long the run.
    first = settled.values[:, : settled.values.shape[1] // 10]
    ess = convergence.ess_mean(settled.values)
    for what, values, worth in (
        ("", settled.values, ess),
        (" in the first tenth", first, ess / 10),
    ):
        p = shape.probabilities
        found = values.mean(axis=(0, 1))
        errors = np.abs(found - p) / np.sqrt(p * (1 - p) / worth)
        worst = int(errors.argmax())
        require(
            np.all(errors < STANDARD_ERRORS),
            f"Quantiles of {shape.name} are exact{what}",
            measured=f"{found[worst]:.4f} of the draws{what} are below the {p[worst]:.4f} "
            f"quantile, {errors[worst]:.1f} standard errors away",
            limit=f"{STANDARD_ERRORS:.0f}",
            cause="draws kept before the chain has arrived from its start, or while the sampler "
            "still adapts; a proposal that is not reversible.",
        )
