"""Base class of all likelihoods."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.distributions.foreign import log_prob_of
from nbcore.errors import DataError, OptionError, ShapeError
from nbcore.networks.inputs import Missing
from nbcore.networks.names import LabelKind
from nbcore.networks.network import Network

LikelihoodParameters = dict[str, jax.Array]
"""Unknown parameters of a likelihood, unconstrained: `position["likelihood"]`; may be empty."""


LOST = 0.05
"""Rounding that loses the digits of y, over the spread of y."""


class Likelihood:
    """Likelihood p(y | outputs, parameters) of each example; a pytree whose parameters are leaves.

    Subclass it to write one, and define `distribution`. The other methods have defaults: those of
    a likelihood of real targets, one for each output, without unknown parameters, whose y is not
    standardized.

    Examples:
        >>> from dataclasses import dataclass
        >>> import jax.numpy as jnp, nbcore as nb
        >>> from nbcore.extend import register_pytree
        >>> @register_pytree
        ... @dataclass(frozen=True)
        ... class Proportional(nb.Likelihood):
        ...     ratio: float = 0.1
        ...
        ...     def distribution(self, outputs, parameters):
        ...         return nb.NormalDistribution(outputs, self.ratio * jnp.abs(outputs))
        >>> mean, variance = Proportional().moments(jnp.array([[20.0]]), {})
        >>> float(mean[0, 0]), float(variance[0, 0])
        (20.0, 4.0)
    """

    labels: ClassVar[LabelKind | None] = None
    """Labels that y holds, which may have names; `None`: numbers."""
    can_standardize: ClassVar[bool] = False
    """Whether y may be standardized for training: labels and counts may not."""
    missing: Missing = "error"
    """What NaN in y means: an error, or that the value is left out (`"mask"`)."""
    is_normal: ClassVar[bool] = False
    """Whether y is normal about a mean given the outputs, so that weights may be integrated out."""

    def check(self, y: Any, num_outputs: int) -> jax.Array:
        """Return the targets in the form that `log_prob` reads, or raise what is wrong with them.

        Args:
            y: targets `(examples,)` or `(examples, targets)`.
            num_outputs: number of network outputs.
        """
        return real_columns(y, num_outputs, type(self).__name__)

    def distribution(self, outputs: jax.Array, parameters: LikelihoodParameters) -> Any:
        """Return the distribution of y given outputs and parameters.

        Args:
            outputs: network outputs `(examples, outputs)`.
            parameters: unknown parameters, unconstrained.

        Returns:
            An object with `log_prob(y)`, `sample(key)`, `mean` and `variance`, and for quantiles
            `cdf(y)`, such as `numpyro.distributions.Laplace(outputs, 1.0)` or
            `nb.NormalDistribution(outputs, deviation)`. Its batch shape is `(examples, targets)`,
            or `(examples,)` if targets depend on each other.

        Raises:
            OptionError: the likelihood does not define it.
        """
        del outputs, parameters
        name = type(self).__name__
        raise OptionError(
            f"{name} does not say how y is distributed, so there are no quantiles, intervals, "
            f"samples or CRPS; .mean, .variance and .log_density need none. Add to class {name}:\n"
            "    def distribution(self, outputs, parameters):\n"
            "        return numpyro.distributions.Laplace(outputs, 1.0)  # log_prob, cdf, sample"
        )

    def log_prob(
        self, outputs: jax.Array, y: jax.Array, parameters: LikelihoodParameters
    ) -> jax.Array:
        """Return log p(y | outputs, parameters) of each example, `(examples,)`."""
        observed = ~jnp.isnan(y)
        if self.missing == "mask":
            y = jnp.where(observed, y, 0.0)  # no derivative of log p is NaN
        each = log_prob_of(self.distribution(outputs, parameters), y)
        if self.missing == "mask":
            each = jnp.where(observed, each, 0.0)
        if each.shape == y.shape[:1]:
            return each
        if each.ndim != 2 or each.shape[1] not in (1, *y.shape[1:]) or len(each) != len(y):
            raise ShapeError(
                f"{type(self).__name__}.distribution has log_prob of shape {each.shape} for y of "
                f"shape {y.shape}. Give it parameters of shape (examples, targets), or "
                "(examples,) if its events are all targets of an example."
            )
        return jnp.sum(each, axis=1)

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
        found = self.distribution(outputs, parameters)
        try:
            mean, variance = jnp.broadcast_arrays(found.mean, found.variance)
        except (AttributeError, NotImplementedError) as error:
            name = type(self).__name__
            raise OptionError(
                f"{name}.distribution returns {type(found).__name__}, which has no mean or no "
                f"variance. Add to class {name}:\n    def moments(self, outputs, parameters):\n"
                "        return mean, variance  # (examples, targets) each"
            ) from error
        return mean, variance

    def initial(self, num_outputs: int) -> LikelihoodParameters:
        """Return the unconstrained parameters that chains start at; `{}` if there are none."""
        del num_outputs
        return {}

    def log_prior(self, parameters: LikelihoodParameters) -> jax.Array:
        """Return the log prior density of the unconstrained parameters, Jacobian included."""
        del parameters
        return jnp.zeros(())

    def sample_prior(self, key: jax.Array, num_outputs: int) -> LikelihoodParameters:
        """Sample the unconstrained parameters from their prior."""
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
        """Return the likelihood of y / scale, given that of y.

        Args:
            scale: units of each target `(targets,)`.

        Raises:
            OptionError: y cannot be standardized, or the likelihood does not define `rescaled`.
        """
        raise OptionError(
            f"y cannot be standardized with {type(self).__name__}. Give deterministic_weights "
            f"that were trained with standardize=False; got scale {scale.tolist()}."
        )

    @property
    def needs_noise_estimate(self) -> bool:
        """Whether the noise is to be estimated from examples that the network has not seen."""
        return False

    def with_estimated_noise(self, residuals: np.ndarray, count: int) -> Likelihood:
        """Return the likelihood with a noise as certain as the residuals make it.

        Args:
            residuals: y minus prediction on unseen examples `(examples, targets)`, in the units
                of y.
            count: number of examples that the posterior is sampled on.
        """
        del residuals, count
        return self

    def for_training(self) -> Likelihood:
        """Return the likelihood that networks are trained with, which has no parameters."""
        return self

    def augment_network(self, network: Network) -> Network:
        """Return the network with what the likelihood reads of x as further outputs."""
        return network

    def num_network_outputs(self, num_outputs: int) -> int:
        """Return how many of the outputs are the network's own."""
        return num_outputs


