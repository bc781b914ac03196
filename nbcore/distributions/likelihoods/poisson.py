"""Likelihood of counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from nbcore.common.pytrees import register_pytree
from nbcore.distributions.discrete import PoissonDistribution
from nbcore.distributions.likelihoods.base import Likelihood, LikelihoodParameters, real_columns
from nbcore.errors import DataError


@register_pytree
@dataclass(frozen=True)
class Poisson(Likelihood):
    r"""Poisson counts, y_ij ~ Poisson(exp(f_ij)); the outputs are log rates.

    Examples:
        >>> import jax.numpy as jnp
        >>> float(Poisson().log_prob(jnp.zeros((1, 1)), jnp.array([[0.0]]), {})[0])
        -1.0
    """

    def check(self, y: Any, num_outputs: int) -> jax.Array:
        """Return y as counts `(examples, outputs)`, in a float type."""
        columns = real_columns(y, num_outputs, "Poisson")
        counts = np.asarray(columns)
        wrong = np.argwhere((counts < 0) | (counts != np.floor(counts)))
        if len(wrong):
            example, output = (int(i) for i in wrong[0])
            raise DataError(
                f"Counts are non-negative integers, got {counts[example, output]} in example "
                f"{example}; {len(np.unique(wrong[:, 0]))} example(s) have other values. Type "
                "nb.Gaussian() for real targets."
            )
        return columns

    def distribution(
        self, outputs: jax.Array, parameters: LikelihoodParameters
    ) -> PoissonDistribution:
        """Return the Poisson distribution with these log rates."""
        del parameters
        return PoissonDistribution(outputs)
