"""How calibrated each way of choosing the noise is, over several seeds.

    python tests/benchmarks/calibration.py --data solubility --seeds 0 1 2
    python tests/benchmarks/calibration.py --data delaney-processed.csv --seeds 1 2 3

A CSV file has the columns `smiles` and `measured log solubility in mols per litre`; half of its
rows, drawn with the seed, are trained on. Prints one row per seed and way, then means and
standard errors, as a markdown table.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
import warnings
from pathlib import Path

import numpy as np

import nbcore as nb
from nbcore_flax import FlaxTransformer

LEVELS = (0.5, 0.68, 0.95)
MEASURED = "measured log solubility in mols per litre"


def molecules(data: str, seed: int) -> tuple[list[str], np.ndarray, list[str], np.ndarray]:
    """Return training and test molecules."""
    if data == "solubility":
        shipped = nb.datasets.solubility()
        return (
            list(shipped.train_smiles),
            shipped.train_y,
            list(shipped.test_smiles),
            shipped.test_y,
        )
    with Path(data).open(newline="") as file:
        rows = list(csv.DictReader(file))
    smiles = [row["smiles"].strip() for row in rows]
    y = np.array([float(row[MEASURED]) for row in rows], np.float32)
    order = np.random.default_rng(seed).permutation(len(y))
    train, test = order[: len(y) // 2], order[len(y) // 2 :]
    return [smiles[i] for i in train], y[train], [smiles[i] for i in test], y[test]


def figures(prediction: nb.Prediction, y: np.ndarray) -> dict[str, float]:
    """Return RMSE, NLPD of the mixture, and coverage."""
    row = {"RMSE": nb.metrics.rmse(y, prediction.mean), "NLPD": prediction.nlpd(y)}
    row |= {f"coverage {level:.0%}": prediction.coverage(y, level) for level in LEVELS}
    return row


def normal(mean: np.ndarray, noise: np.ndarray) -> nb.Prediction:
    """Return one network's prediction with a noise level."""
    means = mean.reshape(1, len(mean), -1)
    return nb.Prediction.normal(means, noise**2)


def run(arguments: argparse.Namespace, seed: int) -> dict[str, dict[str, float]]:
    """Train once, then sample in every way."""
    train_smiles, y, test_smiles, test_y = molecules(arguments.data, seed)
    tokenizer = nb.datasets.SmilesTokenizer.fit(train_smiles)
    X, test_X = tokenizer.encode(train_smiles), tokenizer.encode(test_smiles)
    length = max(X.shape[1], test_X.shape[1])
    network = FlaxTransformer(
        vocab_size=tokenizer.vocab_size,
        d_model=arguments.d_model,
        nhead=4,
        num_layers=2,
        dim_feedforward=64,
        max_seq_length=length,
        pad_token_id=0,
        pooling="sum",
    )
    select = {
        "method": "variance",
        "layer_names": ["FinalDense1"],
        "num_pairs_per_layer": arguments.pairs,
    }
    settings = {
        "num_warmup": arguments.num_warmup,
        "num_samples": arguments.num_samples,
        "num_chains": arguments.num_chains,
        "progress": False,
        "key": seed,
    }
    begin = time.perf_counter()
    cross = nb.cross_fit(
        network, X, y, epochs=arguments.epochs, key=seed, progress=False,
        learning_rate=6e-3, weight_decay=0.01, schedule="cosine", standardize=True,
        swa=nb.SWA(start_pct=0.9),
    )  # fmt: skip
    print(f"seed {seed}: trained in {time.perf_counter() - begin:.0f} s", flush=True)
    full = cross.full
    mean = full.predict(test_X)
    rows = {
        "deterministic, noise of training residuals": figures(
            normal(mean, full.residual_noise(X, y)), test_y
        ),
        "deterministic, out-of-fold noise": figures(normal(mean, cross.noise), test_y),
    }
    ways = {
        "none": (full, {"calibration": "none"}),
        "crossfit": (cross, {"calibration": "crossfit"}),
        "ensemble": (cross, {"calibration": nb.CalibrationOptions("crossfit", ensemble=True)}),
    }
    for name in arguments.ways:
        weights, options = ways[name]
        begin = time.perf_counter()
        model = nb.PartialBNN(network, weights, selection=select, prior=arguments.prior)
        model.fit(X, y, **settings, **options)
        rows[name] = figures(model.predict_distribution(test_X), test_y)
        worst = max(
            float(np.max(r)) for p in model.posteriors for r in p.diagnostics().r_hat.values()
        )
        rows[name] |= {"worst R-hat": worst, "seconds": time.perf_counter() - begin}
        print(f"seed {seed}: {name} {json.dumps(rows[name])}", flush=True)
    return rows


def table(results: list[dict[str, dict[str, float]]]) -> str:
    """Return means and standard errors over seeds."""
    columns = ["RMSE", "NLPD", *(f"coverage {level:.0%}" for level in LEVELS)]
    lines = [f"| way | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for way in results[0]:
        cells: list[str] = []
        for column in columns:
            values = np.array([result[way][column] for result in results])
            error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
            cells.append(f"{values.mean():.3f} ± {error:.3f}")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="solubility")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    ways = ["none", "crossfit", "ensemble"]
    parser.add_argument("--ways", nargs="+", choices=ways, default=ways)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--d-model", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--num-warmup", type=int, default=300)
    parser.add_argument("--num-samples", type=int, default=300)
    parser.add_argument("--num-chains", type=int, default=4)
    parser.add_argument("--prior", type=float, default=0.1)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    results = [run(arguments, seed) for seed in arguments.seeds]
    print(table(results))


if __name__ == "__main__":
    main()
