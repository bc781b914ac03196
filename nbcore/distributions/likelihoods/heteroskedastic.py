"""Likelihood with noise that a second head of the network predicts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, get_args

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.options import check_choice
from nbcore.common.pytrees import register_pytree
from nbcore.distributions.continuous import LogScaleNormal
from nbcore.distributions.likelihoods.base import Likelihood, LikelihoodParameters, real_columns
from nbcore.errors import ShapeError
from nbcore.networks.inputs import Missing


@register_pytree
@dataclass(frozen=True)
class Heteroskedastic(Likelihood):
    r"""Gaussian noise that depends on x, y_ij ~ N(m_ij, exp(2 l_ij)).

    There is one convention for training, sampling and prediction: the network returns
    `(examples, 2 * targets)`, the means m in the first `targets` columns and the unconstrained
    logarithms l of the standard deviations in the last.

    Args:
        missing: `"mask"` leaves NaN in y out, as for `nb.Gaussian`.

    Examples:
        >>> import jax.numpy as jnp
        >>> outputs = jnp.array([[1.0, jnp.log(3.0)]])
        >>> mean, variance = Heteroskedastic().moments(outputs, {})
        >>> round(float(mean[0, 0]), 4), round(float(variance[0, 0]), 4)
        (1.0, 9.0)

    References:
        Nix & Weigend (1994), "Estimating the mean and variance of the target probability
        distribution".
    """

    can_standardize: ClassVar[bool] = True
    is_normal: ClassVar[bool] = True

    missing: Missing = field(default="error", kw_only=True, metadata={"static": True})

    def __post_init__(self) -> None:
        """Check the option."""
        check_choice(get_args(Missing), missing=self.missing)

    def check(self, y: Any, num_outputs: int) -> jax.Array:
        """Return y as floats `(examples, outputs / 2)`."""
        if num_outputs % 2:
            raise ShapeError(
                "Heteroskedastic needs two outputs for each target, means first and then log "
                f"standard deviations, and the network has {num_outputs}. A network for one "
                "target has target_dim=2."
            )
        try:
            return real_columns(y, num_outputs // 2, "Heteroskedastic")
        except ShapeError as error:
            raise ShapeError(
                f"y has shape {np.shape(y)}, and the network has {num_outputs} outputs: the means "
                f"and log standard deviations of {num_outputs // 2} target(s)."
            ) from error

    def distribution(self, outputs: jax.Array, parameters: LikelihoodParameters) -> LogScaleNormal:
        """Return the normal distribution with the means and log deviations of the two heads."""
        del parameters
        means, logs = jnp.split(outputs, 2, axis=1)
        return LogScaleNormal(means, logs)

    def information(
        self, outputs: jax.Array, y: jax.Array, parameters: LikelihoodParameters
    ) -> jax.Array:
        """Return the Fisher information: exp(-2 l) of a mean, 2 of a logarithm l."""
        del parameters
        _, logs = jnp.split(outputs, 2, axis=1)
        observed = jnp.where(jnp.isnan(y), 0.0, 1.0)
        diagonal = jnp.concatenate([observed * jnp.exp(-2 * logs), 2 * observed], axis=1)
        return jax.vmap(jnp.diag)(diagonal)

    def rescaled(self, scale: np.ndarray) -> Self:
        """Return the same likelihood: the network learns the units of y."""
        del scale
        return self
