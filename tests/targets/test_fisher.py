"""Fisher and Gauss-Newton of a trained network, and the selectors that read them."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbcore as nb
from nbcore import errors
from nbcore.selection.select import get_selector
from nbcore.targets import curvature
from nbcore.targets import fisher as likelihood_curvature
from nbcore.targets.fisher import LikelihoodCurvature
from nbcore.testing.example import TOKENS, example_network, example_params
from nbcore_flax import FlaxMLP
from nbcore_selectors.greedy_predictive import greedy_gains

NOISE = 0.5


def linear(params: Any, x: jax.Array) -> jax.Array:
    return x @ params["A"]["kernel"] + params["A"]["bias"]


LINEAR = nb.Network.from_functions(lambda key, x: {}, linear, example=np.ones((1, 3), np.float32))


def linear_case(rows: int = 7) -> tuple[LikelihoodCurvature, np.ndarray, np.ndarray]:
    """Return the curvature of a linear regression with two outputs, its X and its residuals."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(rows, 3)), rng.normal(size=(rows, 2))
    kernel, bias = rng.normal(size=(3, 2)), rng.normal(size=2)
    params = {"A": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}
    X, y = X.astype(np.float32), y.astype(np.float32)
    layers = LINEAR.layers(params)
    known = LikelihoodCurvature(LINEAR, params, nb.Gaussian(noise=NOISE), X, y, layers)
    return known, X, y - (X @ kernel + bias)


def trained(known: LikelihoodCurvature) -> Any:
    """Return what a selection asks of a trained network."""
    return SimpleNamespace(
        network=known.network, params=known.params, trajectory=None, gradients=None,
        curvature=lambda X, y: known,
    )  # fmt: skip


def select(known: LikelihoodCurvature, method: str, num_pairs: int, **options: Any) -> Any:
    """Return the pairs of the only layer."""
    subset = nb.select_bayesian_components(
        trained(known), None, method, num_pairs, X=known.X, y=known.y, **options
    )
    ((_, rule),) = subset.terms
    return list(rule.items[0][2])


def best(scores: np.ndarray, count: int) -> list[tuple[int, ...]]:
    """Return the index pairs of the highest scores, ascending."""
    order = np.argsort(-scores.ravel(), kind="stable")[:count]
    return sorted(tuple(int(i) for i in np.unravel_index(flat, scores.shape)) for flat in order)


# ---- linear regression, where all is known


def test_fisher_of_a_linear_regression_is_its_closed_form() -> None:
    known, X, residuals = linear_case()
    gradients = X[:, :, None] * residuals[:, None, :] / NOISE**2
    expected = (gradients**2).mean(axis=0)
    np.testing.assert_allclose(known.fisher["A/kernel"], expected, rtol=1e-4)
    np.testing.assert_allclose(
        known.fisher["A/bias"], (residuals**2).mean(axis=0) / NOISE**4, rtol=1e-4
    )
    assert select(known, "fisher", 3) == best(expected, 3)


def test_gauss_newton_of_a_linear_regression_is_its_hessian() -> None:
    known, X, _ = linear_case()
    inputs = np.column_stack([np.ones(len(X)), X])  # paths in order: bias, then kernel
    hessian = inputs.T @ inputs / NOISE**2
    entries = [(0, k) for k in range(2)] + [(1 + j, k) for j in range(3) for k in range(2)]
    expected = np.array([[hessian[i, j] * (k == m) for j, m in entries] for i, k in entries])
    found = known.gauss_newton_matrix(known.layers[0])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    diagonal = np.diag(expected)
    np.testing.assert_allclose(known.gauss_newton["A/kernel"].ravel(), diagonal[2:], rtol=1e-4)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_laplace_variance_is_that_of_the_exact_posterior(covariance: str) -> None:
    """Of a linear regression the posterior is normal, with the inverse Hessian as covariance."""
    known, X, _ = linear_case()
    inputs = np.column_stack([np.ones(len(X)), X]).astype(np.float64)
    precision = inputs.T @ inputs / NOISE**2 + np.eye(4) / 0.3**2
    full = np.diag(np.linalg.inv(precision))[1:]
    expected = full if covariance == "full" else 1 / np.diag(precision)[1:]
    options = {"covariance": covariance, "prior_scale": 0.3}
    selector = get_selector("laplace-variance", **options)
    scores = selector.score(SimpleNamespace(curvature=known), known.layers[0])
    np.testing.assert_allclose(
        scores["A/kernel"], np.repeat(expected[:, None], 2, axis=1), rtol=1e-4
    )
    row = int(np.argmax(expected))
    assert select(known, "laplace-variance", 2, **options) == [(row, 0), (row, 1)]


