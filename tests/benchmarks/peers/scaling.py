"""How cost grows with N, subset size, sequence length and chains: log-log plots.

    python tests/benchmarks/peers/scaling.py WORK --out docs/images/scaling.png

WORK is the file that `esol_transformer.py --write` makes. Prints each curve as JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import ours
from work import Work, read, transformer_options

import nbcore as nb
from nbcore.report import style
from nbcore_flax import FlaxTransformer

ROWS = (100, 300, 1000, 3000, 10_000)
PAIRS = (10, 30, 100, 300, 1000)
LENGTHS = (16, 32, 64, 128, 256)
CHAINS = (1, 2, 4, 8, 16)
GROWING = ("examples N", "tokens of a sequence")
HEAD, EARLY = "FinalDense1", "Block0_Attention"
Curve = list[tuple[int, float]]


def by_rows(work: Work, case: str) -> Curve:
    """Return seconds per gradient for N molecules."""
    return [(n, ours.gradient(ours.repeated(work, n), case)["seconds"]) for n in ROWS]


def by_pairs(work: Work) -> Curve:
    """Return seconds per gradient for pairs of the head, drawn at random."""
    shape = work.params[HEAD]["kernel"].shape
    every = np.random.default_rng(0).permutation(
        np.stack(np.unravel_index(range(np.prod(shape)), shape), 1)
    )
    some = [work._replace(pairs={HEAD: {HEAD: every[:n]}}) for n in PAIRS]
    return [(n, ours.gradient(w, HEAD)["seconds"]) for n, w in zip(PAIRS, some, strict=True)]


def by_length(work: Work, case: str) -> Curve:
    """Return seconds per gradient for 200 sequences of random tokens, none of them padding."""
    options = transformer_options(work) | {"max_seq_length": max(LENGTHS)}
    network = nb.as_network(FlaxTransformer(**options))
    tokens = np.random.default_rng(0).integers(1, options["vocab_size"], (200, max(LENGTHS)))
    params = network.init(jax.random.key(0), tokens[:1])
    subset = nb.ProbabilisticSubset.pairs(work.pairs[case])
    curve: Curve = []
    for length in LENGTHS:
        target = nb.Target.build(network, params, subset, tokens[:, :length], work.y[:200])
        curve.append((length, ours.time_gradient(target)["seconds"]))
    return curve


def by_chains(backend: Any, method: str, draws: int) -> Curve:
    """Return seconds per gradient of all chains together, on a small perceptron."""
    target = ours.small_perceptron()
    curve: Curve = []
    for chains in CHAINS:
        options: dict[str, Any] = {"num_warmup": 100, "num_samples": draws}
        options["chain_method"] = method if chains > 1 else "sequential"
        ours.sample(target, backend, chains, **options)  # compiles
        info = ours.sample(target, backend, chains, key=1, **options).info
        curve.append((chains, info.seconds["sampling"] / info.num_gradients["sampling"]))
    return curve


def measure(work: Work) -> dict[str, dict[str, Curve]]:
    """Return the curves of each panel, by label; print each as it comes."""
    nuts = nb.get_backend("numpyro-nuts", step_size=1e-6, adapt_step_size=False, max_tree_depth=6)
    panels: dict[str, dict[str, Callable[[], Curve]]] = {
        "examples N": {
            "FinalDense1, 100 pairs": lambda: by_rows(work, HEAD),
            "Block0_Attention, 32 triples": lambda: by_rows(work, EARLY),
        },
        "pairs of FinalDense1": {"564 molecules": lambda: by_pairs(work)},
        "tokens of a sequence": {
            "FinalDense1, 100 pairs": lambda: by_length(work, HEAD),
            "Block0_Attention, 32 triples": lambda: by_length(work, EARLY),
        },
        "chains": {
            "MCLMC, vectorized": lambda: by_chains("blackjax-mclmc", "vectorized", 2000),
            "NUTS, threads": lambda: by_chains(nuts, "threads", 300),
        },
    }
    curves: dict[str, dict[str, Curve]] = {}
    for panel, several in panels.items():
        curves[panel] = {}
        for label, curve in several.items():
            curves[panel][label] = curve()
            print(json.dumps({panel: {label: curves[panel][label]}}), flush=True)
    return curves


def draw(panels: dict[str, dict[str, Curve]], path: Path) -> None:
    """Draw a panel for each kind of growth, and faint lines that grow in proportion."""
    with style.styled():
        figure = style.new_figure(9.0, 5.6)
        axes = figure.subplots(2, 2).ravel()
        for ax, (name, curves) in zip(axes, panels.items(), strict=True):
            for color, (label, curve) in zip(
                (style.OURS, style.NAIVE), curves.items(), strict=False
            ):
                x, y = np.array(curve).T
                ax.loglog(x, 1e3 * y, "o-", ms=4, color=color, label=label)
                if name in GROWING:
                    ax.loglog(x, 1e3 * y[-1] * x / x[-1], ":", color=style.QUIET, lw=0.8)
            ax.set_xticks(x, [f"{n:,.0f}" for n in x])
            ax.minorticks_off()
            ax.set_ylim(0.3 * ax.get_ylim()[0], 3 * ax.get_ylim()[1])
            ax.set_xlabel(name)
            ax.set_ylabel("ms per gradient")
            ax.legend()
        figure.savefig(path, dpi=120)


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "scaling.png")
    arguments = parser.parse_args()
    draw(measure(read(arguments.work)), arguments.out)


if __name__ == "__main__":
    main()
