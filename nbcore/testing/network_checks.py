"""Checks of what every network promises: one function, exact parts, honest layers."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.paths import leaf_paths, leaves_by_path
from nbcore.errors import NbcoreError, SubsetError
from nbcore.networks.evaluation import compiled_apply
from nbcore.networks.layers import Layer, Leaf
from nbcore.networks.network import Network, Params, as_network
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.testing.cases import check
from nbcore.testing.failure import ConformanceError, require

STEP = 0.25
ROLES = ("kernel", "bias", "embedding", "scale", "state")


@dataclass(frozen=True, eq=False)
class NetworkCase:
    """A model and inputs to check it on.

    Args:
        model: a network, or a model that `nb.as_network` knows.
        X: at least 3 examples, an array or a pytree of arrays with a leading example axis.
        params: its parameters; by default those that the network holds (`network.params`),
            else `network.init(jax.random.key(0), X)`.

    Examples:
        >>> import jax.numpy as jnp
        >>> pair = (lambda key, x: {"D": {"kernel": jnp.ones((3, 1))}}, lambda p, x: x)
        >>> NetworkCase(pair, jnp.ones((4, 3))).name
        'tuple'
    """

    model: Any
    X: Any
    params: Any = None

    @property
    def name(self) -> str:
        """The type of the model."""
        return type(self.model).__name__

    @functools.cached_property
    def network(self) -> Network:
        """The network of the model."""
        return as_network(self.model, example=self.examples(slice(1)))

    @functools.cached_property
    def weights(self) -> Params:
        """The parameters, as arrays."""
        given = self.params
        if given is None:
            given = getattr(self.network, "params", None)
        if given is None:
            given = self.network.init(jax.random.key(0), self.examples(slice(None)))
        return jax.tree.map(jnp.asarray, given)

    @functools.cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the network."""
        return self.network.layers(self.weights)

    @functools.cached_property
    def described(self) -> Network:
        """The network with its layers at hand, so that no split has to trace it again."""
        network = self.network
        return Network.from_functions(network.init, network.apply, layers=lambda _: self.layers)

    def examples(self, indices: Any) -> Any:
        """Return some of the inputs."""
        return jax.tree.map(lambda a: jnp.asarray(a)[indices], self.X)

    def outputs(self, params: Params | None = None) -> np.ndarray:
        """Return the outputs of all inputs."""
        params = self.weights if params is None else params
        return np.asarray(compiled_apply(self.network, params, self.examples(slice(None))))


@check("network")
def check_outputs_have_an_example_axis(case: NetworkCase) -> None:
    """Outputs are `(examples,)` or `(examples, outputs)`, finite floats, for any number of them."""
    for count in (1, 3):
        x = case.examples(slice(count))
        outputs = np.asarray(compiled_apply(case.network, case.weights, x))
        require(
            outputs.ndim in (1, 2)
            and len(outputs) == count
            and np.issubdtype(outputs.dtype, np.floating)
            and np.all(np.isfinite(outputs)),
            "Outputs have a leading example axis and at most one more",
            measured=f"shape {outputs.shape}, {outputs.dtype} for {count} example(s)",
            limit=f"({count},) or ({count}, outputs), finite floats",
            cause="a model of one example: apply it under jax.vmap; or a squeeze() that drops "
            "the example axis if there is one example.",
        )


@check("network")
def check_evaluation_is_deterministic(case: NetworkCase) -> None:
    """Without `train`, outputs are the same each time, with and without a key."""
    x = case.examples(slice(None))
    outputs = [
        np.asarray(case.network.apply(case.weights, x, key=key))
        for key in (None, None, jax.random.key(1))
    ]
    require(
        all(np.array_equal(outputs[0], other) for other in outputs[1:]),
        "Without train=True, outputs are the same each time",
        measured=f"they differ by up to {max(np.abs(o - outputs[0]).max() for o in outputs):.2g}",
        limit="bit for bit the same",
        cause="dropout that is always on: switch it by `train`.",
    )