def check_trainable(likelihood: Likelihood, num_outputs: int) -> None:
    """Check that a network can be trained with a likelihood: nothing in it is unknown.

    Raises:
        OptionError: the likelihood has parameters.
    """
    unknown = sorted(likelihood.initial(num_outputs))
    if unknown:
        name = type(likelihood).__name__
        raise OptionError(
            f"A network is trained with a likelihood without unknown parameters, and {name} has "
            f"{', '.join(unknown)}. Add to class {name} what to train with, such as:\n"
            "    def for_training(self):\n"
            "        return nb.Gaussian(noise=1.0)  # squared error"
        )


def log_prob_of_each(
    likelihood: Likelihood, outputs: jax.Array, y: jax.Array, parameters: LikelihoodParameters
) -> jax.Array:
    """Return log p(y | outputs, parameters) of each example, `(examples,)`.

    Raises:
        ShapeError: the likelihood has a `log_prob` of its own, whose shape is another one.
    """
    each = likelihood.log_prob(outputs, y, parameters)
    if each.shape != y.shape[:1]:
        raise ShapeError(
            f"{type(likelihood).__name__}.log_prob has shape {each.shape} for outputs of shape "
            f"{outputs.shape} and y of shape {y.shape}; expected {y.shape[:1]}, one value for each "
            "example. y has a column for each target: y[:, 0] goes with outputs[:, 0]; sum over "
            "targets: jnp.sum(each, axis=1)"
        )
    return each


def real_columns(y: Any, num_targets: int, name: str) -> jax.Array:
    """Return y as floats `(examples, targets)`.

    Raises:
        DataError: y holds no real numbers, or numbers whose digits are lost in single precision.
        ShapeError: y has another number of columns.
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
    _check_digits(columns)
    return jax.device_put(columns.astype(jnp.result_type(float)))  # compiles nothing


def _check_digits(columns: np.ndarray) -> None:
    """Check that rounding to the default precision is far below the spread of each column.

    Raises:
        DataError: it is not.
    """
    exact, dtype = np.asarray(columns, np.float64), jnp.result_type(float)
    with np.errstate(over="ignore", under="ignore"):
        rounded = exact.astype(dtype)
    rounded = np.where(np.abs(rounded) < jnp.finfo(dtype).tiny, 0, rounded)  # as XLA does
    missing = np.isnan(exact).all(axis=0)
    if missing.any():
        raise DataError(f"Column {int(missing.argmax())} of y has no value. Leave it out.")
    error = np.nanmax(np.abs(exact - rounded), axis=0)
    spread, size = np.nanstd(exact, axis=0), np.nanmax(np.abs(exact), axis=0)
    varies = spread > np.finfo(np.float64).eps * size
    lost = np.flatnonzero(~(error <= LOST * np.where(varies, spread, size)))
    if not len(lost):
        return
    j = int(lost[0])
    raise DataError(
        f"y loses its digits in {dtype}, in which networks compute: column {j} has values up to "
        f"{size[j]:.4g} with a spread of {spread[j]:.4g}, and rounding moves them by up to "
        f"{error[j]:.4g}. Train with standardize=True, as nb.PartialBNN does by itself, or give "
        "(y - y.mean(axis=0)) / y.std(axis=0)."
    )