def test_full_laplace_refuses_large_layers() -> None:
    params = {"A": {"kernel": jnp.ones((257, 2)), "bias": jnp.ones(2)}}
    X = np.ones((2, 257), np.float32)
    network = nb.Network.from_functions(lambda key, x: {}, linear, example=X)
    layers = network.layers(params)
    known = LikelihoodCurvature(network, params, nb.Gaussian(noise=1.0), X, X[:, :2], layers)
    with pytest.raises(errors.OptionError, match=r"'A' has 516.*exclude=\['A'\]"):
        select(known, "laplace-variance", 2, covariance="full")


# ---- against the Hessian of the linearized network


@pytest.fixture(scope="module")
def classes() -> LikelihoodCurvature:
    """Return the curvature of a small classifier with a hidden layer."""
    X = np.random.default_rng(1).normal(size=(9, 3)).astype(np.float32)
    y = np.arange(9, dtype=np.int32) % 3
    network = nb.as_network(FlaxMLP(hidden_dims=(4,), target_dim=3), example=X[:1])
    params = network.init(jax.random.key(2), X[:1])
    return LikelihoodCurvature(network, params, nb.Categorical(), X, y, network.layers(params))


def test_gauss_newton_is_the_hessian_of_the_linearized_network(
    classes: LikelihoodCurvature,
) -> None:
    layer = classes.layers[0]
    subset = nb.ProbabilisticSubset.layers(layer.name)
    target = nb.Target.build(
        classes.network, classes.params, subset, classes.X, classes.y,
        likelihood=nb.Categorical(), prior=nb.NormalPrior(scale=2.0),
    )  # fmt: skip
    linear = target.linearized(target.start)
    expected = curvature.curvature_at(jax.random.key(0), linear, target.start)
    found = classes.gauss_newton_matrix(layer) + jnp.eye(layer.size) / 4
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    parts = [classes.gauss_newton[leaf.path].ravel() for leaf in layer.leaves]
    diagonal = {leaf.path: part for leaf, part in zip(layer.leaves, parts, strict=True)}
    joined = np.concatenate([diagonal[path] for path in sorted(diagonal)])
    np.testing.assert_allclose(joined, np.diag(expected) - 0.25, rtol=1e-3, atol=1e-4)


def test_rows_are_a_root_of_gauss_newton(classes: LikelihoodCurvature) -> None:
    layer = classes.layers[0]
    rows = classes.gauss_newton_rows(layer, 1000)
    flat = np.concatenate([rows[path].reshape(27, -1) for path in sorted(rows)], axis=1)
    expected = classes.gauss_newton_matrix(layer)
    np.testing.assert_allclose(flat.T @ flat, expected, rtol=1e-3, atol=1e-4)


def test_some_rows_stand_for_all() -> None:
    known, X, _ = linear_case()
    many = LikelihoodCurvature(
        known.network, known.params, known.likelihood, np.repeat(X, 4, axis=0),
        np.repeat(known.y, 4, axis=0), known.layers,
    )  # fmt: skip
    rows = many.gauss_newton_rows(many.layers[0], 14)["A/kernel"]
    assert rows.shape == (14, 3, 2)  # 7 of 28 examples, 2 outputs
    every = known.gauss_newton_rows(known.layers[0], 14)["A/kernel"]
    np.testing.assert_allclose((rows**2).sum(0), 4 * (every**2).sum(0), rtol=1e-4)


