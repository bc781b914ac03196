"""Diagnostics of a run for every parameter, and a verdict in words with what to try next."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbcore.errors import DataError, ShapeError, did_you_mean
from nbcore.posterior.convergence import MIN_DRAWS, checked_draws
from nbcore.posterior.convergence import e_bfmi as e_bfmi
from nbcore.posterior.convergence import ess_bulk as ess_bulk
from nbcore.posterior.convergence import ess_mean as ess_mean
from nbcore.posterior.convergence import ess_tail as ess_tail
from nbcore.posterior.convergence import mcse_mean as mcse_mean
from nbcore.posterior.convergence import r_hat as r_hat

_Floats = NDArray[np.float64]

MAX_R_HAT = 1.01
MIN_ESS_PER_CHAIN = 100
MIN_E_BFMI = 0.3
MAX_SATURATION = 0.05
MIN_ACCEPTANCE = 0.001
"""A chain of which fewer proposals are accepted does not move."""


class SamplerStats(Protocol):
    """Statistics that `diagnose` reads: arrays `(chain, draw)`, NaN if a sampler has none."""

    @property
    def is_divergent(self) -> Any: ...  # noqa: D102
    @property
    def energy(self) -> Any: ...  # noqa: D102
    @property
    def tree_depth(self) -> Any: ...  # noqa: D102
    @property
    def acceptance_rate(self) -> Any: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """Convergence of a run; `print` shows a summary, `verdict` says what to try next.

    Args:
        r_hat, ess_bulk, ess_tail: by leaf path, one value for each parameter.
        labels: by leaf path, the name of each parameter.
        num_chains: chains of the run.
        num_draws: draws kept of each chain.
        num_divergences: divergent steps of all chains.
        acceptance_rate: mean over all steps, NaN if the sampler has none.
        e_bfmi: one value for each chain, NaN if the sampler has no energy.
        saturation: fraction of steps that ended at the deepest tree allowed, NaN if unlimited.
        alarms: signs that the draws are not those of the posterior, whatever R-hat says.
        still_chains: chains that do not move.
        has_symmetry: whether parameters can trade places without changing any prediction, as
            hidden units of a network do if all of its weights are sampled; then chains can agree
            about predictions and not about parameters.
        is_independent: whether draws are independent; R-hat and ESS then differ from 1 and from
            the number of draws by chance alone, and say nothing about the sampler.
    """

    r_hat: Mapping[str, _Floats]
    ess_bulk: Mapping[str, _Floats]
    ess_tail: Mapping[str, _Floats]
    labels: Mapping[str, list[str]]
    num_chains: int
    num_draws: int
    num_divergences: int
    acceptance_rate: float
    e_bfmi: _Floats
    saturation: float
    alarms: tuple[str, ...] = ()
    still_chains: tuple[int, ...] = ()
    has_symmetry: bool = False
    is_independent: bool = False

    def worst(self, n: int = 5) -> list[tuple[str, float, float]]:
        """Return `(label, r_hat, ess_bulk)` of the n worst parameters: NaN first, then by R-hat."""
        names, r, ess = self._names(), _flat(self.r_hat), _flat(self.ess_bulk)
        order = np.lexsort((ess, -np.where(np.isnan(r), np.inf, r), ~np.isnan(r)))[:n]
        return [(names[i], float(r[i]), float(ess[i])) for i in order]

    def verdict(self) -> str:
        """Return what is wrong and what to try next, a line for each finding, the worst first."""
        if self.num_draws < MIN_DRAWS:
            few = (
                f"Too few draws to judge: {self.num_draws} of each chain, and at least {MIN_DRAWS} "
                "are needed."
            )
            return "\n".join([*self.alarms, few])
        found = [*self.alarms, *self._stuck(), *self._sampler_trouble()]
        if self.is_independent:
            return "\n".join(found) or "No problem found: the draws are independent."
        if not self.still_chains:  # chains that do not move gain nothing from a longer run
            found += self._symmetry() or [*self._disagreement(), *self._too_few()]
        if self.num_chains == 1:
            found.append("One chain cannot show that it missed a region; use num_chains=4.")
        return "\n".join(found) or "No problem found: the chains agree and hold enough draws."

    def __str__(self) -> str:
        r, bulk, tail = (_flat(v) for v in (self.r_hat, self.ess_bulk, self.ess_tail))
        acceptance = f", acceptance {self.acceptance_rate:.2f}" if self._accepts else ""
        lowest = _extreme(np.min, self.e_bfmi)
        energy = "" if np.isnan(lowest) else f", E-BFMI ≥ {lowest:.2f}"
        return (
            f"{self.num_chains} chains × {self.num_draws} draws of {r.size} parameters\n"
            f"R-hat ≤ {_extreme(np.max, r):.3f}, ESS ≥ {_extreme(np.min, bulk):.0f} (bulk), "
            f"{_extreme(np.min, tail):.0f} (tail)\n"
            f"divergent steps {self.num_divergences}{acceptance}{energy}\n"
            f"{self.verdict()}"
        )

    def _names(self) -> list[str]:
        return [name for path in self.r_hat for name in self.labels[path]]

    @property
    def _accepts(self) -> bool:
        return not np.isnan(self.acceptance_rate)

    @property
    def _smaller_steps(self) -> str:
        return "raise target_acceptance_rate" if self._accepts else "lower step_size"

    def _stuck(self) -> list[str]:
        names, r, ess = self._names(), _flat(self.r_hat), _flat(self.ess_bulk)
        lost = np.flatnonzero(np.isnan(ess))
        still = np.flatnonzero(np.isnan(r) & ~np.isnan(ess))
        found: list[str] = []
        if lost.size:
            found.append(
                f"{_shown(names, lost)}: draws are not finite; {self._smaller_steps} or give a "
                "narrower prior."
            )
        if still.size and not self.still_chains:
            remedy = "num_warmup and target_acceptance_rate" if self._accepts else "step_size"
            found.append(f"{_shown(names, still)}: no chain ever moved; raise {remedy}.")
        return found

    def _sampler_trouble(self) -> list[str]:
        found: list[str] = []
        if self.num_divergences:
            found.append(
                f"{self.num_divergences} divergent steps: a narrow region is missed; "
                f"{self._smaller_steps} or give a narrower prior."
            )
        low = np.flatnonzero(self.e_bfmi < MIN_E_BFMI)
        if low.size:
            found.append(
                f"E-BFMI {self.e_bfmi[low].min():.2f} (chains below {MIN_E_BFMI}: "
                f"{', '.join(map(str, low))}): heavy tails are explored slowly; raise num_warmup "
                "or give a narrower prior."
            )
        if self.saturation > MAX_SATURATION:
            found.append(
                f"{self.saturation:.0%} of the steps reached max_tree_depth: raise it, or try "
                'mass_matrix="dense".'
            )
        return found

    def _symmetry(self) -> list[str]:
        names, r = self._names(), _flat(self.r_hat)
        high = np.flatnonzero(r > MAX_R_HAT)
        if not (self.has_symmetry and high.size):
            return []
        worst = high[np.argmax(r[high])]
        return [
            f"R-hat {r[worst]:.4g} for {names[worst]}{_others(high.size, f'above {MAX_R_HAT}')}: "
            "hidden units can trade places, so that chains may agree about predictions and not "
            "about weights. Judge by R-hat and ESS of predictions: posterior.diagnostics(X)."
        ]

    def _disagreement(self) -> list[str]:
        names, r = self._names(), _flat(self.r_hat)
        high = np.flatnonzero(r > MAX_R_HAT)
        if not high.size:
            return []
        worst = high[np.argmax(r[high])]
        others = _others(high.size, f"above {MAX_R_HAT}")
        remedy = "raise target_acceptance_rate" if self._accepts else 'try backend="numpyro-nuts"'
        return [
            f"R-hat {r[worst]:.4g} for {names[worst]}{others}: chains disagree; run longer "
            f"(num_warmup, num_samples) or {remedy}."
        ]

    def _too_few(self) -> list[str]:
        names, enough = self._names(), MIN_ESS_PER_CHAIN * self.num_chains
        ess = np.fmin(_flat(self.ess_bulk), _flat(self.ess_tail))
        low = np.flatnonzero(ess < enough)
        if not low.size:
            return []
        worst = low[np.argmin(ess[low])]
        factor = int(np.ceil(enough / ess[worst]))
        return [
            f"ESS {ess[worst]:.0f} for {names[worst]}{_others(low.size, f'below {enough}')}: fewer "
            f"than {enough} effective draws; raise num_samples about {factor} times."
        ]


def diagnose(
    draws: Mapping[str, ArrayLike],
    stats: SamplerStats,
    labels: Mapping[str, list[str]],
    *,
    max_tree_depth: int | None = None,
    alarms: Sequence[str] = (),
) -> Diagnostics:
    """Compute the diagnostics of a run.

    Args:
        draws: by leaf path, arrays `(chain, draw, ...)`.
        stats: statistics of the sampler, arrays `(chain, draw)`, NaN if it has none.
        labels: by leaf path, a name for each parameter, in C order.
        max_tree_depth: the deepest tree that the sampler was allowed, if it builds trees.
        alarms: signs that the draws are not those of the posterior, see `nb.PosteriorWarning`.

    Raises:
        ShapeError: leaves differ in chains or draws, or a leaf has too few or too many labels.
        DataError: no leaf at all, a leaf without labels, or draws that are not real numbers.

    Examples:
        >>> from types import SimpleNamespace
        >>> rng = np.random.default_rng(0)
        >>> flat = rng.normal(size=(4, 500))
        >>> stats = SimpleNamespace(
        ...     is_divergent=flat > 9,
        ...     energy=flat,
        ...     tree_depth=0 * flat,
        ...     acceptance_rate=0 * flat + 0.9,
        ... )
        >>> draws = {"Dense0/bias": rng.normal(size=(4, 500, 2))}
        >>> labels = {"Dense0/bias": ["Dense0/bias[0]", "Dense0/bias[1]"]}
        >>> diagnose(draws, stats, labels).verdict()
        'No problem found: the chains agree and hold enough draws.'
    """
    arrays = {path: checked_draws(values) for path, values in draws.items()}
    shapes = {values.shape[:2] for values in arrays.values()}
    if not arrays:
        raise DataError("There are no draws to diagnose: the mapping of draws is empty.")
    if len(shapes) > 1:
        found = ", ".join(f"{path}: {values.shape}" for path, values in arrays.items())
        raise ShapeError(f"Leaves differ in their chain and draw axes ({found}).")
    (num_chains, num_draws) = shapes.pop()
    still = still_chains(list(arrays.values()), stats.acceptance_rate)
    alarms = [*alarms, *still_alarm(still, stats.acceptance_rate)]
    return Diagnostics(
        r_hat={path: r_hat(values) for path, values in arrays.items()},
        ess_bulk={path: ess_bulk(values) for path, values in arrays.items()},
        ess_tail={path: ess_tail(values) for path, values in arrays.items()},
        labels={
            path: _labels_of(path, values.shape[2:], labels) for path, values in arrays.items()
        },
        num_chains=num_chains,
        num_draws=num_draws,
        num_divergences=int(np.nansum(np.asarray(stats.is_divergent, dtype=np.float64))),
        acceptance_rate=_extreme(np.mean, np.asarray(stats.acceptance_rate, dtype=np.float64)),
        e_bfmi=e_bfmi(stats.energy),
        saturation=_saturation(np.asarray(stats.tree_depth, dtype=np.float64), max_tree_depth),
        alarms=tuple(dict.fromkeys(alarms)),
        still_chains=tuple(still),
    )


def still_chains(leaves: Sequence[NDArray[Any]], acceptance_rate: ArrayLike) -> list[int]:
    """Return the chains that do not move: no proposal is accepted, or all draws are equal.

    Args:
        leaves: draws, arrays `(chain, draw, ...)`.
        acceptance_rate: of each draw `(chain, draw)`, NaN for a sampler without one.
    """
    rates = np.asarray(acceptance_rate, dtype=np.float64)
    if rates.shape[1] < MIN_DRAWS:
        return []
    equal = [(a == a[:, :1]).reshape(len(a), -1).all(axis=1) for a in leaves]
    return np.flatnonzero(np.all(equal, axis=0) | (rates.mean(axis=1) < MIN_ACCEPTANCE)).tolist()


def listed(chains: Sequence[int], limit: int = 8) -> str:
    """Return numbers of chains as text, the first few of many."""
    more = f" and {len(chains) - limit} more" if len(chains) > limit else ""
    return ", ".join(map(str, chains[:limit])) + more


def still_alarm(chains: Sequence[int], acceptance_rate: ArrayLike) -> list[str]:
    """Return the sentence about chains that do not move, if there are any."""
    if not chains:
        return []
    rates = np.asarray(acceptance_rate, dtype=np.float64)[list(chains)].mean(axis=1)
    rate = "" if np.isnan(rates).all() else f" (mean acceptance {np.nanmax(rates):.3g})"
    return [
        f"Chains that do not move: {listed(chains)}{rate}. More of their draws would "
        "say nothing more: lower step_size or raise num_warmup."
    ]


def _labels_of(path: str, shape: tuple[int, ...], labels: Mapping[str, list[str]]) -> list[str]:
    if path not in labels:
        raise DataError(f"{path!r} has draws and no labels.{did_you_mean(path, labels)}")
    if len(labels[path]) != math.prod(shape):
        raise ShapeError(
            f"{path!r} has {len(labels[path])} labels; expected {math.prod(shape)}, one for each "
            f"parameter of shape {shape}."
        )
    return labels[path]


def _saturation(depth: _Floats, max_tree_depth: int | None) -> float:
    if max_tree_depth is None or np.isnan(depth).all():
        return float("nan")
    return float(np.mean(depth >= max_tree_depth))


def _flat(values: Mapping[str, _Floats]) -> _Floats:
    return np.concatenate([array.reshape(-1) for array in values.values()])


def _extreme(choose: Callable[[_Floats], Any], values: _Floats) -> float:
    """Apply `choose` to the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(choose(known)) if known.size else float("nan")


def _shown(names: list[str], chosen: NDArray[np.intp]) -> str:
    shown = ", ".join(names[i] for i in chosen[:3])
    return shown if chosen.size <= 3 else f"{shown} and {chosen.size - 3} more"


def _others(count: int, limit: str) -> str:
    return f" ({count} parameters {limit})" if count > 1 else ""
