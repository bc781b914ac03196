"""The selectors that come with nbcore, held to exact choices."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selecting import TrainedStub, layer, moments_of, select

import nbcore as nb
from nbcore import errors
from nbcore.common import plugins
from nbcore.common.moments import Moments
from nbcore.common.paths import leaves_by_path
from nbcore.networks.layers import Layer
from nbcore.selection.select import get_selector
from nbcore_flax import FlaxMLP

NAMES = [
    "clustering",
    "fisher",
    "gradient",
    "greedy-predictive",
    "laplace-variance",
    "magnitude",
    "permuted",
    "random",
    "snr",
    "swag-variance",
    "variance",
]
DATA = {"X": np.ones((2, 1), np.float32), "y": np.ones(2, np.float32)}


@dataclass(frozen=True)
class Trained(TrainedStub):
    """A trained network with a linear loss, and a curvature that is given by hand."""

    given_curvature: Any = None

    def curvature(self, X: Any, y: Any) -> Any:
        """Return what was given by hand."""
        return self.given_curvature

    def batch_gradients(self, X: Any, y: Any) -> Moments:
        """Return the moments of d/dW (y - x W)^2 / 2 = x (x W - y), one example a batch."""

        def loss(params: Any, x: jax.Array, target: jax.Array) -> jax.Array:
            return 0.5 * jnp.sum((target - x @ params["A"]["kernel"]) ** 2)

        return moments_of(*(jax.grad(loss)(self.params, x, t) for x, t in zip(X, y, strict=True)))


@dataclass(frozen=True)
class Curvature:
    """A curvature whose parts are given by hand, by leaf path."""

    values: dict[str, Any]

    fisher = gauss_newton = property(lambda self: {p: v**2 for p, v in self.values.items()})

    def of(self, layers: Any) -> Curvature:
        """Return itself."""
        return self

    def gauss_newton_rows(self, layer: Layer, num_rows: int) -> dict[str, Any]:
        """Return two rows, of which the second is zero."""
        return {path: jnp.stack([v, 0 * v]) for path, v in self.values.items()}


def everything_known(key: jax.Array) -> Trained:
    """Return a network that has what any selector may need."""
    snapshots = [
        {
            "E": {"embedding": jax.random.normal(k, (7, 4))},
            "D": {"kernel": jax.random.normal(k, (4, 7)), "bias": jnp.zeros(7)},
            "C": {"kernel": jax.random.normal(k, (3, 3, 4, 7)), "bias": jnp.zeros(7)},
            "T": {
                part: {"kernel": jax.random.normal(k, (2, 3, 7) if part == "out" else (7, 2, 3))}
                for part in ("query", "key", "value", "out")
            },
        }
        for k in jax.random.split(key, 3)
    ]
    moments = moments_of(*snapshots, num_recent=2)
    values = leaves_by_path(snapshots[0])
    return Trained(snapshots[0], moments, moments, given_curvature=Curvature(values))


def choose(det: Trained, layer_names: Any, method: Any, *rest: Any, **options: Any) -> Any:
    """Choose with data for the selectors that look at them."""
    looks = isinstance(method, str) and "curvature" in nb.list_selectors()[method].capabilities
    data = DATA if looks else {}
    return nb.select_bayesian_components(det, layer_names, method, *rest, **data, **options)


# ---- what holds for all of them


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_gets_exactly_what_was_asked(name: str) -> None:
    det = everything_known(jax.random.key(1))
    subset = choose(det, None, name, 10)
    ((_, rule),) = subset.terms
    found = {(ly, part): len(set(pairs)) for ly, part, pairs in rule.items}
    attention = {("T", "query"): 3, ("T", "key"): 3, ("T", "value"): 2, ("T", "out"): 2}
    assert found == {("C", ""): 10, ("D", ""): 10, ("E", ""): 10, **attention}
    assert subset == choose(det, None, name, 10)
    split = choose(det, None, name, 10, include_bias=False).split(det.network, det.params)
    assert split.size == 10 + 10 + 10 * 9 + 10


@pytest.mark.parametrize("name", NAMES)
def test_the_full_budget_is_the_whole_layer(name: str) -> None:
    det = everything_known(jax.random.key(2))
    subset = choose(det, ["E", "D", "C"], name, 28)
    whole = nb.ProbabilisticSubset.layers("E", "D", "C")
    masks, expected = (s.masks(det.network.layers(det.params)) for s in (subset, whole))
    assert all((masks[path] == expected[path]).all() for path in expected)


@pytest.mark.parametrize("name", [*NAMES, "first-and-last"])
def test_a_spec_declares_what_its_selector_does(name: str) -> None:
    cls = plugins.load("selector", name)
    assert cls.name == name
    assert cls().needs == nb.list_selectors()[name].capabilities
    assert dataclasses.is_dataclass(cls)
    assert cls() == cls()


# ---- magnitude


def test_magnitude_takes_the_largest_absolute_values() -> None:
    det = Trained(layer([[0.5, -3.0, 1.0], [2.0, 0.0, -1.5]]))
    assert select(det, "magnitude", 3) == [(0, 1), (1, 0), (1, 2)]


def test_magnitude_threshold_includes_its_own_value() -> None:
    det = Trained(layer([[0.5, -3.0, 1.0], [2.0, 0.0, -1.5]]))
    assert select(det, "magnitude", 2, threshold=2.0) == [(0, 1), (1, 0)]
    with pytest.raises(errors.SelectionError, match=r"2 of 6 pairs eligible, fewer than the 3"):
        select(det, "magnitude", 3, threshold=2.0)


def test_magnitude_threshold_of_a_convolution_looks_at_the_mean_of_the_window() -> None:
    kernel = np.zeros((2, 1, 2))
    kernel[:, 0, 0] = [3.0, -1.0]  # mean |w| = 2
    kernel[:, 0, 1] = [1.75, 1.75]  # both entries larger than the smaller one above
    det = Trained(layer(kernel))
    assert select(det, "magnitude", 1, threshold=2.0) == [(0, 0)]
    with pytest.raises(errors.SelectionError, match="1 of 2"):
        select(det, "magnitude", 2, threshold=2.0)


@pytest.mark.parametrize("threshold", [-1.0, float("nan"), float("inf")])
def test_magnitude_refuses_an_impossible_threshold(threshold: float) -> None:
    with pytest.raises(errors.OptionError, match="threshold"):
        select(Trained(layer([[1.0]])), "magnitude", 1, threshold=threshold)


# ---- gradient


def test_gradients_of_opposite_sign_do_not_cancel() -> None:
    batches = [layer([[3.0, 1.0, 0.0]]), layer([[-3.0, 1.0, 2.0]])]  # signed means 0, 1, 1
    det = Trained(batches[0], gradients=moments_of(*batches))  # root mean squares 3, 1, √2
    assert select(det, "gradient", 1) == [(0, 0)]
    assert select(det, "gradient", 2) == [(0, 0), (0, 2)]


def test_gradients_on_given_data_are_the_gradients_of_the_loss() -> None:
    rng = np.random.default_rng(0)
    W, X, y = rng.normal(size=(3, 2)), rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    scores = np.sqrt(np.mean((X[:, :, None] * (X @ W - y)[:, None, :]) ** 2, axis=0))
    best = np.argsort(-scores.ravel())[:3]
    expected = sorted((int(i) // 2, int(i) % 2) for i in best)
    det = Trained(layer(W), gradients=moments_of(layer(-scores), layer(-scores)))
    found = select(det, "gradient", 3, X=X.astype(np.float32), y=y.astype(np.float32))
    assert found == expected


# ---- variance


def test_variance_takes_the_weights_that_moved_most() -> None:
    snapshots = [
        layer([[9.0, 0.0], [1.0, 5.0]]),
        layer([[9.0, 1.0], [4.0, 5.0]]),
        layer([[9.0, 2.0], [1.0, 5.5]]),
    ]  # variances 0, 2/3, 2, 1/18
    det = Trained(snapshots[-1], trajectory=moments_of(*snapshots))
    assert select(det, "variance", 1) == [(1, 0)]
    assert select(det, "variance", 2) == [(0, 1), (1, 0)]
    assert select(det, "variance", 3) == [(0, 1), (1, 0), (1, 1)]


def test_variance_without_swa_says_how_to_get_it() -> None:
    with pytest.raises(errors.SelectionError, match=r"swa=nb\.SWA"):
        select(Trained(layer([[1.0]])), "variance", 1)


# ---- swag-variance


def test_swag_variance_counts_the_last_snapshots_again() -> None:
    """Weight 0 moved early and settled, weight 1 drifts at the end, weight 2 hardly moves."""
    values = [[0.0, 0.0, 0.0], [2.0, 0.0, 0.1], [1.0, 0.0, 0.1], [1.0, 1.5, 0.1]]
    det = Trained(layer([values[-1]]), moments_of(*(layer([v]) for v in values), num_recent=2))
    array = np.array(values)
    means = np.cumsum(array, axis=0) / np.arange(1, 5)[:, None]
    expected = (array.var(axis=0) + ((array - means)[2:] ** 2).sum(axis=0) / (2 - 1)) / 2
    selector = get_selector("swag-variance")
    context: Any = SimpleNamespace(trajectory=det.trajectory)
    (scores,) = selector.score(context, det.network.layers(det.params)[0]).values()
    np.testing.assert_allclose(scores[0], expected, rtol=1e-5)
    assert select(det, "variance", 1) == [(0, 0)]
    assert select(det, "swag-variance", 1) == [(0, 1)]


def test_fewer_snapshots_than_can_be_kept_are_all_kept() -> None:
    values = [layer([[0.0, 4.0]]), layer([[3.0, 4.0]])]
    moments = moments_of(*values, num_recent=9)
    np.testing.assert_allclose(moments.recent["A"]["kernel"][:2], [[[0, 0]], [[1.5, 0]]])
    assert not np.any(moments.recent["A"]["kernel"][2:])
    assert select(Trained(values[1], moments), "swag-variance", 1) == [(0, 0)]


def test_swag_variance_without_deviations_says_how_to_keep_them() -> None:
    values = [layer([[1.0]]), layer([[2.0]])]
    with pytest.raises(errors.SelectionError, match=r"nb\.SWA\(num_recent=20\).*'variance'"):
        select(Trained(values[0], moments_of(*values)), "swag-variance", 1)


# ---- snr


def test_snr_takes_either_end_of_the_ratio() -> None:
    snapshots = [layer([[1.0, 10.0, 0.0, 5.0]]), layer([[-1.0, 12.0, 0.0, 5.0]])]
    det = Trained(layer([[0.0, 11.0, 0.0, 5.0]]), moments_of(*snapshots))
    # deviations 1, 1, 0, 0: the first has no signal, the last no noise, the third neither
    assert select(det, "snr", 1) == [(0, 0)]
    assert select(det, "snr", 2) == [(0, 0), (0, 1)]
    assert select(det, "snr", 1, order="high") == [(0, 3)]
    assert select(det, "snr", 2, order="high") == [(0, 1), (0, 3)]


def test_snr_reads_the_posterior_on_request() -> None:
    det = Trained(
        layer([[1.0, 1.0, 4.0]]),
        given_curvature=Curvature({"A/kernel": jnp.array([[3.0, 0.5, 1.0]])}),
    )  # variances 1 / (g^2 + 1): 0.1, 0.8, 0.5
    assert select(det, "snr", 1, deviation="laplace", **DATA) == [(0, 1)]
    assert select(det, "snr", 2, deviation="laplace", **DATA) == [(0, 0), (0, 1)]
    with pytest.raises(errors.SelectionError, match="needs curvature"):
        select(det, "snr", 1, deviation="laplace")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("snr", {"order": "middle"}),
        ("snr", {"deviation": "mad"}),
        ("snr", {"prior_scale": 0.0}),
        ("laplace-variance", {"covariance": "kron"}),
        ("laplace-variance", {"prior_scale": -1.0}),
        ("greedy-predictive", {"prior_scale": float("inf")}),
        ("greedy-predictive", {"num_rows": 0}),
        ("permuted", {"selector": "clustering"}),
        ("first-and-last", {"selector": "clustering"}),
    ],
)
def test_impossible_options_are_refused(method: str, options: dict[str, Any]) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(errors.OptionError, match=rf"{name}|{value}"):
        get_selector(method, **options)


# ---- permuted


def counts(subset: nb.ProbabilisticSubset, det: Trained) -> dict[str, int]:
    shapes = subset.split(det.network, det.params).shapes
    return {path: int(np.prod(shape)) for path, shape in shapes.items()}


@pytest.mark.parametrize("other", ["magnitude", "variance", "fisher"])
@pytest.mark.parametrize(
    "budget", [{"num_pairs_per_layer": 9}, {"num_weights": 57}, {"fraction": 0.3}]
)
def test_permuted_has_the_same_sizes_in_other_places(other: str, budget: dict[str, Any]) -> None:
    """Biases included: one in the layers D and C for each unit that is met."""
    det = everything_known(jax.random.key(3))
    chosen = choose(det, None, other, **budget)
    control = choose(det, None, get_selector("permuted", selector=other), **DATA, **budget)
    assert counts(control, det) == counts(chosen, det)
    assert control != chosen
    again = choose(det, None, get_selector("permuted", selector=other), key=5, **DATA, **budget)
    assert again != control
    assert counts(again, det) == counts(chosen, det)


def test_permuted_scores_are_the_same_numbers() -> None:
    det = everything_known(jax.random.key(4))
    for described in det.network.layers(det.params):
        context: Any = SimpleNamespace(
            params=det.params, rng_for=lambda name: np.random.default_rng(len(name))
        )
        before, after = (
            get_selector(name).score(context, described) for name in ("magnitude", "permuted")
        )
        for leaf in described.weights:
            windows = [np.sort(leaf.by_pair(np.asarray(s[leaf.path]))) for s in (before, after)]
            flat = [w.reshape(-1, w.shape[-1]) for w in windows]
            rows = [sorted(map(tuple, f.tolist())) for f in flat]
            assert rows[0] == rows[1]


def test_permuted_covers_all_places() -> None:
    weights = np.zeros((3, 4))
    weights[1, 2] = 9.0
    det = Trained({"A": {"kernel": jnp.asarray(weights), "bias": jnp.zeros(4)}})
    met = {select(det, "permuted", 1, key=key)[0] for key in range(90)}
    assert len(met) == 12  # one is missed with a chance of 12 (11/12)^90 = 0.005


# ---- first-and-last


def test_first_and_last_looks_at_no_layer_between() -> None:
    x = np.ones((1, 3), np.float32)
    network = nb.as_network(FlaxMLP(hidden_dims=(4, 4)), example=x)
    params = network.init(jax.random.key(0), x)
    det = Trained(params, network=network)
    best = choose(det, None, "first-and-last", num_weights=12).split(network, params)
    assert best.size == 12
    assert {best.owner(path)[0].name for path in best.paths} <= {"Dense0", "Dense2"}
    whole = choose(det, None, "first-and-last", num_weights=16 + 5).split(network, params)
    expected = nb.ProbabilisticSubset.first_and_last().split(network, params)
    assert whole.shapes == expected.shapes
    pairs = choose(det, None, "first-and-last", 3)
    assert [name for name, _, _ in pairs.terms[0][1].items] == ["Dense0", "Dense2"]
    named = choose(det, ["Dense1", "Dense2"], "first-and-last", 3)
    assert [name for name, _, _ in named.terms[0][1].items] == ["Dense1", "Dense2"]


def test_first_and_last_needs_the_order_of_calls() -> None:
    with pytest.raises(errors.NetworkError, match="order in which layers are called"):
        select(Trained(layer([[1.0, 2.0]])), "first-and-last", 1)


# ---- random


def test_random_depends_on_the_key_alone() -> None:
    det = Trained(layer(np.zeros((20, 20))))
    once = select(det, "random", 30, key=jax.random.key(5))
    assert once == select(det, "random", 30, key=jax.random.key(5))
    assert once == select(Trained(layer(np.ones((20, 20)))), "random", 30, key=jax.random.key(5))
    assert once != select(det, "random", 30, key=jax.random.key(6))


def test_random_covers_all_pairs_evenly() -> None:
    det = Trained(layer(np.zeros((4, 6))))
    keys = jax.random.split(jax.random.key(0), 120)
    counts = np.zeros((4, 6))
    for key in keys:
        pairs = select(det, "random", 6, key=key)
        counts[tuple(np.array(pairs).T)] += 1
    # each pair is in a choice with probability 6/24, independently over keys
    deviation = (counts - 120 / 4) / np.sqrt(120 * 0.25 * 0.75)
    assert np.abs(deviation).max() < 4.5
