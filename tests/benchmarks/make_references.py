"""Make the reference posteriors of `nbcore/references/posteriors`: long runs of NUTS and HMC.

    python tests/benchmarks/make_references.py [name ...]

Data and trained weights are drawn anew from fixed seeds; what is not named is kept. Chains start at
draws of the prior. Prints R-hat, ESS and how far the two samplers are apart.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nbcore as nb
from nbcore.common import storage
from nbcore.posterior import convergence
from nbcore.references.networks import num_values, unflat
from nbcore.references.problems import LENGTH, NUM_PROBES, PROBLEMS, VOCABULARY, Problem
from nbcore.references.reference import FOLDER, MAX_APART, MAX_R_HAT, digest, functions

RUNS = {"numpyro-nuts": 8000, "numpyro-hmc": 16_000}
"""Samplers and their draws of each of four chains, after 1,500 steps of warmup."""
LONGER = {"funnel": 4}
"""How many times as many draws a hard one gets."""
NUM_WARMUP, NUM_CHAINS, NUM_KEPT = 1500, 4, 300
DIAGONAL = {"convolution-head", "transformer-pairs"}
"""Too many weights for a dense mass matrix."""
R_HAT, ESS = 1.01, 10_000

Data = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Inputs, targets and probes."""


def waves(rng: np.random.Generator) -> Data:
    """A smooth function of three inputs."""
    X = rng.normal(size=(100, 3))
    y = np.sin(2 * X[:, 0]) + 0.5 * X[:, 1] + 0.15 * rng.normal(size=100)
    return X, y, 1.5 * rng.normal(size=(NUM_PROBES, 3))


def outliers(rng: np.random.Generator) -> Data:
    """The same with noise that has heavy tails."""
    X, y, probes = waves(rng)
    return X, y + 0.15 * rng.standard_t(2, size=100), probes


def halves(rng: np.random.Generator) -> Data:
    """Two classes, by the sign of the same function and noise."""
    X, y, probes = waves(rng)
    return X, (y + 0.5 * rng.normal(size=100) > 0).astype(float), probes


def bump(rng: np.random.Generator) -> Data:
    """A bump over one input."""
    X = np.linspace(-2, 2, 40)[:, None]
    y = np.exp(-2 * X[:, 0] ** 2) + 0.2 * rng.normal(size=40)
    return X, y, np.linspace(-3, 3, NUM_PROBES)[:, None]


def frequencies(rng: np.random.Generator) -> Data:
    """Noisy waves of ten frequencies and phases."""
    labels = np.arange(120) % 10
    clean = rng.normal(size=(10, 8, 2))
    X = clean[labels] + 0.8 * rng.normal(size=(120, 8, 2))
    return X, labels, clean[:NUM_PROBES] + 0.8 * rng.normal(size=(NUM_PROBES, 8, 2))


def tokens(rng: np.random.Generator) -> Data:
    """Token sequences; y counts tokens, and asks whether the first is repeated."""
    X = rng.integers(0, 8, size=(60 + NUM_PROBES, 5))
    counted = (X < 4).mean(axis=1) + (X[:, :1] == X[:, 1:]).any(axis=1)
    y = np.stack([counted, (X == 2).sum(axis=1)], axis=1) + 0.2 * rng.normal(size=(len(X), 2))
    return X[:60], y[:60], X[60:]


def _some(rng: np.random.Generator, longest: int, count: int) -> tuple[list[str], np.ndarray]:
    """Return shipped molecules of few characters, and their standardized solubility."""
    data = nb.datasets.solubility()
    short = [i for i, s in enumerate(data.train_smiles) if len(s) <= longest]
    chosen = rng.permutation(short)[:count]
    y = data.train_y[chosen]
    return [data.train_smiles[i] for i in chosen], (y - y.mean()) / y.std()


def molecules(rng: np.random.Generator) -> Data:
    """Molecules as tokens; rare ones share the last token."""
    smiles, y = _some(rng, LENGTH, 60 + NUM_PROBES)
    X = nb.datasets.SmilesTokenizer.fit(smiles).encode(smiles, LENGTH)
    X = np.minimum(X, VOCABULARY - 1)
    return X[:60], y[:60], X[60:]


def counts(rng: np.random.Generator) -> Data:
    """Numbers of carbon, other, and aromatic atoms and of ring bonds of molecules, standardized."""
    smiles, y = _some(rng, 40, 100 + NUM_PROBES)
    X = np.array(
        [
            [s.count("C") + s.count("c"), sum(map(s.count, "NOSFnos")), s.count("c"),
             sum(c.isdigit() for c in s) / 2]
            for s in smiles
        ]
    )  # fmt: skip
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    return X[:100], y[:100], X[100:]


