"""Standings of methods: the first, how sure that is, and those that are not right at all.

A method that draws from another distribution than the posterior can predict well, so that methods
are judged on what they were asked for first. Against a method counts

- on references: a bias of means, or an error of deviations, of more than `MOST` times its own Monte
  Carlo error (root mean square over cells): `1 +` of it is what an exact sampler has;
- chains that disagree about predictions (median R-hat above `MAX_R_HAT`), or do not move;
- cells that failed.

Methods against which nothing counts come first. Within both groups the order is that of the mean
rank over blocks: of the distance to references where there are any, else of the NLPD.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from nbcore.metrics import PairedDifference, paired_difference

MOST = 3.0
"""Distances over their Monte Carlo errors from which a method is biased."""
MAX_R_HAT = 1.1
BLOCK = ("problem", "selector", "size", "seed")
"""What methods are compared within."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """Where a method stands.

    Args:
        name: the method, or the choice of weights.
        place: 1 is the first.
        mean_rank: its mean rank over blocks; NaN if it is in none.
        num_blocks: number of blocks.
        reasons: what counts against it, in words; nothing for most.
        behind: its loss minus that of the first over the same blocks; `None` for the first, and if
            there are fewer than 2.
    """

    name: str
    place: int
    mean_rank: float
    num_blocks: int
    reasons: tuple[str, ...]
    behind: PairedDifference | None

    @property
    def is_tied(self) -> bool:
        """Whether it cannot be told from the first."""
        return not self.reasons and (self.behind is None or not self.behind.is_detectable)


def standings(rows: Sequence[Row], by: str = "backend") -> list[Standing]:
    """Return where methods, or choices of weights, stand.

    Args:
        rows: rows of a comparison; controls are left out, but for samplers that are one.
        by: `"backend"`, or `"selector"` with its size.

    Examples:
        >>> rows = [
        ...     {
        ...         "problem": "p",
        ...         "selector": "s",
        ...         "size": 9,
        ...         "control": "",
        ...         "seed": seed,
        ...         "backend": name,
        ...         "status": "finished",
        ...         "nlpd": nlpd + 0.1 * seed,
        ...     }
        ...     for seed in range(4)
        ...     for name, nlpd in (("one", 1.0), ("other", 1.2))
        ... ]
        >>> [(s.name, s.place, s.is_tied) for s in standings(rows)]
        [('one', 1, True), ('other', 2, False)]
    """
    own = [row for row in rows if row.get("backend") and not row.get("control")]
    names = list(dict.fromkeys(_name(row, by) for row in own if _name(row, by)))
    mine = {name: [row for row in own if _name(row, by) == name] for name in names}
    reasons = {name: reasons_against(mine[name]) if by == "backend" else () for name in names}
    losses = _blocks(own, by, names)
    ranks = np.array([rankdata(block) for block in losses]).reshape(-1, len(names))
    mean = ranks.mean(axis=0) if len(ranks) else np.full(len(names), np.nan)
    order = sorted(range(len(names)), key=lambda i: (len(reasons[names[i]]) > 0, mean[i]))
    found: list[Standing] = []
    for place, i in enumerate(order, 1):
        behind = None
        if place > 1 and len(losses) > 1:
            behind = paired_difference(losses[:, i], losses[:, order[0]])
        found.append(
            Standing(names[i], place, float(mean[i]), len(losses), reasons[names[i]], behind)
        )
    return found


def reasons_against(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return what counts against a method, in words.

    Args:
        rows: its rows.
    """
    rows = list(rows)
    finished = [row for row in rows if row["status"] == "finished"]
    found: list[str] = []
    for what, column in (("means", "distance_mean"), ("deviations", "distance_deviation")):
        with_distance = [row for row in finished if _is_number(row.get(column))]
        if with_distance:
            off = _rms([row[column] for row in with_distance])
            error = _rms([row[f"{column}_error"] for row in with_distance])
            if off > MOST * error:
                worst = max(with_distance, key=lambda row: row[column])
                found.append(
                    f"{what} of references are off by {off:.3f} where draws of the posterior would "
                    f"be by about {error:.3f}, most of {worst['problem']}"
                )
    r_hat = [
        row["r_hat_predictions"] for row in finished if _is_number(row.get("r_hat_predictions"))
    ]
    if r_hat and np.median(r_hat) > MAX_R_HAT:
        found.append(
            f"chains disagree: the median R-hat of the worst prediction is {np.median(r_hat):.2f}"
        )
    still = [row for row in finished if row.get("ess_predictions") == 0]
    if still:
        found.append(f"chains do not move in {len(still)} of {len(finished)} cells")
    if len(finished) < len(rows):
        failed = next(row for row in rows if row["status"] != "finished")
        found.append(f"{len(rows) - len(finished)} of {len(rows)} cells failed: {failed['error']}")
    return tuple(found)


def loss_of(row: Row) -> float | None:
    """Return the distance to a reference, or the NLPD of test examples; `None` without either."""
    if _is_number(row.get("distance_mean")):
        return math.hypot(row["distance_mean"], row["distance_deviation"])
    return row["nlpd"] if _is_number(row.get("nlpd")) else None


def _blocks(rows: list[Row], by: str, names: list[str]) -> NDArray[np.float64]:
    """Return losses `(blocks, names)` of the blocks in which all of them have one.

    Of references alone, if there are any and methods are compared: they say what is right.
    """
    if by == "backend" and any(_is_number(row.get("distance_mean")) for row in rows):
        rows = [row for row in rows if _is_number(row.get("distance_mean"))]
    block = BLOCK if by == "backend" else ("problem", "backend", "seed")
    found: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in rows:
        loss, name = loss_of(row), _name(row, by)
        if loss is not None and name:
            found.setdefault(tuple(row.get(part) for part in block), {})[name] = loss
    whole = [
        [losses[name] for name in names] for losses in found.values() if len(losses) == len(names)
    ]
    return np.array(whole, np.float64).reshape(-1, len(names))


def _name(row: Row, by: str) -> str:
    if by == "backend":
        return str(row.get("backend") or "")
    return f"{row['selector']}, {row['size']} weights" if row.get("selector") else ""


def _rms(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
