"""What sampling the networks of the folds adds to their mixture, and to other ways of predicting.

    python tests/benchmarks/uncertainty.py demo --seeds 0 1 2
    python tests/benchmarks/uncertainty.py esol scaffold --csv delaney-processed.csv --seeds 1 2 3
    python tests/benchmarks/uncertainty.py tables gaps --uci folder --seeds 0 1 2 3 4
    python tests/benchmarks/uncertainty.py conformal

`--uci` holds the data sets of Gal & Ghahramani (2016): `uci_energy/data.txt`, indices of features,
of the target, and of training and test examples by split. `--csv` is the table of Delaney (2004),
whose numeric columns are the descriptors. The split by scaffold needs RDKit, see
`uncertainty.requirements.txt`. Every row prints all ways on the same examples, then their means.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.preprocessing import StandardScaler

import nbcore as nb
from nbcore.metrics import rank_correlation, rmse
from nbcore.posterior.scaler import Scaler
from nbcore.training.fold_mixture import FoldMixture
from nbcore_flax import FlaxMLP, FlaxTransformer

MEASURED = "measured log solubility in mols per litre"
PREDICTED = "ESOL predicted log solubility in mols per litre"
SAMPLER: dict[str, Any] = {
    "backend": nb.get_backend("blackjax-mclmc", num_moves=1), "num_warmup": 500,
    "num_samples": 2000, "num_chains": 2,
    "sampling": nb.SamplingOptions(thin=10),
}  # fmt: skip
HEAD: dict[str, Any] = {
    "backend": nb.get_backend("laplace", find_mode=False), "num_warmup": 0, "num_samples": 100,
    "num_chains": 2,
}  # fmt: skip
CELLS = [(n, level) for n in (40, 100) for level in (0.8, 0.9, 0.95)]


class Split(NamedTuple):
    """Examples to learn from and to test on."""

    X: Any
    y: np.ndarray
    test_X: Any
    test_y: np.ndarray
    inside: np.ndarray | None = None  # which test examples lie in a gap
    groups: np.ndarray | None = None  # of training examples, kept in one fold


Way = Callable[[Split, int], nb.Prediction]


def table(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return features and target of a data set."""
    rows = np.loadtxt(folder / f"uci_{name}" / "data.txt")
    features = np.loadtxt(folder / f"uci_{name}" / "index_features.txt").astype(int)
    target = int(np.loadtxt(folder / f"uci_{name}" / "index_target.txt"))
    return rows[:, features].astype(np.float32), rows[:, target]


def uci(folder: Path, name: str, seed: int) -> Split:
    """Return a published split."""
    X, y = table(folder, name)
    parts = (
        np.loadtxt(folder / f"uci_{name}" / f"index_{part}_{seed}.txt").astype(int)
        for part in ("train", "test")
    )
    train, test = parts
    return Split(X[train], y[train], X[test], y[test])


def molecules(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return SMILES, descriptors and solubilities of Delaney's table."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    numeric = [
        name for name in rows[0] if name not in ("Compound ID", "smiles", MEASURED, PREDICTED)
    ]
    X = np.array([[float(row[name]) for name in numeric] for row in rows], np.float32)
    return [row["smiles"].strip() for row in rows], X, np.array([float(r[MEASURED]) for r in rows])


