"""Fast runs of samplers that declare `exact`: chains that start at exact draws stay exact.

Many short chains start at independent draws of a density that is known. Whatever the step size, a
sampler that leaves the density invariant keeps it, so that nothing has to mix: means over chains
are independent, and their spread is the Monte Carlo error. Three scales of one density, without
anything compiled again, are to the same step size a smooth, a rough, and an impossible density.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from nbcore.common.pytrees import register_pytree
from nbcore.posterior.posterior import Posterior
from nbcore.sampling.backend import Backend
from nbcore.targets.target import Target
from nbcore.testing import runs
from nbcore.testing.oracle import HIDDEN, NOISE, oracle

_Floats = NDArray[np.float64]

NUM_CHAINS = 256
NUM_POSTERIOR_CHAINS = 64
NUM_STEPS = 60
SCALES = (1.0, 1 / 8, 1 / 64)
FUNCTIONS = ("x", "y", "x²", "y²", "x y", "x² y")


@register_pytree
@dataclass(frozen=True)
class Banana(Target):
    """A bent normal in two dimensions: x ~ N(0, 1) and y ~ N((x² - 1)/2, 1/4), times a scale.

    Args:
        scale: what x and y are multiplied by.
    """

    scale: Any

    @property
    def start(self) -> dict[str, jax.Array]:
        """The origin."""
        return {"x": jnp.zeros(1), "y": jnp.zeros(1)}

    def log_density(self, position: Any) -> jax.Array:
        """Return the log density."""
        x, y = (position[name][0] / self.scale for name in ("x", "y"))
        return -0.5 * x**2 - 2 * (y - 0.5 * (x**2 - 1)) ** 2


@dataclass(frozen=True)
class Kept:
    """Functions of the draws of chains that started at exact draws, less their true means.

    Args:
        what: the density, in words.
        posterior: the run.
        names: names of the functions.
        values: `(chain, draw, functions)`, of expectation 0.
    """

    what: str
    posterior: Posterior
    names: tuple[str, ...]
    values: _Floats

    @property
    def errors(self) -> _Floats:
        """Means over all draws, in Monte Carlo standard errors `(functions,)`."""
        means = self.values.mean(axis=1)
        spread = means.std(axis=0, ddof=1) / np.sqrt(len(means))
        return means.mean(axis=0) / np.maximum(spread, 1e-12)

    @property
    def moved(self) -> NDArray[np.bool_]:
        """Whether a step changed the position `(chain, draw - 1)`."""
        leaves = [np.asarray(a) for a in jax.tree.leaves(self.posterior.draws)]
        changed = [
            np.any((a[:, 1:] != a[:, :-1]).reshape(*a[:, 1:].shape[:2], -1), 2) for a in leaves
        ]
        return np.any(changed, axis=0)


@functools.lru_cache(maxsize=2 * len(SCALES))
def kept_banana(backend: Backend, scale: float) -> Kept:
    """Return the run on the bent normal of a scale."""
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, NUM_CHAINS, 1))
    starts = {"x": scale * x, "y": scale * (0.5 * (x**2 - 1) + 0.5 * noise)}
    what = f"a bent normal of scale {scale:g}"
    posterior = _run(Banana(jnp.asarray(scale)), backend, starts)
    x, y = (np.asarray(posterior.draws[name], np.float64)[..., 0] / scale for name in ("x", "y"))
    values = np.stack([x, y, x**2 - 1, y**2 - 0.75, x * y, x**2 * y - 1], axis=-1)
    return Kept(what, posterior, FUNCTIONS, values)


@functools.lru_cache(maxsize=2)
def kept_posterior(backend: Backend) -> Kept:
    """Return the run on the closed-form posterior: independent functions, and their squares."""
    truth = oracle()
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(NUM_POSTERIOR_CHAINS, truth.mean.size))
    draws = truth.mean + normal @ np.linalg.cholesky(truth.covariance).T
    columns = draws.reshape(NUM_POSTERIOR_CHAINS, len(NOISE), 1 + HIDDEN)
    weights = {"Head/bias": columns[..., 0], "Head/kernel": np.swapaxes(columns[..., 1:], 1, 2)}
    starts = {"weights": weights, "likelihood": {}, "prior": {}}
    what = "the closed-form posterior of a last layer"
    posterior = _run(truth.target, backend, starts)
    values = truth.standardized(posterior)[..., truth.mean.size :]
    names = [f"direction {n}" for n in range(truth.mean.size)]
    squares = tuple(f"the square of {name}" for name in names)
    return Kept(what, posterior, (*names, *squares), np.concatenate([values, values**2 - 1], -1))


def _run(target: Target, backend: Backend, starts: Any) -> Posterior:
    num_chains = len(jax.tree.leaves(starts)[0])
    return runs.draw(
        target, backend, num_warmup=NUM_STEPS, num_samples=NUM_STEPS, chunk_size=NUM_STEPS,
        num_chains=num_chains, init=starts, chain_method="vectorized",
    )  # fmt: skip
