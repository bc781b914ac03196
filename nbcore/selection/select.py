"""Selection of the weights that are worth sampling: layers, budget, and the selector's context."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Protocol

import numpy as np

from nbcore.common.keys import as_key
from nbcore.common.moments import Moments
from nbcore.common.options import check_names
from nbcore.errors import DataError, OptionError, SelectionError
from nbcore.networks.inputs import Missing, check_data, check_inputs
from nbcore.networks.layers import ATTENTION_PARTS, Layer, Leaf
from nbcore.networks.names import Names
from nbcore.networks.network import Inputs, Key, Network, Params
from nbcore.selection.ranking import (
    Budget,
    Part,
    Selected,
    best_of_layers,
    best_of_network,
    check_capacity,
    shares,
)
from nbcore.selection.selector import (
    RestrictingSelector,
    SelectionContext,
    Selector,
    get_selector,
    list_selectors,
)
from nbcore.subsets.patterns import matched, unknown_layer
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.targets.fisher import LikelihoodCurvature

__all__ = [
    "Selector",
    "Trained",
    "arguments_on",
    "check_arguments",
    "get_selector",
    "list_selectors",
    "select_bayesian_components",
]


class Trained(Protocol):
    """A trained network, such as `DeterministicNN`, as a selection reads it."""

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

    def curvature(self, X: Inputs, y: Any) -> LikelihoodCurvature:
        """Return the curvature of the likelihood of these data at the trained parameters."""
        ...


def select_bayesian_components(
    det: Trained,
    layer_names: str | Sequence[str] | None = None,
    method: str | Selector = "variance",
    num_pairs_per_layer: int | None = None,
    *,
    num_weights: int | None = None,
    fraction: float | None = None,
    X: Inputs | None = None,
    y: Any | None = None,
    key: Key | int | None = None,
    exclude: str | Sequence[str] = (),
    include_bias: bool = True,
    **options: Any,
) -> ProbabilisticSubset:
    """Choose the weights that are worth sampling.

    A pair is one entry of a kernel or embedding; in a convolution it is a whole window, whose
    scores are averaged. Of equal scores, the earlier layer and then the lower index wins. At most
    one budget is given: pairs of each layer, or weights of the network, for which scores are
    compared across layers without rescaling.

    Args:
        det: a trained network, such as `DeterministicNN`.
        layer_names: layers, components (`Block0_Attention/query`) or patterns of them; None
            means every layer that has weights.
        method: name of a selector (see `list_selectors`) or a selector.
        num_pairs_per_layer: how many pairs of each layer, 32 if no budget is given; in a layer
            with components, such as attention, in total: split evenly over them, the
            remainder over the first ones (query, key, value, out).
        num_weights: how many weights of all layers together, the biases of the pairs included.
            Never more, and exactly as many unless the rest is less than any remaining pair costs.
        fraction: the same, as a fraction of all weights of the network.
        X: inputs, leading axis examples, for selectors that look at data; with `y`, the
            gradients are computed on them instead of taken from training.
        y: targets of `X`, in y's own units.
        key: random key or seed; None is the fixed key `jax.random.key(0)`, so the same call
            always chooses the same weights.
        exclude: layers, components or patterns to leave out.
        include_bias: whether the bias entries of the pairs become stochastic too.
        **options: options of the selector, if `method` is a name.

    Returns:
        The subset, with pairs in ascending order.

    Raises:
        UnknownLayerError: a name or pattern matches nothing.
        UnknownSelectorError: no selector has the name `method`.
        OptionError: an option is unknown or impossible.
        DataError: `X` or `y` cannot be used.
        SelectionError: there are fewer weights than asked for, or a need of the selector is
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
    budget = Budget(num_pairs_per_layer, num_weights, fraction)
    layers = det.network.layers(det.params)
    selected = _restricted(selector, _selected(layers, layer_names, exclude))
    wanted = shares(selected, budget.pairs) if budget.pairs else []
    total = 0 if wanted else budget.weights(sum(layer.size for layer in layers))
    check_capacity(selected, total, include_bias=include_bias)
    inputs, targets = _read(det, X, y)
    _check_needs(det, selector, X, y)
    context = SelectionContext(
        network=det.network,
        params=det.params,
        layers=layers,
        X=inputs,
        y=targets,
        gradients=_gradients(det, selector, X, y),
        trajectory=det.trajectory,
        curvature=_curvature(det, selector, X, y, selected),
        key=as_key(key),
    )
    if wanted:
        pairs = best_of_layers(selector, context, wanted)
    else:
        pairs = best_of_network(selector, context, selected, total, include_bias=include_bias)
    return ProbabilisticSubset.pairs(pairs, include_bias=include_bias)


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Check arguments of `select_bayesian_components` as far as that is possible without a network.

    Args:
        arguments: all but `det`; options of the selector among them.

    Raises:
        OptionError: it is not a mapping, a name or an option is unknown, or a budget is impossible.
        UnknownSelectorError: no selector has the name `method`.
    """
    if not isinstance(arguments, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(
            "A selection is a mapping of arguments of nb.select_bayesian_components, such as "
            f"{{'method': 'variance', 'num_pairs_per_layer': 32}}; got {arguments!r}."
        )
    selector = get_selector(arguments.get("method", _NAMED["method"].default))
    own = [f.name for f in fields(selector)] if is_dataclass(selector) else []
    known = [name for name in _NAMED if name not in ("det", "options")]
    check_names([*known, *own], owner="A selection", names=arguments)
    _selector_of(arguments)
    Budget(*(arguments.get(f.name) for f in fields(Budget)))


def arguments_on(arguments: Mapping[str, Any], X: Inputs, y: Any) -> dict[str, Any]:
    """Return arguments of `select_bayesian_components`, with data if the selector needs some.

    Args:
        arguments: all but `det`; options of the selector among them; data in it are kept.
        X: inputs.
        y: targets.
    """
    selector = _selector_of(arguments)
    looks = bool(selector.needs & {"data", "curvature"}) and "X" not in arguments
    return {**arguments, **({"X": X, "y": y} if looks else {})}


_NAMED = inspect.signature(select_bayesian_components).parameters


def _selector_of(arguments: Mapping[str, Any]) -> Selector:
    options = {name: value for name, value in arguments.items() if name not in _NAMED}
    return get_selector(arguments.get("method", _NAMED["method"].default), **options)


def _selected(
    layers: tuple[Layer, ...], layer_names: str | Sequence[str] | None, exclude: str | Sequence[str]
) -> Selected:
    """Return the layers that are asked for, each with the weight leaves that are."""
    wanted = _matching(layers, "**" if layer_names is None else layer_names)
    for path, excluded in _matching(layers, exclude, only_weights=False).items():
        wanted[path] = wanted.get(path, np.zeros_like(excluded)) & ~excluded
    if not any(mask.any() for mask in wanted.values()):
        raise SelectionError(
            f"No layer is left to choose from: layer_names={layer_names!r}, exclude={exclude!r}. "
            f"Possible: {', '.join(layer.name for layer in layers if layer.weights)}."
        )
    wanted = {path: mask for path, mask in wanted.items() if mask.any()}
    kept = [ly for ly in layers if any(weight.path in wanted for weight in ly.weights)]
    return [
        (ly, [Part(w, wanted[w.path]) for w in _in_order(ly) if w.path in wanted]) for ly in kept
    ]


def _restricted(selector: Selector, selected: Selected) -> Selected:
    """Return the layers that the selector does not leave out."""
    if not isinstance(selector, RestrictingSelector):
        return selected
    kept = {layer.name for layer in selector.restrict([layer for layer, _ in selected])}
    found = [(layer, weights) for layer, weights in selected if layer.name in kept]
    if not found:
        raise SelectionError(
            f"The selector {selector.name!r} leaves out every layer that it was asked for: "
            f"{', '.join(layer.name for layer, _ in selected)}. Name other layers."
        )
    return found


def _matching(
    layers: tuple[Layer, ...], patterns: str | Sequence[str], *, only_weights: bool = True
) -> dict[str, np.ndarray]:
    """Return which layers of the stacks of each leaf match `(leaf.num_stacked,)`, by path.

    Raises:
        UnknownLayerError, SelectionError: a pattern matches nothing, or no weights.
    """
    found: dict[str, np.ndarray] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        hits = [(leaf, matched(pattern, ly, leaf)) for ly in layers for leaf in ly.leaves]
        hits = [(leaf, hit) for leaf, hit in hits if hit is not None]
        if not hits:
            raise unknown_layer(pattern, layers)
        hits = [(leaf, hit) for leaf, hit in hits if leaf in hit.layer.weights or not only_weights]
        if not hits:
            raise SelectionError(
                f"{pattern!r} matches no kernel or embedding, so there are no pairs to choose. "
                f"Make it stochastic as a whole: ProbabilisticSubset.layers({pattern!r})"
            )
        for leaf, hit in hits:
            mask = leaf.by_pair(hit.mask(leaf)).reshape(leaf.num_stacked, -1 if leaf.size else 0)
            layers_of = mask.any(axis=1)
            found[leaf.path] = found.get(leaf.path, np.zeros_like(layers_of)) | layers_of
    return found


def _in_order(layer: Layer) -> list[Leaf]:
    """Return the weight leaves with query, key, value, out in this order."""
    if len({leaf.component for leaf in layer.weights}) < len(layer.weights):
        raise SelectionError(
            f"Pairs cannot distinguish the kernels of {layer.name!r} "
            f"({', '.join(leaf.path for leaf in layer.weights)}). Type: exclude=[{layer.name!r}]"
        )
    rank = {part: n for n, part in enumerate(ATTENTION_PARTS)}
    return sorted(layer.weights, key=lambda leaf: rank.get(leaf.component, len(rank)))


def _read(det: Trained, X: Inputs | None, y: Any | None) -> tuple[Inputs | None, Any]:
    """Return checked arrays and numbers, by the names of features and classes of the network."""
    names: Names = getattr(det, "names", Names())
    if X is None and y is not None:
        raise DataError("Got y without X. Give both, or neither.")
    inputs = None if X is None else names.inputs(X)
    targets = None if y is None else names.targets(y)
    if inputs is not None and targets is not None:
        missing: Missing = getattr(getattr(det, "likelihood", None), "missing", "error")
        check_data(det.network, inputs, targets, missing=missing)
    elif inputs is not None:
        check_inputs(det.network, inputs)
    return inputs, targets


def _check_needs(det: Trained, selector: Selector, X: Inputs | None, y: Any | None) -> None:
    """Raise if something that a selector needs is missing; `_gradients` checks gradients."""
    if "data" in selector.needs and X is None:
        raise SelectionError(
            f"The selector {selector.name!r} needs data. "
            f"Type: select_bayesian_components(det, method={selector.name!r}, X=X)"
        )
    if "curvature" in selector.needs and (X is None or y is None):
        raise SelectionError(
            f"The selector {selector.name!r} needs curvature: gradients on data with targets. "
            f"Type: select_bayesian_components(det, method={selector.name!r}, X=X, y=y)"
        )
    snapshots = 0 if det.trajectory is None else int(det.trajectory.count)
    if "trajectory" in selector.needs and snapshots < 2:
        raise SelectionError(
            f"The selector {selector.name!r} needs at least 2 snapshots of the weights, and "
            f"training took {snapshots}. Train with nb.DeterministicNN(..., swa=nb.SWA(...))"
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


def _curvature(
    det: Trained, selector: Selector, X: Inputs | None, y: Any | None, selected: Selected
) -> LikelihoodCurvature | None:
    """Return the curvature in the weights of the selected layers, not computed yet."""
    if "curvature" not in selector.needs or X is None or y is None:
        return None
    return det.curvature(X, y).of([layer for layer, _ in selected])
