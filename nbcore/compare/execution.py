"""One cell: train once, choose, sample within the budget, predict and measure."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import time
import warnings
from dataclasses import replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nbcore.common import storage
from nbcore.compare.measures import calibration_curve, convergence_columns, prediction_columns
from nbcore.compare.plan import Cell, Problem, Row
from nbcore.compare.spending import sample_within
from nbcore.distributions.likelihoods import Gaussian
from nbcore.distributions.priors import NormalPrior
from nbcore.errors import NbcoreError
from nbcore.estimators.frozen import Examples, FrozenNetwork, from_cross_fit
from nbcore.estimators.likelihood_choice import frozen_likelihood
from nbcore.estimators.loading import load
from nbcore.estimators.options import TrainingOptions
from nbcore.posterior.posterior import NetworkPosterior
from nbcore.posterior.prediction import Prediction
from nbcore.references import Reference
from nbcore.sampling.backend import get_backend
from nbcore.selection.select import select_bayesian_components
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.targets.target import NetworkTarget, Target
from nbcore.training.cross_fit import CrossFit, cross_fit
from nbcore.training.fold_mixture import FoldMixture

NUM_TRACED = 400
"""Draws of each chain that are kept to look at."""


def train(cell: Cell, folder: Path) -> Row:
    """Train the networks of a cell, for all cells that share them; return nothing.

    An error is left to the cells, each of which meets it and is a row that failed.

    Args:
        cell: one of these cells.
        folder: that of the comparison.
    """
    place = folder / "trained" / cell.trained_digest
    if isinstance(cell.problem, Problem) and not place.exists():
        with contextlib.suppress(NbcoreError), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            _train(cell, cell.problem, place)
    return {}


def execute(cell: Cell, folder: Path) -> Row:
    """Return the row of a cell; an error of the library becomes a row that failed.

    Args:
        cell: the cell.
        folder: that of the comparison, for trained networks, checkpoints and curves.
    """
    row: Row = cell.columns()
    begin = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            row |= _measured(cell, folder)
        row |= {"status": "finished", "error_type": "", "error": ""}
    except NbcoreError as error:
        row |= {"status": "failed", "error_type": type(error).__name__, "error": str(error)}
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return row | {"seconds_total": time.perf_counter() - begin, "peak_memory_mb": used / 1024}


def _measured(cell: Cell, folder: Path) -> Row:
    if isinstance(cell.problem, Reference):
        return _of_reference(cell, cell.problem, folder)
    return _of_problem(cell, cell.problem, folder)


def _of_reference(cell: Cell, reference: Reference, folder: Path) -> Row:
    """Return the distance of a sampler's draws to a reference, and what they cost."""
    posterior = _sampled(cell, reference.target, folder)
    found, values = reference.distance(posterior), reference.functions(posterior)
    gradients, bias = reference.bias_by_gradient(posterior)
    _keep(cell, folder, posterior, values, {"gradients": gradients, "bias": bias})
    return {
        "task": "reference",
        "num_stochastic": reference.target.split.size,
        "distance_mean": found.mean_bias,
        "distance_mean_error": found.mean_bias_error,
        "distance_deviation": found.deviation_error,
        "distance_deviation_error": found.deviation_error_error,
        "distance_sliced": found.sliced,
        **convergence_columns(posterior, values),
    }


def _of_problem(cell: Cell, problem: Problem, folder: Path) -> Row:
    X, y, test_X, test_y = problem.data.split(cell.seed)
    cross, seconds = _trained(cell, problem, folder)
    row: Row = {"seconds_train": seconds}
    if cell.method is None:
        prediction = _unsampled(cell, cross, X, y, test_X)
        return row | prediction_columns(prediction, test_y)
    frozen = from_cross_fit(cross, Examples(X, y), ensemble=False)[0]
    subset = _subset(cell, cross, X, y)
    target = _target(cell, problem, frozen, subset, Examples(X, y))
    row["num_stochastic"] = target.split.size
    posterior = replace(_sampled(cell, target, folder), scaler=frozen.scaler)
    begin = time.perf_counter()
    prediction = posterior.predict(test_X)
    row["seconds_predict"] = time.perf_counter() - begin
    outputs = np.asarray(posterior.outputs(test_X), np.float64)
    row |= prediction_columns(prediction, test_y) | convergence_columns(posterior, outputs)
    _keep(cell, folder, posterior, outputs, calibration_curve(prediction, test_y))
    return row


