"""The selectors that come with nbcore: which entries of a layer are worth sampling."""

from __future__ import annotations

from nbcore.hookspecs import Spec, hookimpl


@hookimpl
def nbcore_register_selectors() -> list[Spec]:
    """Offer the selectors, each with what it needs."""
    return [
        Spec("clustering", "nbcore_selectors.clustering:Clustering", "selectors"),
        Spec(
            "gradient",
            "nbcore_selectors.gradient:Gradient",
            capabilities=frozenset({"gradients"}),
        ),
        Spec("magnitude", "nbcore_selectors.magnitude:Magnitude"),
        Spec("random", "nbcore_selectors.random:Random"),
        Spec(
            "variance",
            "nbcore_selectors.variance:Variance",
            capabilities=frozenset({"trajectory"}),
        ),
    ]
