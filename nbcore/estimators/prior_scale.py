"""The scale of the prior of the stochastic weights, scored on examples that nothing has seen.

Each candidate is scored with the Laplace approximation of the posterior, linearized at its mode:
the weights are N(m, H^-1), outputs at other examples f(m) + J (w - m).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from nbcore.common.options import check_positive
from nbcore.common.progress import Progress, Report
from nbcore.distributions.distribution_prior import as_prior
from nbcore.distributions.priors import NormalPrior, Prior
from nbcore.errors import OptionError, did_you_mean
from nbcore.estimators.frozen import Examples, FrozenNetwork
from nbcore.estimators.options import Criterion, PriorScaleSearch, Validation
from nbcore.targets.curvature import approximate
from nbcore.targets.target import NetworkTarget, Target
from nbcore.training.cross_fit import CrossFit
from nbcore.training.folds import fold_of_examples

NUM_DRAWS = 64
INNER_FOLDS = 3


@dataclass(frozen=True)
class ScaleChoice:
    """The prior scale that was chosen, and the scores of all candidates.

    Args:
        scale: the best scale.
        criterion: `"nlpd"` (out of fold, lower is better) or `"marginal_likelihood"` (negative
            logarithm per example, lower is better).
        scores: score of each candidate.
    """

    scale: float
    criterion: Criterion
    scores: dict[float, float]


@dataclass(frozen=True)
class Fold:
    """Examples that the weights are fitted on, and examples that they are scored on.

    Args:
        fitted: the log density of the former.
        scored: that of the latter, with the same split and likelihood; `None` for the marginal
            likelihood, which needs none.
    """

    fitted: NetworkTarget
    scored: NetworkTarget | None


def checked_prior(prior: Any) -> Prior | float | PriorScaleSearch:
    """Return the prior of the stochastic weights that was asked for.

    Args:
        prior: a prior, its standard deviation, `"auto"` or a search.

    Raises:
        OptionError: it is none of these.
    """
    if isinstance(prior, str) and prior == "auto":
        return PriorScaleSearch()
    if isinstance(prior, PriorScaleSearch):
        return prior
    if isinstance(prior, int | float | np.number) and not isinstance(prior, bool):
        check_positive(prior=prior)
        return float(prior)
    has_methods = callable(getattr(prior, "resolve", None)) or hasattr(prior, "log_prob")
    if has_methods and not isinstance(prior, type):
        return as_prior(prior)
    raise OptionError(
        "prior is an nb.Prior such as nb.NormalPrior(0.1), a standard deviation, 'auto' or an "
        f"nb.PriorScaleSearch; got {prior!r}.{did_you_mean(str(prior), ['auto'])}"
    )


def choose_scale(
    folds: Sequence[Fold],
    center: Any,
    key: jax.Array,
    search: PriorScaleSearch,
    progress: Progress = lambda report: None,
) -> ScaleChoice:
    """Return the best of some prior scales.

    Args:
        folds: the examples that are fitted and scored.
        center: center of the prior, see `nb.NormalPrior`.
        key: random key; the same for all scales, so that they differ in nothing else.
        search: candidates and criterion.
        progress: function that takes a `Report`.

    Raises:
        OptionError: no candidate has a finite score.
    """
    scores: dict[float, float] = {}
    total, done = len(search.scales) * len(folds), 0
    for scale in search.scales:
        lost, count = 0.0, 0
        for k, fold in enumerate(folds):
            prior = NormalPrior(scale, center).resolve(fold.fitted.split)
            fitted = replace(fold.fitted, prior=prior)
            fold_key = jax.random.fold_in(key, k)
            if search.criterion == "nlpd" and fold.scored is not None:
                lost -= float(_log_predictive(fold_key, fitted, fold.scored))
                count += fold.scored.num_examples
            else:
                lost -= float(_log_evidence(fold_key, fitted))
                count += fitted.num_examples
            done += 1
            progress(Report("prior scale", None, 1, done, total))
        scores[scale] = lost / count
    finite = {scale: score for scale, score in scores.items() if np.isfinite(score)}
    if not finite:
        raise OptionError(
            f"No prior scale of {list(scores)} has a finite score. Give a number, such as "
            "prior=1.0, or other candidates: prior=nb.PriorScaleSearch(scales=...)"
        )
    best = min(finite, key=lambda scale: finite[scale])
    return ScaleChoice(best, search.criterion, scores)


def scale_folds(
    frozen: Sequence[FrozenNetwork],
    cross: CrossFit | None,
    examples: Examples,
    validation_data: Validation,
    criterion: Criterion,
    build: Callable[[FrozenNetwork], NetworkTarget],
) -> list[Fold]:
    """Return the examples that are fitted and scored, of which the frozen weights saw none.

    Args:
        frozen: the frozen networks and the examples to sample.
        cross: the cross-fit whose full network is the one frozen network; else `None`.
        examples: all examples; a group is either fitted or scored.
        validation_data: `(X, y)` that given weights have not seen.
        criterion: `"nlpd"` or `"marginal_likelihood"`.
        build: the log density of a frozen network.

    Raises:
        OptionError: the frozen weights were trained on the examples, or may have been.
    """
    if criterion == "marginal_likelihood":
        _refuse_seen_examples(frozen)
        return [Fold(build(each), None) for each in frozen]
    if cross is not None:
        members = [
            replace(frozen[0], network=m.network, params=m.params, scaler=m.scaler, det=m)
            for m in cross.members
        ]
        held_out = [np.flatnonzero(cross.fold == k) for k in range(len(members))]
        parts = _equal(list(zip(cross.trained, held_out, strict=True)))
        pairs = zip(members, parts, strict=True)
        return [_fold(member, part, examples, build) for member, part in pairs]
    if all(each.seen is False for each in frozen):
        return [
            _fold(each, part, examples, build)
            for each in frozen
            for part in _parts(each.sampled, _inner_folds(each, examples), INNER_FOLDS)
        ]
    if validation_data is not None and frozen[0].seen is None:
        fitted, unseen = build(frozen[0]), Examples(*validation_data)
        return [Fold(fitted, _scored(fitted, frozen[0], np.arange(unseen.count), unseen))]
    raise OptionError(
        "prior='auto' needs examples that the frozen weights have not seen: leave calibration at "
        "'crossfit', use 'holdout', or give nb.CalibrationOptions(validation_data=(X, y)) with "
        "weights that were given."
    )


def _refuse_seen_examples(frozen: Sequence[FrozenNetwork]) -> None:
    if any(each.seen is not False for each in frozen):
        raise OptionError(
            "The frozen weights were trained on the examples that are sampled, or may have been: "
            "the marginal likelihood of those examples rewards the fit that they already have, and "
            "so chooses a scale and a noise that are too small. Use prior='auto', which goes by "
            "the NLPD, or sample examples that were not trained on: calibration='holdout', "
            "nb.CalibrationOptions('crossfit', ensemble=True), or nb.BNN."
        )


def _inner_folds(frozen: FrozenNetwork, examples: Examples) -> np.ndarray:
    groups = examples.groups_of(frozen.sampled)
    if groups is not None and groups.max() + 1 < INNER_FOLDS:
        raise OptionError(
            f"prior='auto' scores the examples to sample in {INNER_FOLDS} folds of whole groups, "
            f"and they have {groups.max() + 1}. Give more groups, use calibration='crossfit', or "
            "give prior a number."
        )
    return fold_of_examples(jax.random.key(0), len(frozen.sampled), INNER_FOLDS, groups)


def _parts(
    sampled: np.ndarray, fold: np.ndarray, folds: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the examples without each fold, and those of the fold."""
    return _equal([(sampled[fold != k], sampled[fold == k]) for k in range(folds)])


