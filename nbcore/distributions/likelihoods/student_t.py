"""Likelihood with heavy-tailed noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.pytrees import register_pytree
from nbcore.distributions.continuous import StudentTDistribution
from nbcore.distributions.likelihoods.base import LikelihoodParameters
from nbcore.distributions.likelihoods.gaussian import Noisy
from nbcore.distributions.positive import (
    LogNormal,
    PositivePrior,
    as_positive,
    check_prior,
    from_unconstrained,
    tight_prior,
    unconstrained_log_prob,
    unconstrained_sample,
)
from nbcore.errors import OptionError

LEAST = 2.0
CANDIDATES = LEAST + np.geomspace(0.25, 100.0, 40)
STEPS = 100


@register_pytree
@dataclass(frozen=True)
class StudentT(Noisy):
    r"""Student's t noise, y_ij = f_ij + noise_j t_ij, with t_ij of nu degrees of freedom.

    Outliers pull less than with Gaussian noise. `noise` is the scale of the t distribution; the
    standard deviation of y is noise sqrt(nu / (nu - 2)), so nu stays above 2. If nu is unknown,
    nu - 2 is sampled as a positive parameter, one for all outputs.

    Args:
        noise: known scale in the units of y (a tuple gives one per output); `None` samples one.
        noise_prior: prior of the unknown noise; `None` is as for `nb.Gaussian`.
        shared: whether all outputs have one noise.
        ratio: noise of each output over the shared one; known.
        df: degrees of freedom nu, above 2; `None` samples it.
        missing: `"mask"` leaves NaN in y out, as for `nb.Gaussian`.
        df_prior: prior of nu - 2. `None` is `LogNormal(8, 1)`: nu between 3 and 59
            with probability 0.95.

    Examples:
        >>> import jax.numpy as jnp
        >>> likelihood = StudentT(noise=1.0, df=4.0)
        >>> mean, variance = likelihood.moments(jnp.zeros((1, 1)), {})
        >>> float(variance[0, 0])
        2.0

    References:
        Lange, Little & Taylor (1989), "Robust statistical modeling using the t distribution".
    """

    df: Any = None
    df_prior: PositivePrior | None = None

    def __post_init__(self) -> None:
        """Take distributions of other libraries as priors."""
        super().__post_init__()
        object.__setattr__(self, "df_prior", as_positive(self.df_prior, "df_prior"))

    def check(self, y: Any, num_outputs: int) -> jax.Array:
        """Return y as floats `(examples, outputs)`."""
        df = np.asarray(self.df if self.df is not None else np.inf)
        if df.shape != () or not df > LEAST:
            raise OptionError(
                f"df is one number above 2, so that y has a finite variance; got {self.df}. "
                "Type: nb.StudentT(df=4), or leave it out to sample it."
            )
        check_prior(self._df_prior, "df_prior")
        return super().check(y, num_outputs)

    def initial(self, num_outputs: int) -> LikelihoodParameters:
        """Return u = 0, the medians of the priors."""
        known = {} if self.df is not None else {"df": jnp.zeros((), jnp.result_type(float))}
        return {**super().initial(num_outputs), **known}

    def log_prior(self, parameters: LikelihoodParameters) -> jax.Array:
        """Return the log prior of the parameters, Jacobians included."""
        total = super().log_prior(parameters)
        if self.df is not None:
            return total
        return total + unconstrained_log_prob(self._df_prior, parameters["df"])

    def sample_prior(self, key: jax.Array, num_outputs: int) -> LikelihoodParameters:
        """Sample the parameters from their priors."""
        noise_key, df_key = jax.random.split(key)
        drawn = super().sample_prior(noise_key, num_outputs)
        if self.df is not None:
            return drawn
        return {**drawn, "df": unconstrained_sample(self._df_prior, df_key, ())}

    def constrain(self, parameters: LikelihoodParameters) -> LikelihoodParameters:
        """Return `{"noise": ..., "df": ...}`, as far as they are unknown."""
        found = super().constrain(parameters)
        return (
            found if self.df is not None else {**found, "df": self.degrees_of_freedom(parameters)}
        )

    def information(
        self, outputs: jax.Array, y: jax.Array, parameters: LikelihoodParameters
    ) -> jax.Array:
        """Return the Fisher information (nu + 1) / (nu + 3) / noise^2.

        References:
            Lange, Little & Taylor (1989), "Robust statistical modeling using the t distribution",
            appendix B.
        """
        df, noise = self.degrees_of_freedom(parameters), self._noise(parameters)
        each = jnp.where(jnp.isnan(y), 0.0, (df + 1) / (df + 3) / noise**2)
        return jax.vmap(jnp.diag)(each)

    def distribution(
        self, outputs: jax.Array, parameters: LikelihoodParameters
    ) -> StudentTDistribution:
        """Return the t distribution about the outputs."""
        df = self.degrees_of_freedom(parameters)
        return StudentTDistribution(df, outputs, self._noise(parameters))

    def degrees_of_freedom(self, parameters: LikelihoodParameters) -> jax.Array:
        """Return nu."""
        if self.df is not None:
            return jnp.asarray(self.df, jnp.result_type(float))
        return LEAST + from_unconstrained(self._df_prior, parameters["df"])

    def with_estimated_noise(self, residuals: np.ndarray, count: int) -> Self:
        """Return the likelihood with priors tight around the t that fits the residuals best."""
        if not self.needs_noise_estimate:
            return self
        sampled = self.df is None and self.df_prior is None
        known = CANDIDATES if sampled else np.array([self._likely_df])
        df, scale = fit_residuals(residuals / np.asarray(self.ratio), known, pooled=self.shared)
        found = replace(self, noise_prior=tight_prior(scale, count))
        return replace(found, df_prior=tight_prior(df - LEAST, count)) if sampled else found

    @property
    def _likely_df(self) -> float:
        return float(self.df if self.df is not None else LEAST + self._df_prior.median)

    @property
    def _df_prior(self) -> PositivePrior:
        return self.df_prior if self.df_prior is not None else LogNormal(8.0, 1.0)


def fit_residuals(
    residuals: np.ndarray, candidates: np.ndarray, *, pooled: bool = False
) -> tuple[float, np.ndarray]:
    """Return the degrees of freedom and scales that make residuals most likely.

    The scale is that of the EM algorithm, s^2 = mean(w r^2) with w = (nu + 1) / (nu + r^2 / s^2).

    Args:
        residuals: `(examples, outputs)`.
        candidates: degrees of freedom to choose from.
        pooled: whether all outputs have one scale.

    Returns:
        The degrees of freedom, and the scales `(outputs,)`, or `(1,)` if they are pooled.

    References:
        Liu & Rubin (1995), "ML estimation of the t distribution using EM and its extensions".
    """
    from scipy.stats import t  # noqa: PLC0415  takes long to import

    residuals = np.asarray(residuals, np.float64)
    columns = residuals.reshape(-1, 1) if pooled else residuals
    largest = np.nanmax(np.abs(columns), axis=0)
    unit = np.where(largest > 0, largest, 1.0)  # squares of residuals in y's own units underflow
    columns = columns / unit
    fits: list[tuple[float, float, np.ndarray]] = []
    for df in candidates:
        squared = np.maximum(np.nanmean(columns**2, axis=0), 1e-30)
        for _ in range(STEPS):
            weights = (df + 1) / (df + columns**2 / squared)
            squared = np.maximum(np.nanmean(weights * columns**2, axis=0), 1e-30)
        scale = np.sqrt(squared)
        fits.append((float(np.nansum(t.logpdf(columns, df, 0, scale))), float(df), scale))
    _, df, scale = max(fits, key=lambda fit: fit[0])
    return df, unit * scale
