"""The Laplace approximation as an nbcore backend."""

from __future__ import annotations

from nbcore.extend import Spec, hookimpl


@hookimpl
def nbcore_register_backends() -> list[Spec]:
    """Register Laplace."""
    return [
        Spec(
            "laplace",
            "nbcore_laplace.laplace:Laplace",
            capabilities=frozenset({"independent", "fixed_cost"}),
        )
    ]