def _equal(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut parts whose sizes differ by one example to the smaller size: they share one program."""
    sizes = np.array([[len(part) for part in pair] for pair in pairs])
    least = np.where(np.ptp(sizes, axis=0) <= 1, sizes.min(axis=0), sizes.max(axis=0))
    return [(a[: least[0]], b[: least[1]]) for a, b in pairs]


def _fold(
    frozen: FrozenNetwork,
    part: tuple[np.ndarray, np.ndarray],
    examples: Examples,
    build: Callable[[FrozenNetwork], NetworkTarget],
) -> Fold:
    fitted = build(replace(frozen, sampled=part[0]))
    return Fold(fitted, _scored(fitted, frozen, part[1], examples))


def _scored(
    fitted: NetworkTarget, frozen: FrozenNetwork, chosen: np.ndarray, examples: Examples
) -> NetworkTarget:
    inputs, targets = replace(frozen, sampled=chosen).data(examples)
    return Target.build(
        frozen.network, frozen.params, fitted.split, inputs, targets, likelihood=fitted.likelihood
    )


@jax.jit
def _log_predictive(key: jax.Array, fitted: NetworkTarget, scored: NetworkTarget) -> jax.Array:
    """Return sum_i log E_s p(y_i | draw s) over the scored examples."""
    normal = approximate(key, fitted, fitted.start).whitening
    phi = jax.random.normal(jax.random.fold_in(key, 1), (NUM_DRAWS, normal.center.size))
    linear = scored.linearized(ravel_pytree(fitted.start)[1](normal.center))

    def log_prob(phi: jax.Array) -> jax.Array:
        return linear.log_likelihood(normal.to_position(phi, fitted.start))

    each = jax.lax.map(log_prob, phi, batch_size=16)
    return jnp.sum(jax.nn.logsumexp(each, axis=0) - jnp.log(NUM_DRAWS))


@jax.jit
def _log_evidence(key: jax.Array, fitted: NetworkTarget) -> jax.Array:
    """Return log p(y) = log p(y, m) + n/2 log 2 pi + log |det R|."""
    normal = approximate(key, fitted, fitted.start)
    size = normal.whitening.center.size
    return normal.log_density + 0.5 * size * jnp.log(2 * jnp.pi) + normal.whitening.log_volume()