def _sampled(cell: Cell, target: NetworkTarget, folder: Path) -> NetworkPosterior:
    """Return draws within the budget; the checkpoint goes once they are there."""
    plan, method = cell.plan, cell.sampler
    checkpoint = folder / "checkpoints" / cell.digest
    posterior = sample_within(
        target, get_backend(method.backend, **method.options), plan.budget, key=cell.seed,
        num_warmup=plan.num_warmup, num_chains=plan.num_chains, max_draws=plan.max_draws,
        folder=checkpoint,
    )  # fmt: skip
    shutil.rmtree(checkpoint, ignore_errors=True)
    return posterior


def _trained(cell: Cell, problem: Problem, folder: Path) -> tuple[CrossFit, float]:
    """Return the networks of a problem and seed, trained once, and the seconds that it took."""
    place = folder / "trained" / cell.trained_digest
    if not place.exists():
        _train(cell, problem, place)
    cross = load(place, problem.network)
    return cross, json.loads(place.with_suffix(".json").read_text("utf-8"))["seconds"]


def _train(cell: Cell, problem: Problem, place: Path) -> None:
    X, y, _, _ = problem.data.split(cell.seed)
    options = TrainingOptions(epochs=cell.plan.epochs)
    likelihood = problem.likelihood or Gaussian()
    begin = time.perf_counter()
    cross = cross_fit(
        problem.network, X, y, epochs=options.epochs, batch_size=options.batch_size,
        key=cell.seed, progress=False, **options.network_options(likelihood),
    )  # fmt: skip
    place.parent.mkdir(parents=True, exist_ok=True)
    seconds = {"seconds": time.perf_counter() - begin}
    storage.write_text(place.with_suffix(".json"), json.dumps(seconds))
    cross.save(place)


def _subset(cell: Cell, cross: CrossFit, X: Any, y: Any) -> ProbabilisticSubset:
    """Return the weights that a cell samples."""
    choice, key = cell.choice, jax.random.key(cell.seed)
    if choice is None:
        return ProbabilisticSubset.everything()
    where = list(choice.layer_names) if choice.layer_names else None
    if cell.control == "random":
        return select_bayesian_components(
            cross.full, where, "random", num_weights=choice.size, key=key
        )
    chosen = select_bayesian_components(
        cross.full, where, choice.selector, num_weights=choice.size, X=X, y=y, key=key,
        **choice.options,
    )  # fmt: skip
    return _permuted(chosen, cross, key) if cell.control == "permuted" else chosen


def _permuted(chosen: ProbabilisticSubset, cross: CrossFit, key: jax.Array) -> ProbabilisticSubset:
    """Return as many weights of each layer as were chosen, at random within it."""
    network, params = cross.full.network, cross.full.params
    split = chosen.split(network, params)
    counts: dict[str, int] = {}
    for path, weights in split.stochastic.items():
        layer = split.owner(path)[0].name
        counts[layer] = counts.get(layer, 0) + weights.size
    parts = [
        select_bayesian_components(
            cross.full, name, "random", num_weights=count, key=jax.random.fold_in(key, i)
        )
        for i, (name, count) in enumerate(sorted(counts.items()))
    ]
    return reduce(or_, parts)


def _target(
    cell: Cell,
    problem: Problem,
    frozen: FrozenNetwork,
    subset: ProbabilisticSubset,
    examples: Examples,
) -> NetworkTarget:
    inputs, targets = frozen.data(examples)
    likelihood = problem.likelihood or Gaussian()
    return Target.build(
        frozen.network, frozen.params, subset, inputs, targets,
        likelihood=frozen_likelihood(likelihood, frozen, len(targets)),
        prior=NormalPrior(scale=cell.plan.prior),
    )  # fmt: skip


def _unsampled(cell: Cell, cross: CrossFit, X: Any, y: Any, test_X: Any) -> Prediction:
    """Return the prediction of a control that samples nothing."""
    if cell.control == "ensemble":
        return FoldMixture.of(cross, X, y).predict_distribution(test_X)
    if cross.known_noise is None:
        return cross.full.predict_distribution(test_X)
    mean = np.reshape(cross.full.predict(test_X), (1, len(test_X), -1))
    return Prediction.normal(mean, cross.known_noise**2)


def _keep(
    cell: Cell,
    folder: Path,
    posterior: NetworkPosterior,
    values: np.ndarray,
    curves: dict[str, np.ndarray],
) -> None:
    """Store what the report draws: traces of the density and of the worst function, and curves."""
    chains = values.reshape(posterior.num_chains, posterior.num_draws, -1)
    every = max(1, posterior.num_draws // NUM_TRACED)
    worst = int(np.argmax(np.ptp(chains.mean(axis=1), axis=0) / chains.std(axis=(0, 1))))
    arrays = {
        "log_density": np.asarray(posterior.stats.log_density, np.float32)[:, ::every],
        "worst": chains[:, ::every, worst].astype(np.float32),
        **curves,
    }
    storage.write_arrays(folder / "cells" / f"{cell.digest}.safetensors", arrays, {})
