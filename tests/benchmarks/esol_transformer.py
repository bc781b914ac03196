"""The work that gradients and samplers are timed on: 564 molecules, padded to 128 tokens.

    python tests/benchmarks/esol_transformer.py --data delaney-processed.csv --write work.npz

The data are the measured solubilities of Delaney (2004); the training half is drawn with seed 1.
The network is a transformer, `SETTINGS`, trained for a few epochs so that pairs can be chosen by
variance. `--write` stores the arrays for programs that cannot import nbcore: `X`, `y`
(standardized), `params/<path>`, and `pairs/<case>/<layer>/<component>` (component empty where
there is none), one row of indices for each pair.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import nbcore as nb
from nbcore_flax import FlaxTransformer

MEASURED = "measured log solubility in mols per litre"
LENGTH = 128
SETTINGS = {
    "d_model": 16,
    "nhead": 4,
    "num_layers": 2,
    "dim_feedforward": 64,
    "max_seq_length": LENGTH,
    "pad_token_id": 0,
}
PAIRS = {"FinalDense1": 100, "TokenEmbed": 100, "Block0_Attention": 32}
"""Cases whose weights are pairs, chosen by variance, and how many pairs there are."""
WHOLE = ("FinalDense2",)
"""Cases that are a whole layer."""


class Work(NamedTuple):
    """Data, network and trained weights.

    Args:
        X: tokens `(564, 128)`, padded with 0.
        y: standardized log solubility `(564,)`.
        network: the transformer.
        params: its trained weights.
        pairs: pairs by case, as `nb.ProbabilisticSubset.pairs` takes them.
    """

    X: np.ndarray
    y: np.ndarray
    network: Any
    params: Any
    pairs: dict[str, dict[str, Any]]

    def subset(self, case: str) -> nb.ProbabilisticSubset:
        """Return which weights of a case are stochastic."""
        if case in WHOLE:
            return nb.ProbabilisticSubset.layers(case)
        return nb.ProbabilisticSubset.pairs(self.pairs[case])


def molecules(csv_file: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Return tokens and standardized targets of the training half, and the vocabulary's size."""
    with Path(csv_file).open(newline="") as file:
        rows = list(csv.DictReader(file))
    order = np.random.default_rng(1).permutation(len(rows))[: len(rows) // 2]
    smiles = [rows[i]["smiles"].strip() for i in order]
    y = np.array([float(rows[i][MEASURED]) for i in order], np.float32)
    tokenizer = nb.datasets.SmilesTokenizer.fit(smiles)
    return tokenizer.encode(smiles, LENGTH), (y - y.mean()) / y.std(), tokenizer.vocab_size


def work(csv_file: str, epochs: int = 5) -> Work:
    """Train the network and choose the pairs."""
    X, y, vocabulary = molecules(csv_file)
    network = FlaxTransformer(vocab_size=vocabulary, **SETTINGS)
    trained = nb.DeterministicNN(network, swa=nb.SWA(start_pct=0.2))
    trained.train(X, y, epochs=epochs, key=1, progress=False)
    pairs = {case: _pairs(trained, case, count) for case, count in PAIRS.items()}
    return Work(X, y, network, trained.params, pairs)


def _pairs(trained: nb.DeterministicNN, layer: str, count: int) -> dict[str, Any]:
    subset = nb.select_bayesian_components(trained, layer, "variance", count)
    (term,) = json.loads(subset.to_json())["terms"]
    by_layer: dict[str, Any] = {}
    for name, component, pairs in term["items"]:
        if component:
            by_layer.setdefault(name, {})[component] = pairs
        else:
            by_layer[name] = pairs
    return by_layer


def arrays(made: Work) -> dict[str, np.ndarray]:
    """Return the work as named arrays."""
    named = {"X": made.X, "y": made.y}
    named |= {f"params/{path}": a for path, a in _leaves(made.params)}
    for case, layers in made.pairs.items():
        for layer, parts in layers.items():
            for component, rows in (parts if isinstance(parts, dict) else {"": parts}).items():
                named[f"pairs/{case}/{layer}/{component}"] = np.array(rows)
    return named


def _leaves(tree: Any, above: str = "") -> list[tuple[str, np.ndarray]]:
    if not hasattr(tree, "items"):
        return [(above, np.asarray(tree))]
    return [
        leaf
        for name, branch in tree.items()
        for leaf in _leaves(branch, f"{above}/{name}" if above else name)
    ]


def read(npz_file: str) -> Work:
    """Return the work that `--write` stored."""
    params: dict[str, Any] = {}
    pairs: dict[str, dict[str, Any]] = {}
    with np.load(npz_file) as stored:
        named = dict(stored)
    for name, array in named.items():
        kind, *parts = name.split("/")
        if kind == "params":
            tree = params
            for part in parts[:-1]:
                tree = tree.setdefault(part, {})
            tree[parts[-1]] = array
        elif kind == "pairs":
            case, layer, component = parts
            layers = pairs.setdefault(case, {})
            if component:
                layers.setdefault(layer, {})[component] = array
            else:
                layers[layer] = array
    vocabulary = params["params"]["TokenEmbed"]["embedding"].shape[0]
    network = FlaxTransformer(vocab_size=vocabulary, **SETTINGS)
    return Work(named["X"], named["y"], network, params, pairs)


def main() -> None:
    """Make the work and write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="delaney-processed.csv")
    parser.add_argument("--write", default="work.npz")
    arguments = parser.parse_args()
    np.savez(arguments.write, **arrays(work(arguments.data)))


if __name__ == "__main__":
    main()
