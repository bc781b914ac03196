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
    if metafunc.config.getoption("references", False):
        from nbcore.testing.reference_checks import every_reference  # noqa: PLC0415  imports jax

        pairs = [(s, c) for s in subjects if s.kind == "backend" for c in every_reference()]
        ids = [f"{subject.spec.name}-{check.name}" for subject, check in pairs]
        metafunc.parametrize(("subject", "check"), pairs, ids=ids)
        return
    metafunc.parametrize(("subject", "check"), cases(subjects))


def test_conformance(subject: Installed, check: Check) -> None:
    """Hold what is installed to its contract."""
    check(subject)
