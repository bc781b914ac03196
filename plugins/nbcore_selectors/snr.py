"""The weights whose size is least, or most, certain: signal against noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from nbcore import Layer
from nbcore.extend import SelectionContext, check_choice, check_positive, required, weights_in
from nbcore_selectors.laplace_variance import posterior_variance


@dataclass(frozen=True)
class SignalToNoise:
    r"""Score by the ratio |w| / sd of a weight and its standard deviation.

    `order="low"` takes the lowest ratios: weights whose sign is not even certain are those whose
    frozen value is worth least. It prefers weights near zero. `order="high"` takes the highest:
    the weights that pruning would keep, whatever their uncertainty. Scores are sd / (|w| + sd)
    and |w| / (|w| + sd), within 0 and 1; a weight that is zero and has never moved scores 0.

    Args:
        order: which end of the ratio is sampled.
        deviation: `"trajectory"`, over the SWA snapshots, or `"laplace"`, of the posterior under
            a diagonal Gauss-Newton Laplace approximation, which needs X and y.
        prior_scale: standard deviation of the prior in that approximation.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> sorted(SignalToNoise().needs), sorted(SignalToNoise(deviation="laplace").needs)
        (['trajectory'], ['curvature'])

    References:
        Graves (2011), "Practical variational inference for neural networks"; Blundell,
        Cornebise, Kavukcuoglu and Wierstra (2015), "Weight uncertainty in neural networks",
        section 5.1: the same ratio, there to decide what to prune.
    """

    name: ClassVar[str] = "snr"

    order: Literal["low", "high"] = "low"
    deviation: Literal["trajectory", "laplace"] = "trajectory"
    prior_scale: float = 1.0

    def __post_init__(self) -> None:
        check_choice(("low", "high"), order=self.order)
        check_choice(_NEEDS, deviation=self.deviation)
        check_positive(prior_scale=self.prior_scale)

    @property
    def needs(self) -> frozenset[str]:
        """What the deviation is read from."""
        return _NEEDS[self.deviation]

    def score(self, context: SelectionContext, layer: Layer) -> dict[str, Any]:
        """Return the share of noise, or of signal, of every entry."""
        signal = jax.tree.map(jnp.abs, weights_in(layer, context.params))
        variance = self._variance(context, layer)
        noise = {path: jnp.sqrt(variance[path]) for path in signal}
        part = noise if self.order == "low" else signal
        return {path: _share(part[path], signal[path] + noise[path]) for path in signal}

    def _variance(self, context: SelectionContext, layer: Layer) -> dict[str, Any]:
        if self.deviation == "laplace":
            curvature = required(context.curvature, "curvature", self.name)
            return posterior_variance(curvature, layer, self.prior_scale)
        trajectory = required(context.trajectory, "trajectory", self.name)
        return weights_in(layer, trajectory.variance)


_NEEDS = {"trajectory": frozenset({"trajectory"}), "laplace": frozenset({"curvature"})}


def _share(part: jax.Array, whole: jax.Array) -> jax.Array:
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1.0), 0.0)
