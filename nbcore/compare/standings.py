"""Standings of methods: the first, how sure that is, and those that are not right at all.

A method that draws from another distribution than the posterior can predict well, so that methods
are judged on what they were asked for first. Against a method counts

- on references: a bias of means, or an error of deviations, that is more than `MOST` times its own
  Monte Carlo error (root mean square over cells; about 1 for an exact sampler) and large enough to
  matter (`LEAST_BIAS` standard deviations, `LEAST_ERROR` of a deviation);
- chains that disagree about predictions (median R-hat above `MAX_R_HAT`), or do not move;
- more than `MAX_FAILED` of its cells failed.

Methods against which nothing counts come first. Within both groups the order is that of the mean
rank over blocks: of the distance to references where there are any, else of the NLPD. Differences
are paired by seed, each seed with its mean over all blocks: problems are what was chosen to be
compared on, and seeds are what chance decides. Without references a sampler whose chains all draw
from the same wrong distribution is not found out: add some.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from nbcore.compare.plan import Row
from nbcore.metrics import PairedDifference, paired_difference

MOST = 3.0
"""Distances over their Monte Carlo errors from which a method is biased."""
LEAST_BIAS, LEAST_ERROR = 0.05, 0.02
"""Biases and errors of deviations below these are harmless, however well they are known."""
MAX_R_HAT = 1.1
MAX_FAILED = 0.2
BLOCK = ("problem", "selector", "size", "seed")
"""What methods are compared within."""


@dataclass(frozen=True)
class Standing:
    """Where a method stands.

    Args:
        name: the method, or the choice of weights.
        place: 1 is the first.
        mean_rank: its mean rank over blocks; NaN if it is in none.
        num_blocks: number of blocks.
        reasons: what counts against it, in words; nothing for most.
        behind: its loss minus that of the first, paired by seed; `None` for the first, and if
            there are fewer than 2 seeds.
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
    judged = [name for name in names if not _failed_often(mine[name])]
    losses, seeds = _blocks(own, by, judged)
    by_seed = np.array([losses[seeds == seed].mean(axis=0) for seed in np.unique(seeds)])
    ranks = np.array([rankdata(block) for block in losses]).reshape(losses.shape)
    mean = dict(zip(judged, ranks.mean(axis=0), strict=True)) if len(ranks) else {}
    order = sorted(names, key=lambda n: (len(reasons[n]) > 0, mean.get(n, np.inf)))
    found: list[Standing] = []
    for place, name in enumerate(order, 1):
        behind = None
        if place > 1 and name in mean and order[0] in mean and len(by_seed) > 1:
            one, first = (by_seed[:, judged.index(n)] for n in (name, order[0]))
            behind = paired_difference(one, first)
        rank = float(mean.get(name, np.nan))
        found.append(Standing(name, place, rank, len(losses), reasons[name], behind))
    return found


def reasons_against(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return what counts against a method, in words.

    Args:
        rows: its rows.
    """
    rows = list(rows)
    finished = [row for row in rows if row["status"] == "finished"]
    found: list[str] = []
    for what, column, least in (
        ("means", "distance_mean", LEAST_BIAS),
        ("deviations", "distance_deviation", LEAST_ERROR),
    ):
        with_distance = [row for row in finished if _is_number(row.get(column))]
        if with_distance:
            off = _rms([row[column] for row in with_distance])
            error = _rms([row[f"{column}_error"] for row in with_distance])
            if off > max(MOST * error, least):
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
    if _failed_often(rows):
        error = next(row["error"] for row in rows if row["status"] != "finished").rstrip(".")
        found.append(f"{len(rows) - len(finished)} of {len(rows)} cells failed: {error}")
    return tuple(found)


def _failed_often(rows: Sequence[Row]) -> bool:
    return sum(row["status"] != "finished" for row in rows) > MAX_FAILED * len(rows)


def loss_of(row: Row) -> float | None:
    """Return the distance to a reference, or the NLPD of test examples; `None` without either."""
    if _is_number(row.get("distance_mean")):
        return math.hypot(row["distance_mean"], row["distance_deviation"])
    return row["nlpd"] if _is_number(row.get("nlpd")) else None


def cell_name(row: Row) -> str:
    """Return what a cell is, in words.

    Examples:
        >>> cell_name({"problem": "linear", "selector": "", "backend": "sgld", "seed": 3})
        'linear, sgld, seed 3'
    """
    parts = [row["problem"], row.get("control"), row["selector"], row.get("size"), row["backend"]]
    return ", ".join([*(str(part) for part in parts if part), f"seed {row['seed']}"])


def _blocks(
    rows: list[Row], by: str, names: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return losses `(blocks, names)` of the blocks in which all have one, and seeds `(blocks,)`.

    Of references alone, if there are any and methods are compared: they say what is right.
    """
    if by == "backend" and any(_is_number(row.get("distance_mean")) for row in rows):
        rows = [row for row in rows if _is_number(row.get("distance_mean"))]
    block = BLOCK if by == "backend" else ("problem", "backend", "seed")
    found: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in rows:
        loss, name = loss_of(row), _name(row, by)
        if loss is not None and name in names:
            found.setdefault(tuple(row.get(part) for part in block), {})[name] = loss
    whole = {key: losses for key, losses in found.items() if len(losses) == len(names)}
    table = [[losses[name] for name in names] for losses in whole.values()]
    seeds = np.array([key[-1] for key in whole], np.int64)
    return np.array(table, np.float64).reshape(len(table), len(names)), seeds


def _name(row: Row, by: str) -> str:
    if by == "backend":
        return str(row.get("backend") or "")
    return f"{row['selector']}, {row['size']} weights" if row.get("selector") else ""


def _rms(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
