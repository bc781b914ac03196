"""Tables of draws: a line for each parameter, or for each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from nbcore.posterior.convergence import ess_bulk, ess_tail, mcse_mean, r_hat

By = Literal["weight", "layer"]
LEVEL = 0.9


@dataclass(frozen=True, eq=False)
class Summary:
    """A table; `print` shows it, `pandas.DataFrame(summary.columns)` takes its columns.

    Args:
        columns: arrays of equal length, by name.
        num_chains: number of chains.
        num_draws: draws kept of each chain.
        alarms: signs that the draws are not those of the posterior, which are printed first.

    Examples:
        >>> print(Summary({"name": np.array(["a"]), "mean": np.array([1.25])}, 4, 500))
        name   mean
        a     1.250
        4 chains × 500 draws kept = 2,000 draws
    """

    columns: dict[str, np.ndarray]
    num_chains: int
    num_draws: int
    alarms: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of parameters, or of layers."""
        return len(next(iter(self.columns.values()), ()))

    def __str__(self) -> str:
        cells = [[name, *map(_shown, values)] for name, values in self.columns.items()]
        widths = [max(map(len, column)) for column in cells]
        lines = [
            "  ".join(
                cell.ljust(width) if k == 0 else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in zip(*cells, strict=True)
        ]
        chains = f"{self.num_chains} chain{'s' if self.num_chains > 1 else ''}"
        total = self.num_chains * self.num_draws
        return "\n".join(
            [*self.alarms, *lines, f"{chains} × {self.num_draws:,} draws kept = {total:,} draws"]
        )


def summarize(
    draws: Mapping[str, np.ndarray],
    labels: Mapping[str, list[str]],
    owners: Mapping[str, str],
    alarms: Sequence[str] = (),
) -> Summary:
    """Return mean, sd, central 90 %, Monte Carlo error, ESS and R-hat of each parameter.

    Args:
        draws: by leaf path, arrays `(chain, draw, ...)`; at least one.
        labels: by leaf path, a name for each parameter, in C order.
        owners: by leaf path, the layer that it belongs to.
        alarms: signs that the draws are not those of the posterior.
    """
    tail = (1 - LEVEL) / 2
    parts: list[dict[str, Any]] = []
    for path, values in draws.items():
        flat = np.asarray(values, np.float64).reshape(*np.shape(values)[:2], -1)
        low, high = np.quantile(flat, (tail, 1 - tail), axis=(0, 1))
        parts.append(
            {
                "name": np.array(labels[path], dtype=object),
                "layer": np.full(flat.shape[2], owners[path], dtype=object),
                "mean": flat.mean(axis=(0, 1)),
                "sd": flat.std(axis=(0, 1), ddof=1),
                "5%": low,
                "95%": high,
                "mcse": mcse_mean(flat),
                "ess_bulk": ess_bulk(flat),
                "ess_tail": ess_tail(flat),
                "r_hat": r_hat(flat),
            }
        )
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    num_chains, num_draws = np.shape(next(iter(draws.values())))[:2]
    return Summary(columns, num_chains, num_draws, tuple(alarms))


def by_layer(table: Summary) -> Summary:
    """Return for each layer: the number of its parameters, their mean sd, worst ESS and R-hat."""
    layers = table.columns["layer"]
    names = list(dict.fromkeys(layers))
    members = [np.flatnonzero(layers == name) for name in names]

    def each(column: str, reduce: Any) -> np.ndarray:
        return np.array([reduce(table.columns[column][chosen]) for chosen in members])

    columns = {
        "layer": np.array(names, dtype=object),
        "parameters": np.array([len(chosen) for chosen in members]),
        "sd": each("sd", np.mean),
        "ess_bulk": each("ess_bulk", np.min),
        "ess_tail": each("ess_tail", np.min),
        "r_hat": each("r_hat", np.max),
    }
    return replace(table, columns=columns)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    if float(value) == int(value) if np.isfinite(value) else False:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"


def index_labels(path: str, shape: tuple[int, ...]) -> list[str]:
    """Return a name for every entry of an array, such as `output[3, 0]`."""
    if not shape:
        return [path]
    return [f"{path}[{', '.join(str(i) for i in index)}]" for index in np.ndindex(*shape)]
