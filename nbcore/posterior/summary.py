"""A table of a posterior, a row for each number or for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nbcore.posterior.convergence import ess_bulk, ess_tail, mcse_mean, r_hat

By = Literal["weight", "layer"]
LEVEL = 0.9


@dataclass(frozen=True, eq=False)
class Summary:
    """Columns of equal length; `print` shows a table, `pandas.DataFrame(s.columns)` takes them.

    Args:
        columns: by name, one value a row.

    Examples:
        >>> print(Summary({"name": np.array(["a"]), "mean": np.array([1.25])}))
        name   mean
        a     1.250
    """

    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        """Return the number of rows."""
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
        return "\n".join(lines)


def summarize(
    draws: Mapping[str, np.ndarray], labels: Mapping[str, list[str]], owners: Mapping[str, str]
) -> Summary:
    """Return a row for each number: mean, sd, central 90 %, Monte Carlo error, ESS and R-hat.

    Args:
        draws: by leaf path, arrays `(chain, draw, ...)`.
        labels: by leaf path, a name for each number, in C order.
        owners: by leaf path, the layer that it belongs to.
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
    return Summary({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def by_layer(weights: Summary) -> Summary:
    """Return a row for each layer: how many numbers, their mean sd, worst ESS and R-hat."""
    layers = weights.columns["layer"]
    names = list(dict.fromkeys(layers))
    rows = [np.flatnonzero(layers == name) for name in names]

    def each(column: str, reduce: Any) -> np.ndarray:
        return np.array([reduce(weights.columns[column][chosen]) for chosen in rows])

    return Summary(
        {
            "layer": np.array(names, dtype=object),
            "numbers": np.array([len(chosen) for chosen in rows]),
            "sd": each("sd", np.mean),
            "ess_bulk": each("ess_bulk", np.min),
            "ess_tail": each("ess_tail", np.min),
            "r_hat": each("r_hat", np.max),
        }
    )


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    if float(value) == int(value) if np.isfinite(value) else False:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"
