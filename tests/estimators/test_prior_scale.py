"""The scale of a prior: scored by closed forms, and only on rows that nothing has seen."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import nbcore as nb
from nbcore import errors
from nbcore.estimators.prior_scale import INNER_FOLDS, Fold, choose_scale
from nbcore.training.folds import fold_of_examples
from nbcore_flax import FlaxMLP

pytestmark = [
    pytest.mark.filterwarnings("ignore::nbcore.training.folds.CalibrationWarning"),
    pytest.mark.filterwarnings("ignore::nbcore.subsets.expressiveness.ExpressivenessWarning"),
]

RNG = np.random.default_rng(0)
NOISE, TRUE_SCALE, WEIGHTS = 0.5, 0.3, 12
X = RNG.normal(size=(120, WEIGHTS)).astype(np.float32)
Y = X @ (TRUE_SCALE * RNG.normal(size=WEIGHTS)) + NOISE * RNG.normal(size=120)
LINEAR = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))


def target(rows: slice) -> Any:
    return nb.Target.build(
        LINEAR,
        {"out": {"kernel": jnp.zeros((WEIGHTS, 1))}},
        nb.ProbabilisticSubset.everything(),
        X[rows],
        Y[rows],
        likelihood=nb.Gaussian(noise=NOISE),
    )


NLPD, EVIDENCE = nb.PriorScaleSearch(), nb.PriorScaleSearch(criterion="marginal_likelihood")
FOLDS = [Fold(target(slice(0, 60)), target(slice(60, 120)))]


def test_the_evidence_of_a_linear_network_is_exact() -> None:
    found = choose_scale([Fold(FOLDS[0].fitted, None)], "zero", jax.random.key(0), EVIDENCE)
    for scale, score in found.scores.items():
        covariance = NOISE**2 * np.eye(60) + scale**2 * np.float64(X[:60] @ X[:60].T)
        exact = stats.multivariate_normal.logpdf(Y[:60], np.zeros(60), covariance)
        assert score == pytest.approx(-exact / 60, rel=1e-3)
    assert found.scale == TRUE_SCALE
    assert found.scale == min(found.scores, key=lambda s: found.scores[s])


def test_the_predictive_density_of_unseen_rows_is_near_the_exact_one() -> None:
    found = choose_scale(FOLDS, "zero", jax.random.key(0), NLPD)
    for scale, score in found.scores.items():
        precision = np.float64(X[:60].T @ X[:60]) / NOISE**2 + np.eye(WEIGHTS) / scale**2
        mean = X[60:] @ np.linalg.solve(precision, X[:60].T @ Y[:60]) / NOISE**2
        spread = np.einsum("ij,ij->i", X[60:], np.linalg.solve(precision, X[60:].T).T)
        exact = stats.norm.logpdf(Y[60:], mean, np.sqrt(NOISE**2 + spread)).mean()
        assert score == pytest.approx(-exact, abs=0.03)  # 64 draws
    assert choose_scale(FOLDS, "zero", jax.random.key(0), NLPD) == found


def model(**options: Any) -> nb.PartialBNN:
    options = {"prior": "auto", "probabilistic_layer_names": ["Dense1"]} | options
    return nb.PartialBNN(FlaxMLP(hidden_dims=(4,)), **options)


def fit(model: nb.PartialBNN, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "num_warmup": 0, "num_samples": 2, "num_chains": 1, "backend": "laplace", "key": 1,
        "calibration": nb.CalibrationOptions("crossfit", folds=2),
        "training": nb.TrainingOptions(epochs=4),
        "progress": False,
    }  # fmt: skip
    return model.fit(X, Y, **(settings | options))


@pytest.mark.slow
def test_fit_chooses_the_scale_by_the_folds_of_the_cross_fit() -> None:
    first, second = fit(model()), fit(model())
    choice = first.scale_choice
    assert choice == second.scale_choice
    assert tuple(choice.scores) == NLPD.scales
    for scale in first.posterior.target.prior.scale.values():
        assert float(scale) == pytest.approx(choice.scale)
    assert fit(model(prior=0.2)).scale_choice is None


@pytest.mark.parametrize("criterion", ["nlpd", "marginal_likelihood"])
def test_examples_that_were_not_trained_on_are_scored_as_in_closed_form(criterion: Any) -> None:
    """Outputs are linear in the last layer, so that y is jointly normal for each scale."""
    search = nb.PriorScaleSearch(criterion=criterion)
    found = fit(model(likelihood=nb.Gaussian(noise=NOISE), prior=search), calibration="holdout")
    target, choice = found.posterior.target, found.scale_choice
    start = target.split.position
    jacobian = jax.tree.leaves(jax.jacobian(lambda w: target.outputs(w)[:, 0])(start))
    features = np.concatenate([np.reshape(a, (24, -1)) for a in jacobian], axis=1, dtype=np.float64)
    residual = target.targets()[:, 0] - np.float64(target.outputs(start)[:, 0])
    noise = NOISE / found.posterior.scaler.scale[0]
    fold = fold_of_examples(jax.random.key(0), 24, INNER_FOLDS)

    def log_density(scale: float, *, given: np.ndarray | None, of: np.ndarray) -> float:
        """log p(y[of] | y[given]) under a prior of this scale, of each example."""
        covariance = noise**2 * np.eye(24) + scale**2 * features @ features.T
        mean, spread = np.zeros(of.sum()), covariance[np.ix_(of, of)]
        if given is None:
            return stats.multivariate_normal.logpdf(residual[of], mean, spread) / 24
        weights = np.linalg.solve(covariance[np.ix_(given, given)], covariance[np.ix_(given, of)]).T
        mean = weights @ residual[given]
        spread = np.diag(spread - weights @ covariance[np.ix_(given, of)])
        return stats.norm.logpdf(residual[of], mean, np.sqrt(spread)).sum() / 24

    for scale, score in choice.scores.items():
        if criterion == "marginal_likelihood":
            exact = log_density(scale, given=None, of=np.ones(24, bool))
            assert score == pytest.approx(-exact, rel=1e-3)
        else:
            parts = [(fold != k, fold == k) for k in range(INNER_FOLDS)]
            exact = sum(log_density(scale, given=fitted, of=scored) for fitted, scored in parts)
            assert score == pytest.approx(-exact, abs=0.05)  # 64 draws
    assert choice.scale == min(choice.scores, key=choice.scores.__getitem__)
    for scale in target.prior.scale.values():
        assert float(scale) == pytest.approx(choice.scale)


def test_rows_that_the_frozen_part_was_trained_on_are_refused() -> None:
    with pytest.raises(errors.OptionError, match=r"trained on the examples.*prior='auto'"):
        fit(model(prior=EVIDENCE))
    with pytest.raises(errors.OptionError, match="have not seen"):
        fit(model(), calibration="none")
    network = nb.as_network(FlaxMLP(hidden_dims=(4,)), example=X[:1])
    given = model(deterministic_weights=network.init(jax.random.key(0), X[:1]))
    with pytest.raises(errors.OptionError, match="validation_data"):
        fit(given)
    unseen = nb.CalibrationOptions(validation_data=(X[:20], Y[:20]))
    assert fit(given, calibration=unseen).scale_choice.scale in NLPD.scales


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: model(prior="automatic"), "'auto' or.*got 'automatic'. Did you mean 'auto'"),
        (lambda: model(prior=-1.0), "prior is a positive number, got -1.0"),
        (lambda: model(prior=True), "got True"),
        (lambda: model(prior=nb.NormalPrior), r"such as nb.NormalPrior\(0.1\).*got <class"),
        (lambda: model(prior={"Dense1": 0.1}), r"nb\.NormalPrior.*got \{'Dense1'"),
        (lambda: nb.PriorScaleSearch(criterion="nlpdd"), "Did you mean 'nlpd'"),  # pyright: ignore[reportArgumentType]
        (lambda: nb.PriorScaleSearch(scales=()), r"such as \(0.1, 1.0\); got \(\)"),
        (lambda: nb.PriorScaleSearch(scales=(0.1, 0.0)), "scales is a positive number, got 0.0"),
    ],
)
def test_wrong_priors_are_told_what_is_possible(make: Any, says: str) -> None:
    with pytest.raises(errors.OptionError, match=says):
        make()