@check("network")
def check_dropout_needs_a_key(case: NetworkCase) -> None:
    """A network that is random in training says so when no key is given, and follows its key."""
    x = case.examples(slice(None))

    def train(key: Any) -> np.ndarray:
        return np.asarray(case.network.apply(case.weights, x, train=True, key=key))

    first, other = train(jax.random.key(0)), train(jax.random.key(1))
    require(
        np.array_equal(first, train(jax.random.key(0))),
        "In training, the same key gives the same outputs",
        measured="they differ",
        limit="bit for bit the same",
        cause="a random stream of the model's own that runs on from call to call.",
    )
    if np.array_equal(first, other):
        return
    try:
        train(None)
    except NbcoreError:
        return
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
    else:
        message = "no error"
    raise ConformanceError(
        "The network is random in training, and no key was given.\n"
        f"  measured: {message}\n"
        "  limit:    a nb.errors.NetworkError that says to pass key=\n"
        "  often:    a default key, which would drop the same units in every step."
    )


@check("network")
def check_layers_describe_the_parameters(case: NetworkCase) -> None:
    """Every leaf of the parameters is in one layer, with its path, shape and axes."""
    leaves = leaves_by_path(case.weights)
    described = [leaf for layer in case.layers for leaf in layer.leaves]
    paths = [leaf.path for leaf in described]
    require(
        sorted(paths) == sorted(leaf_paths(case.weights)),
        "layers() names every leaf of the parameters once",
        measured=f"missing {sorted(set(leaves) - set(paths))}, unknown or twice "
        f"{sorted(p for p in set(paths) if p not in leaves or paths.count(p) > 1)}",
        limit="the key paths of the parameters, joined by '/'",
        cause="a prefix left out of the paths; see nbcore.networks.layers.leaf_paths(params).",
    )
    names = [layer.name for layer in case.layers]
    require(
        len(set(names)) == len(names),
        "Layers have different names",
        measured=names,
        limit="no name twice",
        cause="names of classes instead of module paths.",
    )
    for leaf in described:
        _check_leaf(leaf, leaves[leaf.path])
    orders = sorted(layer.order for layer in case.layers if layer.order is not None)
    require(
        not orders or orders == list(range(len(case.layers))),
        "The call order is known for all layers or for none",
        measured=orders,
        limit=f"0 to {len(case.layers) - 1}",
        cause="order set by hand; in_call_order(layers, apply, params, x) finds it.",
    )


def _check_leaf(leaf: Leaf, array: Any) -> None:
    axes = leaf.pair_axes
    is_weight = leaf.role in ("kernel", "embedding")
    require(
        leaf.role in ROLES
        and leaf.shape == np.shape(array)
        and len(set(axes)) == len(axes) == len(leaf.axes)
        and set(axes) <= set(range(len(leaf.shape)))
        and (bool(axes) or not is_weight),
        f"The description of {leaf.path!r} fits its array",
        measured=leaf,
        limit=f"shape {np.shape(array)}, a role of {', '.join(ROLES)}, different pair axes, a "
        "name for each",
        cause="the canonical shape instead of the storage shape; pair_axes say how they differ.",
    )
    require(
        leaf.role == "state" or jnp.issubdtype(jnp.result_type(array), jnp.floating),
        f"{leaf.path!r} can be sampled",
        measured=f"{jnp.result_type(array)} with the role {leaf.role!r}",
        limit="floats, or the role 'state'",
        cause="a counter or a random key among the parameters.",
    )


@check("network")
def check_parts_put_back_are_the_same_network(case: NetworkCase) -> None:
    """`apply(merge(split.stochastic))` is `apply(params)`, bit for bit, for every layer."""
    before = case.outputs()
    sizes = [layer.name for layer in case.layers if layer.size]
    subsets = {name: ProbabilisticSubset.layers(name) for name in sizes}
    for name, subset in {"everything": ProbabilisticSubset.everything(), **subsets}.items():
        split = subset.split(case.described, case.weights)
        merged = split.merge(split.stochastic)
        require(
            np.array_equal(before, case.outputs(merged)),
            f"The network with {name!r} split off and put back is the same function",
            measured=f"outputs differ by up to {np.abs(before - case.outputs(merged)).max():.2g}",
            limit="bit for bit the same",
            cause="an apply() that reads weights from the model instead of `params`.",
        )


@check("network")
def check_empty_subset_is_refused(case: NetworkCase) -> None:
    """A subset without a weight is a SubsetError that names the layers."""
    everything = ProbabilisticSubset.everything()
    try:
        (everything - everything).split(case.network, case.weights)
    except SubsetError:
        return
    raise ConformanceError(
        "An empty subset was accepted.\n"
        "  limit:    a SubsetError\n"
        "  often:    a split() of the adapter's own."
    )


