"""The job of `nbcore run`: from a configuration to a fitted and evaluated model."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_type_hints

import jax
import numpy as np
from jax.sharding import Mesh

from nbcore.cli.audit import audit
from nbcore.cli.config import Config, DataSection, NetworkSection, SampleSection, SelectSection
from nbcore.cli.inputs import FeatureInputs, Inputs, SmilesInputs, encode
from nbcore.common import plugins
from nbcore.common.progress import Progress
from nbcore.datasets import Table, read_csv
from nbcore.errors import OptionError
from nbcore.estimators.options import SamplingOptions
from nbcore.estimators.partial_bnn import PartialBNN
from nbcore.estimators.sampler import SamplerPreset
from nbcore.networks.describe import layers_of
from nbcore.networks.evaluation import count_outputs
from nbcore.networks.network import as_network
from nbcore.posterior.prediction import Prediction
from nbcore.report import Evaluation, evaluation_of
from nbcore.sampling.backend import get_backend
from nbcore.sampling.placement import mesh_of, placement_for, spread
from nbcore.selection.select import Trained, arguments_on, get_selector, select_bayesian_components
from nbcore.selection.selector import ScoringSelector
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.training.fold_mixture import FoldMixture

logger = logging.getLogger("nbcore")
SIZES = {"d_model": 32, "nhead": 4, "num_layers": 2, "dim_feedforward": 64}


@dataclass(frozen=True)
class EncodedRows:
    """Rows of data, read and encoded.

    Args:
        table: the table they come from.
        X: inputs.
        y: targets `(rows,)`.
    """

    table: Table
    X: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Job:
    """A checked job, ready for training.

    Args:
        config: the configuration.
        inputs: conversion of rows to inputs.
        network: the model, and its options.
        train: rows to train on.
        test: rows to evaluate on.
    """

    config: Config
    inputs: Inputs
    network: tuple[Any, NetworkSection]
    train: EncodedRows
    test: EncodedRows


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    Args:
        job: the job.
        model: the fitted model.
        prediction: its predictions for the test rows.
        evaluations: each way of predicting on the test rows, the model's own last.
        seconds: wall time of training, and of sampling.
    """

    job: Job
    model: PartialBNN
    prediction: Prediction
    evaluations: Sequence[Evaluation]
    seconds: dict[str, float]


def prepare(config: Config) -> Job:
    """Read the data, make the network, and run all checks that need no training.

    Raises:
        ConfigError: a section asks for something impossible.
        DataError: the data cannot be read.
    """
    training, test = split_tables(config)
    inputs = inputs_of(config.data, training, test)
    tables = (training, test)
    rows = [
        EncodedRows(table, encoded, targets_of(config, table))
        for table, encoded in zip(tables, encode(inputs, *tables), strict=True)
    ]
    job = Job(config, inputs, make_network(config, inputs), rows[0], rows[1])
    _rehearse(job)
    for remark in audit(config.data, training, test):
        logger.warning(remark)
    return job


def split_tables(config: Config) -> tuple[Table, Table]:
    """Return the training and the test rows."""
    data = config.data
    table = read_csv(data.path, delimiter=data.delimiter)
    if data.test_path is not None:
        return table, read_csv(data.test_path, delimiter=data.delimiter)
    seed = config.seed if data.seed is None else data.seed
    fraction = data.test_fraction or 0
    groups = np.arange(len(table)) if data.groups is None else _codes(table.text(data.groups))
    order = np.random.default_rng(seed).permutation(groups.max() + 1)
    sizes = np.cumsum(np.bincount(groups)[order])  # whole groups, as many as come nearest
    count = int(np.argmin(np.abs(np.concatenate([[0], sizes]) - fraction * len(table))))
    is_test = np.isin(groups, order[:count])
    with config.source.blame("data"):
        train = _subtable(table, np.flatnonzero(~is_test))
        return train, _subtable(table, np.flatnonzero(is_test))


def _codes(labels: Sequence[str]) -> np.ndarray:
    """Return labels as integers from 0."""
    return np.unique(labels, return_inverse=True)[1]


def _subtable(table: Table, rows: np.ndarray) -> Table:
    """Return some rows of a table."""
    if not len(rows):
        raise OptionError(
            f"test_fraction leaves no row of {len(table)} to train on, or none to test on."
        )
    columns = {name: [cells[i] for i in rows] for name, cells in table.columns.items()}
    return Table(table.path, columns, [table.line_numbers[i] for i in rows])


