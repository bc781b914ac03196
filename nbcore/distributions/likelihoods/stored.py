"""Standard likelihoods and their priors as JSON data."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import jax
import numpy as np

from nbcore.distributions.likelihoods.classes import Bernoulli, Categorical
from nbcore.distributions.likelihoods.gaussian import Gaussian
from nbcore.distributions.likelihoods.heteroskedastic import Heteroskedastic
from nbcore.distributions.likelihoods.poisson import Poisson
from nbcore.distributions.likelihoods.student_t import StudentT
from nbcore.distributions.positive import HalfNormal, LogNormal

STANDARD: dict[str, Any] = {
    c.__name__: c
    for c in (
        Gaussian, StudentT, Heteroskedastic, Bernoulli, Categorical, Poisson, HalfNormal, LogNormal,
    )
}  # fmt: skip


def to_data(value: Any) -> Any:
    """Return a standard likelihood or positive prior as JSON data; `None` for other classes.

    A standard likelihood with a prior of another class is not standard either.
    """
    if type(value).__name__ not in STANDARD or type(value) is not STANDARD[type(value).__name__]:
        return None
    data: dict[str, Any] = {"name": type(value).__name__}
    for f in fields(value):
        inner = getattr(value, f.name)
        if isinstance(inner, np.ndarray | np.generic | jax.Array):
            data[f.name] = np.asarray(inner).tolist()
        elif inner is None or isinstance(inner, int | float | str | tuple | list):
            data[f.name] = inner
        else:
            data[f.name] = to_data(inner)
            if data[f.name] is None:
                return None
    return data


def from_data(data: dict[str, Any]) -> Any:
    """Return the likelihood or the prior that `to_data` described."""
    options = {
        k: from_data(v) if isinstance(v, dict) else v for k, v in data.items() if k != "name"
    }  # pyright: ignore[reportUnknownArgumentType]
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return STANDARD[data["name"]](**options)
