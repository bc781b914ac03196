"""Stochastic-gradient samplers as nbcore backends."""

from __future__ import annotations

from nbcore.hookspecs import Spec, hookimpl


@hookimpl
def nbcore_register_backends() -> list[Spec]:
    """Register SGLD."""
    return [
        Spec(
            "sgld",
            "nbcore_sgmcmc.sgld:SGLD",
            extra="blackjax",
            capabilities=frozenset({"minibatch", "adaptive", "fixed_cost"}),
        )
    ]