def inputs_of(data: DataSection, training: Table, test: Table) -> Inputs:
    """Return the conversion of rows to inputs, fitted to the training rows."""
    if data.smiles is not None:
        return SmilesInputs.fit(data.smiles, training, [test])
    return FeatureInputs.fit(data.features or (), training)


def targets_of(config: Config, table: Table) -> np.ndarray:
    """Return the targets of rows `(rows,)`."""
    return table.numeric([config.data.target])[:, 0]


def make_network(config: Config, inputs: Inputs) -> tuple[Any, NetworkSection]:
    """Return the network of a configuration, and its section with what the inputs filled in.

    Raises:
        ConfigError: it is unknown, or has an unknown or ill-typed option.
    """
    source, section = config.source, config.network
    with source.blame("network"):
        cls = plugins.load("network", section.name)
        known = [f.name for f in fields(cls)] if is_dataclass(cls) else []
        filled = {k: v for k, v in inputs.network_options.items() if k in known}
        if is_dataclass(cls) and inputs.network_options and not filled:
            raise OptionError(
                f"The network {section.name!r} reads numbers, and smiles = "
                f"{config.data.smiles!r} gives it the ids of tokens. Type: name = "
                '"transformer", or features = ["column", ...]'
            )
        options = {**_sizes(known, section.options), **filled, **section.options}
        source.check_types("network", section.options, _hints(cls))
        return plugins.build("network", section.name, options), NetworkSection(
            section.name, options
        )


