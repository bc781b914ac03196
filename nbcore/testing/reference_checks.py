"""Checks against nonlinear references: what draws of several networks predict."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nbcore import references
from nbcore.posterior import convergence
from nbcore.sampling.backend import Backend
from nbcore.testing import runs
from nbcore.testing.cases import Check, check
from nbcore.testing.failure import require

STANDARD_ERRORS = 5.0
MEAN_TOLERANCE = 0.25
"""Largest bias of a mean of a sampler that is not exact, in deviations of the reference."""
DEVIATION_FACTOR = 1.25
"""Largest factor between its deviations and those of the reference."""
APPROXIMATION_MEAN = 1.5
"""The same of independent draws, as of a normal density at the mode; root mean square."""
APPROXIMATION_FACTOR = 2.0
LEAST_SHARE = 0.1
"""Of the deviation of the prediction that varies most: those that vary less are left out."""
MIN_ESS = 50
NUM_WARMUP = 1000


@check("backend", slow=True)
def check_reference_of_a_perceptron(backend: Backend) -> None:
    """First and output layer of a perceptron, with known noise."""
    _check(backend, "mlp-ends")


@check("backend", slow=True)
def check_reference_with_unknown_noise(backend: Backend) -> None:
    """First and output layer of a perceptron, and the noise."""
    _check(backend, "mlp-ends-noise")


@check("backend", slow=True)
def check_reference_of_a_convolution(backend: Backend) -> None:
    """A convolution and its head, on ten classes."""
    _check(backend, "convolution-head")


@check("backend", slow=True)
def check_reference_of_attention(backend: Backend) -> None:
    """Triples of query, key and value of an attention layer."""
    _check(backend, "attention")


def every_reference() -> list[Check]:
    """Return a check for every reference that long runs agree on."""
    return [
        Check(
            f"reference_{name}", "backend", functools.partial(_check, name=name), lambda _: True,
            slow=True,
        )
        for name in references.list()
        if references.load(name).is_settled
    ]  # fmt: skip


def _check(backend: Backend, name: str) -> None:
    truth = references.load(name)
    # Probabilities that hardly vary say nothing about a sampler.
    predicted = np.array([name.startswith("prediction") for name in truth.names])
    shown = ~predicted | (truth.deviation > LEAST_SHARE * truth.deviation[predicted].max())
    is_independent = "independent" in backend.capabilities

    def predictions(posterior: Any) -> NDArray[np.float64]:
        return truth.functions(posterior)[..., shown]

    settled = runs.settle(
        truth.target, backend, predictions, num_warmup=NUM_WARMUP,
        min_ess=0 if is_independent else MIN_ESS,
        again=f"nbcore.references.load({name!r}).target",
    )  # fmt: skip
    values, deviation = settled.values, truth.deviation[shown]
    mean, own = values.mean(axis=(0, 1)), values.std(axis=(0, 1))
    off, ratio = np.abs(mean - truth.mean[shown]), own / deviation
    if is_independent:
        _check_approximation(name, off / deviation, ratio)
        return
    inexact = 0.0 if "exact" in backend.capabilities else 1.0
    noise = np.hypot(convergence.mcse_mean(values) / deviation, truth.mean_error[shown] / deviation)
    limits = inexact * MEAN_TOLERANCE + STANDARD_ERRORS * noise
    worst = int(np.argmax(off / deviation / limits))
    require(
        off[worst] / deviation[worst] < limits[worst],
        f"Means of predictions are those of the reference {name!r}",
        measured=f"off by {off[worst] / deviation[worst]:.2f} deviations of the reference",
        limit=f"{limits[worst]:.2f}, of which {STANDARD_ERRORS:.0f} standard errors are "
        f"{STANDARD_ERRORS * noise[worst]:.2f}",
        cause="a sampler that is right for a normal posterior alone.",
    )
    # That of squares, since probabilities are not normal: 1 / sqrt(2 ESS) would be too small.
    squares = convergence.mcse_mean((values - mean) ** 2) / (2 * own**2)
    spread = np.hypot(squares, truth.deviation_error[shown] / deviation)
    factors = np.exp(inexact * np.log(DEVIATION_FACTOR) + STANDARD_ERRORS * spread)
    worst = int(np.argmax(np.abs(np.log(ratio)) / np.log(factors)))
    require(
        1 / factors[worst] < ratio[worst] < factors[worst],
        f"Deviations of predictions are those of the reference {name!r}",
        measured=f"{ratio[worst]:.2f} times the reference's",
        limit=f"a factor of {factors[worst]:.2f}, {STANDARD_ERRORS:.0f} standard errors included",
        cause="steps that leave where the density is, noise of the wrong size, or a covariance of "
        "the mode alone.",
    )


def _check_approximation(name: str, off: NDArray[np.float64], ratio: NDArray[np.float64]) -> None:
    """Hold one normal density in place of the posterior to what such a density can do."""
    rms, middle = float(np.sqrt(np.mean(off**2))), float(np.median(ratio))
    require(
        rms < APPROXIMATION_MEAN and 1 / APPROXIMATION_FACTOR < middle < APPROXIMATION_FACTOR,
        f"Predictions of independent draws are near those of the reference {name!r}",
        measured=f"means off by {rms:.2f} deviations (root mean square), deviations "
        f"{middle:.2f} times the reference's (median)",
        limit=f"{APPROXIMATION_MEAN} deviations, and a factor of {APPROXIMATION_FACTOR:.0f}",
        cause="draws of the expansion at the mode that go through the network far from there; "
        "linearize it (`Kernel.linearized_at`).",
    )
