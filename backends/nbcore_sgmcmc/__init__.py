"""Stochastic-gradient samplers as nbcore backends."""

from __future__ import annotations

from nbcore.extend import Spec, hookimpl


@hookimpl
def nbcore_register_backends() -> list[Spec]:
    """Register SGLD, cyclical SGLD and SGHMC."""
    cycles = frozenset({"minibatch", "adaptive"})
    steady = cycles | {"fixed_cost"}
    return [
        Spec("sgld", "nbcore_sgmcmc.sgld:SGLD", capabilities=steady),
        Spec("csgld", "nbcore_sgmcmc.csgld:CyclicalSGLD", capabilities=cycles),
        Spec("sghmc", "nbcore_sgmcmc.sghmc:SGHMC", capabilities=steady),
    ]