def _sizes(known: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return sizes for a table of some thousand rows, unless the configuration gives one.

    The defaults of the architectures are those of NeuroBayes, made for larger data: hours of
    training for a thousand molecules.
    """
    found = {} if set(SIZES).intersection(given) else SIZES
    return {name: size for name, size in found.items() if name in known}


def _hints(cls: type[Any]) -> dict[str, Any]:
    """Return the type hints of a class of a plugin; none if they name something undefined."""
    try:
        return get_type_hints(cls)
    except (NameError, TypeError):
        return {}


def _rehearse(job: Job) -> None:
    """Check names, options and pairs, which would otherwise fail after minutes."""
    config, source = job.config, job.config.source
    model, _ = job.network
    with source.blame("sample"):
        if config.sample.backend is not None:
            backend = plugins.load("backend", config.sample.backend)
            source.check_types("sample.options", config.sample.options, _hints(backend))
            get_backend(config.sample.backend, **config.sample.options)
        chains = _num_chains(config.sample)
        if chains is not None:
            placement_for(_mesh(config.sample, chains), chains)
    with source.blame("network"):
        layers = layers_of(model, job.train.X)
        network = as_network(model, example=job.train.X[:1])
        first = jax.numpy.asarray(job.train.X[:1])
        params = network.init(jax.random.key(0), first)
    with source.blame("likelihood"):
        config.likelihood.build().check(job.train.y, count_outputs(network, params, first))
    with source.blame("select"):
        subset = _subset(config.select)
        if subset is not None:
            subset.masks(layers)
        if config.select.method is not None:
            arguments = selection_arguments(job)
            selector = get_selector(config.select.method, **(config.select.options or {}))
            is_scoring = isinstance(selector, ScoringSelector)
            untrained = SimpleNamespace(
                network=network, params=params, trajectory=None, gradients=None
            )
            asked = ("layer_names", "num_pairs_per_layer", "num_weights", "fraction")
            known = {name: arguments[name] for name in asked if name in arguments}
            known["method"] = "random" if is_scoring else selector
            known = arguments_on(known, job.train.X, job.train.y)
            select_bayesian_components(cast(Trained, untrained), **known)


def _num_chains(sampling: SampleSection) -> int | None:
    """Return the number of chains; `None` leaves it to the fit, which a mesh cannot."""
    has_mesh = sampling.mesh is not None or jax.process_count() > 1
    return SamplerPreset.num_chains if has_mesh and not sampling.num_chains else sampling.num_chains


def _mesh(sampling: SampleSection, num_chains: int | None) -> Mesh | None:
    if sampling.mesh is not None:
        return mesh_of(sampling.mesh)
    return None if num_chains is None or jax.process_count() == 1 else spread(num_chains)


def _subset(select: SelectSection) -> ProbabilisticSubset | None:
    if select.layers is not None:
        return ProbabilisticSubset.layers(*select.layers)
    if select.last is not None:
        return ProbabilisticSubset.last(select.last)
    if select.first_and_last:
        return ProbabilisticSubset.first_and_last()
    return ProbabilisticSubset.everything() if select.everything else None


def selection_arguments(job: Job) -> dict[str, Any]:
    """Return the arguments of `nb.select_bayesian_components` of the section `[select]`."""
    select = job.config.select
    arguments: dict[str, Any] = {"method": select.method, "key": job.config.seed}
    if select.layer_names is not None:
        arguments["layer_names"] = list(select.layer_names)
    for budget in ("num_pairs_per_layer", "num_weights", "fraction"):
        if getattr(select, budget) is not None:
            arguments[budget] = getattr(select, budget)
    return {**arguments, **(select.options or {})}


def execute(job: Job, progress: Progress, checkpoint: Path | None = None) -> Outcome:
    """Train, choose, sample and evaluate.

    Args:
        job: the job.
        progress: receives progress reports.
        checkpoint: a folder for the state and the draws of sampling, see `nb.sample`.

    Raises:
        NbcoreError: training or sampling failed.
    """
    config = job.config
    sampling, chains = config.sample, _num_chains(config.sample)
    model = PartialBNN(
        job.network[0],
        subset=_subset(config.select),
        selection=selection_arguments(job) if config.select.method else None,
        likelihood=config.likelihood.build(),
        prior=sampling.prior,
    )
    # The cost of sampling is estimated by the driver, and comes as a report with nothing to count.
    begin = time.perf_counter()
    groups = config.data.groups
    model.fit(
        job.train.X,
        job.train.y,
        sampling.num_warmup,
        sampling.num_samples,
        chains,
        backend=sampling.backend and get_backend(sampling.backend, **sampling.options),
        groups=None if groups is None else job.train.table.text(groups),
        sampling=SamplingOptions(
            thin=sampling.thin,
            chain_method=sampling.chain_method,
            checkpoint=checkpoint,
            mesh=_mesh(sampling, chains),
        ),
        training=config.training,
        calibration=config.calibration.build(),
        key=config.seed,
        progress=progress,
    )
    total = time.perf_counter() - begin
    sampled = sum(posterior.info.seconds["total"] for posterior in model.posteriors)
    prediction = model.predict_distribution(job.test.X)
    return Outcome(
        job,
        model,
        prediction,
        _evaluations(job, model, prediction),
        {"training": total - sampled, "sampling": sampled},
    )


def _evaluations(job: Job, model: PartialBNN, prediction: Prediction) -> list[Evaluation]:
    """Evaluate the network without sampling as well, to measure the effect of sampling."""
    found: list[Evaluation] = []
    method, det, y = job.config.calibration.method, model.det, job.test.y
    if det is not None and not det.is_squared_error:
        found.append(evaluation_of("deterministic", det.predict_distribution(job.test.X), y))
    elif det is not None:
        mean = np.reshape(det.predict(job.test.X), (1, -1, 1))
        if method != "holdout":  # there, training rows and others cannot be distinguished
            noise = det.residual_noise(job.train.X, job.train.y)
            naive = Prediction.normal(mean, noise**2)
            found.append(evaluation_of("deterministic + training noise", naive, y))
        if model.noise is not None:
            source = {
                "crossfit": "out-of-fold",
                "mixture": "out-of-fold",
                "holdout": "held-out",
            }.get(method, "unseen")
            honest = Prediction.normal(mean, model.noise**2)
            found.append(evaluation_of(f"deterministic + {source} noise", honest, y))
    if model.cross is not None and len(model.posteriors) > 1 and model.cross.residuals.size:
        control = FoldMixture.of(model.cross, job.train.X, job.train.y)
        prediction_of_control = control.predict_distribution(job.test.X)
        found.append(evaluation_of("fold networks, not sampled", prediction_of_control, y))
    ours = "partially Bayesian ensemble" if len(model.posteriors) > 1 else "partially Bayesian"
    return [*found, evaluation_of(ours, prediction, y)]
