"""All weights of a deep, narrow network with two heads on UCI airfoil, against published figures.

    python tests/benchmarks/airfoil.py --data FOLDER [--seeds 0 1 ...] [--inner]
    python tests/benchmarks/airfoil.py --data FOLDER --chains 10 --steps 50000

The folder has `uci_airfoil/airfoil.data`. Data, split and network are those of the comparison of
bde (Arvanitis, Aslanidis, Sommer & Rügamer, 2026): a fifth is tested, X and y are standardized by
the other examples, four hidden layers of 16 units; 10 networks there, with 10 cores. With `--inner`
the test examples are left out, and a fifth of the others is predicted instead: settings are chosen
on that. The control is the mixture of the trained networks at which the chains start.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from sklearn.model_selection import train_test_split

import nbcore as nb
from nbcore_flax import FlaxMLP

NETWORK = FlaxMLP(hidden_dims=(16, 16, 16, 16), target_dim=2)
LIKELIHOOD = nb.Heteroskedastic()


def load(data: Path, *, inner: bool) -> tuple[np.ndarray, ...]:
    """Return X, X to predict, y and y to predict, standardized by the first of each pair."""
    table = np.loadtxt(data / "uci_airfoil" / "airfoil.data")
    X, test_X, y, test_y = train_test_split(
        table[:, :-1], table[:, -1], test_size=0.2, random_state=0
    )
    if inner:
        X, test_X, y, test_y = train_test_split(X, y, test_size=0.2, random_state=1)
    shift, scale = X.mean(axis=0), X.std(axis=0)
    mean, deviation = y.mean(), y.std()
    parts = (X - shift) / scale, (test_X - shift) / scale, (y - mean) / deviation
    return tuple(part.astype(np.float32) for part in (*parts, (test_y - mean) / deviation))


def show(name: str, prediction: nb.Prediction, y: np.ndarray, seconds: tuple[float, float]) -> None:
    """Print error, NLPD of the normal with the predictive moments and of the mixture, coverage."""
    moments = nb.Prediction.normal(
        prediction.mean[None, :, None], prediction.variance[None, :, None]
    )
    print(
        f"{name}: RMSE {nb.metrics.rmse(y, prediction.mean):.4f}, NLPD {moments.nlpd(y):.3f} "
        f"(mixture {prediction.nlpd(y):.3f}), 95 % intervals hold "
        f"{prediction.coverage(y, 0.95):.3f}; {seconds[0]:.0f} s, {seconds[1]:.0f} core-seconds",
        flush=True,
    )


def main() -> None:
    """Fit with each seed, and print the figures of the model and of its control."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--inner", action="store_true")
    preset = nb.BNN.default_sampler
    parser.add_argument("--chains", type=int, default=preset.num_chains)
    parser.add_argument("--steps", type=int, default=preset.num_samples)
    arguments = parser.parse_args()
    Model.default_sampler = replace(
        preset, num_chains=arguments.chains, num_samples=arguments.steps,
        thin=max(1, arguments.steps // (preset.num_samples // preset.thin)),
    )  # fmt: skip
    X, test_X, y, test_y = load(arguments.data, inner=arguments.inner)
    for seed in arguments.seeds:
        begin = time.perf_counter(), time.process_time()
        model = Model(NETWORK, likelihood=LIKELIHOOD).fit(X, y, key=seed, progress=False)
        prediction = model.predict_distribution(test_X)
        seconds = time.perf_counter() - begin[0], time.process_time() - begin[1]
        show(f"seed {seed}, nb.BNN", prediction, test_y, seconds)
        begin = time.perf_counter(), time.process_time()
        control = control_networks(model.posterior.num_chains).train(
            X, y, model.default_training.epochs, model.default_training.batch_size,
            key=jax.random.split(jax.random.key(seed))[0], progress=False,
        )  # fmt: skip
        prediction = control.predict_distribution(test_X)
        seconds = time.perf_counter() - begin[0], time.process_time() - begin[1]
        show(f"seed {seed}, the networks at which its chains start", prediction, test_y, seconds)


class Model(nb.BNN):
    """With chains and steps of its own."""


def control_networks(num_networks: int) -> nb.EnsembleDeterministicNN:
    """Return the untrained networks that `nb.BNN` trains for its chains."""
    options = nb.BNN.default_training.network_options(LIKELIHOOD)
    return nb.EnsembleDeterministicNN(NETWORK, num_models=num_networks, **options)


if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)
    main()
