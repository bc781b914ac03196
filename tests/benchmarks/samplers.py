"""Every sampler on posteriors that are not linear, beside NUTS.

    python tests/benchmarks/samplers.py
    python tests/benchmarks/samplers.py --cases line sixty --backends sgld sghmc csgld
    python tests/benchmarks/samplers.py --cases line --backends sgld --options preconditioner=none
    python tests/benchmarks/samplers.py --cases table --table energy.txt
    python tests/benchmarks/samplers.py --cases smiles --smiles delaney-processed.csv
    JAX_ENABLE_X64=1 python tests/benchmarks/samplers.py --cases line-first

Each case is a trained network, a subset, a likelihood and data; NUTS samples it first. A table is
a text file with the target in its last column; of a CSV file of SMILES the columns are those of
Delaney (2004). Prints a markdown table: error of the mean
prediction on the data and mean epistemic deviation, both over those of NUTS too; the distance
between the two mean predictions, in epistemic deviations of NUTS; the least effective sample size
of a prediction; gradients of warmup and sampling, and seconds.
"""

from __future__ import annotations

import argparse
import csv
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import nbcore as nb
from nbcore.errors import NbcoreError
from nbcore.posterior.convergence import ess_bulk
from nbcore_flax import FlaxConvNet, FlaxMLP, FlaxMLP2Head, FlaxTransformer

NUTS = "numpyro-nuts"
MEASURED = "measured log solubility in mols per litre"
DEFAULT = nb.ProbabilisticSubset.first_and_last()
SCALE = nb.NormalPrior(scale=nb.LogNormal(0.3, 0.5))
COLUMNS = (
    "case", "backend", "RMSE", "over NUTS", "deviation", "over NUTS", "distance", "ESS",
    "gradients", "seconds", "compile",
)  # fmt: skip


@dataclass(frozen=True)
class Data:
    """Examples and the network that was trained on them; `None` trains within the fit."""

    X: Any
    y: np.ndarray
    net: Any
    trained: nb.DeterministicNN | None


@dataclass(frozen=True)
class Case:
    """What is sampled: data, subset and likelihood, and options of `nb.PartialBNN`."""

    data: Callable[[], Data]
    subset: nb.ProbabilisticSubset | None = None
    likelihood: Any = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])


def trained(X: Any, y: np.ndarray, net: Any, epochs: int, **options: Any) -> Data:
    """Train a network."""
    options = {"learning_rate": 1e-2, "schedule": "cosine", **options}
    network = nb.DeterministicNN(net, **options)
    return Data(X, y, net, network.train(X, y, epochs=epochs, key=0, progress=False))


def normal(rows: int, columns: int) -> tuple[np.ndarray, np.random.Generator]:
    """Return inputs, and the generator that goes on."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, columns)).astype(np.float32), rng


@functools.cache
def line() -> Data:
    """200 examples of y = 2 x0 + .1 noise, 8 hidden units."""
    X, rng = normal(200, 3)
    y = 2 * X[:, 0] + 0.1 * rng.normal(size=200)
    return trained(X, y, FlaxMLP(hidden_dims=(8,)), 600, map=False)


@functools.cache
def surface(num_examples: int, epochs: int) -> Data:
    """A surface over 8 inputs, 32 and 16 hidden units."""
    X, rng = normal(num_examples, 8)
    y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2] / 2 + 0.1 * rng.normal(size=num_examples)
    return trained(X, y, FlaxMLP(hidden_dims=(32, 16)), epochs)


wide = functools.partial(surface, 600, 300)
thousands = functools.partial(surface, 3000, 80)
many = functools.partial(surface, 20_000, 20)


@functools.cache
def table(path: str, hidden_dims: tuple[int, ...]) -> Data:
    """A table of numbers, standardized."""
    columns = np.loadtxt(path)
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    X, y = columns[:, :-1].astype(np.float32), columns[:, -1]
    return trained(X, y, FlaxMLP(hidden_dims=hidden_dims), 200)


@functools.cache
def sixty() -> Data:
    """60 examples, trained within the fit, with its defaults."""
    X, rng = normal(60, 3)
    y = np.sin(2 * X[:, 0]) + X[:, 1] ** 2 / 2 + 0.3 * rng.normal(size=60)
    return Data(X, y, FlaxMLP(hidden_dims=(16,)), None)


@functools.cache
def heteroskedastic() -> Data:
    """Two heads: means and log noises."""
    X, rng = normal(300, 2)
    noise = np.exp(-1.5 + X[:, 1] / 2)
    net = FlaxMLP2Head(hidden_dims=(16,))
    y = np.sin(2 * X[:, 0]) + noise * rng.normal(size=300)
    return trained(X, y, net, 200, loss="heteroskedastic")


@functools.cache
def classes() -> Data:
    """Three classes of 300 examples."""
    X, rng = normal(300, 4)
    logits = np.stack([X[:, 0] ** 2, X[:, 1] + X[:, 2], np.zeros(300)], axis=1)
    y = np.argmax(2 * logits + rng.gumbel(size=(300, 3)), axis=1)
    net = FlaxMLP(hidden_dims=(16,), target_dim=3, classification=True)
    return trained(X, y, net, 60, loss="classification")


@functools.cache
def counts() -> Data:
    """Counts of 250 examples."""
    X, rng = normal(250, 3)
    y = rng.poisson(np.exp(1 + np.sin(X[:, 0]) - X[:, 1] / 2))
    return trained(X, y.astype(np.float32), FlaxMLP(hidden_dims=(8,)), 150, loss=nb.Poisson())


@functools.cache
def outliers() -> Data:
    """Noise with heavy tails."""
    X, rng = normal(250, 3)
    y = np.sin(2 * X[:, 0]) + 0.2 * rng.standard_t(3, size=250)
    return trained(X, y, FlaxMLP(hidden_dims=(12,)), 200)


@functools.cache
def images() -> Data:
    """Ten classes of 400 images of 8 x 8 pixels, made of random patterns."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, size=400)
    patterns = rng.normal(size=(10, 8, 8, 1))
    X = (patterns[y] + 1.5 * rng.normal(size=(400, 8, 8, 1))).astype(np.float32)
    net = FlaxConvNet(conv_layers=(4, 8), fc_layers=(16,), target_dim=10, classification=True)
    return trained(X, y, net, 20, loss="classification")


