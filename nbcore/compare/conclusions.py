"""Conclusions of a comparison in words: what to take at this budget, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nbcore.compare.plan import Row
from nbcore.compare.standings import Standing, loss_of, standings

BY_NLPD = "by the NLPD of test examples"


def sentences(rows: Sequence[Row]) -> list[str]:
    """Return the conclusions, the most important first.

    Args:
        rows: rows of a comparison.
    """
    found = [*_of_methods(rows), *_of_choices(rows), *_of_controls(rows)]
    failed = sum(row["status"] != "finished" for row in rows)
    if failed:
        found.append(f"{failed} of {len(rows)} cells failed; their errors are below.")
    return found


def _of_methods(rows: Sequence[Row]) -> list[str]:
    methods = standings(rows)
    if not methods:
        return ["No sampler was compared: all cells are controls."]
    right = [one for one in methods if not one.reasons]
    found: list[str] = []
    budgets = sorted(
        {f"{row['budget']:,} {row['budget_kind']}" for row in rows if row.get("budget")}
    )
    what = "by the distance to references" if _has_references(rows) else BY_NLPD
    if not right:
        found.append("Something counts against every sampler at this budget; see the table.")
    elif len(methods) == 1:
        found.append(f"{right[0].name} is the only sampler, so that nothing was compared.")
    elif len(right) == 1:
        found.append(f"{right[0].name} is the only sampler against which nothing counts.")
    else:
        found.append(_first(right, f"At {' and '.join(budgets)}", "sampler", what))
    found += [
        f"{one.name} stands behind: {'; '.join(one.reasons)}." for one in methods if one.reasons
    ]
    return found


def _of_choices(rows: Sequence[Row]) -> list[str]:
    choices = standings([row for row in rows if row["status"] == "finished"], "selector")
    if len(choices) < 2:
        return []
    return [_first(choices, "Of the weights", "choice", BY_NLPD)]


def _first(ranked: Sequence[Standing], begin: str, kind: str, loss: str) -> str:
    """Say who is first, and whether the next ones can be told from it."""
    first, *others = ranked
    if not first.num_blocks:
        return f"{begin}, nothing is concluded: no block has figures of every {kind}."
    if all(one.behind is None for one in others):
        return (
            f"{begin}, {first.name} is first, with one seed; another seed may say otherwise. Add "
            "seeds before anything is concluded."
        )
    text = (
        f"{begin}, take {first.name}: mean rank {first.mean_rank:.2f} of {len(ranked)}, {loss}, "
        f"over {first.num_blocks} blocks."
    )
    told = [one.name for one in others if not one.is_tied]
    if told:
        text += f" Detectably behind it: {', '.join(told)}."
    for one in others:
        if not one.is_tied or one.behind is None:
            continue
        needed = one.behind.num_needed
        more = f"about {needed:,.0f} seeds" if np.isfinite(needed) else "no number of seeds"
        text += f" {one.name} cannot be told from it at this number of seeds; {more} would do it."
    return text


def _of_controls(rows: Sequence[Row]) -> list[str]:
    """Compare what was sampled with each control, over the same problems and seeds."""
    found: list[str] = []
    own = [row for row in rows if row.get("nlpd") is not None and row["status"] == "finished"]
    sampled = _means([row for row in own if not row["control"]])
    for control in dict.fromkeys(row["control"] for row in own if row["control"]):
        other = _means([row for row in own if row["control"] == control])
        shared = sorted(set(sampled) & set(other))
        if not shared:
            continue
        gains = np.array([other[key] - sampled[key] for key in shared])
        better = int(np.sum(gains > 0))
        found.append(
            f"Against the control {control!r} the chosen weights have an NLPD lower by "
            f"{gains.mean():.3f} on average, and are better in {better} of {len(shared)} pairs of "
            "problem and seed."
        )
    return found


def _means(rows: Sequence[Row]) -> dict[tuple[str, int], float]:
    """Return the mean NLPD by problem and seed."""
    found: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        found.setdefault((row["problem"], row["seed"]), []).append(row["nlpd"])
    return {key: float(np.mean(values)) for key, values in found.items()}


def _has_references(rows: Sequence[Row]) -> bool:
    return any(row.get("task") == "reference" and loss_of(row) is not None for row in rows)
