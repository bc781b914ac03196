"""The pytest plugin of nbcore: the options of the kit and the marker `slow`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that restrict the kit to one backend or one selector."""
    group = parser.getgroup("nbcore", "nbcore: conformance of backends and selectors")
    for kind in ("backend", "selector"):
        group.addoption(
            f"--nbcore-{kind}",
            metavar="NAME",
            help=f"of `--pyargs nbcore.testing`, run the checks of this {kind} alone",
        )
    group.addoption(
        "--references",
        action="store_true",
        help="of `--pyargs nbcore.testing`, hold backends to every reference posterior instead",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of the checks that take long."""
    config.addinivalue_line("markers", "slow: checks that take more than about ten seconds")
