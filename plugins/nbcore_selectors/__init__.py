"""The selectors that come with nbcore: which entries of a layer are worth sampling."""

from __future__ import annotations

from nbcore.extend import Spec, hookimpl


def _spec(name: str, target: str, *needs: str, extra: str = "") -> Spec:
    return Spec(name, f"nbcore_selectors.{target}", extra, frozenset(needs))


@hookimpl
def nbcore_register_selectors() -> list[Spec]:
    """Offer the selectors, each with what it needs."""
    return [
        _spec("clustering", "clustering:Clustering", extra="selectors"),
        _spec("first-and-last", "first_and_last:FirstAndLast"),
        _spec("fisher", "fisher:Fisher", "curvature"),
        _spec("gradient", "gradient:Gradient", "gradients"),
        _spec("greedy-predictive", "greedy_predictive:GreedyPredictive", "curvature"),
        _spec("laplace-variance", "laplace_variance:LaplaceVariance", "curvature"),
        _spec("magnitude", "magnitude:Magnitude"),
        _spec("permuted", "permuted:Permuted"),
        _spec("random", "random:Random"),
        _spec("snr", "snr:SignalToNoise", "trajectory"),
        _spec("swag-variance", "swag_variance:SWAGVariance", "trajectory"),
        _spec("variance", "variance:Variance", "trajectory"),
    ]
