"""Checks of what every selector promises: declared needs, a full budget, repeatability."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.declarations import NEEDS
from nbcore.common.moments import Moments
from nbcore.distributions.likelihoods import Gaussian
from nbcore.errors import NbcoreError, SelectionError
from nbcore.networks.layers import Layer
from nbcore.networks.network import Network, Params
from nbcore.selection.select import select_bayesian_components
from nbcore.selection.selector import ScoringSelector, SelectionContext, Selector
from nbcore.subsets.split import Weights
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.targets.fisher import LikelihoodCurvature
from nbcore.testing import declared
from nbcore.testing.cases import check
from nbcore.testing.example import TOKENS, example_network, example_params, normal_like_shapes
from nbcore.testing.failure import ConformanceError, require

NUM_PAIRS = {"Embed": 5, "Attention": 10, "Convolution": 4, "Dense": 7, "Head": 3}
"""Pairs asked of each layer of the example; attention's 10 are 3, 3, 2, 2 of its components."""


@check("selector")
def check_options_are_frozen_and_hashable(selector: Selector) -> None:
    """Options are the fields of a frozen dataclass, with defaults, equal by content."""
    declared.check_options(selector)


@check("selector")
def check_unknown_option_is_refused(selector: Selector) -> None:
    """An unknown option is refused, and the nearest one suggested."""
    declared.check_unknown_option("selector", selector)


@check("selector")
def check_needs_are_announced(selector: Selector) -> None:
    """Needs are known ones, and those that the plugin announced."""
    declared.check_spec("selector", selector, selector.needs, frozenset(NEEDS))


@check("selector")
def check_listing_imports_nothing(selector: Selector) -> None:
    """Listing the selectors does not import the library behind it."""
    declared.check_lazy("selector", selector)


@check("selector")
def check_needs_are_all_it_uses(selector: Selector) -> None:
    """With what it declares to need, and nothing else, it chooses."""
    for layer, count in NUM_PAIRS.items():
        try:
            _choose(selector, layer, count)
        except Exception as error:
            raise ConformanceError(
                f"{selector.name!r} fails on the layer {layer!r} with what it declares to need "
                f"({', '.join(sorted(selector.needs)) or 'nothing'}): "
                f"{type(error).__name__}: {error}\n"
                "  limit:    pairs of embeddings, attention, convolutions and dense layers\n"
                "  often:    something read from the context that `needs` does not name (it is "
                "None then), or an array of two axes taken for granted."
            ) from error


@check("selector", applies=bool)
def check_missing_needs_are_refused(selector: Selector) -> None:
    """Without what it declares to need, the selection raises a SelectionError."""
    for need in sorted(selector.needs):
        try:
            _choose(selector, "Dense", 3, given=selector.needs - {need})
        except SelectionError:
            continue
        raise ConformanceError(
            f"{selector.name!r} chooses without {need!r}, which it declares to need.\n"
            "  limit:    a SelectionError\n"
            "  often:    a need that is declared and not used."
        )


@check("selector")
def check_scores_fit(selector: Selector) -> None:
    """Scores have the shapes of the leaves and are finite, or -inf for what must not be chosen."""
    if not isinstance(selector, ScoringSelector):
        return
    context = _context(selector)
    for layer in context.layers:
        scores = selector.score(context, layer)
        for leaf in layer.weights:
            values = np.asarray(scores.get(leaf.path, np.nan), np.float64)
            require(
                values.shape == leaf.shape and np.all(np.isfinite(values) | (values == -np.inf)),
                f"{selector.name!r} scores {leaf.path!r}",
                measured=f"shape {values.shape}, {np.isnan(values).sum()} NaN",
                limit=f"shape {leaf.shape}, finite or -inf",
                cause="scores keyed by layer instead of leaf.path, or a division by zero.",
            )


