"""The work that all peers read: arrays in an .npz file, so that no peer needs another's library.

`tests/benchmarks/esol_transformer.py --write` and `energy.py` make such files: inputs `X`, targets
`y`, trained weights `params/<path>`, and index pairs `pairs/<case>/<layer>/<component>`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Work(NamedTuple):
    """Data and trained weights.

    Args:
        X: inputs.
        y: standardized targets `(N,)`.
        params: trained weights, nested by the parts of their paths.
        pairs: by case and layer, `(pairs, axes)` indices, or a dict of those by component.
        rest: every other array, by name.
    """

    X: np.ndarray
    y: np.ndarray
    params: dict[str, Any]
    pairs: dict[str, dict[str, Any]]
    rest: dict[str, np.ndarray]


def read(path: str) -> Work:
    """Read the work from a file."""
    with np.load(path, allow_pickle=False) as file:
        named = {name: file[name] for name in file.files}
    params: dict[str, Any] = {}
    pairs: dict[str, dict[str, Any]] = {}
    for name in [n for n in named if n.startswith(("params/", "pairs/"))]:
        kind, *parts = name.split("/")
        if kind == "params":
            _put(params, [p for p in parts if p != "params"], named.pop(name))
        else:
            _put(pairs, [p for p in parts if p], named.pop(name))
    return Work(named.pop("X"), named.pop("y"), params, pairs, named)


def case_of(row: str) -> str:
    """Return the layer that a row is about: `gradient-TokenEmbed` is about `TokenEmbed`."""
    return row.partition("-")[2]


def transformer_options(work: Work) -> dict[str, int]:
    """Return the sizes of the transformer, read off its weights."""
    params = work.params
    vocab_size, d_model = params["TokenEmbed"]["embedding"].shape
    return {
        "vocab_size": vocab_size,
        "d_model": d_model,
        "nhead": params["Block0_Attention"]["query"]["kernel"].shape[1],
        "num_layers": sum(name.endswith("_Attention") for name in params),
        "dim_feedforward": params["FinalDense1"]["kernel"].shape[1],
        "max_seq_length": len(params["PosEmbed"]["embedding"]),
    }


def _put(tree: dict[str, Any], path: list[str], value: np.ndarray) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value