DATA = {
    f.__name__: f for f in (waves, outliers, halves, bump, frequencies, tokens, molecules, counts)
}


def data(problem: Problem) -> Data:
    """Return the data of a problem in the dtypes of a network."""
    X, y, probes = DATA[problem.data](np.random.default_rng(0))
    kind = np.int32 if np.issubdtype(X.dtype, np.integer) else np.float32
    labels = isinstance(problem.likelihood, nb.Categorical)
    return X.astype(kind), y.astype(np.int32 if labels else np.float32), probes.astype(kind)


def trained(problem: Problem, X: Any, y: Any) -> np.ndarray:
    """Return trained weights as a vector: a weak prior of standard deviation 1."""
    size, likelihood = num_values(problem.shapes), problem.likelihood
    start = 0.5 * np.random.default_rng(1).normal(size=size)

    @jax.jit
    def run(w: jax.Array) -> jax.Array:
        def loss(w: jax.Array) -> jax.Array:
            outputs = problem.apply(unflat(problem.shapes, w), X)
            if isinstance(likelihood, nb.Categorical):
                fit = jnp.sum(optax.softmax_cross_entropy_with_integer_labels(outputs, y))
            elif isinstance(likelihood, nb.Bernoulli):
                fit = jnp.sum(optax.sigmoid_binary_cross_entropy(outputs[:, 0], y))
            else:
                fit = jnp.sum((outputs - y.reshape(outputs.shape)) ** 2) / (2 * 0.2**2)
            return fit + 0.5 * jnp.sum(w**2)

        rule = optax.adam(1e-2)

        def one(_: Any, carry: Any) -> Any:
            w, state = carry
            move, state = rule.update(jax.grad(loss)(w), state)
            return optax.apply_updates(w, move), state

        return jax.lax.fori_loop(0, 3000, one, (w, rule.init(w)))[0]

    return np.asarray(run(jnp.asarray(start, jnp.float32)), np.float32)


def moments(values: np.ndarray) -> np.ndarray:
    """Return mean, deviation, and the Monte Carlo standard errors of both `(4, functions)`."""
    mean, deviation = values.mean(axis=(0, 1)), values.std(axis=(0, 1))
    error = convergence.mcse_mean((values - mean) ** 2) / (2 * deviation)
    return np.stack([mean, deviation, convergence.mcse_mean(values), error])


def sampled(name: str, problem: Problem, target: Any, probes: Any) -> tuple[Any, list, dict]:
    """Return the functions' names, draws by each sampler, and the record of the runs."""
    draws, record, names = [], {}, ()
    for backend, least in RUNS.items():
        num_samples = least * LONGER.get(name, 1)
        mass_matrix = "diagonal" if name in DIAGONAL else "dense"
        posterior = nb.sample(
            target, nb.get_backend(backend, mass_matrix=mass_matrix), key=11, init="prior",
            num_warmup=NUM_WARMUP, num_samples=num_samples, num_chains=NUM_CHAINS, progress=False,
        )  # fmt: skip
        names, values = functions(problem, posterior, probes)
        draws.append(values)
        record[backend] = {
            "mass_matrix": mass_matrix, "num_warmup": NUM_WARMUP, "num_samples": num_samples,
            "num_chains": NUM_CHAINS, "init": "prior",
            "r_hat": round(float(convergence.r_hat(values).max()), 4),
            "ess": int(convergence.ess_mean(values).min()),
            "num_divergent": int(posterior.stats.is_divergent.sum()),
            "num_gradients": sum(posterior.info.num_gradients.values()),
        }  # fmt: skip
        print(f"{name} {backend}: {record[backend]}", flush=True)
    return names, draws, record


def status(found: list[np.ndarray], record: dict[str, Any]) -> tuple[str, float]:
    """Say what is trusted, and how far the samplers are apart in standard errors."""
    one, other = found
    apart = float((np.abs(one[:2] - other[:2]) / np.hypot(one[2:], other[2:])).max())
    r_hat = max(run["r_hat"] for run in record.values())
    ess = min(run["ess"] for run in record.values())
    if apart > MAX_APART or r_hat > MAX_R_HAT:
        return (
            f"Not settled: NUTS and HMC differ by up to {apart:.1f} standard errors, R-hat is "
            f"{r_hat:.2f}. Moments are those of both runs together and say where the draws of "
            "long runs are, not what an exact sampler must find.", apart,
        )  # fmt: skip
    if r_hat > R_HAT or ess < ESS:
        return (
            f"Agreed: NUTS and HMC differ by at most {apart:.1f} standard errors; R-hat is "
            f"{r_hat:.3f} and the least ESS {ess:,}, short of {R_HAT} and {ESS:,}, so that "
            "standard errors are larger.", apart,
        )  # fmt: skip
    return f"Settled: R-hat {r_hat:.3f}, least ESS {ess:,}, both samplers within errors.", apart


