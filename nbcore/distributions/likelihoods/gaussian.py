"""Likelihoods with a noise level: known, sampled, or estimated from unseen examples."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, get_args

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.options import check_choice
from nbcore.common.pytrees import register_pytree
from nbcore.distributions.continuous import NormalDistribution
from nbcore.distributions.likelihoods.base import Likelihood, LikelihoodParameters, real_columns
from nbcore.distributions.positive import (
    HalfNormal,
    PositivePrior,
    as_positive,
    check_prior,
    from_unconstrained,
    in_other_units,
    tight_prior,
    unconstrained_log_prob,
    unconstrained_sample,
)
from nbcore.errors import OptionError
from nbcore.networks.inputs import Missing


@dataclass(frozen=True)
class Noisy(Likelihood):
    """Likelihood with a noise level, known or sampled; base of `Gaussian` and `StudentT`."""

    can_standardize: ClassVar[bool] = True

    noise: Any = None
    noise_prior: PositivePrior | None = None
    shared: bool = field(default=False, metadata={"static": True})
    ratio: Any = 1.0
    missing: Missing = field(default="error", kw_only=True, metadata={"static": True})

    def __post_init__(self) -> None:
        """Take distributions of other libraries as priors."""
        check_choice(get_args(Missing), missing=self.missing)
        object.__setattr__(self, "noise_prior", as_positive(self.noise_prior, "noise_prior"))

    def check(self, y: Any, num_outputs: int) -> jax.Array:
        """Return y as floats `(examples, outputs)`."""
        self._check_options(num_outputs)
        return real_columns(y, num_outputs, type(self).__name__)

    def _check_options(self, num_outputs: int) -> None:
        given: dict[str, Any] = {"ratio": self.ratio}
        if self.noise is not None:
            given["noise"] = self.noise
        elif self.noise_prior is not None:
            check_prior(self.noise_prior, "noise_prior")
            given["noise_prior.median"] = self.noise_prior.median
        for name, numbers in given.items():
            value = np.asarray(numbers)
            if not np.all((value > 0) & np.isfinite(value)):
                raise OptionError(f"{name} must be positive, got {value.tolist()}.")
            count = 1 if self.shared and name != "ratio" else num_outputs
            if value.shape not in ((), (count,)):
                raise OptionError(
                    f"{name} has shape {value.shape}, and the network has {num_outputs} output(s)"
                    f"{', which share one noise' if self.shared else ''}. Give one number, or a "
                    f"tuple of {count}."
                )

    def initial(self, num_outputs: int) -> LikelihoodParameters:
        """Return u = 0, the prior's median noise, one per output or one for all."""
        if self.noise is not None:
            return {}
        return {"noise": jnp.zeros(self._count(num_outputs), jnp.result_type(float))}

    def log_prior(self, parameters: LikelihoodParameters) -> jax.Array:
        """Return the log prior of u: log p(noise) + log(noise) + log(spread)."""
        if self.noise is not None:
            return jnp.zeros(())
        return unconstrained_log_prob(self._prior, parameters["noise"])

    def sample_prior(self, key: jax.Array, num_outputs: int) -> LikelihoodParameters:
        """Sample u from the prior of the noise."""
        if self.noise is not None:
            return {}
        return {"noise": unconstrained_sample(self._prior, key, (self._count(num_outputs),))}

    def constrain(self, parameters: LikelihoodParameters) -> LikelihoodParameters:
        """Return `{"noise": ...}` if the noise is unknown, else `{}`."""
        if self.noise is not None:
            return {}
        return {"noise": from_unconstrained(self._prior, parameters["noise"])}

    @property
    def in_units_of_y(self) -> frozenset[str]:
        """The noise; a shared one stays in the units of y, and `ratio` has those of each output."""
        return frozenset() if self.shared else frozenset({"noise"})

    def resolve(self, y: Any) -> Self:
        """Return the likelihood with a noise prior as wide as y, if no prior was given."""
        if self.noise is not None or self.noise_prior is not None:
            return self
        spread = np.nanstd(np.asarray(y, np.float64), axis=0)
        spread = np.where(spread > 0, spread, 1.0) / np.asarray(self.ratio)
        return replace(self, noise_prior=HalfNormal(_numbers(self._pooled(spread))))

    def rescaled(self, scale: np.ndarray) -> Self:
        """Return the likelihood of y / scale."""
        if self.shared:
            return replace(self, ratio=_numbers(np.asarray(self.ratio) / scale))
        if self.noise is not None:
            return replace(self, noise=_numbers(np.asarray(self.noise) / scale))
        if self.noise_prior is None:
            return self
        return replace(self, noise_prior=in_other_units(self.noise_prior, 1 / scale))

    @property
    def needs_noise_estimate(self) -> bool:
        """Whether neither the noise nor a prior of it was given."""
        return self.noise is None and self.noise_prior is None

    def with_estimated_noise(self, residuals: np.ndarray, count: int) -> Self:
        """Return the likelihood with a noise prior tight around the root mean square residual."""
        if not self.needs_noise_estimate:
            return self
        size = self._pooled(np.sqrt(np.nanmean(residuals**2, axis=0)) / np.asarray(self.ratio))
        return replace(self, noise_prior=tight_prior(size, count))

    def for_training(self) -> Likelihood:
        """Return a Gaussian of unit noise: networks are trained by squared error."""
        return Gaussian(noise=1.0, missing=self.missing)

    @property
    def _prior(self) -> PositivePrior:
        if self.noise_prior is None:
            raise OptionError(
                f"The noise prior of {type(self).__name__}() is as wide as y, which is not known "
                "yet. Give noise_prior=nb.HalfNormal(...), or type likelihood.resolve(y)"
            )
        return self.noise_prior

    def _count(self, num_outputs: int) -> int:
        return 1 if self.shared else num_outputs

    def _pooled(self, each: np.ndarray) -> np.ndarray:
        return np.sqrt(np.mean(each**2, keepdims=True)) if self.shared else each

    def _noise(self, parameters: LikelihoodParameters) -> jax.Array:
        """Return the noise of each output, in the units of the targets."""
        known = self.noise is not None
        noise = self.noise if known else from_unconstrained(self._prior, parameters["noise"])
        dtype = jnp.result_type(float)
        return jnp.asarray(noise, dtype) * jnp.asarray(self.ratio, dtype)


