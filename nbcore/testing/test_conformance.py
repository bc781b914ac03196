"""The kit on every installed backend and selector: `pytest --pyargs nbcore.testing`."""

from __future__ import annotations

from typing import Any

import pytest

from nbcore.errors import OptionError
from nbcore.testing.cases import Check, Installed, cases, installed


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize over what is installed, or what `--nbcore-backend` or `-selector` name."""
    asked: dict[str, Any] = {
        kind: metafunc.config.getoption(f"nbcore_{kind}", None) for kind in ("backend", "selector")
    }
    chosen = {kind: name for kind, name in asked.items() if name} or dict.fromkeys(asked)
    subjects: list[Installed] = []
    try:
        for kind, name in chosen.items():
            subjects += installed(kind, name)  # pyright: ignore[reportArgumentType]
    except OptionError as error:
        raise pytest.UsageError(str(error)) from error
    metafunc.parametrize(("subject", "check"), cases(subjects))


def test_conformance(subject: Installed, check: Check) -> None:
    """Hold what is installed to its contract."""
    check(subject)