def closed_form(problem: Problem, params: Any, X: Any, y: Any, probes: Any) -> dict[str, Any]:
    """Return exact moments and draws of the functions of an output layer with known noise."""
    *_, last = problem.shapes
    center = np.concatenate([np.ravel(params[last][part]) for part in ("bias", "kernel")])

    def features(x: Any) -> np.ndarray:
        """Return what the output layer reads, and one for its bias."""
        h = np.asarray(x, np.float64)
        for name in list(problem.shapes)[:-1]:
            h = np.tanh(h @ np.float64(params[name]["kernel"]) + params[name]["bias"])
        return np.concatenate([np.ones((len(h), 1)), h], axis=1)

    noise, scale = problem.likelihood.noise, problem.prior.scale
    A, B = features(X), features(probes)
    precision = A.T @ A / noise**2 + np.eye(len(center)) / scale**2
    covariance = np.linalg.inv(precision)
    mean = covariance @ (A.T @ y / noise**2 + center / scale**2)
    rng = np.random.default_rng(0)
    draws = mean + rng.normal(size=(NUM_KEPT, len(mean))) @ np.linalg.cholesky(covariance).T
    parts, moment, spread = [draws @ B.T], [B @ mean], [np.sqrt(np.diag(B @ covariance @ B.T))]
    for rows in (slice(0, 1), slice(1, None)):  # bias, kernel
        m, C = mean[rows], covariance[rows, rows]
        parts.append(np.sum(draws[:, rows] ** 2, axis=1, keepdims=True))
        moment.append([m @ m + np.trace(C)])
        spread.append([np.sqrt(2 * np.trace(C @ C) + 4 * m @ C @ m)])
    return {
        "mean": np.concatenate(moment), "deviation": np.concatenate(spread),
        "draws": np.concatenate(parts, axis=1),
    }  # fmt: skip


def made(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return arrays and facts of a reference."""
    problem = PROBLEMS[name]
    X, y, probes = data(problem)
    flat = trained(problem, X, y)
    params = unflat(problem.shapes, flat)
    target = problem.target(params, X, y)
    names, draws, record = sampled(name, problem, target, probes)
    found = [moments(values) for values in draws]
    said, apart = status(found, record)
    weights = np.stack([1 / m[2:] ** 2 for m in found])
    best = (weights * np.stack([m[:2] for m in found])).sum(axis=0) / weights.sum(axis=0)
    errors = weights.sum(axis=0) ** -0.5
    if said.startswith("Not settled"):
        both = moments(np.concatenate([v[:, -RUNS["numpyro-nuts"] :] for v in draws]))
        best, errors = both[:2], np.maximum(both[2:], np.abs(found[0][:2] - found[1][:2]))
    joined = draws[0].reshape(-1, draws[0].shape[-1])
    kept = joined[np.linspace(0, len(joined) - 1, NUM_KEPT).astype(int)]
    moved = {"mean": best[0], "deviation": best[1], "draws": kept}
    exact = {"mean_error": errors[0], "deviation_error": errors[1]}
    if name == "linear":
        moved = closed_form(problem, params, X, y, probes)
        off = np.abs(best[0] - moved["mean"]) / errors[0]
        exact = {part: np.zeros_like(errors[0]) for part in exact}
        said = f"Exact: closed form; NUTS and HMC are {off.max():.1f} standard errors off it."
    arrays: dict[str, Any] = {"X": X, "y": y, "probes": probes, "params": flat}
    arrays |= {part: np.asarray(value, np.float32) for part, value in (moved | exact).items()}
    versions = {package: importlib.metadata.version(package) for package in ("jax", "numpyro")}
    made = {"status": said, "apart": round(apart, 2), "runs": record, "versions": versions}
    print(f"{name}: {said}", flush=True)
    return arrays, {"names": list(names), "made": made, "digest": digest(problem, arrays)}


def main(names: list[str]) -> None:
    """Make the references that are named, all by default."""
    for name in names or PROBLEMS:
        storage.write_arrays(FOLDER / f"{name}.safetensors", *made(name))


if __name__ == "__main__":
    main(sys.argv[1:])