def sequences(smiles: list[str], y: np.ndarray) -> Data:
    """A transformer over SMILES strings."""
    tokenizer = nb.datasets.SmilesTokenizer.fit(smiles)
    X = tokenizer.encode(smiles)
    net = FlaxTransformer(
        vocab_size=tokenizer.vocab_size, d_model=16, nhead=2, num_layers=1, dim_feedforward=32,
        max_seq_length=X.shape[1], pad_token_id=0, pooling="sum", dropout_rate=0.0,
    )  # fmt: skip
    return trained(X, y, net, 60, learning_rate=6e-3)


@functools.cache
def molecules() -> Data:
    """Solubilities of 100 molecules."""
    data = nb.datasets.solubility()
    return sequences(data.train_smiles[:100], data.train_y[:100])


def table_of_smiles(path: str) -> Data:
    """The same of a table: every tenth of its molecules, y standardized."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))[::10]
    y = np.array([float(row[MEASURED]) for row in rows])
    return sequences([row["smiles"] for row in rows], (y - y.mean()) / y.std())


ATTENTION = nb.ProbabilisticSubset.pairs(
    {"Block0_Attention": {
        "query": [(i, h, i % 8) for i in range(16) for h in range(2)],
        "value": [(i, h, (i + 3) % 8) for i in range(16) for h in range(2)],
    }}
)  # fmt: skip
TOKENS = nb.ProbabilisticSubset.pairs({"TokenEmbed": [(t, 2 * t % 16) for t in range(1, 16)]})
HEAD = nb.ProbabilisticSubset.layers("FinalDense2")
CASES: dict[str, Case] = {
    "line-output-known": Case(line, nb.ProbabilisticSubset.last(0), nb.Gaussian(noise=0.1)),
    "line-output-unknown": Case(line, nb.ProbabilisticSubset.last(0), nb.Gaussian()),
    "line-first-known": Case(line, DEFAULT, nb.Gaussian(noise=0.1)),
    "line-first-unknown": Case(line, DEFAULT, nb.Gaussian()),
    "line-first-wrong-noise": Case(line, DEFAULT, nb.Gaussian(noise=1.0)),
    "wide-output-unknown": Case(wide, nb.ProbabilisticSubset.last(0), nb.Gaussian()),
    "wide-first-known": Case(wide, DEFAULT, nb.Gaussian(noise=0.1)),
    "wide-first-unknown": Case(wide, DEFAULT, nb.Gaussian()),
    "wide-everything": Case(wide, nb.ProbabilisticSubset.everything(), nb.Gaussian(noise=0.1)),
    "thousands-first-known": Case(thousands, DEFAULT, nb.Gaussian(noise=0.1)),
    "thousands-first-unknown": Case(thousands, DEFAULT, nb.Gaussian()),
    "many-first-known": Case(many, DEFAULT, nb.Gaussian(noise=0.1)),
    "many-first-unknown": Case(many, DEFAULT, nb.Gaussian()),
    "sixty": Case(sixty),
    "scale-unknown": Case(line, DEFAULT, nb.Gaussian(), {"prior": SCALE}),
    "heteroskedastic": Case(heteroskedastic, DEFAULT),
    "classes": Case(classes, DEFAULT),
    "poisson": Case(counts, DEFAULT),
    "student": Case(outliers, DEFAULT, nb.StudentT()),
    "images": Case(images, nb.ProbabilisticSubset.layers("Conv0", "Dense1")),
    "attention": Case(molecules, ATTENTION, nb.Gaussian()),
    "tokens": Case(molecules, TOKENS | HEAD, nb.Gaussian(), {"prior": 0.3}),
}


@dataclass(frozen=True)
class Outcome:
    """What came of a run: draws of the mean prediction, and what they took."""

    means: np.ndarray
    ess: float
    num_gradients: int
    seconds: dict[str, float]

    def rmse(self, y: np.ndarray) -> float:
        """Return the error of the mean; of class probabilities, against one and zero."""
        mean = self.means.mean(axis=0)
        wanted = np.eye(mean.shape[1])[y] if mean.shape[1] > 1 else y[:, None]
        return float(np.sqrt(np.mean((mean - wanted) ** 2)))

    @property
    def deviations(self) -> np.ndarray:
        """Epistemic deviations."""
        return self.means.std(axis=0)

    def distance(self, other: Outcome) -> float:
        """Return the root mean square distance of mean predictions, in deviations of another."""
        moved = (self.means.mean(axis=0) - other.means.mean(axis=0)) / other.deviations
        return float(np.sqrt(np.mean(moved**2)))


def sample(case: Case, backend: str, options: dict[str, Any], plan: dict[str, Any]) -> Outcome:
    """Sample a case with one backend."""
    data = case.data()
    model = nb.PartialBNN(
        data.net, data.trained, subset=case.subset, likelihood=case.likelihood, **case.options
    )
    model.fit(
        data.X, data.y, backend=nb.get_backend(backend, **options), progress=False,
        **plan,
    )  # fmt: skip
    means = np.asarray(model.predict_distribution(data.X).draw_means, np.float64)
    members = [posterior.info for posterior in model.posteriors]
    chains = means.reshape(len(members), plan["num_chains"], -1, means[0].size)
    return Outcome(
        means, min(map(least_ess, chains)), sum(sum(m.num_gradients.values()) for m in members),
        {phase: sum(m.seconds[phase] for m in members) for phase in members[0].seconds},
    )  # fmt: skip


def least_ess(chains: np.ndarray) -> float:
    """Return the least effective sample size over predictions that are not all the same."""
    return float(np.min(ess_bulk(np.asarray(chains, np.float64))))


def row(name: str, y: np.ndarray, backend: str, found: Outcome, nuts: Outcome) -> str:
    """Return a row of the table."""
    deviation, wanted = (float(o.deviations.mean()) for o in (found, nuts))
    figures = (
        f"{found.rmse(y):.3f}",
        f"{found.rmse(y) / nuts.rmse(y):.3f}",
        f"{deviation:.4f}",
        f"{deviation / wanted:.2f}",
        f"{found.distance(nuts):.2f}",
        f"{found.ess:.0f}",
        f"{found.num_gradients:,}",
        f"{found.seconds['warmup'] + found.seconds['sampling']:.1f}",
        f"{found.seconds['compile']:.1f}",
    )
    return f"| {name} | `{backend}` | {' | '.join(figures)} |"


def main() -> None:
    """Sample every case that was asked for with every backend, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", nargs="+", default=[""], help="names, or how they begin")
    parser.add_argument("--backends", nargs="+", default=list(nb.list_backends()))
    parser.add_argument("--table", help="file of the case `table`")
    parser.add_argument("--hidden-dims", nargs="+", type=int, default=[50], help="of its network")
    parser.add_argument("--smiles", help="file of the case `smiles`")
    parser.add_argument("--options", nargs="*", default=[], help="of the backends, name=value")
    parser.add_argument("--num-warmup", type=int, default=500)
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--num-chains", type=int, default=2)
    parser.add_argument("--key", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    plan = {
        name: getattr(arguments, name)
        for name in ("num_warmup", "num_samples", "num_chains", "key")
    }
    options = {name: typed(value) for name, value in (o.split("=") for o in arguments.options)}
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    cases = dict(CASES)
    if arguments.table:
        data = functools.partial(table, arguments.table, tuple(arguments.hidden_dims))
        cases["table"] = Case(data, DEFAULT, nb.Gaussian())
    if arguments.smiles:
        data = functools.cache(lambda: table_of_smiles(arguments.smiles))
        cases["smiles"] = Case(data, TOKENS | HEAD, nb.Gaussian(), {"prior": 0.3})
    for name, case in cases.items():
        if not name.startswith(tuple(arguments.cases)):
            continue
        nuts, y = sample(case, NUTS, {}, plan), case.data().y
        print(row(name, y, NUTS, nuts, nuts), flush=True)
        for backend in arguments.backends:
            if backend == NUTS:
                continue
            try:
                found = sample(case, backend, options, plan)
                print(row(name, y, backend, found, nuts), flush=True)
            except NbcoreError as error:
                print(f"| {name} | `{backend}` | {type(error).__name__}: {error} |", flush=True)


def typed(value: str) -> Any:
    """Return a number where it is one."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


if __name__ == "__main__":
    main()
