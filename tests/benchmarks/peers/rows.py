"""The rows of the table: what is run, the ratio that is made of it, and the bound on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Figures = dict[str, dict[str, Any]]
"""What each run of a round printed, by label."""


@dataclass(frozen=True)
class Row:
    """One figure.

    Args:
        what: what the ratio is of.
        runs: by label, the script and its task, run in this order in each round.
        ratio: the figure, of one round.
        bound: what the figure is held to; None where it only explains another.
        at_least: whether the bound is a lower one.
        work: which arrays the runs read.
        unit: of the figure; "×" for ratios.
        rounds: how often by default.
        also: further ratios of a round, by what they tell.
    """

    what: str
    runs: dict[str, tuple[str, str]]
    ratio: Callable[[Figures], float]
    bound: float | None
    at_least: bool = False
    work: str = "esol"
    unit: str = "×"
    rounds: int = 3
    also: dict[str, Callable[[Figures], float]] = field(default_factory=dict)

    def holds(self, figure: float) -> bool:
        """Tell whether a figure keeps the bound."""
        if self.bound is None:
            return True
        return figure >= self.bound if self.at_least else figure <= self.bound


def _gradient(peer: str, case: str, what: str, bound: float) -> Row:
    task = f"gradient-{case}"
    return Row(
        f"gradient, {what}: {peer.rstrip('_')} / ours",
        {"peer": (peer, task), "ours": ("ours", task)},
        lambda f: f["peer"]["seconds"] / f["ours"]["seconds"],
        bound,
        at_least=True,
        also={
            "where the peer's compiler moves nothing out of the loop": (
                lambda f: _alone(f["peer"]) / f["ours"]["seconds"]
            ),
            "one call of each": lambda f: _alone(f["peer"]) / _alone(f["ours"]),
        },
    )


def _alone(figures: dict[str, Any]) -> float:
    """Return the seconds of one gradient of which nothing was computed before."""
    return figures["once"] + figures["seconds"]


def _estimate(of: Callable[[dict[str, Any]], float], peers: tuple[str, ...]) -> Any:
    """Return what makes a ratio: NUTS at the gradient time of the fastest peer, over ours."""
    return lambda f: (
        f["ours"]["gradients"] * min(of(f[peer]) for peer in peers) / f["ours"]["seconds"]
    )


def _growth(f: Figures) -> float:
    """Return by how many bytes the peak grew for each byte of data more."""
    peak, data = (f["many"][k] - f["few"][k] for k in ("peak", "data"))
    return peak / data


def _efficiency(f: Figures) -> float:
    """Return the ratio of smallest predictive ESS per second."""
    rates = [f["compare"][k]["ess"] / f[k]["seconds"] for k in ("ours", "peer")]
    return rates[0] / rates[1]


ROWS: dict[str, Row] = {
    "gradient-FinalDense1": _gradient("neurobayes_", "FinalDense1", "FinalDense1, 100 pairs", 2500),
    "gradient-FinalDense2": _gradient("numpyro_", "FinalDense2", "FinalDense2, whole", 1000),
    "gradient-TokenEmbed": _gradient("neurobayes_", "TokenEmbed", "TokenEmbed, 100 pairs", 12),
    "gradient-Block0_Attention": _gradient(
        "neurobayes_", "Block0_Attention", "Block0_Attention, 32 triples", 10
    ),
    "handwritten": Row(
        "gradient, FinalDense1, 100 pairs: ours / JAX written by hand for that head",
        {
            "ours": ("ours", "gradient-FinalDense1"),
            "peer": ("handwritten", "gradient-FinalDense1"),
        },
        lambda f: f["ours"]["seconds"] / f["peer"]["seconds"],
        1.15,
        rounds=5,
    ),
    "nuts": Row(
        "NUTS 1,000 + 1,000, FinalDense1, 100 pairs, one chain, compile included: "
        "its gradients at the time of NeuroBayes' gradient / ours",
        {
            "neurobayes": ("neurobayes_", "gradient-FinalDense1"),
            "plain": ("ours", "plain-FinalDense1"),
            "ours": ("ours", "nuts-FinalDense1"),
        },
        _estimate(lambda f: f["seconds"], ("neurobayes",)),
        500,
        at_least=True,
        rounds=1,
        also={
            "where NeuroBayes' compiler moves nothing out of the loop": _estimate(
                _alone, ("neurobayes",)
            ),
            "our own network, plain": _estimate(lambda f: f["seconds"], ("plain",)),
            "our own network, plain, nothing moved out of the loop": _estimate(_alone, ("plain",)),
        },
    ),
    "leapfrog": Row(
        "seconds per leapfrog step in its own NUTS, FinalDense1, 100 pairs: NeuroBayes / ours",
        {
            "peer": ("neurobayes_", "leapfrog-FinalDense1"),
            "ours": ("ours", "leapfrog-FinalDense1"),
        },
        lambda f: f["peer"]["seconds"] / f["ours"]["seconds"],
        None,
        rounds=1,
    ),
    "threads": Row(
        "seconds per leapfrog step, FinalDense1, 100 pairs: 4 chains of NUTS in 2 threads / 1",
        {"ours": ("ours", "threads-FinalDense1")},
        lambda f: f["ours"]["ratio"],
        0.70,
    ),
    "vectorized-mclmc": Row(
        "seconds per gradient, small MLP: 8 vectorized chains of MCLMC / 2",
        {"ours": ("ours", "vectorized-blackjax-mclmc")},
        lambda f: f["ours"]["ratio"],
        1.6,
    ),
    "vectorized-hmc": Row(
        "seconds per gradient, small MLP: 8 vectorized chains of HMC / 2",
        {"ours": ("ours", "vectorized-blackjax-hmc")},
        lambda f: f["ours"]["ratio"],
        1.6,
    ),
    "memory-sgld": Row(
        "sgld, 1,000 to 100,000 molecules: growth of the peak memory / growth of the data",
        {"few": ("ours", "sgld-1000"), "many": ("ours", "sgld-100000")},
        _growth,
        2.0,
        rounds=1,
    ),
    "memory-predict": Row(
        "predict, 1,000 draws × 100,000 inputs: peak memory of the process",
        {"ours": ("ours", "predict-100000")},
        lambda f: f["ours"]["peak"] / 1e9,
        2.0,
        unit=" GB",
        rounds=1,
    ),
    "energy": Row(
        "UCI energy, split 0, MLP 32-16, last hidden + output: smallest predictive ESS per "
        "second, ours / NeuroBayes",
        {
            "ours": ("energy_ours", "sample-1000"),
            "peer": ("energy_neurobayes_", "sample-1000"),
            "reference": ("energy_ours", "reference-2000"),
            "compare": ("energy_ours", "compare"),
        },
        _efficiency,
        5.0,
        at_least=True,
        work="energy",
        rounds=1,
    ),
}
