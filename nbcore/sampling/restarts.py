"""Restarts: sampling again while the mean acceptance is low, and keeping the best run."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import jax
import numpy as np

from nbcore.common.keys import as_key
from nbcore.common.options import check_count
from nbcore.common.progress import Progress, Report, progress_from
from nbcore.errors import OptionError
from nbcore.posterior.posterior import NetworkPosterior, Posterior
from nbcore.sampling.backend import Backend
from nbcore.sampling.driver import sample
from nbcore.targets.marginal import MarginalTarget
from nbcore.targets.target import NetworkTarget, Target

# An index that no chain has, so that no restart shares a key with a chain.
RESTART = 2**31 - 1


class AcceptanceWarning(UserWarning):
    """Warning that few proposals were accepted in every run."""


@overload
def sample_with_restarts(
    target: NetworkTarget | MarginalTarget, backend: Backend, **options: Any
) -> NetworkPosterior: ...


@overload
def sample_with_restarts(target: Target, backend: Backend, **options: Any) -> Posterior: ...


def sample_with_restarts(
    target: Target,
    backend: Backend,
    *,
    key: Any = None,
    max_num_restarts: int = 0,
    min_acceptance_rate: float = 0.55,
    progress: bool | Progress = True,
    checkpoint: str | Path | None = None,
    **options: Any,
) -> Posterior:
    """Sample, and sample again while the mean acceptance is below a threshold.

    The run with the highest mean acceptance, over all chains and draws, is returned;
    `posterior.info.acceptance_of_runs` has that of each run. Restart r uses the key
    fold_in(fold_in(key, 2^31 - 1), r), so that the first run is that of `nb.sample`.

    Choosing a run by its acceptance is choosing by the draws: if the posterior has regions of
    different shape, those in which steps are accepted easily are preferred, and the draws that
    are kept are biased towards them. Restarts help against a bad start or a failed adaptation;
    if every run is below the threshold, change the step size or the prior instead.

    Args:
        target: the log density.
        backend: a sampler that accepts or rejects.
        key: random key.
        max_num_restarts: maximum number of further runs; 0 never samples again.
        min_acceptance_rate: mean acceptance rate that suffices.
        progress: whether to report on standard error, or a function that takes a `Report`.
        checkpoint: as for `nb.sample`; each run has a folder of its own in it.
        options: further options of `nb.sample`.

    Raises:
        OptionError: an option is impossible, or the sampler has no acceptance rate.

    Examples:
        >>> import jax.numpy as jnp, nbcore as nb
        >>> target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
        >>> posterior = sample_with_restarts(
        ...     target, nb.get_backend("numpyro-nuts"), max_num_restarts=2, num_warmup=50,
        ...     num_samples=20, num_chains=1, progress=False,
        ... )  # fmt: skip
        >>> len(posterior.info.acceptance_of_runs)
        1
    """
    check_count(0, max_num_restarts=max_num_restarts)
    check_acceptance_rate(min_acceptance_rate)
    if max_num_restarts == 0:
        return sample(target, backend, key=key, progress=progress, checkpoint=checkpoint, **options)
    key, report = as_key(key), progress_from(progress)
    restart_key = jax.random.fold_in(key, RESTART)
    runs: list[Posterior] = []
    rates: list[float] = []
    for r in range(max_num_restarts + 1):
        run_key = jax.random.fold_in(restart_key, r) if r else key
        folder = None if checkpoint is None else Path(checkpoint, f"run-{r}")
        run = sample(target, backend, key=run_key, progress=report, checkpoint=folder, **options)
        runs.append(run)
        rates.append(_mean_acceptance(runs[-1], backend))
        if rates[-1] >= min_acceptance_rate:
            break
        what = f"mean acceptance {rates[-1]:.3f} is below {min_acceptance_rate}"
        if r < max_num_restarts:
            note = f"{what}: restart {r + 1} of {max_num_restarts}"
            report(Report("sampling", None, runs[-1].num_chains, 0, 0, note))
    best = int(np.argmax(rates))
    if rates[best] < min_acceptance_rate:
        warnings.warn(
            f"The mean acceptance is below {min_acceptance_rate} in all {len(rates)} runs; the "
            f"best one, {rates[best]:.3f}, is kept. Lower step_size, or use a tighter prior.",
            AcceptanceWarning,
            stacklevel=3,
        )
    info = replace(runs[best].info, acceptance_of_runs=rates)
    return replace(runs[best], info=info)


def check_acceptance_rate(min_acceptance_rate: Any) -> None:
    """Raise unless an acceptance rate is within [0, 1].

    Raises:
        OptionError: it is not.
    """
    is_number = isinstance(min_acceptance_rate, int | float | np.number)
    if not is_number or not 0 <= min_acceptance_rate <= 1:
        raise OptionError(
            f"min_acceptance_rate is a number within [0, 1], got {min_acceptance_rate!r}."
        )


def _mean_acceptance(posterior: Posterior, backend: Backend) -> float:
    rate = float(np.mean(np.asarray(posterior.stats.acceptance_rate)))
    if np.isnan(rate):
        raise OptionError(
            f"{backend.name} accepts every step, so there is no acceptance to restart for. Leave "
            "max_num_restarts=0, or use a sampler such as 'numpyro-nuts'."
        )
    return rate
