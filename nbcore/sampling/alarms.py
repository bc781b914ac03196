"""Alarms: signs that draws are not those of the posterior, whatever R-hat says.

Chains that diverged together agree with each other. They are seen by what they predict on the
sampled examples, and by their log density, against the trained network.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from nbcore.common.quick import QuickJit
from nbcore.errors import OptionError
from nbcore.posterior.diagnostics import listed, still_alarm, still_chains
from nbcore.posterior.stats import Stats
from nbcore.targets.target import NetworkTarget, Target

NUM_DRAWS = 16
MAX_FALL = 10.0
"""Largest fall of the log density, in units of d/2, its expectation for a normal density."""
MAX_RMSE_RATIO = 1.5
"""Largest RMSE of the draws' mean on the sampled examples, over that of the trained network."""
MAX_NOISE_RATIO = 1.2
"""The same, over the standard deviation of the noise: draws need not fit noise as training did."""
MAX_DISAGREEMENT = 4.0
"""Largest root mean square of the moves of predictions, in predictive standard deviations."""

_Floats = NDArray[np.float64]


class PosteriorWarning(UserWarning):
    """Draws contradict the trained network or the log density: they may not be the posterior's."""


class _At(NamedTuple):
    """The target at a position: its log density, and mean and variance of y of each example."""

    log_density: Any
    mean: Any = None
    variance: Any = None


def warn_of(alarms: list[str]) -> None:
    """Give a `PosteriorWarning` that lists alarms, if there are any."""
    if alarms:
        warnings.warn("\n".join(alarms), PosteriorWarning, stacklevel=3)


def alarms_of(target: Target, draws: Any, stats: Stats) -> list[str]:
    """Return what is wrong with draws at a glance, a sentence for each finding; often nothing.

    Args:
        target: the log density; that of the linearized network if draws predict by it.
        draws: draws with leading axes `(chain, draw)`.
        stats: their statistics.
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(draws)]
    still = still_chains(leaves, stats.acceptance_rate)
    found = still_alarm(still, stats.acceptance_rate)
    filled = target.on_grid()  # whose program other data share

    def at(position: Any) -> _At:
        return _floats(_evaluated(filled, position), target.num_examples)

    start = at(target.start)
    num_chains, num_draws = np.shape(stats.log_density)
    each = max(1, NUM_DRAWS // num_chains)
    rows = np.unique(np.linspace(num_draws // 2, num_draws - 1, each).astype(int))
    chosen = [
        [at(jax.tree.map(lambda a, c=c, n=n: a[c, n], draws)) for n in rows]
        for c in range(num_chains)
    ]
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(target.start))
    falls = np.array([start.log_density - np.mean([at.log_density for at in c]) for c in chosen])
    found += _fallen(falls, size)
    if start.mean is not None and isinstance(target, NetworkTarget):
        found += _contradictions(target, start, [at for chain in chosen for at in chain])
    return found


def _fallen(falls: _Floats, size: int) -> list[str]:
    limit = MAX_FALL * size / 2 + 3 * MAX_FALL
    chains = np.flatnonzero(~(falls < limit))
    if not chains.size:
        return []
    return [
        f"The log density is {falls[chains].max():,.0f} lower than at the start, in chains "
        f"{listed(chains.tolist())}; about {size / 2:,.0f} is usual for {size:,} parameters. The "
        "chains are not where the density is: lower step_size or raise num_warmup, and compare "
        'with backend="numpyro-nuts".'
    ]


def _contradictions(target: NetworkTarget, start: _At, drawn: list[_At]) -> list[str]:
    """Compare the predictions of the draws on the sampled examples with the trained network's."""
    means = np.stack([at.mean for at in drawn])
    mean, variance = means.mean(axis=0), np.mean([at.variance for at in drawn], axis=0)
    targets = target.targets()
    y = _numbers(targets, mean.shape)
    found: list[str] = []
    trained, sampled = 0.0, np.inf
    if y is not None:
        trained, sampled = (float(np.sqrt(np.mean((y - m) ** 2))) for m in (start.mean, mean))
        noise = float(np.sqrt(np.mean(start.variance)))
        # Probabilities of an overconfident network are right to come closer to each other.
        least = 0.5 * float(np.sqrt(np.mean(y.var(axis=0)))) if y.shape != targets.shape else 0.0
        if sampled > max(MAX_RMSE_RATIO * trained, MAX_NOISE_RATIO * noise, least):
            found.append(
                f"The RMSE on the sampled examples is {sampled:.3g}, and that of the trained "
                f"network is {trained:.3g}: the draws do not fit the data. Lower step_size or "
                'raise num_warmup. If backend="numpyro-nuts" agrees, the prior is too narrow, or '
                "its center is elsewhere."
            )
    spread = means.var(axis=0) + np.maximum(start.variance, variance)
    ratio = float(np.sqrt(np.mean((mean - start.mean) ** 2) / max(np.mean(spread), 1e-30)))
    if ratio > MAX_DISAGREEMENT and sampled > trained:  # draws that fit better are no alarm
        found.append(
            f"Predictions on the sampled examples are {ratio:.1f} predictive standard deviations "
            "away from those of the trained network, and fit no better. Lower step_size, raise "
            'num_warmup, or give a wider prior, or one with center="params".'
        )
    return found


def _numbers(y: NDArray[Any], shape: tuple[int, ...]) -> _Floats | None:
    """Return targets in the form of their means: labels as 0 and 1 for each class."""
    if y.shape == shape:
        return y.astype(np.float64)
    is_label = y.ndim == 1 and len(shape) == 2 and np.issubdtype(y.dtype, np.integer)
    return (
        np.eye(shape[1])[y] if is_label and y.size and 0 <= y.min() <= y.max() < shape[1] else None
    )


def _floats(at: _At, count: int) -> _At:
    """Return floats of 64 bits, of the first `count` examples."""

    def own(a: Any) -> Any:
        return None if a is None else np.asarray(a, np.float64)[:count]

    return _At(np.asarray(at.log_density, np.float64), own(at.mean), own(at.variance))


@QuickJit
def _evaluated(target: Target, position: Any) -> _At:
    value = target.log_density(position)
    if not isinstance(target, NetworkTarget):
        return _At(value)
    try:
        moments = target.likelihood.moments(
            target.outputs(position["weights"]), position["likelihood"]
        )
    except OptionError:  # a likelihood that defines its log probability alone
        return _At(value)
    return _At(value, *(jnp.asarray(m) for m in moments))
