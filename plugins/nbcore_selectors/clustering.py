"""Representatives of groups of similar weights, by k-means."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from nbcore import Layer, Leaf
from nbcore.errors import SelectionError, TokenError
from nbcore.extend import Key, SelectionContext, check_count, leaves_by_path, required


@dataclass(frozen=True)
class Clustering:
    """Group the rows of a layer by k-means and take entries of those nearest each center.

    A row is what belongs to one input of the layer: the embedding of a token, the weights that
    leave a unit, the windows over an input channel. Groups take turns; in each, rows come in
    order of distance from the center, one entry of a row at a time, in a column drawn from the
    key. So entries are never chosen twice, and there are as many as asked for.

    Args:
        n_clusters: number of groups; None for one per pair. Never more than distinct rows.
        token_frequency: whether tokens count as often as they occur in X (padding apart) when
            the embedding of the inputs is grouped; tokens that do not occur come last. Needs X.

    Raises:
        OptionError: `n_clusters` is no integer of at least 1.

    Examples:
        >>> Clustering(n_clusters=10)
        Clustering(n_clusters=10, token_frequency=False)

    References:
        Lloyd (1982), "Least squares quantization in PCM"; Arthur and Vassilvitskii (2007),
        "k-means++: the advantages of careful seeding".
    """

    name: ClassVar[str] = "clustering"

    n_clusters: int | None = None
    token_frequency: bool = False

    def __post_init__(self) -> None:
        check_count(1, optional=True, n_clusters=self.n_clusters)

    @property
    def needs(self) -> frozenset[str]:
        """The tokens of X, if they are counted."""
        return frozenset({"data"} if self.token_frequency else ())

    def choose(self, context: SelectionContext, layer: Layer, num_pairs: int, key: Key) -> Any:
        """Return `num_pairs` distinct pairs of the layer's weight leaf."""
        (weight,) = layer.weights
        rows = _rows(context, layer, weight)
        counts = np.ones(len(rows))
        if self.token_frequency and layer.kind == "embedding":
            counts = _token_counts(context, layer, len(rows) // weight.num_stacked)
            counts = np.tile(counts, weight.num_stacked)
        for_means, for_columns, for_start = jax.random.split(key, 3)
        groups = _groups(rows, counts, self.n_clusters or num_pairs, for_means)
        num_columns = weight.num_pairs // len(rows)
        columns = np.asarray(jax.random.permutation(for_columns, num_columns))
        start = np.asarray(jax.random.randint(for_start, (len(rows),), 0, num_columns))
        seen = [[r for r in group if counts[r] > 0] for group in groups]
        unseen = [[r for r in group if counts[r] == 0] for group in groups]
        turns = itertools.chain(_turns(seen, num_columns), _turns(unseen, num_columns))
        flat = [
            row * num_columns + columns[(start[row] + turn) % num_columns]
            for turn, row in itertools.islice(turns, num_pairs)
        ]
        return np.stack(np.unravel_index(flat, weight.pair_shape), axis=1)


def _rows(context: SelectionContext, layer: Layer, weight: Leaf) -> np.ndarray:
    """Return the weights as a matrix: inputs of the layer by everything that belongs to each.

    Layers that are stacked have inputs of their own.
    """
    values = np.asarray(leaves_by_path(context.params)[weight.path], np.float64)
    if not np.isfinite(values).all():
        raise SelectionError(
            f"The weights of {layer.name!r} are not all finite: training has diverged. Train "
            "again with a smaller learning_rate."
        )
    outs = sum(axis.startswith("out") for axis in weight.axes)
    num_in = len(weight.axes) - outs if outs else len(weight.stacks) + 1
    num_rows = int(np.prod(weight.pair_shape[:num_in], dtype=np.int64))
    return weight.by_pair(values).reshape(num_rows, -1)


def _groups(rows: np.ndarray, counts: np.ndarray, num_groups: int, key: Key) -> list[list[int]]:
    """Return the rows of each group, nearest to its center first."""
    num_groups = min(num_groups, len(np.unique(rows[counts > 0], axis=0)))
    seed = int(jax.random.bits(key, dtype=np.uint32))
    means = KMeans(num_groups, random_state=seed)
    # Threads add up in the order in which they finish, which changes the last bits.
    with threadpool_limits(limits=1):
        labels = means.fit(rows, sample_weight=counts).predict(rows)
    distances = np.linalg.norm(rows - means.cluster_centers_[labels], axis=1)
    # Two rows are equally far from the center of their group up to rounding: the first one leads.
    scale = distances.max() or 1.0
    order = np.argsort((distances / scale).round(9), kind="stable")
    return [[int(r) for r in order if labels[r] == group] for group in range(num_groups)]


def _turns(groups: list[list[int]], num_columns: int) -> Iterator[tuple[int, int]]:
    """Yield (turn of the row, row) while groups take turns, until every row had all its turns."""
    queues = [itertools.product(range(num_columns), group) for group in groups]
    for entries in itertools.zip_longest(*queues):
        yield from (entry for entry in entries if entry is not None)


def _token_counts(context: SelectionContext, layer: Layer, num_tokens: int) -> np.ndarray:
    """Return how often each token occurs in X, for the embedding that reads X; else ones."""
    embeddings = [ly for ly in context.layers if ly.kind == "embedding"]
    if len(embeddings) > 1 and any(ly.order is None for ly in embeddings):
        raise SelectionError(
            f"token_frequency=True must know which of {', '.join(ly.name for ly in embeddings)} "
            "is called first. Type: nb.as_network(model, example=X[:1])"
        )
    if layer.name != min(embeddings, key=lambda ly: ly.order or 0).name:
        return np.ones(num_tokens)
    tokens = np.asarray(required(context.X, "data", "clustering"))
    if not np.issubdtype(tokens.dtype, np.integer):
        raise TokenError(
            f"token_frequency=True counts integer tokens, and X is {tokens.dtype}. "
            "Give X as integers, or token_frequency=False."
        )
    padding = context.network.padding
    tokens = tokens.ravel() if padding is None else tokens[tokens != padding.value]
    if tokens.size == 0 or tokens.min() < 0 or tokens.max() >= num_tokens:
        raise TokenError(
            f"{layer.name!r} embeds tokens 0 to {num_tokens - 1}; X holds "
            + (f"{tokens.min()} to {tokens.max()}." if tokens.size else "padding alone.")
        )
    return np.bincount(tokens, minlength=num_tokens).astype(np.float64)
