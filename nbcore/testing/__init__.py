"""The conformance kit: checks of samplers, selectors, networks, likelihoods and priors.

`parametrize_with_checks` is the whole interface; `pytest --pyargs nbcore.testing` holds every
installed backend and selector to it. Importing this package imports neither jax nor pytest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbcore.testing.cases import Check as Check
    from nbcore.testing.cases import Installed as Installed
    from nbcore.testing.cases import cases as cases
    from nbcore.testing.cases import checks_for as checks_for
    from nbcore.testing.cases import installed as installed
    from nbcore.testing.cases import parametrize_with_checks as parametrize_with_checks
    from nbcore.testing.failure import ConformanceError as ConformanceError
    from nbcore.testing.likelihood_case import LikelihoodCase as LikelihoodCase
    from nbcore.testing.network_checks import NetworkCase as NetworkCase
    from nbcore.testing.prior_checks import PriorCase as PriorCase
    from nbcore.testing.report import OracleRow as OracleRow
    from nbcore.testing.report import oracle_report as oracle_report
    from nbcore.testing.report import oracle_table as oracle_table

_NAMES = {
    "cases": (
        "Check", "Installed", "cases", "checks_for", "installed", "parametrize_with_checks",
    ),
    "failure": ("ConformanceError",),
    "likelihood_case": ("LikelihoodCase",),
    "network_checks": ("NetworkCase",),
    "prior_checks": ("PriorCase",),
    "report": ("OracleRow", "oracle_report", "oracle_table"),
}  # fmt: skip
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
