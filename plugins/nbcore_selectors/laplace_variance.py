"""The weights with the largest marginal posterior variance under a Laplace approximation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp

from nbcore import Layer
from nbcore.errors import OptionError
from nbcore.extend import (
    DENSE_LIMIT,
    LikelihoodCurvature,
    SelectionContext,
    check_choice,
    check_positive,
    required,
)


@dataclass(frozen=True)
class LaplaceVariance:
    r"""Score the marginal posterior variance diag((G + I / s^2)^-1) of the linearized network.

    G = sum_i J_i^T L_i J_i is the generalized Gauss-Newton matrix of the log likelihood, s the
    standard deviation of a normal prior around the trained weights. A subnetwork of largest
    variances is the nearest to the whole posterior in the Wasserstein distance, as far as
    correlations are neglected. Weights that no output depends on, such as those of dead units,
    keep the variance of the prior and so come first; sampling them changes no prediction.

    Args:
        covariance: `"diagonal"` takes the inverse of the diagonal of G + I / s^2, for any size;
            `"full"` the diagonal of the inverse, over all weights of one layer, biases included,
            of which there are at most 512.
        prior_scale: s, in the units of the weights.

    Raises:
        OptionError: an option has an impossible value; when it scores, a layer is too large for
            `"full"`.

    Examples:
        >>> LaplaceVariance(prior_scale=0.5)
        LaplaceVariance(covariance='diagonal', prior_scale=0.5)

    References:
        Daxberger, Nalisnick, Allingham, Antoran and Hernandez-Lobato (2021), "Bayesian deep
        learning via subnetwork inference".
    """

    name: ClassVar[str] = "laplace-variance"
    needs: ClassVar[frozenset[str]] = frozenset({"curvature"})

    covariance: Literal["diagonal", "full"] = "diagonal"
    prior_scale: float = 1.0

    def __post_init__(self) -> None:
        check_choice(("diagonal", "full"), covariance=self.covariance)
        check_positive(prior_scale=self.prior_scale)

    def score(self, context: SelectionContext, layer: Layer) -> dict[str, Any]:
        """Return the marginal posterior variance of every entry."""
        curvature = required(context.curvature, "curvature", self.name)
        variance = posterior_variance(curvature, layer, self.prior_scale, self.covariance)
        return {leaf.path: variance[leaf.path] for leaf in layer.weights}


def posterior_variance(
    curvature: LikelihoodCurvature,
    layer: Layer,
    prior_scale: float,
    covariance: Literal["diagonal", "full"] = "diagonal",
) -> dict[str, Any]:
    """Return the marginal posterior variance of the weights of a layer, by leaf path."""
    precision = 1 / prior_scale**2
    leaves = sorted((f for f in layer.leaves if f.role != "state"), key=lambda leaf: leaf.path)
    if covariance == "diagonal":
        return {f.path: 1 / (curvature.gauss_newton[f.path] + precision) for f in leaves}
    if layer.size > DENSE_LIMIT:
        raise OptionError(
            f"covariance='full' is for layers of up to {DENSE_LIMIT} weights, and {layer.name!r} "
            f"has {layer.size:,}. Give covariance='diagonal', or exclude=[{layer.name!r}]."
        )
    matrix = curvature.gauss_newton_matrix(layer) + precision * jnp.eye(layer.size)
    variance = jnp.diag(jnp.linalg.inv(matrix))
    cuts = [sum(f.size for f in leaves[: n + 1]) for n in range(len(leaves) - 1)]
    parts = jnp.split(variance, cuts)
    return {f.path: part.reshape(f.shape) for f, part in zip(leaves, parts, strict=True)}
