"""Recipes of training: learning rates, the prior, and averaging of the last weights."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
import optax

from nbcore.common.options import (
    check_at_least,
    check_choice,
    check_count,
    check_fraction,
    check_names,
    check_positive,
)
from nbcore.errors import OptionError

SWASchedule = Literal["constant", "linear", "cyclic"]
RateSchedule = Literal["constant", "cosine"]
LEAST_RATES = 1024
# Two snapshots; before the first one the rate falls in a step, and a cycle has two.
LEAST_STEPS: dict[SWASchedule, int] = {"constant": 2, "linear": 3, "cyclic": 4}


@dataclass(frozen=True)
class SWA:
    """Stochastic weight averaging: which steps are averaged, and at which learning rate.

    Snapshots are taken per optimizer step within the window; their mean becomes the weights, and
    the variance selector reads their variance. Moments are streamed: no list is kept.
    However short the training, the window is long enough for two snapshots, if there are as
    many steps.

    Every weight is averaged in the same way, scales and biases of normalization layers (LayerNorm,
    GroupNorm, BatchNorm) included. Running statistics of a BatchNorm are state, not weights: they
    are neither averaged nor recomputed, because training normalizes by the given statistics, as
    prediction does.

    Args:
        schedule: `"constant"` (the rate stays as it is, or is `swa_lr` within the window; every
            step is a snapshot), `"linear"` (the rate falls to `swa_lr`, then every step is one),
            `"cyclic"` (the rate falls to `swa_lr`, then swings up to halfway and back; the low
            points are snapshots).
        start_pct: fraction of the optimizer steps before the window.
        swa_lr: learning rate of the window; `None` is a tenth of the peak rate (for
            `"constant"`: no change).
        decay_fraction: fraction of the optimizer steps over which the rate falls.
        cycle_length: epochs of a cycle; a fraction is allowed. `None` gives ten cycles, fewer if
            the window has not two steps for each.
        num_recent: how many of the last snapshots' deviations from the running mean to keep, each
            as large as the weights: the low-rank part of SWAG, for the selector `swag-variance`.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> SWA(start_pct=0.9).schedule
        'constant'

    References:
        Izmailov et al. (2018), "Averaging weights leads to wider optima and better
        generalization", algorithm 1.
    """

    schedule: SWASchedule = "constant"
    start_pct: float = 0.95
    swa_lr: float | None = None
    decay_fraction: float = 0.05
    cycle_length: float | None = None
    num_recent: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice(get_args(SWASchedule), owner="SWA", schedule=self.schedule)
        check_fraction(zero=True, start_pct=self.start_pct, decay_fraction=self.decay_fraction)
        check_positive(optional=True, swa_lr=self.swa_lr, cycle_length=self.cycle_length)
        check_count(0, num_recent=self.num_recent)

    @staticmethod
    def of(swa: SWA | dict[str, Any] | None) -> SWA | None:
        """Return the averaging of an `SWA`, a dict of its options, or `None`.

        Raises:
            OptionError: an option of the dict is unknown, or something else was given.
        """
        if swa is None or isinstance(swa, SWA):
            return swa
        if not isinstance(swa, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(f"swa is an nb.SWA, a dict of its options or None, got {swa!r}.")
        check_names([f.name for f in fields(SWA)], owner="swa", names=swa)
        return SWA(**swa)

    def plan(self, rates: np.ndarray, steps_per_epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the learning rate of every step, and whether its weights are a snapshot.

        Args:
            rates: learning rates without averaging `(steps,)`.
            steps_per_epoch: optimizer steps of an epoch.

        Raises:
            OptionError: `cycle_length` is longer than the window.
        """
        total = len(rates)
        start = max(0, min(int(total * self.start_pct), total - LEAST_STEPS[self.schedule]))
        steps = np.arange(total)
        if self.schedule == "constant":
            inside = steps >= start
            held = rates if self.swa_lr is None else np.where(inside, self.swa_lr, rates)
            return held, inside
        low = self.swa_lr if self.swa_lr is not None else 0.1 * float(rates.max())
        decay = max(1, min(int(self.decay_fraction * total), (total - start) // 2))
        top = float(rates[start]) if start < total else low
        falling = top + (low - top) * np.clip((steps - start) / decay, 0, 1)
        rates = np.where(steps < start, rates, falling)
        inside = steps >= start + decay
        if self.schedule == "linear":
            return rates, inside
        window = total - start - decay
        shortest = 2 if window > 2 else 1  # of two steps, both are low points
        cycle = max(shortest, int((self.cycle_length or 0) * steps_per_epoch) or window // 10)
        if self.cycle_length is not None and cycle >= window:
            raise OptionError(
                f"A cycle of {cycle} steps leaves one snapshot in a window of {window}. Lower "
                "cycle_length or start_pct, or train longer."
            )
        phase = (steps - start - decay) % cycle
        peak = low + 0.5 * (float(rates.max()) - low)
        swing = 1 - np.abs(2 * phase / cycle - 1)
        return np.where(inside, low + (peak - low) * swing, rates), inside & (phase == 0)


@dataclass(frozen=True)
class Recipe:
    """A recipe of training.

    Args:
        learning_rate: peak learning rate.
        weight_decay: decoupled weight decay (AdamW); 0 is Adam.
        schedule: `"constant"`, or `"cosine"` with a linear start over the first twentieth.
        map: whether the Gaussian prior is part of the loss.
        sigma: standard deviation of that prior.
        swa: averaging of the last weights, or `None`.
        patience: epochs without a better validation loss after which training stops.
        clip: largest global norm of a gradient.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: RateSchedule = "constant"
    map: bool = True
    sigma: float = 1.0
    swa: SWA | None = SWA()
    patience: int = 20
    clip: float = 10.0

    def __post_init__(self) -> None:
        """Check the options."""
        check_positive(learning_rate=self.learning_rate, sigma=self.sigma)
        check_at_least(0, weight_decay=self.weight_decay)
        check_choice(get_args(RateSchedule), schedule=self.schedule)

    @property
    def options(self) -> dict[str, Any]:
        """The options of a `DeterministicNN` with this recipe."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "clip"}

    def plan(self, steps: int, steps_per_epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return learning rates and snapshot marks of all steps."""
        rates = np.full(steps, self.learning_rate)
        if self.schedule == "cosine":
            rates = _warm_cosine(self.learning_rate, steps)
        if self.swa is None:
            return rates, np.zeros(steps, bool)
        return self.swa.plan(rates, steps_per_epoch)


def _warm_cosine(peak: float, steps: int) -> np.ndarray:
    """Return rates that rise linearly in the first twentieth, then fall as a cosine `(steps,)`.

    They are computed for 1024, 2048, ... steps, so that other numbers of steps compile nothing.
    """
    warm = max(1, steps // 20)
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak, warm, max(steps, warm + 1))
    count = max(LEAST_RATES, 2 ** (steps - 1).bit_length())
    return np.asarray(schedule(jnp.arange(1, count + 1)), np.float64)[:steps]