def test_batches_and_padding_do_not_change_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven batches of three sequences, trimmed to their lengths, against all at once."""
    tokens = np.concatenate([TOKENS, TOKENS[:, ::-1], TOKENS + 1])
    y = np.arange(2.0 * len(tokens), dtype=np.float32).reshape(-1, 2)
    network, params = example_network(), example_params()
    head = [layer for layer in network.layers(params) if layer.name == "Head"]

    def known() -> LikelihoodCurvature:
        return LikelihoodCurvature(network, params, nb.Gaussian(noise=3.0), tokens, y, tuple(head))

    expected = known().fisher, known().gauss_newton
    monkeypatch.setattr(likelihood_curvature, "BYTE_BUDGET", 5 * 4 * 14 * 2)
    found = known().fisher, known().gauss_newton
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), found, expected)


def test_networks_that_mix_examples_are_refused() -> None:
    known, X, _ = linear_case()
    network = nb.Network.from_functions(
        lambda key, x: {}, lambda p, x: linear(p, x - x.mean(axis=0)), example=X[:1]
    )
    mixed = LikelihoodCurvature(network, known.params, known.likelihood, X, known.y, known.layers)
    with pytest.raises(errors.SelectionError, match="mix examples"):
        select(mixed, "fisher", 1)


# ---- greedy


def gains_one_by_one(columns: np.ndarray) -> np.ndarray:
    """Return the gains of a greedy choice, by the determinants themselves."""

    def nats(chosen: list[int]) -> float:
        part = columns[:, chosen]
        return np.linalg.slogdet(np.eye(len(chosen)) + part.T @ part)[1] / 2

    chosen: list[int] = []
    gains = np.zeros(columns.shape[1])
    while len(chosen) < columns.shape[1]:
        left = [j for j in range(columns.shape[1]) if j not in chosen]
        more = np.array([nats([*chosen, j]) for j in left]) - nats(chosen)
        pick = int(np.argmax(more))
        gains[left[pick]] = more[pick]
        chosen.append(left[pick])
        if len(chosen) == len(columns):
            gains[np.delete(left, pick)] = [
                nats([*chosen, j]) - nats(chosen) for j in np.delete(left, pick)
            ]
            break
    return gains


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.1, 10.0))
def test_greedy_gains_are_those_of_the_determinants(rows: int, size: int, scale: float) -> None:
    columns = scale * np.random.default_rng(10 * rows + size).normal(size=(rows, size))
    np.testing.assert_allclose(
        greedy_gains(columns), gains_one_by_one(columns), rtol=1e-6, atol=1e-9
    )


def test_greedy_passes_over_what_the_chosen_weights_already_do() -> None:
    """Inputs 0 and 1 are copies, input 2 is weaker and at right angles: 0, then 2, then 1."""
    X = np.array([[4.0, 3.9, 0.0], [0.0, 0.0, 1.0]], np.float32)
    params = {"A": {"kernel": jnp.zeros((3, 1)), "bias": jnp.zeros(1)}}
    y = np.zeros((2, 1), np.float32)
    layers = LINEAR.layers(params)
    known = LikelihoodCurvature(LINEAR, params, nb.Gaussian(noise=0.1), X, y, layers)
    assert [select(known, "greedy-predictive", n) for n in (1, 2)] == [
        [(0, 0)],
        [(0, 0), (2, 0)],
    ]
    # The length of the column alone would take the copy.
    assert best(np.asarray(known.gauss_newton["A/kernel"]), 2) == [(0, 0), (1, 0)]


# ---- a trained network


ROWS = np.random.default_rng(3).normal(size=(40, 2)).astype(np.float32)
TARGETS = 100 + 50 * ROWS[:, 0] + 20 * np.random.default_rng(4).normal(size=40)


@pytest.fixture(scope="module")
def det() -> nb.DeterministicNN:
    """Return a network trained in standard units, with four snapshots averaged."""
    network = nb.DeterministicNN(
        FlaxMLP(hidden_dims=(4,)),
        standardize=True,
        learning_rate=0.1,
        swa=nb.SWA(start_pct=0.5, num_recent=3),
    )
    return network.train(ROWS, TARGETS, epochs=8, batch_size=40, progress=False)


def test_the_noise_of_a_trained_network_is_that_of_its_residuals(det: nb.DeterministicNN) -> None:
    known = det.curvature(ROWS, TARGETS)
    assert isinstance(known.likelihood, nb.Gaussian)
    assert det.scaler is not None
    noise = np.asarray(known.likelihood.noise)
    np.testing.assert_allclose(
        noise * det.scaler.scale, det.residual_noise(ROWS, TARGETS), rtol=1e-5
    )
    # Gauss-Newton of the output bias is N / noise^2, whatever the network.
    bias = next(path for path in known.gauss_newton if path.endswith("Dense1/bias"))
    np.testing.assert_allclose(known.gauss_newton[bias], 40 / noise**2, rtol=1e-3)


def test_training_keeps_the_deviations_that_were_asked_for(det: nb.DeterministicNN) -> None:
    assert det.trajectory is not None
    shapes = jax.tree.map(lambda p: (3, *p.shape), det.params)
    assert jax.tree.map(jnp.shape, det.trajectory.recent) == shapes
    chosen = nb.select_bayesian_components(det, None, "swag-variance", num_weights=7)
    assert chosen.split(det.network, det.params).size == 7


class Reached(Exception):
    """Raised in place of sampling, with the subset."""


@dataclass(frozen=True)
class Never:
    """A sampler that says what it should have sampled."""

    name: ClassVar[str] = "never"
    capabilities: ClassVar[frozenset[str]] = frozenset()

    def kernel(self, num_warmup: int) -> nb.Kernel:
        def shared(key: Any, target: Any, position: Any) -> None:
            raise Reached(target.split.subset)

        return nb.Kernel(shared, shared, shared, shared, shared)


def test_an_estimator_hands_its_rows_to_selectors_that_look_at_data(
    det: nb.DeterministicNN,
) -> None:
    config = {"method": "laplace-variance", "num_weights": 5}
    model = nb.PartialBNN(det.model, det, selection=config)
    unseen = nb.CalibrationOptions(validation_data=(ROWS, TARGETS))
    with pytest.raises(Reached) as reached:
        model.fit(ROWS, TARGETS, calibration=unseen, backend=Never(), progress=False)
    expected = nb.select_bayesian_components(
        det, None, "laplace-variance", num_weights=5, X=ROWS, y=TARGETS
    )
    assert reached.value.args == (expected,)


def test_a_head_for_the_noise_counts_in_the_curvature() -> None:
    """Means and log deviations of a linear network: of a mean, L is exp(-2 log deviation)."""
    rng = np.random.default_rng(6)
    X, y = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(5, 1)).astype(np.float32)
    params = {
        "A": {"kernel": jnp.zeros((3, 2)), "bias": jnp.array([0.0, -0.7])},
    }
    y = np.zeros_like(y)  # at the mean, means and deviations are uncorrelated
    layers = LINEAR.layers(params)
    known = LikelihoodCurvature(LINEAR, params, nb.Heteroskedastic(), X, y, layers)
    squares = (X**2).sum(axis=0)
    expected = np.column_stack([squares * np.exp(1.4), 0 * squares])  # d^2 z^2 / dlog^2 = 0 there
    np.testing.assert_allclose(known.gauss_newton["A/kernel"], expected, rtol=1e-4, atol=1e-4)
