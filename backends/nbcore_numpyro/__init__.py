"""NumPyro's samplers as nbcore backends."""

from __future__ import annotations

from nbcore.hookspecs import Spec, hookimpl


@hookimpl
def nbcore_register_backends() -> list[Spec]:
    """Register NUTS."""
    return [
        Spec(
            "numpyro-nuts",
            "nbcore_numpyro.nuts:NumPyroNUTS",
            extra="numpyro",
            capabilities=frozenset({"exact", "adaptive"}),
        )
    ]
