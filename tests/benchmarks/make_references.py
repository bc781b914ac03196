"""Make `nbcore/testing/references.npz`: moments of predictions by NUTS and HMC that agree.

    python tests/benchmarks/make_references.py [name ...]

Data and trained weights are drawn anew from fixed seeds; what is not named is kept.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nbcore as nb
from nbcore.posterior import convergence
from nbcore.testing.references import NUM_PROBES, PATH, PROBLEMS, Problem, unflat

RUNS = {"numpyro-nuts": 2500, "numpyro-hmc": 5000}
"""Samplers and their draws of each of four chains, after 1,000 steps of warmup."""

MASS_MATRIX = {
    "mlp": "dense", "mlp_unknown_noise": "dense",
    "convolution": "diagonal", "attention": "dense",
}  # fmt: skip


def regression(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, y and probes of the perceptrons: a smooth function of three inputs."""
    X = rng.normal(size=(100, 3))
    y = np.sin(2 * X[:, 0]) + 0.5 * X[:, 1] + 0.15 * rng.normal(size=100)
    return X, y, 1.5 * rng.normal(size=(NUM_PROBES, 3))


def classes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noisy waves of ten frequencies and phases."""
    labels = np.arange(120) % 10
    clean = rng.normal(size=(10, 8, 2))
    X = clean[labels] + 0.8 * rng.normal(size=(120, 8, 2))
    return X, labels, clean[:NUM_PROBES] + 0.8 * rng.normal(size=(NUM_PROBES, 8, 2))


def sequences(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token sequences; y counts tokens, and asks whether the first is repeated."""
    X = rng.integers(0, 8, size=(60 + NUM_PROBES, 5))
    counted = (X < 4).mean(axis=1) + (X[:, :1] == X[:, 1:]).any(axis=1)
    y = np.stack([counted, (X == 2).sum(axis=1)], axis=1) + 0.2 * rng.normal(size=(len(X), 2))
    return X[:60], y[:60], X[60:]


DATA = {
    "mlp": regression, "mlp_unknown_noise": regression,
    "convolution": classes, "attention": sequences,
}  # fmt: skip


def trained(problem: Problem, X: Any, y: Any) -> np.ndarray:
    """Return trained weights as a vector: a weak prior of standard deviation 1."""
    size = sum(
        int(np.prod(s))
        for s in jax.tree.leaves(problem.shapes, is_leaf=lambda s: isinstance(s, tuple))
    )
    likelihood, start = problem.likelihood, 0.5 * np.random.default_rng(1).normal(size=size)

    @jax.jit
    def run(w: jax.Array) -> jax.Array:
        def loss(w: jax.Array) -> jax.Array:
            outputs = problem.apply(unflat(problem.shapes, w), X)
            if isinstance(likelihood, nb.Categorical):
                fit = jnp.sum(optax.softmax_cross_entropy_with_integer_labels(outputs, y))
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


def made(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a reference; stop where NUTS and HMC disagree."""
    problem = PROBLEMS[name]
    X, y, probes = DATA[name](np.random.default_rng(0))
    whole = np.int32 if name == "attention" else np.float32
    X, probes = X.astype(whole), probes.astype(whole)
    y = y.astype(np.int32 if name == "convolution" else np.float32)
    params = trained(problem, X, y)
    target = problem.target(unflat(problem.shapes, params), X, y)
    found = []
    for backend, num_samples in RUNS.items():
        posterior = nb.sample(
            target, nb.get_backend(backend, mass_matrix=MASS_MATRIX[name]), key=11, num_warmup=1000,
            num_samples=num_samples, num_chains=4, progress=False,
        )  # fmt: skip
        values = problem.predictions(posterior, probes)
        found.append(moments(values))
        print(
            f"{name} {backend}: R-hat {convergence.r_hat(values).max():.4f}, "
            f"ESS {convergence.ess_mean(values).min():,.0f}, "
            f"{posterior.stats.is_divergent.sum()} divergent, "
            f"{posterior.info.seconds['total']:.0f} s",
            flush=True,
        )
    one, other = found
    off = np.abs(one[:2] - other[:2]) / np.sqrt(one[2:] ** 2 + other[2:] ** 2)
    print(f"{name}: they differ by up to {off.max():.1f} standard errors of {off.size}; "
          f"deviations {one[1].min():.3f} to {one[1].max():.3f}", flush=True)  # fmt: skip
    if off.max() > 4:
        raise SystemExit(f"{name}: NUTS and HMC disagree.")
    weights = np.stack([1 / one[2:] ** 2, 1 / other[2:] ** 2])
    best = (weights * np.stack([one[:2], other[:2]])).sum(axis=0) / weights.sum(axis=0)
    errors = weights.sum(axis=0) ** -0.5
    names = ("mean", "deviation", "mean_error", "deviation_error")
    values = dict(zip(names, np.concatenate([best, errors]), strict=True))
    return {"X": X, "y": y, "probes": probes, "params": params, **values}


def main(names: list[str]) -> None:
    """Make the references that are named, all by default, and store them beside the others."""
    stored = {}
    if PATH.exists():
        with np.load(PATH) as file:
            stored = dict(file)
    for name in names or PROBLEMS:
        stored |= {f"{name}/{part}": value for part, value in made(name).items()}
        np.savez_compressed(PATH, **stored)


if __name__ == "__main__":
    main(sys.argv[1:])
