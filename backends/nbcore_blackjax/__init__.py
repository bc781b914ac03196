"""BlackJAX's samplers as nbcore backends."""

from __future__ import annotations

from nbcore.extend import Spec, hookimpl


@hookimpl
def nbcore_register_backends() -> list[Spec]:
    """Register NUTS, HMC, MALA and the two microcanonical samplers."""
    return [
        _spec("blackjax-nuts", "nuts:BlackJAXNUTS", "exact", "adaptive"),
        _spec("blackjax-hmc", "hmc:BlackJAXHMC", "exact", "adaptive"),
        _spec("blackjax-mala", "mala:BlackJAXMALA", "exact", "adaptive"),
        _spec("blackjax-mclmc", "mclmc:BlackJAXMCLMC", "adaptive"),
        _spec(
            "blackjax-adjusted-mclmc", "adjusted_mclmc:BlackJAXAdjustedMCLMC", "exact", "adaptive"
        ),
    ]


def _spec(name: str, where: str, *capabilities: str) -> Spec:
    return Spec(
        name, f"nbcore_blackjax.{where}", extra="blackjax", capabilities=frozenset(capabilities)
    )