@register_pytree
@dataclass(frozen=True)
class Gaussian(Noisy):
    r"""Gaussian noise, y_ij ~ N(f_ij, noise_j^2).

    The unknown noise is sampled as u, with log noise = log median + spread u (median and spread
    of the prior), so that samplers meet it on a scale of about 1. Its density has the Jacobian:
    log p(u) = log p(noise) + log noise + log spread.

    Args:
        noise: known noise standard deviation, in the units of y (a tuple gives one per output);
            `None` samples the noise jointly, one per output.
        noise_prior: prior of the unknown noise: `nb.HalfNormal`, `nb.LogNormal`, or a distribution
            with `log_prob` and `sample`, such as `numpyro.distributions.HalfCauchy(1.0)`. `None`
            is a half-normal with the standard deviation of y as its scale, for each output.
        shared: whether all outputs have one noise.
        ratio: noise of each output over the shared one; known.
        missing: `"mask"` leaves NaN in y out: of the likelihood, of what is learned about the
            noise, and of out-of-fold residuals. `"error"` refuses NaN.

    Examples:
        >>> import jax.numpy as jnp
        >>> likelihood = Gaussian(noise=1.0)
        >>> round(float(likelihood.log_prob(jnp.zeros((1, 1)), jnp.zeros((1, 1)), {})[0]), 4)
        -0.9189
    """

    is_normal: ClassVar[bool] = True

    def distribution(
        self, outputs: jax.Array, parameters: LikelihoodParameters
    ) -> NormalDistribution:
        """Return the normal distribution about the outputs."""
        return NormalDistribution(outputs, self._noise(parameters))


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in np.atleast_1d(values))
