"""Likelihood with noise that is a function of x, with parameters of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.pytrees import register_pytree
from nbcore.distributions.continuous import NormalDistribution
from nbcore.distributions.likelihoods.base import Likelihood, LikelihoodParameters, real_columns
from nbcore.distributions.likelihoods.gaussian import Gaussian
from nbcore.distributions.real import (
    ParameterPrior,
    as_parameter_prior,
    check_parameter_prior,
    coordinate_log_prob,
    coordinate_sample,
    from_coordinate,
    to_coordinate,
)
from nbcore.errors import OptionError, ShapeError
from nbcore.networks.evaluation import as_columns
from nbcore.networks.inputs import num_examples
from nbcore.networks.network import Inputs, Key, Network, Outputs, Params
from nbcore.networks.wrapped import WrappedNetwork

Noise = Callable[[jax.Array, dict[str, jax.Array]], jax.Array]


@register_pytree
@dataclass(frozen=True)
class NoiseModel(Likelihood):
    r"""Gaussian noise that is a function of x, y_ij ~ N(f_ij, noise(x_i, parameters)_j^2).

    What the noise reads of x, its covariates, are further outputs of the network. They do not
    depend on the weights, so they are computed once for each example and kept with it, in
    minibatches and at new inputs alike. The network itself is trained by squared error.

    Args:
        noise: `(x, parameters) -> standard deviation` in the units of y, of shape `(examples,)` or
            `(examples, targets)`; jittable. `x` are the covariates `(examples, k)`, `parameters`
            scalars by name. Parameters at which the noise of an example is not positive have
            density zero.
        priors: prior of each parameter, such as `{"floor": nb.HalfNormal(0.1)}`, as for the noise
            of `nb.Gaussian`; a distribution of another library with both signs, such as
            `numpyro.distributions.Normal(0.0, 1.0)`, is a prior of a parameter of any sign.
        covariates: `x -> (examples, k)`, what the noise reads of the inputs; `None` is x itself,
            which then must have two axes.
        num_targets: number of columns of y.
        start: values of parameters at which chains start; those that are not named start at the
            medians of their priors.
        unit: units of y, over those that `noise` is in; set if y is standardized.

    Examples:
        >>> import jax.numpy as jnp, nbcore as nb
        >>> def noise(x, parameters):
        ...     return parameters["floor"] + parameters["slope"] * jnp.abs(x[:, 0])
        >>> priors = {"floor": nb.HalfNormal(0.1), "slope": nb.HalfNormal(1.0)}
        >>> sorted(nb.NoiseModel(noise, priors).initial(2))
        ['floor', 'slope']
    """

    can_standardize: ClassVar[bool] = True
    is_normal: ClassVar[bool] = True

    noise: Noise = field(metadata={"static": True})
    priors: Mapping[str, ParameterPrior]
    covariates: Callable[[Any], jax.Array] | None = field(default=None, metadata={"static": True})
    num_targets: int = field(default=1, metadata={"static": True})
    start: Mapping[str, float] = field(default_factory=dict[str, float])
    unit: Any = 1.0

    def __post_init__(self) -> None:
        """Take distributions of other libraries as priors."""
        if isinstance(self.priors, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  placeholders of JAX
            priors = self.priors.items()
            found = {name: as_parameter_prior(p, f"priors[{name!r}]") for name, p in priors}
            object.__setattr__(self, "priors", found)

    def check(self, y: Any, num_outputs: int) -> jax.Array:
        """Return y as floats `(examples, targets)`."""
        del num_outputs
        if not self.priors:
            raise OptionError(
                "NoiseModel has no parameters. Type: nb.NoiseModel(noise, "
                '{"scale": nb.HalfNormal(1.0)})'
            )
        for name, prior in self.priors.items():
            check_parameter_prior(prior, f"priors[{name!r}]")
        unknown = sorted(set(self.start) - set(self.priors))
        if unknown:
            raise OptionError(
                f"start has {unknown[0]!r}, and the parameters are {', '.join(self.priors)}."
            )
        return real_columns(y, self.num_targets, "NoiseModel")

    def initial(self, num_outputs: int) -> LikelihoodParameters:
        """Return the coordinates of the start: u = 0, the median, without one."""
        del num_outputs
        u = {name: jnp.zeros((), jnp.result_type(float)) for name in self.priors}
        return u | {name: to_coordinate(self.priors[name], x) for name, x in self.start.items()}

    def log_prior(self, parameters: LikelihoodParameters) -> jax.Array:
        """Return the log prior of the parameters, Jacobians included."""
        terms = [coordinate_log_prob(p, parameters[name]) for name, p in self._sorted()]
        return jnp.sum(jnp.stack(terms))

    def sample_prior(self, key: jax.Array, num_outputs: int) -> LikelihoodParameters:
        """Sample the parameters from their priors."""
        del num_outputs
        keys = jax.random.split(key, len(self.priors))
        pairs = zip(self._sorted(), keys, strict=True)
        return {name: coordinate_sample(prior, k, ()) for (name, prior), k in pairs}

    def constrain(self, parameters: LikelihoodParameters) -> LikelihoodParameters:
        """Return the parameters of the noise, by name."""
        return {name: from_coordinate(prior, parameters[name]) for name, prior in self._sorted()}

    def distribution(
        self, outputs: jax.Array, parameters: LikelihoodParameters
    ) -> NormalDistribution:
        """Return the normal distribution about the outputs with the noise at the covariates."""
        means, x = outputs[:, : self.num_targets], outputs[:, self.num_targets :]
        noise = jnp.asarray(self.noise(x, self.constrain(parameters)))
        columns = noise[:, None] if noise.ndim == 1 else noise
        if columns.shape not in ((len(x), 1), means.shape):
            raise ShapeError(
                f"noise(x, parameters) has shape {noise.shape} for {len(x)} example(s). Return "
                f"(examples,){'' if self.num_targets == 1 else ' or (examples, targets)'}, one "
                "standard deviation for each."
            )
        # An infinite deviation has log density -inf, with gradient zero.
        columns = jnp.where(columns > 0, columns, jnp.inf)
        deviations = jnp.broadcast_to(columns, means.shape) / jnp.asarray(self.unit)
        return NormalDistribution(means, deviations)

    def rescaled(self, scale: np.ndarray) -> Self:
        """Return the likelihood of y / scale; the parameters of the noise keep their units."""
        unit = np.asarray(self.unit) * scale
        return replace(self, unit=tuple(float(u) for u in unit))

    def for_training(self) -> Likelihood:
        """Return a Gaussian of unit noise: networks are trained by squared error."""
        return Gaussian(noise=1.0)

    def augment_network(self, network: Network) -> Network:
        """Return the network with the covariates as further outputs."""
        if isinstance(network, WithCovariates):
            return network
        return WithCovariates(network, self.covariates, self.num_targets)

    def num_network_outputs(self, num_outputs: int) -> int:
        """Return the number of targets; the other columns are covariates."""
        del num_outputs
        return self.num_targets

    def _sorted(self) -> list[tuple[str, ParameterPrior]]:
        return sorted(self.priors.items())


@dataclass(frozen=True)
class WithCovariates(WrappedNetwork):
    """Network whose outputs are followed by the covariates of the noise; see `NoiseModel`."""

    covariates: Callable[[Any], jax.Array] | None
    num_targets: int

    def apply(
        self, params: Params, x: Inputs, *, train: bool = False, key: Key | None = None
    ) -> Outputs:
        """Return outputs and covariates `(examples, targets + k)`."""
        outputs = as_columns(self.network.apply(params, x, train=train, key=key), num_examples(x))
        if outputs.shape[1] != self.num_targets:
            raise ShapeError(
                f"The network has {outputs.shape[1]} output(s), and the NoiseModel "
                f"num_targets={self.num_targets}. Type: nb.NoiseModel(..., "
                f"num_targets={outputs.shape[1]})"
            )
        return jnp.concatenate([outputs, self._columns(x).astype(outputs.dtype)], axis=1)

    def _columns(self, x: Inputs) -> jax.Array:
        if self.covariates is not None:
            return as_columns(jnp.asarray(self.covariates(x)), num_examples(x))
        if self.padding is not None or not hasattr(x, "ndim") or x.ndim > 2:
            raise ShapeError(
                "The noise cannot read these inputs as (examples, k): they are padded, several "
                "arrays, or have more axes. Type: nb.NoiseModel(..., covariates=lambda x: ...)"
            )
        return as_columns(x, len(x))
