"""How wide the prior of the stochastic weights is to be: scored on rows that nothing has seen.

Each candidate is scored with the Laplace approximation of the posterior, linearized at its mode:
the weights are N(m, H^-1), outputs at other rows f(m) + J (w - m).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from nbcore.common.progress import Progress, Report
from nbcore.distributions.priors import NormalPrior, Prior
from nbcore.errors import OptionError, did_you_mean
from nbcore.estimators.stages import FrozenNetwork, Validation
from nbcore.targets.curvature import curvature_at, linearized, mode_near
from nbcore.targets.target import NetworkTarget, Target
from nbcore.training.cross_fit import CrossFit, fold_of_rows

Criterion = Literal["nlpd", "marginal_likelihood"]
SCALES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
NUM_DRAWS = 64
INNER_FOLDS = 3


@dataclass(frozen=True)
class ScaleChoice:
    """The prior scale that was chosen, and how all candidates did.

    Args:
        scale: the best one.
        criterion: `"nlpd"` (out of fold, lower is better) or `"marginal_likelihood"` (negative
            logarithm for each row, lower is better).
        scores: score of each candidate.
    """

    scale: float
    criterion: Criterion
    scores: dict[float, float]


@dataclass(frozen=True)
class Fold:
    """Rows that the weights are fitted on, and rows that they are scored on.

    Args:
        fitted: the log density of the former.
        scored: that of the latter, with the same split and likelihood; `None` where the marginal
            likelihood is asked for, which needs none.
    """

    fitted: NetworkTarget
    scored: NetworkTarget | None


def choose_scale(
    folds: Sequence[Fold],
    center: Any,
    key: jax.Array,
    criterion: Criterion = "nlpd",
    *,
    scales: Sequence[float] = SCALES,
    progress: Progress = lambda report: None,
) -> ScaleChoice:
    """Return the best of some prior scales.

    Args:
        folds: what is fitted and what is scored.
        center: center of the prior, see `nb.NormalPrior`.
        key: random key; the same for all scales, so that they differ in nothing else.
        criterion: `"nlpd"` or `"marginal_likelihood"`.
        scales: the candidates, ascending; of equal scores the smaller wins.
        progress: where to report.

    Raises:
        OptionError: the criterion is unknown, or no candidate has a finite score.

    References:
        MacKay (1992), "A practical Bayesian framework for backpropagation networks", equation 8;
        Immer et al. (2021), "Scalable marginal likelihood estimation for model selection in deep
        learning".
    """
    check_criterion(criterion)
    scores: dict[float, float] = {}
    total, done = len(scales) * len(folds), 0
    for scale in scales:
        lost, rows = 0.0, 0
        for k, fold in enumerate(folds):
            prior = NormalPrior(scale, center).resolve(fold.fitted.split)
            fitted = replace(fold.fitted, prior=prior)
            fold_key = jax.random.fold_in(key, k)
            if criterion == "nlpd" and fold.scored is not None:
                lost -= float(_log_predictive(fold_key, fitted, fold.scored))
                rows += fold.scored.num_examples
            else:
                lost -= float(_log_evidence(fold_key, fitted))
                rows += fitted.num_examples
            done += 1
            progress(Report("prior scale", None, 1, done, total))
        scores[float(scale)] = lost / rows
    finite = {scale: score for scale, score in scores.items() if np.isfinite(score)}
    if not finite:
        raise OptionError(
            f"No prior scale of {list(scores)} has a finite score. Give prior_scale= a number."
        )
    return ScaleChoice(min(finite, key=lambda scale: finite[scale]), criterion, scores)


def scale_folds(
    stages: Sequence[FrozenNetwork],
    cross: CrossFit | None,
    X: Any,
    y: Any,
    validation_data: Validation,
    criterion: Criterion,
    build: Callable[[FrozenNetwork], NetworkTarget],
) -> list[Fold]:
    """Return what is fitted and what is scored: rows that nothing has seen.

    Args:
        stages: the frozen networks and the rows to sample.
        cross: the cross-fit whose full network is the one stage; else `None`.
        X: inputs.
        y: targets.
        validation_data: `(X, y)` that given weights have not seen.
        criterion: `"nlpd"` or `"marginal_likelihood"`.
        build: the log density of a stage.

    Raises:
        OptionError: the frozen weights were trained on the rows, or may have been.
    """
    if criterion == "marginal_likelihood":
        _refuse_seen_rows(stages)
        return [Fold(build(stage), None) for stage in stages]
    if cross is not None:
        members = [
            replace(stages[0], network=m.network, params=m.params, scaler=m.scaler, det=m)
            for m in cross.members
        ]
        rows = _parts(np.arange(len(cross.fold)), cross.fold, len(members))
        return [_fold(m, part, X, y, build) for m, part in zip(members, rows, strict=True)]
    if all(stage.seen is False for stage in stages):
        return [
            _fold(stage, part, X, y, build)
            for stage in stages
            for part in _parts(stage.rows, _thirds(len(stage.rows)), INNER_FOLDS)
        ]
    if validation_data is not None and stages[0].seen is None:
        fitted = build(stages[0])
        rows = np.arange(len(validation_data[1]))
        return [Fold(fitted, _scored(fitted, stages[0], rows, *validation_data))]
    raise OptionError(
        "prior_scale='auto' needs rows that the frozen weights have not seen: leave calibration at "
        "'crossfit', use 'holdout', or give validation_data=(X, y) with weights that were given."
    )


def _refuse_seen_rows(stages: Sequence[FrozenNetwork]) -> None:
    if any(stage.seen is not False for stage in stages):
        raise OptionError(
            "The frozen weights were trained on the rows that are sampled, or may have been: the "
            "marginal likelihood of those rows rewards the fit that they already have, and so "
            "chooses a scale and a noise that are too small. Use scale_criterion='nlpd', or sample "
            "rows that were not trained on: calibration='holdout', ensemble=True, or nb.BNN."
        )


def _thirds(count: int) -> np.ndarray:
    return fold_of_rows(jax.random.key(0), count, INNER_FOLDS)


def _parts(rows: np.ndarray, fold: np.ndarray, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rows without each fold, and those of it, cut to equal sizes.

    Sizes differ by one row at most; equal ones share one program.
    """
    pairs = [(rows[fold != k], rows[fold == k]) for k in range(folds)]
    fitted, scored = (min(len(pair[i]) for pair in pairs) for i in range(2))
    return [(a[:fitted], b[:scored]) for a, b in pairs]


