"""The configuration of `nbcore compare`: data sets, choices of weights, samplers and a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nbcore.cli.config import (
    Config,
    DataSection,
    LikelihoodSection,
    beside,
    network_section,
    read_config_with,
    read_toml,
)
from nbcore.cli.inputs import encode
from nbcore.cli.job import inputs_of, make_network, targets_of
from nbcore.cli.typed import Source
from nbcore.common import plugins
from nbcore.compare import Budget, Choice, DataSet, Method, Plan, Problem
from nbcore.datasets import read_csv
from nbcore.errors import ConfigError, DataError
from nbcore.references import list as list_references
from nbcore.references import load as load_reference
from nbcore.sampling.backend import get_backend
from nbcore.selection.select import get_selector

EXAMPLE = '[[data]] path = "molecules.csv"'


@dataclass(frozen=True)
class GeneralSection:
    """Keys above all sections.

    Args:
        seeds: each seeds split, training, choice and chains.
        controls: see `nb.compare.Plan`.
        references: names of reference posteriors, or `["all"]`.
        num_warmup: warmup steps of each chain.
        num_chains: chains of each posterior.
        max_draws: draws of each chain at most.
        epochs: passes over the data in training; found by cross-fitting by default.
        prior: standard deviation of the prior around the trained weights.
    """

    seeds: tuple[int, ...] = Plan.seeds
    controls: tuple[str, ...] = Plan.controls
    references: tuple[str, ...] = Plan.references
    num_warmup: int = Plan.num_warmup
    num_chains: int = Plan.num_chains
    max_draws: int = Plan.max_draws
    epochs: int | None = Plan.epochs
    prior: float = Plan.prior


@dataclass(frozen=True)
class ChoiceSection:
    """A section `[[choice]]`: a selector with one or several sizes.

    Args:
        selector: see `nbcore plugins`.
        sizes: numbers of weights.
        layer_names: layers to choose in; all by default.
        options: options of the selector.
    """

    selector: str
    sizes: tuple[int, ...]
    layer_names: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


def read_plan(path: Path) -> Plan:
    """Read the configuration of a comparison, with its data.

    Raises:
        ConfigError: it cannot be read, or has an unknown key or an impossible value (file, line,
            section and key are named).
        DataError: a data set cannot be read.
    """
    source, tables = read_toml(path)
    general = list(GeneralSection.__dataclass_fields__)
    source.check_keys("", tables, [*general, "budget", "data", "choice", "method"])
    own = source.read("", GeneralSection, {k: v for k, v in tables.items() if k in general})
    for name, example in (
        ("budget", 'kind = "gradients" amount = 20000'),
        ("method", 'backend = "sgld"'),
    ):
        if name not in tables:
            raise ConfigError(f"{path}: the section {name} is missing. Type: [{name}] {example}")
    budget = source.read("budget", Budget, tables["budget"])
    choices = [source.read("choice", ChoiceSection, t) for t in _list(source, "choice", tables)]
    methods = [source.read("method", Method, t) for t in _list(source, "method", tables)]
    with source.blame("method"):
        for method in methods:
            get_backend(method.backend, **method.options)
    with source.blame("choice"):
        for choice in choices:
            get_selector(choice.selector, **choice.options)
    with source.blame(""):
        names = list_references() if own.references == ("all",) else own.references
        for name in names:
            load_reference(name)
    problems = [_problem(source, table) for table in _list(source, "data", tables)]
    with source.blame(""):
        return Plan(
            methods=tuple(methods),
            budget=budget,
            problems=tuple(problems),
            choices=tuple(
                Choice(c.selector, size, c.layer_names, c.options)
                for c in choices
                for size in c.sizes
            ),
            references=tuple(names),
            **{k: getattr(own, k) for k in general if k != "references"},
        )


def _list(source: Source, name: str, tables: Mapping[str, Any]) -> list[Any]:
    found = tables.get(name, [])
    if not isinstance(found, list):
        raise ConfigError(f"{source.place('', name)}: write [[{name}]], once for each of them.")
    return found  # pyright: ignore[reportUnknownVariableType]


def _problem(source: Source, table: Any) -> Problem:
    """Read a section `[[data]]` with its network and likelihood."""
    if not isinstance(table, dict) or "path" not in table or "network" not in table:
        raise ConfigError(
            f"{source.place('data')}: a data set needs path, and a network in [data.network]. "
            f"Type: {EXAMPLE}"
        )
    rest: dict[str, Any] = {
        k: v for k, v in table.items() if k not in ("network", "name", "likelihood")
    }
    section = network_section(source, table["network"])
    name = str(table.get("name", Path(rest["path"]).stem))
    likelihood = source.read("data.likelihood", LikelihoodSection, table.get("likelihood", {}))
    if str(rest["path"]).endswith(".npz"):
        source.check_keys("data", table, ["name", "path", "network", "likelihood"])
        with source.blame("data"):
            network = plugins.build("network", section.name, dict(section.options))
            data = _arrays(name, source.path.parent / rest["path"])
        return Problem(data, section.name, network, likelihood.build())
    config = read_config_with(
        source, beside(source.path, source.read("data", DataSection, rest)), section
    )
    data, network = _table(name, config)
    return Problem(data, section.name, network, likelihood.build())


def _arrays(name: str, path: Path) -> DataSet:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        test = {k: arrays[k] for k in ("test_X", "test_y") if k in arrays}
        return DataSet(name, arrays["X"], arrays["y"], **test)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} holds no arrays X and y that can be read ({error}). Write it with "
            "np.savez(path, X=X, y=y), and test_X and test_y if there are test examples."
        ) from error


def _table(name: str, config: Config) -> tuple[DataSet, Any]:
    """Return the rows of a CSV file, and the network with what they fill in."""
    data = config.data
    train = read_csv(data.path, delimiter=data.delimiter)
    test = None if data.test_path is None else read_csv(data.test_path, delimiter=data.delimiter)
    inputs = inputs_of(data, train, train if test is None else test)
    tables = (train,) if test is None else (train, test)
    X, *test_X = encode(inputs, *tables)
    y, *test_y = [targets_of(config, each) for each in tables]
    network, _ = make_network(config, inputs)
    return DataSet(name, X, y, *(part for parts in (test_X, test_y) for part in parts)), network
