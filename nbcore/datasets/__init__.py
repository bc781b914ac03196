"""Molecules that ship with nbcore, and readers that turn SMILES and CSV files into arrays.

Nothing here imports jax: reading data is numpy and the standard library.
"""

from __future__ import annotations

from nbcore.datasets.csv_table import Table, read_csv
from nbcore.datasets.solubility import Molecules, solubility
from nbcore.datasets.tokenizer import SmilesTokenizer

__all__ = ["Molecules", "SmilesTokenizer", "Table", "read_csv", "solubility"]
