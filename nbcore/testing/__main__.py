"""`python -m nbcore.testing`: the conformance figures of every installed backend."""

from __future__ import annotations

import sys

from nbcore.testing.report import oracle_table

if __name__ == "__main__":
    sys.stdout.write(f"{oracle_table()}\n")
