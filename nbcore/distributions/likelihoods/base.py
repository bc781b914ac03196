"""What every likelihood offers, and what most of them share."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.distributions.families import FamilyName
from nbcore.errors import DataError, OptionError, ShapeError
from nbcore.networks.network import Network

LikelihoodParameters = dict[str, jax.Array]
"""Unknown parameters of a likelihood, unconstrained: `position["likelihood"]`; may be empty."""


class Likelihood(Protocol):
    """p(y | outputs, parameters), per example; a pytree (its numbers are leaves).

    Subclass it to write one; `check`, `log_prob` and `moments` have to be written, the rest has
    the defaults of a likelihood without parameters whose y is not standardized.
    """

    kind: ClassVar[FamilyName] = "normal"
    """How y is distributed about the mean of a draw, see `nb.Prediction`."""
    can_standardize: ClassVar[bool] = False
    """Whether y may be standardized: labels and counts may not."""

    def check(self, y: Any, num_outputs: int) -> jax.Array:
        """Return the targets in the form that `log_prob` reads, or raise what is wrong."""
        ...

    def log_prob(
        self, outputs: jax.Array, y: jax.Array, parameters: LikelihoodParameters
    ) -> jax.Array:
        """Return log p(y | outputs, parameters) of each example, `(examples,)`."""
        ...

    def information(
        self, outputs: jax.Array, y: jax.Array, parameters: LikelihoodParameters
    ) -> jax.Array:
        """Return the curvature -d^2 log p / d outputs^2, `(examples, outputs, outputs)`.

        A likelihood whose curvature may be negative gives its expectation over y instead, the
        Fisher information.
        """

        def one(f: jax.Array, y: jax.Array) -> jax.Array:
            return -jax.hessian(lambda f: self.log_prob(f[None], y[None], parameters)[0])(f)

        return jax.vmap(one)(outputs, y)

    def moments(
        self, outputs: jax.Array, parameters: LikelihoodParameters
    ) -> tuple[jax.Array, jax.Array]:
        """Return mean and variance of y given the outputs, `(examples, targets)` each."""
        ...

    def degrees_of_freedom(self, parameters: LikelihoodParameters) -> jax.Array | None:
        """Return those of Student's t; `None` where mean and variance say all."""
        del parameters
        return None

    def initial(self, num_outputs: int) -> LikelihoodParameters:
        """Return where the parameters start, unconstrained; `{}` where there are none."""
        del num_outputs
        return {}

    def log_prior(self, parameters: LikelihoodParameters) -> jax.Array:
        """Return the log prior density of the unconstrained parameters, Jacobian included."""
        del parameters
        return jnp.zeros(())

    def sample_prior(self, key: jax.Array, num_outputs: int) -> LikelihoodParameters:
        """Draw the unconstrained parameters from their prior."""
        del key, num_outputs
        return {}

    def constrain(self, parameters: LikelihoodParameters) -> LikelihoodParameters:
        """Return the parameters on the user's scale."""
        return parameters

    @property
    def in_units_of_y(self) -> frozenset[str]:
        """Names of the parameters that are in the units of y."""
        return frozenset()

    def resolve(self, y: Any) -> Likelihood:
        """Return the likelihood with what it takes from y, such as the scale of a prior."""
        del y
        return self

    def rescaled(self, scale: np.ndarray) -> Likelihood:
        """Return the likelihood of y in units of `scale` `(targets,)`, given that of y itself.

        Raises:
            OptionError: y cannot be standardized, or the parameters do not say how they change.
        """
        raise OptionError(
            f"y cannot be standardized with {type(self).__name__}. Give deterministic_weights "
            f"that were trained with standardize=False; got scale {scale.tolist()}."
        )

    @property
    def needs_noise_estimate(self) -> bool:
        """Whether its noise is to come from rows that the network has not seen."""
        return False

    def with_estimated_noise(self, residuals: np.ndarray, count: int) -> Likelihood:
        """Return the likelihood with a noise as sure as the residuals of unseen rows make it.

        Args:
            residuals: y minus prediction `(rows, targets)`, in the units of y.
            count: number of rows that the posterior is sampled on.
        """
        del residuals, count
        return self

    def for_training(self) -> Likelihood:
        """Return what a network is trained with: a likelihood without parameters."""
        return self

    def augment_network(self, network: Network) -> Network:
        """Return the network with what the likelihood reads of x as further outputs."""
        return network

    def num_network_outputs(self, num_outputs: int) -> int:
        """Return how many of the outputs are the network's own."""
        return num_outputs


def real_columns(y: Any, num_targets: int, name: str) -> jax.Array:
    """Return y as floats `(examples, targets)`.

    Raises:
        DataError: y holds no real numbers.
        ShapeError: it has another number of columns.
    """
    y = np.asarray(y)
    is_real = np.issubdtype(y.dtype, np.number) or y.dtype == bool
    if not is_real or np.iscomplexobj(y):
        raise DataError(f"A {name} likelihood needs real numbers in y, got {y.dtype}.")
    columns = y[:, None] if y.ndim == 1 else y
    if columns.ndim != 2 or columns.shape[1] != num_targets:
        raise ShapeError(
            f"y has shape {y.shape}, and the network has {num_targets} output(s). Give y as "
            f"(examples, {num_targets}){' or (examples,)' if num_targets == 1 else ''}."
        )
    return jnp.asarray(columns, jnp.result_type(float))