def halves(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two random halves."""
    order = np.random.default_rng(seed).permutation(count)
    return order[: count // 2], order[count // 2 :]


def by_scaffold(smiles: list[str], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return four fifths and one fifth without a common Bemis-Murcko scaffold, and scaffolds."""
    from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

    scaffolds, group = np.unique([MurckoScaffoldSmiles(s) for s in smiles], return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(scaffolds))
    sizes = np.cumsum(np.bincount(group)[order])
    is_test = np.isin(group, order[sizes <= len(smiles) // 5])
    return np.flatnonzero(~is_test), np.flatnonzero(is_test), group


def with_gap(X: np.ndarray, y: np.ndarray, seed: int) -> Split:
    """Leave the middle fifth of one input out; test on it, and on a tenth of the rest."""
    rng = np.random.default_rng(seed)
    varied = np.flatnonzero([len(np.unique(column)) >= 5 for column in X.T])
    value = X[:, rng.choice(varied)]
    gap = (value >= np.quantile(value, 0.4)) & (value <= np.quantile(value, 0.6))
    outside = rng.permutation(np.flatnonzero(~gap))
    test, train = outside[: len(outside) // 10], outside[len(outside) // 10 :]
    every = np.concatenate([np.flatnonzero(gap), test])
    return Split(X[train], y[train], X[every], y[every], gap[every])


def like_yacht(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 308 made examples of six inputs, the resistance steep in one of them."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(308, 6)).astype(np.float32)
    y = np.exp(3 * X[:, 5]) * (1 + 0.1 * X[:, 0] * X[:, 1]) + 0.2 * rng.normal(size=308)
    return X, y


def tokens(smiles: list[str], y: np.ndarray, train: np.ndarray, test: np.ndarray) -> Split:
    """Return molecules as tokens; those of the test may have tokens that were never seen."""
    tokenizer = nb.datasets.SmilesTokenizer.fit([smiles[i] for i in train])
    length = max(tokenizer.encode([s]).shape[1] for s in smiles)
    X = tokenizer.encode(smiles, length)
    return Split(X[train], y[train], X[test], y[test])


def transformer(split: Split) -> Any:
    """Return the network of the demonstration."""
    return FlaxTransformer(
        vocab_size=int(max(split.X.max(), split.test_X.max())) + 1, d_model=16, nhead=4,
        num_layers=2, dim_feedforward=64, max_seq_length=split.X.shape[1], pad_token_id=0,
        pooling="sum",
    )  # fmt: skip


def process(split: Split) -> nb.Prediction:
    """Return the prediction of a Gaussian process with a length for each input."""
    inputs, scaler = StandardScaler().fit(split.X), Scaler.fit(split.y)
    kernel = ConstantKernel() * RBF(np.ones(split.X.shape[1]), (1e-2, 1e4)) + WhiteKernel(0.1)
    found = GaussianProcessRegressor(kernel, random_state=0)
    found.fit(inputs.transform(split.X), scaler.standardize(split.y))
    mean, deviation = found.predict(inputs.transform(split.test_X), return_std=True)
    standardized = nb.Prediction.normal(mean[None, :, None], deviation[None, :, None] ** 2)
    return standardized.in_units_of(scaler)


def ways(
    split: Split, network: Any, seed: int, names: list[str], **options: Any
) -> Iterator[tuple[str, nb.Prediction, float]]:
    """Yield each way of predicting, its prediction, and its seconds, training included."""
    training = options.pop("training", None)
    begin = time.perf_counter()
    model = nb.PartialBNN(network, **options)
    is_table = np.issubdtype(np.asarray(split.X).dtype, np.floating)
    sampler: dict[str, Any] = {} if is_table else HEAD
    run: dict[str, Any] = {"key": seed, "groups": split.groups, "progress": False}
    model.fit(split.X, split.y, training=training, **run, **sampler)
    mixture = model.predict_distribution(split.test_X)
    total = time.perf_counter() - begin
    sampled = sum(p.info.seconds["total"] for p in model.posteriors)
    yield "mixture of sampled fold networks", mixture, total
    control = FoldMixture.of(model.cross, split.X, split.y)
    yield "fold networks, not sampled", control.predict_distribution(split.test_X), total - sampled
    if "crossfit" in names:
        begin = time.perf_counter()
        one = nb.PartialBNN(network, model.cross, **options)
        sampler = sampler or SAMPLER
        one.fit(split.X, split.y, key=seed, calibration="crossfit", progress=False, **sampler)
        seconds = total - sampled + time.perf_counter() - begin
        yield "one network, crossfit", one.predict_distribution(split.test_X), seconds
    if "process" in names and is_table:
        begin = time.perf_counter()
        prediction = process(split)
        yield "Gaussian process", prediction, time.perf_counter() - begin
    if "bnn" in names and is_table:
        begin = time.perf_counter()
        bnn = nb.BNN(network).fit(split.X, split.y, key=seed, progress=False)
        yield "nb.BNN", bnn.predict_distribution(split.test_X), time.perf_counter() - begin


def figures(prediction: nb.Prediction, split: Split) -> dict[str, float]:
    """Return what is measured of a prediction."""
    y, deviation = split.test_y, np.sqrt(prediction.variance)
    certain = np.argsort(deviation, kind="stable")[: len(y) // 2]
    found = {
        "RMSE": rmse(y, prediction.mean),
        "NLPD": prediction.nlpd(y),
        "coverage": prediction.coverage(y),
        "rank": np.nan,
        "reference": np.nan,
        "certain half": rmse(y[certain], prediction.mean[certain]) / rmse(y, prediction.mean),
    }
    if np.ptp(deviation) > 1e-9 * deviation.max():
        ranked = rank_correlation(y, prediction.mean, prediction.variance)
        found |= {"rank": ranked.value, "reference": ranked.reference}
    if split.inside is not None:
        density, epistemic = prediction.log_density(y), np.sqrt(prediction.epistemic_variance)
        found["NLPD in gap"] = -density[split.inside].mean()
        found["epistemic in gap"] = epistemic[split.inside].mean() / max(
            epistemic[~split.inside].mean(), 1e-12
        )
        if prediction.epistemic_limit is not None:
            found["outside in gap"] = prediction.is_outside[split.inside].mean()
            found["outside elsewhere"] = prediction.is_outside[~split.inside].mean()
    return found


def splits(row: str, arguments: argparse.Namespace, seed: int) -> Iterator[tuple[str, Split]]:
    """Yield the data sets of a row, for a seed."""
    if row == "demo":
        known = nb.datasets.solubility()
        smiles = [*known.train_smiles, *known.test_smiles]
        y, count = np.concatenate([known.train_y, known.test_y]), len(known.train_y)
        yield row, tokens(smiles, y, np.arange(count), np.arange(count, len(y)))
    elif row in ("esol", "scaffold"):
        smiles, _, y = molecules(arguments.csv)
        if row == "esol":
            yield row, tokens(smiles, y, *halves(len(y), seed))
            return
        train, test, scaffolds = by_scaffold(smiles, seed)
        split = tokens(smiles, y, train, test)
        yield row, split
        yield f"{row}, in folds too", split._replace(groups=scaffolds[train])
    elif row == "tables":
        for name in arguments.sets:
            if name != "descriptors":
                yield name, uci(arguments.uci, name, seed)
                continue
            _, X, y = molecules(arguments.csv)
            train, test = halves(len(y), seed)
            yield name, Split(X[train], y[train], X[test], y[test])
    else:
        for name in arguments.sets:
            if name == "yacht-like":
                yield f"{name}, gap", with_gap(*like_yacht(seed), seed)
            elif name != "descriptors":
                yield f"{name}, gap", with_gap(*table(arguments.uci, name), seed)


def conformal(repeats: int) -> dict[tuple[int, float], np.ndarray]:
    """Return the coverage of conformal intervals of heavy-tailed data, `(repeats,)` by cell."""
    found: dict[tuple[int, float], list[float]] = {cell: [] for cell in CELLS}
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        x = rng.uniform(-2, 2, size=(300, 1)).astype(np.float32)
        y = np.sin(2 * x[:, 0]) + 0.3 * (1 + np.abs(x[:, 0])) * rng.standard_t(2, size=300)
        for n in sorted({n for n, _ in CELLS}):
            model = nb.PartialBNN(FlaxMLP((8,)), num_probabilistic_layers=0)
            model.fit(
                x[:n], y[:n], 0, 40, 1, backend="laplace", key=seed, progress=False,
                training=nb.TrainingOptions(epochs=20),
            )  # fmt: skip
            prediction = model.predict_distribution(x[100:])
            for size, level in CELLS:
                if size == n:
                    low, high = prediction.interval(level, method="conformal")
                    inside = (low <= y[100:]) & (y[100:] <= high)
                    found[n, level].append(float(inside.mean()))
    return {cell: np.array(values) for cell, values in found.items()}


def report(name: str, results: dict[str, list[dict[str, float]]]) -> None:
    """Print means and standard errors of every way."""
    columns = list(dict.fromkeys(c for rows in results.values() for c in rows[0]))
    print(f"\n| {name} | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for way, rows in results.items():
        cells: list[str] = []
        for column in columns:
            values = np.array([row.get(column, np.nan) for row in rows])
            error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
            cells.append(f"{values.mean():.3f} ± {error:.3f}")
        print(f"| {way} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Run the rows that are asked for."""
    parser = argparse.ArgumentParser(description="What sampling adds.")
    rows = ["demo", "esol", "tables", "gaps", "scaffold", "conformal"]
    parser.add_argument("rows", nargs="+", choices=rows)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--uci", type=Path, default=Path())
    parser.add_argument("--csv", type=Path, default=Path("delaney-processed.csv"))
    sets = ["energy", "concrete", "descriptors", "yacht-like"]
    parser.add_argument("--sets", nargs="+", choices=sets, default=sets[:3])
    parser.add_argument("--controls", nargs="*", default=["crossfit", "process"])
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for row in arguments.rows:
        if row == "conformal":
            for (n, level), covered in conformal(arguments.repeats).items():
                error = covered.std(ddof=1) / len(covered) ** 0.5
                print(f"| {n} examples, level {level} | {covered.mean():.3f} ± {error:.3f} |")
            continue
        results: dict[str, dict[str, list[dict[str, float]]]] = {}
        for seed in arguments.seeds:
            for name, split in splits(row, arguments, seed):
                is_table = np.issubdtype(np.asarray(split.X).dtype, np.floating)
                network = FlaxMLP((32, 16)) if is_table else transformer(split)
                head: dict[str, Any] = {"num_probabilistic_layers": 2, "prior": 1.0}
                head["training"] = nb.TrainingOptions(epochs=60)
                options = {} if is_table else head
                for way, prediction, seconds in ways(
                    split, network, seed, arguments.controls, **options
                ):
                    found = figures(prediction, split) | {"seconds": seconds}
                    results.setdefault(name, {}).setdefault(way, []).append(found)
                    shown = ", ".join(f"{key} {value:.3f}" for key, value in found.items())
                    print(f"{name}, seed {seed}, {way}: {shown}", flush=True)
        for name, found in results.items():
            report(name, found)


if __name__ == "__main__":
    main()
