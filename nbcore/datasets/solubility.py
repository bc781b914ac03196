"""Aqueous solubility of 1,282 organic molecules, split as RDKit splits them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nbcore.datasets.csv_table import read_csv

_TARGET = "log_solubility"


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Molecules:
    """Molecules as SMILES with one measured number each, split into training and test.

    Attributes:
        train_smiles: one SMILES string per training molecule.
        train_y: shape `(len(train_smiles),)`, float64.
        test_smiles: one SMILES string per test molecule.
        test_y: shape `(len(test_smiles),)`, float64.
    """

    train_smiles: tuple[str, ...]
    train_y: NDArray[np.float64]
    test_smiles: tuple[str, ...]
    test_y: NDArray[np.float64]


def solubility() -> Molecules:
    """Load the shipped solubility set: 1,025 training and 257 test molecules.

    The target is log10 of the aqueous solubility in mol/L. Molecules come in the order of the
    source, which groups chemical families: shuffle before cutting a validation set off.

    Returns:
        The molecules; the arrays are fresh ones that the caller may change.

    Examples:
        >>> data = solubility()
        >>> len(data.train_smiles), len(data.test_smiles)
        (1025, 257)
        >>> data.train_smiles[0], round(float(data.train_y[0]), 2)
        ('CCCCC', -3.18)

    References:
        Huuskonen (2000), J. Chem. Inf. Comput. Sci. 40(3), 773-777, doi:10.1021/ci9901338.
        Provenance and license: `solubility.SOURCE.md` in the same folder.
    """
    table = read_csv(Path(__file__).with_name("solubility.csv"))
    smiles = np.array(table.text("smiles"), dtype=object)
    y = table.numeric([_TARGET])[:, 0]
    is_train = np.array(table.text("split")) == "train"
    return Molecules(
        train_smiles=tuple(smiles[is_train]),
        train_y=y[is_train],
        test_smiles=tuple(smiles[~is_train]),
        test_y=y[~is_train],
    )
