"""What is compared: networks of which different weights are sampled, and a Gaussian process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from data import Split
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

import nbcore as nb
from nbcore_flax import FlaxMLP

Model = Callable[[Split, int], nb.Prediction]
NETWORK = FlaxMLP(hidden_dims=(32, 16), activation="silu")
FRACTION = 0.05
SELECTORS = (
    "magnitude", "gradient", "variance", "swag-variance", "snr", "clustering", "fisher",
    "laplace-variance", "greedy-predictive", "random",
)  # fmt: skip
OPTIONS: dict[str, Any] = {
    "backend": "blackjax-mclmc", "calibration": "crossfit", "progress": False
}  # fmt: skip
EPOCHS = 500


def everything(split: Split, key: int) -> nb.Prediction:
    """Sample every weight, with priors of scale 1 around zero."""
    model = nb.BNN(NETWORK).fit(split.X, split.y, key=key, progress=False)
    return model.predict_distribution(split.test_X)


def some(
    split: Split,
    key: int,
    subset: nb.ProbabilisticSubset | None = None,
    selection: dict[str, Any] | None = None,
) -> nb.Prediction:
    """Sample a subset, by default the first and the output layer, around the trained weights."""
    model = nb.PartialBNN(NETWORK, trained(split, key), subset=subset, selection=selection)
    model.fit(split.X, split.y, key=key, **OPTIONS)
    return model.predict_distribution(split.test_X)


def selected(split: Split, key: int, **config: Any) -> nb.Prediction:
    """Sample a twentieth of the weights."""
    config = {"fraction": FRACTION, "key": key, **config}
    return some(split, key, selection=config)


def gaussian_process(split: Split, key: int) -> nb.Prediction:
    """Fit a Matern 5/2 kernel with a length scale of each input, and a noise."""
    X, test_X = np.float64(split.X), np.float64(split.test_X)
    lengths = np.ones(X.shape[1])
    kernel = ConstantKernel() * Matern(lengths, nu=2.5) + WhiteKernel()
    process = GaussianProcessRegressor(
        kernel, normalize_y=True, n_restarts_optimizer=2, random_state=key
    )
    process.fit(X, split.y)
    mean, deviation = process.predict(test_X, return_std=True)
    return nb.Prediction.normal(mean[None, :, None], deviation[None, :, None] ** 2)


_trained: dict[int, tuple[Split, nb.CrossFit]] = {}


def trained(split: Split, key: int) -> nb.CrossFit:
    """Train as `nb.PartialBNN.fit` does, once for all subsets of a split."""
    kept = _trained.get(key)
    if kept is None or kept[0] is not split:
        cross = nb.cross_fit(
            NETWORK, split.X, split.y, epochs=EPOCHS, key=key, progress=False, learning_rate=6e-3,
            weight_decay=0.01, schedule="cosine", standardize=True,
            swa=nb.SWA(start_pct=0.9, num_recent=20),
        )  # fmt: skip
        kept = _trained[key] = (split, cross)
    return kept[1]


MODELS: dict[str, Model] = {
    "GP": gaussian_process,
    "full": everything,
    "first + output": some,
    "last hidden + output": functools.partial(some, subset=nb.ProbabilisticSubset.last(1)),
}
for _name in SELECTORS:
    MODELS[f"5 %, {_name}"] = functools.partial(selected, method=_name)
# It chooses within a layer; there are three.
MODELS["5 %, clustering"] = functools.partial(
    selected, method="clustering", fraction=None, num_pairs_per_layer=14
)
