"""An audit of the data before training, for faults that raise no error."""

from __future__ import annotations

import numpy as np

from nbcore.cli.config import DataSection
from nbcore.datasets import Table

SHOWN = 5
SAME = 1 - 1e-9
"""Correlation from which two columns are one."""


def audit(data: DataSection, training: Table, test: Table) -> list[str]:
    """Return remarks on data that look wrong, each with the column and the lines.

    Args:
        data: the meaning of the columns.
        training: rows to train on.
        test: rows to evaluate on.
    """
    remarks = [*_target(data, training), *_shared(data, training, test)]
    for name in data.features or ():
        remarks += _feature(name, training, training.numeric([data.target])[:, 0])
    if data.groups is not None:
        remarks += _groups(data.groups, training, test)
    return remarks


def _target(data: DataSection, training: Table) -> list[str]:
    values = training.numeric([data.target])[:, 0]
    if len(values) > 1 and np.all(values == values[0]):
        return [
            f"{training.path}: the target {data.target!r} is {values[0]:.6g} in all "
            f"{len(values)} training rows. There is nothing to learn from."
        ]
    return []


def _shared(data: DataSection, training: Table, test: Table) -> list[str]:
    """Return a remark that names test rows whose inputs are those of a training row."""
    first = dict[tuple[str, ...], int]()
    for key, line in zip(_keys(data, training), training.line_numbers, strict=True):
        first.setdefault(key, line)
    pairs = [
        (line, first[key])
        for key, line in zip(_keys(data, test), test.line_numbers, strict=True)
        if key in first
    ]
    if not pairs:
        return []
    shown = ", ".join(f"line {a} as line {b}" for a, b in pairs[:SHOWN])
    more = ", ..." if len(pairs) > SHOWN else ""
    remedy = "Remove the copies" if data.test_path else 'Name what they share: groups = "column"'
    return [
        f"{test.path}: {len(pairs)} of {len(test)} test rows have the inputs of a training row "
        f"({shown}{more}). The test then measures what was memorized. {remedy}."
    ]


def _keys(data: DataSection, table: Table) -> list[tuple[str, ...]]:
    names = (data.smiles,) if data.smiles else data.features or ()
    return list(zip(*(table.text(name) for name in names), strict=True))


def _feature(name: str, training: Table, target: np.ndarray) -> list[str]:
    values = training.numeric([name])[:, 0]
    place = f"{training.path}: the feature {name!r}"
    if len(values) < 3:
        return []
    if np.all(values == values[0]):
        return [f"{place} is {values[0]:.6g} in all training rows, and so carries no information."]
    if np.std(target) > 0 and abs(np.corrcoef(values, target)[0, 1]) > SAME:
        return [
            f"{place} determines the target (correlation 1 in all {len(values)} training rows). "
            "Is it the target itself, in other units?"
        ]
    steps = np.diff(np.sort(values))
    if np.all(values == np.round(values)) and np.all(steps >= 1) and _looks_counted(steps):
        return [
            f"{place} numbers the rows ({values.min():.0f} to {values.max():.0f}, each once). An "
            "id says nothing about new rows: leave the column out of the features."
        ]
    return []


def _looks_counted(steps: np.ndarray) -> bool:
    """Whether sorted integers are consecutive, apart from rows of the other table."""
    return float(np.mean(steps)) < 2


def _groups(name: str, training: Table, test: Table) -> list[str]:
    shared = sorted(set(training.text(name)) & set(test.text(name)))
    if not shared:
        return []
    shown = ", ".join(map(repr, shared[:SHOWN])) + (", ..." if len(shared) > SHOWN else "")
    return [
        f"{test.path}: {len(shared)} groups of {name!r} are in the training rows too ({shown}). "
        "The test then measures groups that were seen."
    ]
