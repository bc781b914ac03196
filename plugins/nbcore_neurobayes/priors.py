"""Priors under the names of NeuroBayes, as nbcore's priors of positive numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

import nbcore
from nbcore.errors import OptionError


def lognormal_dist(loc: float | None = None, scale: float | None = None) -> Any:
    """Return a log-normal prior, log x ~ N(loc, scale^2).

    Examples:
        >>> lognormal_dist(0.0, 0.5)
        LogNormal(median=1.0, spread=0.5)
    """
    return nbcore.LogNormal(float(np.exp(loc or 0.0)), 1.0 if scale is None else scale)


def halfnormal_dist(scale: float | None = None) -> Any:
    """Return a half-normal prior."""
    return nbcore.HalfNormal(1.0 if scale is None else scale)


def place_lognormal_prior(param_name: str, loc: float = 0.0, scale: float = 1.0) -> Any:
    """Return a log-normal prior; the name is that under which it is returned."""
    del param_name
    return lognormal_dist(loc, scale)


def place_halfnormal_prior(param_name: str, scale: float = 1.0) -> Any:
    """Return a half-normal prior; the name is that under which it is returned."""
    del param_name
    return halfnormal_dist(scale)


def auto_priors(
    func: Callable[..., Any],
    params_begin_with: int,
    dist_type: str = "normal",
    loc: float = 0.0,
    scale: float = 1.0,
) -> Callable[[], dict[str, Any]]:
    """Return a function that gives a prior for each parameter of another function.

    Args:
        func: the function.
        params_begin_with: how many of its first parameters are no parameters.
        dist_type: must be `"lognormal"`.
        loc: mean of log x.
        scale: standard deviation of log x.

    Raises:
        OptionError: another distribution is asked for: parameters of a noise are positive.

    Examples:
        >>> auto_priors(lambda x, floor, slope: floor + slope * x, 1, "lognormal")()["floor"]
        LogNormal(median=1.0, spread=1.0)
    """
    if dist_type != "lognormal":
        raise OptionError(
            f"Parameters of a noise are positive, and {dist_type} is a prior over all numbers. "
            "Type: dist_type='lognormal', or nb.priors.auto_lognormal_priors(...)"
        )
    names = list(inspect.signature(func).parameters)[params_begin_with:]
    return lambda: {name: lognormal_dist(loc, scale) for name in names}


def auto_lognormal_priors(
    func: Callable[..., Any], loc: float = 0.0, scale: float = 1.0
) -> Callable[[], dict[str, Any]]:
    """Return log-normal priors of all parameters of a function but the first."""
    return auto_priors(func, 1, "lognormal", loc, scale)