@check("selector")
def check_budget_is_met_exactly(selector: Selector) -> None:
    """As many different pairs as asked for, in every kind of layer."""
    for name, count in NUM_PAIRS.items():
        layer = _layer(name)
        split = _choose(selector, name, count).split(example_network(), example_params())
        window = {leaf.path: leaf.size // leaf.num_pairs for leaf in layer.weights}
        chosen = sum(int(np.prod(s)) // window[path] for path, s in split.shapes.items())
        require(
            chosen == count,
            f"{selector.name!r} chooses as many pairs of {name!r} as asked for",
            measured=chosen,
            limit=count,
            cause="duplicates, or a number of pairs that is rounded.",
        )


@check("selector")
def check_budget_of_the_network_is_met(selector: Selector) -> None:
    """A selector with scores fills a budget over layers, biases included, to the last weight."""
    if not isinstance(selector, ScoringSelector):
        return
    wanted = 40
    split = _select(selector, None, num_weights=wanted, exclude="Convolution").split(
        example_network(), example_params()
    )
    require(
        split.size == wanted,
        f"{selector.name!r} fills a budget of weights",
        measured=split.size,
        limit=wanted,
        cause="scores of -inf for most entries, or a `restrict` that leaves too few layers.",
    )


@check("selector")
def check_same_key_same_subset(selector: Selector) -> None:
    """The same key gives the same subset, whatever NumPy's global random state is."""
    state = np.random.get_state()
    try:
        found: list[dict[str, ProbabilisticSubset]] = []
        for seed in (1, 2):
            np.random.seed(seed)
            found.append({n: _choose(selector, n, count) for n, count in NUM_PAIRS.items()})
    finally:
        np.random.set_state(state)
    differ = [name for name in NUM_PAIRS if found[0][name] != found[1][name]]
    require(
        not differ,
        "The same key gives the same subset",
        measured=f"{selector.name!r} chose otherwise on {', '.join(differ)}",
        limit="equal subsets",
        cause="numpy.random, or an order that a set or a dict of hashes decides.",
    )


@check("selector")
def check_impossible_budget_is_refused(selector: Selector) -> None:
    """More pairs than there are raise an error that says how many there are."""
    try:
        _choose(selector, "Head", 10_000)
    except NbcoreError:
        return
    raise ConformanceError(
        f"{selector.name!r} was asked for 10,000 pairs of a layer that has 12, and chose.\n"
        "  limit:    a SelectionError"
    )


@dataclass(frozen=True, eq=False)
class _Curvature(LikelihoodCurvature):
    """That of all layers, so that every check reads what was computed once."""

    def of(self, layers: Sequence[Layer]) -> LikelihoodCurvature:
        """Return itself."""
        return self

    def gauss_newton_rows(self, layer: Layer, num_rows: int) -> Weights:
        """Return the rows of a layer, all of them."""
        return {leaf.path: self._every_row[leaf.path] for leaf in layer.leaves}

    @functools.cached_property
    def _every_row(self) -> Weights:
        leaves = tuple(leaf for layer in self.layers for leaf in layer.leaves)
        return super().gauss_newton_rows(Layer("everything", "other", leaves), 2 * len(TOKENS))


@functools.cache
def _curvature() -> LikelihoodCurvature:
    network, params = example_network(), example_params()
    y = np.zeros((len(TOKENS), 2), np.float32)
    layers = network.layers(params)
    return _Curvature(network, params, Gaussian(noise=1.0), TOKENS, y, layers)


@dataclass(frozen=True)
class _Trained:
    """What a selection asks of a trained network; None if it is not given."""

    network: Network
    params: Params
    trajectory: Moments | None
    gradients: Moments | None

    def batch_gradients(self, X: Any, y: Any) -> Moments:
        """Return moments of gradients."""
        del X, y
        return _moments(20)

    def curvature(self, X: Any, y: Any) -> LikelihoodCurvature:
        """Return the curvature at the weights."""
        del X, y
        return _curvature()


@functools.cache
def _moments(seed: int) -> Moments:
    """Return moments of four pytrees like the parameters, all deviations kept."""
    values = [normal_like_shapes(seed + n) for n in range(4)]
    mean = jax.tree.map(lambda *v: np.mean(v, axis=0), *values)
    squares = jax.tree.map(lambda *v: 4 * np.var(v, axis=0), *values)
    recent = jax.tree.map(lambda m, *v: np.stack(v) - m, mean, *values)
    return Moments(*jax.tree.map(jnp.asarray, (np.int32(4), mean, squares, recent)))


def _trained(given: frozenset[str]) -> _Trained:
    return _Trained(
        example_network(),
        example_params(),
        _moments(10) if "trajectory" in given else None,
        _moments(20) if "gradients" in given else None,
    )


def _choose(
    selector: Selector, layer: str, num_pairs: int, given: frozenset[str] | None = None
) -> ProbabilisticSubset:
    return _select(selector, [layer], given, num_pairs_per_layer=num_pairs, include_bias=False)


def _select(
    selector: Selector,
    layers: list[str] | None,
    given: frozenset[str] | None = None,
    **options: Any,
) -> ProbabilisticSubset:
    given = selector.needs if given is None else given
    has_data = bool(given & {"data", "curvature"})
    return select_bayesian_components(
        _trained(given),
        layers,
        selector,
        X=TOKENS if has_data else None,
        y=jnp.zeros((len(TOKENS), 2)) if has_data else None,
        key=1,
        **options,
    )


def _context(selector: Selector) -> SelectionContext:
    det = _trained(selector.needs)
    has_data = bool(selector.needs & {"data", "curvature"})
    return SelectionContext(
        network=det.network,
        params=det.params,
        layers=det.network.layers(det.params),
        X=TOKENS if has_data else None,
        y=jnp.zeros((len(TOKENS), 2)) if has_data else None,
        gradients=det.gradients,
        trajectory=det.trajectory,
        curvature=_curvature() if "curvature" in selector.needs else None,
        key=jax.random.key(1),
    )


def _layer(name: str) -> Layer:
    layers = example_network().layers(example_params())
    return next(layer for layer in layers if layer.name == name)
