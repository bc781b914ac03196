"""What Acme offers to nbcore; nothing is imported before it is asked for."""

from __future__ import annotations

from nbcore.extend import Spec, hookimpl


@hookimpl
def nbcore_register_backends() -> list[Spec]:
    """Offer the sampler."""
    declared = frozenset({"exact", "adaptive", "fixed_cost"})
    return [Spec("acme-langevin", "acme_nbcore.methods:Langevin", capabilities=declared)]


@hookimpl
def nbcore_register_selectors() -> list[Spec]:
    """Offer the selector."""
    return [Spec("acme-smallest", "acme_nbcore.methods:Smallest")]