@check("network")
def check_pairs_reach_their_outputs(case: NetworkCase) -> None:
    """A pair moves its own entries, and changes the outputs that depend on them, no others."""
    before = case.outputs()
    for layer in case.layers:
        for leaf in layer.weights:
            moved = [_moved_by(case, layer, leaf, pair) for pair in _probes(leaf)]
            reach = [np.abs(case.outputs(params) - before) for params in moved]
            require(
                any(np.any(change > 0) for change in reach)
                and all(np.all(np.isfinite(change)) for change in reach),
                f"Weights of {leaf.path!r} change the outputs",
                measured=f"moving the pairs {[tuple(p) for p in _probes(leaf)]} by {STEP} changes "
                "nothing, or makes outputs infinite",
                limit="a finite change",
                cause="an apply() that does not read this leaf, or inputs that never reach it.",
            )
            for pair, change in zip(_probes(leaf), reach, strict=True):
                _check_reach(case, layer, leaf, pair, change)


def _probes(leaf: Leaf) -> list[np.ndarray]:
    """Return up to 4 pairs, spread over the leaf."""
    flat = np.unique(np.linspace(0, leaf.num_pairs - 1, 4).astype(int))
    return list(np.stack(np.unravel_index(flat, leaf.pair_shape), axis=1))


def _moved_by(case: NetworkCase, layer: Layer, leaf: Leaf, pair: np.ndarray) -> Params:
    """Move one pair through a split, and hold that nothing else moved."""
    index = [tuple(int(i) for i in pair)]
    pairs: Any = {layer.name: {leaf.component: index} if leaf.component else index}
    split = ProbabilisticSubset.pairs(pairs, include_bias=False).split(case.described, case.weights)
    params = split.merge(jax.tree.map(lambda a: a + STEP, split.stochastic))
    moved = {
        path: np.flatnonzero(np.asarray(a) != np.asarray(b)).tolist()
        for (path, a), b in zip(
            leaves_by_path(params).items(), jax.tree.leaves(case.weights), strict=True
        )
    }
    moved = {path: where for path, where in moved.items() if where}
    expected = {leaf.path: sorted(leaf.entries(np.asarray([pair])).ravel().tolist())}
    require(
        moved == expected,
        f"The pair {index[0]} of {leaf.path!r} is one weight, or one window",
        measured=f"flat entries that moved: {moved}",
        limit=expected,
        cause="pair_axes in the wrong order, or two leaves with one path.",
    )
    return params


def _check_reach(
    case: NetworkCase, layer: Layer, leaf: Leaf, pair: np.ndarray, change: np.ndarray
) -> None:
    """A pair of the output layer reaches one output; a token, the examples that have it."""
    columns = change.reshape(len(change), -1)
    if layer.is_output and layer.kind == "dense" and leaf.pair_shape[-1] == columns.shape[1]:
        others = np.delete(columns, int(pair[-1]), axis=1)
        require(
            not np.any(others),
            f"The pair {tuple(pair)} of the output layer {layer.name!r} reaches output {pair[-1]}",
            measured=f"other outputs change by up to {others.max(initial=0):.2g}",
            limit="0",
            cause="a kernel stored as (out, in) with pair_axes=(0, 1); give pair_axes=(1, 0).",
        )
    tokens = case.X
    if _reads_tokens(case, layer) and leaf.role == "embedding":
        token = pair[len(leaf.stacks)]
        without = ~np.any(np.asarray(tokens).reshape(len(columns), -1) == token, axis=1)
        require(
            not np.any(columns[without]),
            f"Token {token} of {layer.name!r} reaches the examples that contain it",
            measured=f"others change by up to {columns[without].max(initial=0):.2g}",
            limit="0",
            cause="an embedding stored as (feature, token) with pair_axes=(0, 1).",
        )


def _reads_tokens(case: NetworkCase, layer: Layer) -> bool:
    """Whether a layer is the embedding that reads the inputs."""
    embeddings = [ly for ly in case.layers if ly.kind == "embedding" and ly.order is not None]
    is_first = bool(embeddings) and layer == min(embeddings, key=lambda ly: ly.order or 0)
    is_array = len(jax.tree.leaves(case.X)) == 1 and hasattr(case.X, "dtype")
    return is_first and is_array and jnp.issubdtype(case.X.dtype, jnp.integer)
