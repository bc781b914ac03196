"""Every sampler on the same posterior: head weights of a transformer, real molecules.

    python tests/benchmarks/backends.py
    python tests/benchmarks/backends.py --backends numpyro-nuts laplace --num-samples 1000

Trains the network once with its folds, then samples the same weights with each backend at its
default options. Prints a markdown table: worst R-hat in prediction space on the test molecules,
error and NLPD there, gradients and seconds of warmup and sampling.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np

import nbcore as nb
from nbcore_flax import FlaxTransformer


def train(d_model: int, epochs: int, seed: int) -> tuple[nb.CrossFit, np.ndarray, np.ndarray]:
    """Return the trained networks, and the encoded molecules."""
    data = nb.datasets.solubility()
    tokenizer = nb.datasets.SmilesTokenizer.fit(data.train_smiles)
    X, test_X = tokenizer.encode(data.train_smiles), tokenizer.encode(data.test_smiles)
    network = FlaxTransformer(
        vocab_size=tokenizer.vocab_size,
        d_model=d_model,
        nhead=4,
        num_layers=2,
        dim_feedforward=64,
        max_seq_length=max(X.shape[1], test_X.shape[1]),
        pad_token_id=0,
        pooling="sum",
    )
    cross = nb.cross_fit(
        network, X, data.train_y, epochs=epochs, key=seed, progress=False,
        learning_rate=6e-3, weight_decay=0.01, schedule="cosine", standardize=True,
        swa=nb.SWA(start_pct=0.9),
    )  # fmt: skip
    return cross, X, test_X


def row(name: str, model: nb.PartialBNN, X: np.ndarray, test_X: np.ndarray, options: dict) -> str:
    """Sample with one backend; return a row of the table."""
    data = nb.datasets.solubility()
    model.fit(
        X, data.train_y, backend=name, calibration="crossfit", progress=False, key=1, **options
    )
    prediction = model.predict_distribution(test_X)
    info = model.posterior.info
    r_hat = float(np.max(model.posterior.diagnostics(test_X).r_hat["output"]))
    gradients = sum(info.num_gradients.values())
    seconds = info.seconds["warmup"] + info.seconds["sampling"]
    figures = (
        f"{r_hat:.3f}",
        f"{nb.metrics.rmse(data.test_y, prediction.mean):.3f}",
        f"{prediction.nlpd(data.test_y):.3f}",
        f"{prediction.coverage(data.test_y):.3f}",
        f"{gradients:,}",
        f"{seconds:.0f}",
        f"{info.seconds['compile']:.0f}",
    )
    return f"| `{name}` | {' | '.join(figures)} |"


def main() -> None:
    """Train, sample with every backend, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backends", nargs="+", default=list(nb.list_backends()))
    parser.add_argument("--d-model", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--num-warmup", type=int, default=500)
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--num-chains", type=int, default=4)
    parser.add_argument("--prior", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    cross, X, test_X = train(arguments.d_model, arguments.epochs, arguments.seed)
    options = {
        "num_warmup": arguments.num_warmup,
        "num_samples": arguments.num_samples,
        "num_chains": arguments.num_chains,
    }
    some = {"method": "variance", "layer_names": ["FinalDense1"], "num_pairs_per_layer": 100}
    model = nb.PartialBNN(cross.full.network, cross, selection=some, prior=arguments.prior)
    columns = ("backend", "R-hat", "RMSE", "NLPD", "95 %", "gradients", "seconds", "compile")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name in arguments.backends:
        print(row(name, model, X, test_X, options), flush=True)


if __name__ == "__main__":
    main()
