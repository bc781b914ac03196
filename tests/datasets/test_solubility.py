"""The shipped molecules are those of their source, and reading them needs no jax."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nbcore.datasets
from nbcore.datasets import solubility

FOLDER = Path(nbcore.datasets.__file__).parent


def test_sizes_types_and_ends():
    data = solubility()
    assert len(data.train_smiles) == 1025
    assert len(data.test_smiles) == 257
    assert data.train_y.shape == (1025,)
    assert data.test_y.shape == (257,)
    assert data.train_y.dtype == data.test_y.dtype == np.float64
    assert all(type(smiles) is str for smiles in (*data.train_smiles, *data.test_smiles))
    assert data.train_smiles[:2] == ("CCCCC", "C1CCCC1")
    assert data.test_smiles[0] == "CCC(C)CC"
    assert data.test_smiles[-1] == "C1C(O)CC2=CCC3C4CC5OC6(OCC(C)CC6)C(C)C5C4(C)CCC3C2(C)C1"
    np.testing.assert_array_equal(data.train_y[[0, 1, -1]], np.array([-3.18, -2.64, -3.21]))
    np.testing.assert_array_equal(data.test_y[[0, 1, -1]], np.array([-3.68, -4.26, -7.32]))


def test_range_of_the_target_is_that_of_the_source():
    data = solubility()
    assert data.train_y.min() == -11.62
    assert data.train_y.max() == 1.58
    assert data.test_y.min() == -9.15
    assert data.test_y.max() == 1.13


def test_file_is_unchanged():
    content = (FOLDER / "solubility.csv").read_bytes().replace(b"\r\n", b"\n")
    digest = hashlib.sha256(content).hexdigest()
    assert digest == "1865b55569e18023f7d2664e3c2160489737f2a9aa2a9ed6cb148e2ecf6fc590"


def test_what_the_source_note_says_about_repeated_molecules_is_true():
    data = solubility()
    assert len(set(data.train_smiles)) == 1025 - 2
    assert len(set(data.train_smiles) & set(data.test_smiles)) == 3
    text = (FOLDER / "solubility.SOURCE.md").read_text(encoding="utf-8")
    assert "Huuskonen" in text
    assert "BSD" in text


def test_each_call_gives_its_own_arrays():
    solubility().train_y[:] = 0
    assert solubility().train_y[0] == -3.18


def test_result_is_frozen():
    with pytest.raises(AttributeError):
        solubility().train_y = np.zeros(1025)


def test_reading_data_imports_neither_jax_nor_scipy():
    code = (
        "import sys; from nbcore.datasets import solubility; import nbcore.metrics; solubility();"
        "sys.exit(bool({'jax', 'optax', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
