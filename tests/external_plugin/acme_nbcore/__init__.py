"""What Acme offers to nbcore; nothing is imported before it is asked for."""

from nbcore.extend import Spec, hookimpl


@hookimpl
def nbcore_register_backends() -> list[Spec]:
    """Offer the sampler."""
    declared = frozenset({"exact", "adaptive", "fixed_cost"})
    return [Spec("acme-barker", "acme_nbcore.barker:Barker", capabilities=declared)]


@hookimpl
def nbcore_register_selectors() -> list[Spec]:
    """Offer the selector."""
    declared = frozenset({"gradients"})
    return [Spec("acme-saliency", "acme_nbcore.saliency:Saliency", capabilities=declared)]