def _fold(
    stage: FrozenNetwork,
    part: tuple[np.ndarray, np.ndarray],
    X: Any,
    y: Any,
    build: Callable[[FrozenNetwork], NetworkTarget],
) -> Fold:
    fitted = build(replace(stage, rows=part[0]))
    return Fold(fitted, _scored(fitted, stage, part[1], X, y))


def _scored(
    fitted: NetworkTarget, stage: FrozenNetwork, rows: np.ndarray, X: Any, y: Any
) -> NetworkTarget:
    inputs, targets = replace(stage, rows=rows).data(X, y)
    return Target.build(
        stage.network, stage.params, fitted.split, inputs, targets, likelihood=fitted.likelihood
    )


def asked_scale(
    priors_sigma: float | None,
    prior_scale: float | Literal["auto"] | None,
    prior: Prior | None,
) -> Any:
    """Return the scale that was asked for, 1 by default.

    Raises:
        OptionError: the prior is said twice, or the scale is no number.
    """
    given = {"priors_sigma": priors_sigma, "prior_scale": prior_scale, "prior": prior}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise OptionError(f"{names[0]} and {names[1]} both say the prior. Give one.")
    if isinstance(prior_scale, str) and prior_scale != "auto":
        raise OptionError(f"prior_scale is a number or 'auto', got {prior_scale!r}.")
    scale = priors_sigma if prior_scale is None else prior_scale
    return 1.0 if scale is None else scale


def check_criterion(criterion: str) -> None:
    """Check the name of a criterion.

    Raises:
        OptionError: it is unknown.
    """
    if criterion not in get_args(Criterion):
        raise OptionError(
            f"scale_criterion is {' or '.join(get_args(Criterion))}, got {criterion!r}."
            f"{did_you_mean(criterion, get_args(Criterion))}"
        )


@jax.jit
def _log_predictive(key: jax.Array, fitted: NetworkTarget, scored: NetworkTarget) -> jax.Array:
    """Return sum_i log E_s p(y_i | draw s) over the scored rows."""
    mode, curvature, unravel = _laplace(key, fitted)
    phi = jax.random.normal(jax.random.fold_in(key, 1), (NUM_DRAWS, mode.shape[0]), mode.dtype)
    if curvature.ndim == 1:
        moves = phi / jnp.sqrt(curvature)
    else:
        values, vectors = jnp.linalg.eigh(curvature)
        moves = (phi / jnp.sqrt(values)) @ vectors.T
    at = unravel(mode)["weights"]
    total = jnp.zeros(())
    for block in scored.blocks:
        outputs, jacobian = jax.linearize(lambda w, b=block: b.forward.outputs(w, b.features), at)

        def log_prob(move: jax.Array, f: Any = outputs, j: Any = jacobian, b: Any = block) -> Any:
            drawn = unravel(mode + move)
            change = jax.tree.map(jnp.subtract, drawn["weights"], at)
            return scored.likelihood.log_prob(f + j(change), b.y, drawn["likelihood"])

        each = jax.lax.map(log_prob, moves, batch_size=16)
        total = total + jnp.sum(jax.nn.logsumexp(each, axis=0) - jnp.log(NUM_DRAWS))
    return total


@jax.jit
def _log_evidence(key: jax.Array, fitted: NetworkTarget) -> jax.Array:
    """Return log p(y) = log p(y, m) + d/2 log 2 pi - 1/2 log det H."""
    mode, curvature, unravel = _laplace(key, fitted)
    values = curvature if curvature.ndim == 1 else jnp.linalg.eigvalsh(curvature)
    volume = mode.shape[0] * jnp.log(2 * jnp.pi) - jnp.sum(jnp.log(values))
    return fitted.log_density(unravel(mode)) + 0.5 * volume


def _laplace(key: jax.Array, target: NetworkTarget) -> tuple[jax.Array, jax.Array, Any]:
    """Return mode `(d,)`, curvature there, and how a flat vector becomes a position."""
    unravel = jax.flatten_util.ravel_pytree(target.start)[1]
    mode = mode_near(target, target.start)
    curvature = curvature_at(key, linearized(target, unravel(mode)), unravel(mode))
    return mode, curvature, unravel
