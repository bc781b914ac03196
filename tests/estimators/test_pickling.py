"""Whatever was fitted can be pickled and copied, and predicts the same."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from flax import nnx

import nbcore as nb
from nbcore_flax import FlaxMLP, FlaxTransformer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3)).astype(np.float32)
TOKENS = RNG.integers(1, 6, size=(30, 5)) * (np.arange(5) < RNG.integers(2, 6, size=(30, 1)))
Y = X[:, 0] * 2 + 0.1 * RNG.normal(size=30)
FIT: dict[str, Any] = {
    "num_warmup": 4, "num_samples": 4, "num_chains": 1, "progress": False,
    "training": nb.TrainingOptions(epochs=2),
    "calibration": nb.CalibrationOptions("crossfit", folds=2),
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> nb.PartialBNN:
    """A fitted model."""
    return nb.PartialBNN(FlaxMLP((4,))).fit(X, Y, **FIT)


def test_models_posteriors_targets_and_networks(model: nb.PartialBNN) -> None:
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        for ours, theirs in zip(copied.predict(X), model.predict(X), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert model.det is not None
        np.testing.assert_array_equal(copied.det.predict(X), model.det.predict(X))
    posterior = pickle.loads(pickle.dumps(model.posterior))
    np.testing.assert_array_equal(posterior.log_likelihood(), model.posterior.log_likelihood())
    assert posterior.info == model.posterior.info


def test_a_target_has_the_same_density_and_shares_its_program(model: nb.PartialBNN) -> None:
    target = model.posterior.target
    again = pickle.loads(pickle.dumps(target))
    position = target.initial_position(jax.random.key(1))
    assert again.log_density(position) == target.log_density(position)
    assert jax.tree.structure(again) == jax.tree.structure(target)  # nothing compiles anew


def test_another_process_predicts_the_same(model: nb.PartialBNN, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    np.save(tmp_path / "x.npy", X)
    code = (
        "import pickle, numpy as np\n"
        "model = pickle.load(open('model.pkl', 'rb'))\n"
        "np.save('mean.npy', model.predict(np.load('x.npy'))[0])"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "mean.npy"), model.predict(X)[0])


@pytest.mark.parametrize(
    ("net", "x"),
    [
        (lambda: nnx.Linear(3, 1, rngs=nnx.Rngs(0)), X),
        (lambda: eqx.nn.Linear(3, 1, key=jax.random.key(0)), X),
        (lambda: FlaxTransformer(6, 4, 1, 1, 4, pad_token_id=0, max_seq_length=5), TOKENS),
    ],
    ids=["nnx", "equinox", "transformer"],
)
def test_networks_of_every_framework(net: Any, x: np.ndarray) -> None:
    network = nb.as_network(net(), example=x[:1])
    params = getattr(network, "params", None)
    params = network.init(jax.random.key(0), x[:1]) if params is None else params
    subset = nb.ProbabilisticSubset.everything()
    target = nb.Target.build(network, params, subset, x, Y, likelihood=nb.Gaussian(noise=0.5))
    posterior = nb.sample(target, num_warmup=2, num_samples=3, num_chains=1, progress=False)
    again = pickle.loads(pickle.dumps(posterior))
    np.testing.assert_array_equal(again.predict(x).mean, posterior.predict(x).mean)
