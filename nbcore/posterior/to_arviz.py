"""Draws as ArviZ data: an `InferenceData` before ArviZ 1, a `DataTree` since then."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from nbcore.errors import MissingExtraError

STATISTICS = {
    "log_density": "lp",
    "acceptance_rate": "acceptance_rate",
    "is_divergent": "diverging",
    "num_gradients": "n_steps",
    "tree_depth": "tree_depth",
    "step_size": "step_size",
    "energy": "energy",
}
"""ArviZ's name of each statistic."""


MAX_LOG_LIKELIHOODS = 10_000_000
"""Values of a log likelihood that are computed unasked."""


def has_likelihood(asked: bool | None, values: int) -> bool:
    """Return whether ArviZ data get the log likelihood; warn if it is left out unasked.

    Args:
        asked: whether it was asked for; `None` leaves it out if it is large.
        values: number of its values, draws times examples; 0 without data.
    """
    if asked is not None:
        return asked
    if values > MAX_LOG_LIKELIHOODS:
        warnings.warn(
            f"to_arviz() leaves out the log likelihood, {values:,} values of draws and examples, "
            f"because it has more than {MAX_LOG_LIKELIHOODS:,}. LOO and WAIC need it: "
            "to_arviz(log_likelihood=True). Without this warning: to_arviz(log_likelihood=False)",
            stacklevel=3,
        )
    return 0 < values <= MAX_LOG_LIKELIHOODS


def arviz_data(
    draws: Mapping[str, np.ndarray],
    labels: Mapping[str, list[str]],
    stats: Mapping[str, Any],
    log_likelihood: np.ndarray | None = None,
    observed: np.ndarray | None = None,
    *,
    num_members: int | None = None,
) -> Any:
    """Return draws, statistics, log likelihood and data in the groups that ArviZ knows.

    Args:
        draws: by leaf path, arrays `(chain, draw, ...)`.
        labels: by leaf path, a name for each parameter in C order, such as `FinalDense1[3, 5]`.
        stats: statistics by nbcore's names `(chain, draw)`; those that are all NaN are left out.
        log_likelihood: `(chain, draw, example)`.
        observed: targets `(example,)` or `(example, output)`.
        num_members: number of networks, which draws and statistics then have as a third axis
            `(chain, draw, member, ...)`; `None` without that axis.

    Returns:
        Groups posterior and sample_stats, and log_likelihood and observed_data if they are given.
        A variable has the name of its layer (`/` becomes `.`) and the dimension `<name>_index`,
        whose coordinates are indices into the weights of the layer.

    Raises:
        MissingExtraError: ArviZ is not installed.
    """
    try:
        arviz = importlib.import_module("arviz")
    except ModuleNotFoundError as error:
        raise MissingExtraError("to_arviz()", "arviz", error.name) from error
    member = [] if num_members is None else ["member"]
    coords: dict[str, list[Any]] = {name: list(range(num_members or 0)) for name in member}
    dims: dict[str, list[str]] = {}
    posterior: dict[str, np.ndarray] = {}
    for path, values in draws.items():
        name = _variable(labels[path], path)
        # float64, so that ArviZ's ranks and distances to the median have no ties of rounding
        leading = values.shape[: 2 + len(member)]
        posterior[name] = np.asarray(values, np.float64).reshape(*leading, -1)
        dims[name] = [*member, f"{name}_index"]
        coords[f"{name}_index"] = [_index(label) for label in labels[path]]
    groups: dict[str, dict[str, np.ndarray]] = {
        "posterior": posterior,
        "sample_stats": _statistics(stats),
    }
    dims |= dict.fromkeys(groups["sample_stats"], member) if member else {}
    if log_likelihood is not None:
        groups["log_likelihood"] = {"y": log_likelihood}
    if observed is not None:
        groups["observed_data"] = {"y": observed}
    dims["y"] = ["example"] if observed is None or observed.ndim == 1 else ["example", "output"]
    if int(arviz.__version__.split(".")[0]) >= 1:
        return arviz.from_dict(groups, coords=coords, dims=_by_group(groups, dims))
    return arviz.from_dict(**groups, coords=coords, dims=_by_group(groups, dims))


def _variable(labels: list[str], path: str) -> str:
    name = labels[0].partition("[")[0] if labels else path
    return name.replace("/", ".")


def _index(label: str) -> str:
    return label.partition("[")[2].removesuffix("]")


def _by_group(groups: Mapping[str, Any], dims: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the dimensions; a log likelihood has one value for each example."""
    if "log_likelihood" in groups and len(dims["y"]) > 1:
        # ArviZ knows dimensions by variable alone, so two-column targets get a name of their own
        groups["observed_data"]["y_observed"] = groups["observed_data"].pop("y")
        return {**dims, "y": ["example"], "y_observed": dims["y"]}
    return dims


def _statistics(stats: Mapping[str, Any]) -> dict[str, np.ndarray]:
    known: dict[str, np.ndarray] = {}
    for name, values in stats.items():
        array = np.asarray(values)
        if not (np.issubdtype(array.dtype, np.floating) and np.isnan(array).all()):
            known[STATISTICS.get(name, name)] = array
    return known
