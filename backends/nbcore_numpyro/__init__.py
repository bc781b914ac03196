"""NumPyro's samplers as nbcore backends."""

from __future__ import annotations

from nbcore.extend import Spec, hookimpl


@hookimpl
def nbcore_register_backends() -> list[Spec]:
    """Register NUTS and HMC."""
    exact = frozenset({"exact", "adaptive"})
    return [
        Spec("numpyro-nuts", "nbcore_numpyro.nuts:NumPyroNUTS", "numpyro", exact),
        Spec("numpyro-hmc", "nbcore_numpyro.hmc:NumPyroHMC", "numpyro", exact),
    ]
