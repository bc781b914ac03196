"""Priors: distributions of NumPyro, and statements of NumPyro models that sample them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import numpyro
from numpyro import distributions as dist

from nbcore.errors import OptionError
from nbcore_neurobayes.elsewhere import names_of

__all__ = [
    "auto_lognormal_priors",
    "auto_normal_priors",
    "auto_priors",
    "gamma_dist",
    "halfnormal_dist",
    "lognormal_dist",
    "normal_dist",
    "place_gamma_prior",
    "place_halfnormal_prior",
    "place_lognormal_prior",
    "place_normal_prior",
    "place_uniform_prior",
    "uniform_dist",
]

__getattr__ = names_of(__name__)


def normal_dist(loc: float | None = None, scale: float | None = None) -> Any:
    """Return a normal distribution, by default the standard one."""
    return dist.Normal(0.0 if loc is None else loc, 1.0 if scale is None else scale)


def lognormal_dist(loc: float | None = None, scale: float | None = None) -> Any:
    """Return a log-normal distribution, log x ~ N(loc, scale^2)."""
    return dist.LogNormal(0.0 if loc is None else loc, 1.0 if scale is None else scale)


def halfnormal_dist(scale: float | None = None) -> Any:
    """Return a half-normal distribution."""
    return dist.HalfNormal(1.0 if scale is None else scale)


def gamma_dist(c: float | None = None, r: float | None = None, input_vec: Any = None) -> Any:
    """Return a gamma distribution.

    Args:
        c: shape; by default half the range of `input_vec`.
        r: rate, 1 by default.
        input_vec: inputs.

    Raises:
        OptionError: neither a shape nor inputs are given.
    """
    if c is None and input_vec is None:
        raise OptionError("gamma_dist needs the shape c, or input_vec, half whose range is c.")
    shape = np.ptp(np.asarray(input_vec)) / 2 if c is None else c
    return dist.Gamma(shape, 1.0 if r is None else r)


def uniform_dist(low: float | None = None, high: float | None = None, input_vec: Any = None) -> Any:
    """Return a uniform distribution.

    Args:
        low: lower bound; by default the smallest value of `input_vec`.
        high: upper bound; by default the largest one.
        input_vec: inputs.

    Raises:
        OptionError: a bound and the inputs are missing.
    """
    if input_vec is None and (low is None or high is None):
        raise OptionError("uniform_dist needs low and high, or input_vec, whose range they are.")
    values = np.asarray(input_vec)
    return dist.Uniform(
        values.min() if low is None else low, values.max() if high is None else high
    )


def place_normal_prior(param_name: str, loc: float = 0.0, scale: float = 1.0) -> Any:
    """Sample a normal parameter in a NumPyro model or a prior function."""
    return numpyro.sample(param_name, normal_dist(loc, scale))


def place_lognormal_prior(param_name: str, loc: float = 0.0, scale: float = 1.0) -> Any:
    """Sample a log-normal parameter in a NumPyro model or a prior function."""
    return numpyro.sample(param_name, lognormal_dist(loc, scale))


def place_halfnormal_prior(param_name: str, scale: float = 1.0) -> Any:
    """Sample a half-normal parameter in a NumPyro model or a prior function."""
    return numpyro.sample(param_name, halfnormal_dist(scale))


def place_uniform_prior(
    param_name: str, low: float | None = None, high: float | None = None, X: Any = None
) -> Any:
    """Sample a uniform parameter in a NumPyro model or a prior function."""
    return numpyro.sample(param_name, uniform_dist(low, high, X))


def place_gamma_prior(
    param_name: str, c: float | None = None, r: float | None = None, X: Any = None
) -> Any:
    """Sample a gamma parameter in a NumPyro model or a prior function."""
    return numpyro.sample(param_name, gamma_dist(c, r, X))


def auto_priors(
    func: Callable[..., Any],
    params_begin_with: int,
    dist_type: str = "normal",
    loc: float = 0.0,
    scale: float = 1.0,
) -> Callable[[], dict[str, Any]]:
    """Return a prior function: called in a NumPyro model it samples each parameter of a function.

    Args:
        func: the function.
        params_begin_with: how many of its first parameters are no parameters.
        dist_type: `"normal"` or `"lognormal"`.
        loc: mean of x, or of log x.
        scale: standard deviation of x, or of log x.

    Raises:
        OptionError: another distribution is asked for.

    Examples:
        >>> from numpyro import handlers
        >>> priors = auto_priors(lambda x, floor, slope: floor + slope * x, 1)
        >>> sorted(handlers.seed(priors, 0)())
        ['floor', 'slope']
    """
    places = {"normal": place_normal_prior, "lognormal": place_lognormal_prior}
    if dist_type not in places:
        raise OptionError(f"dist_type is {' or '.join(places)}, got {dist_type!r}.")
    names = list(inspect.signature(func).parameters)[params_begin_with:]
    return lambda: {name: places[dist_type](name, loc, scale) for name in names}


def auto_normal_priors(
    func: Callable[..., Any], loc: float = 0.0, scale: float = 1.0
) -> Callable[[], dict[str, Any]]:
    """Return normal priors of all parameters of a function but the first."""
    return auto_priors(func, 1, "normal", loc, scale)


def auto_lognormal_priors(
    func: Callable[..., Any], loc: float = 0.0, scale: float = 1.0
) -> Callable[[], dict[str, Any]]:
    """Return log-normal priors of all parameters of a function but the first."""
    return auto_priors(func, 1, "lognormal", loc, scale)
