"""Choosing the weights that are worth sampling: rank what selectors score, cut, and check."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import jax
import numpy as np

from nbcore.checks import check_data, check_inputs
from nbcore.errors import DataError, OptionError, SelectionError
from nbcore.keys import as_key
from nbcore.layers import ATTENTION_PARTS, Layer, Leaf
from nbcore.moments import Moments
from nbcore.network import Inputs, Key, Network, Params
from nbcore.rules import matches, unknown_layer
from nbcore.selector import (
    NEEDS,
    ChoosingSelector,
    ScoringSelector,
    SelectionContext,
    Selector,
    get_selector,
    list_selectors,
)
from nbcore.subset import ProbabilisticSubset

__all__ = ["Selector", "Trained", "get_selector", "list_selectors", "select_bayesian_components"]


class Trained(Protocol):
    """What a selection needs of a trained network, such as `DeterministicNN`."""

    @property
    def network(self) -> Network:
        """The network."""
        ...

    @property
    def params(self) -> Params:
        """Its trained parameters."""
        ...

    @property
    def trajectory(self) -> Moments | None:
        """Moments of the weights over the SWA snapshots; None without SWA."""
        ...

    @property
    def gradients(self) -> Moments | None:
        """Moments of the per-batch gradients that were streamed while training."""
        ...

    def batch_gradients(self, X: Inputs, y: Any) -> Moments:
        """Return the moments of the per-batch gradients at the trained parameters."""
        ...


def select_bayesian_components(
    det: Trained,
    layer_names: str | Sequence[str] | None = None,
    method: str | Selector = "variance",
    num_pairs_per_layer: int = 32,
    *,
    X: Inputs | None = None,
    y: Any | None = None,
    key: Key | int | None = None,
    exclude: str | Sequence[str] = (),
    include_bias: bool = True,
    **options: Any,
) -> ProbabilisticSubset:
    """Choose the weights of each layer that are worth sampling.

    A pair stands for one entry of a kernel or embedding, in a convolution for a whole window,
    whose scores are averaged. Equal scores go to the lowest index.

    Args:
        det: a trained network, such as `DeterministicNN`.
        layer_names: layers, components (`Block0_Attention/query`) or patterns of them; None
            means every layer that has weights.
        method: name of a selector (see `list_selectors`) or a selector.
        num_pairs_per_layer: how many pairs of each layer; in a layer with components, such as
            attention, in total: split evenly over them, what remains goes to the first ones
            (query, key, value, out).
        X: inputs, leading axis examples, for selectors that look at data; with `y`, the
            gradients are computed on them instead of those met while training.
        y: targets of `X`.
        key: random key or seed; None is the fixed key `jax.random.key(0)`, so the same call
            always chooses the same weights.
        exclude: layers, components or patterns to leave out.
        include_bias: whether the bias entries of the pairs become stochastic too.
        **options: options of the selector, where `method` is a name.

    Returns:
        The subset, with pairs in ascending order.

    Raises:
        UnknownLayerError: a name or pattern matches nothing.
        UnknownSelectorError: no selector has the name `method`.
        OptionError: an option is unknown or impossible.
        DataError: `X` or `y` cannot be used.
        SelectionError: a layer has fewer pairs than asked for, or what the selector needs is
            missing: SWA snapshots, gradients, data.

    Examples:
        >>> import jax.numpy as jnp, nbcore as nb
        >>> from types import SimpleNamespace
        >>> det = SimpleNamespace(  # stands in for a trained nb.DeterministicNN
        ...     network=nb.as_network((lambda key, x: {}, lambda params, x: x)),
        ...     params={"Dense0": {"kernel": jnp.array([[3.0, 0.1], [-0.2, -2.0]])}},
        ...     trajectory=None,
        ... )
        >>> subset = nb.select_bayesian_components(det, ["Dense0"], "magnitude", 2)
        >>> subset == nb.ProbabilisticSubset.pairs({"Dense0": [(0, 0), (1, 1)]})
        True
    """
    selector = get_selector(method, **options)
    layers = det.network.layers(det.params)
    shares = _shares(_selected(layers, layer_names, exclude), num_pairs_per_layer)
    _check_data(det.network, X, y)
    _check_needs(det, selector, X)
    context = SelectionContext(
        network=det.network,
        params=det.params,
        layers=layers,
        X=X,
        y=y,
        gradients=_gradients(det, selector, X, y),
        trajectory=det.trajectory,
        key=as_key(key),
    )
    pairs = {layer.name: _pairs(selector, context, layer, parts) for layer, parts in shares}
    return ProbabilisticSubset.pairs(pairs, include_bias=include_bias)


_Parts = list[tuple[Leaf, int]]
"""Weight leaves of one layer, each with its share of the pairs."""


def _selected(
    layers: tuple[Layer, ...], layer_names: str | Sequence[str] | None, exclude: str | Sequence[str]
) -> list[tuple[Layer, list[Leaf]]]:
    """Return the layers that are asked for, each with the weight leaves that are."""
    included = _matching(layers, "**" if layer_names is None else layer_names)
    excluded = _matching(layers, exclude, only_weights=False)
    wanted = included - excluded
    if not wanted:
        raise SelectionError(
            f"No layer is left to choose from: layer_names={layer_names!r}, exclude={exclude!r}. "
            f"Possible: {', '.join(layer.name for layer in layers if layer.weights)}."
        )
    kept = [ly for ly in layers if any(weight.path in wanted for weight in ly.weights)]
    return [(ly, [w for w in _in_order(ly) if w.path in wanted]) for ly in kept]


def _matching(
    layers: tuple[Layer, ...], patterns: str | Sequence[str], *, only_weights: bool = True
) -> set[str]:
    """Return the paths of the leaves that match; a pattern that matches none raises."""
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matched = [(ly, leaf) for ly in layers for leaf in ly.leaves if matches(pattern, ly, leaf)]
        if not matched:
            raise unknown_layer(pattern, layers)
        paths = {leaf.path for ly, leaf in matched if leaf in ly.weights or not only_weights}
        if not paths:
            raise SelectionError(
                f"{pattern!r} matches no kernel or embedding, so there are no pairs to choose. "
                f"Make it stochastic as a whole: ProbabilisticSubset.layers({pattern!r})"
            )
        found |= paths
    return found


def _in_order(layer: Layer) -> list[Leaf]:
    """Return the weight leaves with query, key, value, out in this order."""
    if len({leaf.component for leaf in layer.weights}) < len(layer.weights):
        raise SelectionError(
            f"Pairs cannot tell the kernels of {layer.name!r} apart "
            f"({', '.join(leaf.path for leaf in layer.weights)}). Type: exclude=[{layer.name!r}]"
        )
    rank = {part: n for n, part in enumerate(ATTENTION_PARTS)}
    return sorted(layer.weights, key=lambda leaf: rank.get(leaf.component, len(rank)))


def _shares(selected: list[tuple[Layer, list[Leaf]]], num_pairs: int) -> list[tuple[Layer, _Parts]]:
    """Split the pairs of each layer evenly over its weight leaves."""
    is_integer = isinstance(num_pairs, int | np.integer) and not isinstance(num_pairs, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not is_integer or num_pairs < 1:
        raise OptionError(
            f"num_pairs_per_layer counts pairs, got {num_pairs!r}. Give an integer of at least 1."
        )
    shares: list[tuple[Layer, _Parts]] = []
    for layer, weights in selected:
        each, remainder = divmod(int(num_pairs), len(weights))
        counts = [each + (n < remainder) for n in range(len(weights))]
        shares.append((layer, [(w, c) for w, c in zip(weights, counts, strict=True) if c]))
    short = [(ly, w, c) for ly, parts in shares for w, c in parts if c > w.num_pairs]
    if short:
        shown = "; ".join(f"{_where(ly, w)} has {w.num_pairs} of {c}" for ly, w, c in short)
        possible = min(len(ws) * min(w.num_pairs for w in ws) for _, ws in selected)
        raise SelectionError(
            f"num_pairs_per_layer={num_pairs} asks for more pairs than there are: {shown}. Type: "
            f"num_pairs_per_layer={possible}, or leave out: "
            f"exclude={list(dict.fromkeys(ly.name for ly, _, _ in short))}"
        )
    return shares


def _check_data(network: Network, X: Inputs | None, y: Any | None) -> None:
    if X is None and y is not None:
        raise DataError("Got y without X. Give both, or neither.")
    if X is not None and y is not None:
        check_data(network, X, y)
    elif X is not None:
        check_inputs(network, X)


def _check_needs(det: Trained, selector: Selector, X: Inputs | None) -> None:
    """Raise where something that a selector needs is missing; `_gradients` sees to gradients."""
    unknown = sorted(selector.needs - set(NEEDS))
    if unknown:
        raise SelectionError(
            f"The selector {selector.name!r} needs {', '.join(unknown)}, which a selection cannot "
            f"give. Possible: {', '.join(NEEDS)}."
        )
    if "data" in selector.needs and X is None:
        raise SelectionError(
            f"The selector {selector.name!r} needs data. "
            f"Type: select_bayesian_components(det, method={selector.name!r}, X=X)"
        )
    snapshots = 0 if det.trajectory is None else int(det.trajectory.count)
    if "trajectory" in selector.needs and snapshots < 2:
        raise SelectionError(
            f"The selector {selector.name!r} needs at least 2 snapshots of the weights, and "
            f"training took {snapshots}. Train with nb.DeterministicNN(..., swa_config=nb.SWA(...))"
            ", with 2 or more steps in its window; or choose method='gradient' or 'magnitude'."
        )


def _gradients(det: Trained, selector: Selector, X: Inputs | None, y: Any | None) -> Moments | None:
    """Return the gradients on X and y, or those of the training, for selectors that need them."""
    if "gradients" not in selector.needs:
        return None
    gradients = det.gradients if X is None else None
    if X is not None and y is not None:
        gradients = det.batch_gradients(X, y)
    if gradients is None or int(gradients.count) < 1:
        why = "none were kept while training" if X is None else "X was given without y"
        raise SelectionError(
            f"The selector {selector.name!r} needs gradients, and {why}. "
            f"Type: select_bayesian_components(det, method={selector.name!r}, X=X, y=y)"
        )
    return gradients


def _pairs(
    selector: ScoringSelector | ChoosingSelector,
    context: SelectionContext,
    layer: Layer,
    parts: _Parts,
) -> dict[str, np.ndarray]:
    """Return the pairs of a layer by component, ascending."""
    if isinstance(selector, ScoringSelector):
        scores = selector.score(context, layer)
        flat = [_best(selector, scores, layer, weight, count) for weight, count in parts]
    else:
        flat = [_chosen(selector, context, layer, weight, count) for weight, count in parts]
    return {
        weight.component: np.stack(np.unravel_index(np.sort(index), weight.pair_shape), axis=1)
        for index, (weight, _) in zip(flat, parts, strict=True)
    }


def _best(
    selector: ScoringSelector, scores: Mapping[str, Any], layer: Layer, weight: Leaf, count: int
) -> np.ndarray:
    """Return the flat indices of the pairs with the highest scores."""
    who = f"The selector {selector.name!r} on {_where(layer, weight)}"
    values = np.asarray(scores.get(weight.path, np.nan), np.float64)
    if values.shape != weight.shape:
        raise SelectionError(
            f"{who} returned scores for {sorted(scores)}, of shape {values.shape}; "
            f"expected {weight.path!r} of shape {weight.shape}."
        )
    if np.isnan(values).any() or np.isposinf(values).any():
        raise SelectionError(
            f"{who} returned scores that are not finite: training has probably diverged. Train "
            "again with a smaller learning_rate."
        )
    ranked = weight.by_pair(values).mean(axis=-1).ravel()
    eligible = int(np.count_nonzero(ranked > -np.inf))
    if eligible < count:
        raise SelectionError(
            f"{who} finds {eligible} of {len(ranked)} pairs eligible, fewer than the {count} asked "
            "for. Ask for fewer pairs, or relax the selector's options."
        )
    return np.argsort(-ranked, kind="stable")[:count]


def _chosen(
    selector: ChoosingSelector, context: SelectionContext, layer: Layer, weight: Leaf, count: int
) -> np.ndarray:
    """Return the flat indices of the pairs that a selector chooses, checked."""
    part = replace(layer, leaves=tuple(w for w in layer.leaves if w.component == weight.component))
    stream = np.uint32(zlib.crc32(f"{layer.name}/{weight.component}".encode()))
    pairs = np.asarray(
        selector.choose(context, part, count, jax.random.fold_in(context.key, stream))
    )
    expected = (count, len(weight.pair_axes))
    fits = pairs.shape == expected and np.issubdtype(pairs.dtype, np.integer)
    if fits and ((pairs >= 0) & (pairs < weight.pair_shape)).all():
        flat = np.unique(np.ravel_multi_index(tuple(pairs.T), weight.pair_shape))
        if len(flat) == count:
            return flat
    raise SelectionError(
        f"The selector {selector.name!r} on {_where(layer, weight)} must return distinct pairs as "
        f"integers of shape {expected} below {weight.pair_shape}; it returned {pairs.dtype} of "
        f"shape {pairs.shape}, or duplicates, or indices out of range."
    )


def _where(layer: Layer, weight: Leaf) -> str:
    return repr(f"{layer.name}/{weight.component}" if weight.component else layer.name)
