"""A reference posterior: what it is of, and what long runs found."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from nbcore.common import storage
from nbcore.distributions.likelihoods import Bernoulli, Categorical
from nbcore.errors import DataError, OptionError, RunFolderError, did_you_mean
from nbcore.networks.network import Params
from nbcore.posterior.posterior import NetworkPosterior, Posterior
from nbcore.references.distance import Distance, bias_by_draw, distance
from nbcore.references.networks import unflat
from nbcore.references.problems import PROBLEMS, Problem
from nbcore.targets.target import NetworkTarget

_Floats = NDArray[np.float64]

FOLDER = Path(__file__).with_name("posteriors")
MAX_APART, MAX_R_HAT = 4.5, 1.05
"""Up to how many standard errors between samplers, and which R-hat, a reference is settled."""


@dataclass(frozen=True)
class Reference:
    """A posterior over some weights of a network, and what is known of it.

    Functions of the weights that symmetries of the network leave alone are compared: predictions
    at some inputs (outputs; probabilities of classes), unknown parameters such as the noise on an
    unconstrained scale, and the sum of squares of each leaf of weights.

    Args:
        name: its name.
        problem: network, subset, prior and likelihood.
        X: inputs of the examples.
        y: their targets.
        params: weights of the network, of which the stochastic ones are where training ended.
        probes: inputs of the predictions.
        names: names of the functions.
        mean: their means `(functions,)`.
        deviation: their standard deviations.
        mean_error: Monte Carlo standard errors of the means.
        deviation_error: Monte Carlo standard errors of the deviations.
        draws: some hundred draws of the functions `(n, functions)`.
        made: how: samplers with their steps, R-hat and ESS, versions, and `status`, which says
            what is trusted.
        digest: hash of data, weights and problem, which `load` has checked.
    """

    name: str
    problem: Problem
    X: NDArray[Any]
    y: NDArray[Any]
    params: Params
    probes: NDArray[Any]
    names: tuple[str, ...]
    mean: _Floats
    deviation: _Floats
    mean_error: _Floats
    deviation_error: _Floats
    draws: _Floats
    made: dict[str, Any]
    digest: str

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Pickle the name: another process reads the file again."""
        return load, (self.name,)

    @functools.cached_property
    def target(self) -> NetworkTarget:
        """The log density, made when it is first asked for."""
        return self.problem.target(self.params, self.X, self.y)

    @property
    def status(self) -> str:
        """What is trusted, in words."""
        return self.made["status"]

    @property
    def is_settled(self) -> bool:
        """Whether long runs agree, so that an exact sampler must find these moments."""
        r_hat = max(run["r_hat"] for run in self.made["runs"].values())
        return self.made["apart"] <= MAX_APART and r_hat <= MAX_R_HAT

    def functions(self, posterior: NetworkPosterior) -> _Floats:
        """Return the functions of the draws of a posterior of `target`, `(chain, draw, functions)`.

        Raises:
            DataError: it is a posterior of other weights.
        """
        check_same(self, posterior)
        return functions(self.problem, posterior, self.probes)[1]

    def distance(self, posterior: NetworkPosterior) -> Distance:
        """Return how far the draws of a posterior of `target` are.

        Raises:
            DataError: it is a posterior of other weights, or has fewer than 4 draws.
        """
        values = self.functions(posterior)
        if values.shape[1] < 4:
            raise DataError(
                f"A distance needs at least 4 draws of each chain; got {values.shape[1]}. Sample "
                "with num_samples=4 or more."
            )
        errors = self.mean_error, self.deviation_error
        return distance(values, self.names, self.mean, self.deviation, errors, self.draws)

    def bias_by_gradient(self, posterior: NetworkPosterior) -> tuple[NDArray[np.int64], _Floats]:
        """Return, after each draw, the gradients spent so far and the bias of all draws so far.

        Gradients are those of all chains, warmup included; the bias is the root mean square over
        functions, in deviations of the reference.

        Raises:
            DataError: it is a posterior of other weights.
        """
        spent = posterior.info.num_gradients
        before = sum(count for phase, count in spent.items() if phase != "sampling")
        gradients = before + np.cumsum(np.asarray(posterior.stats.num_gradients).sum(axis=0))
        values = self.functions(posterior)
        return gradients, bias_by_draw(values, self.mean, self.deviation)

    def gradients_to(self, posterior: NetworkPosterior, bias: float = 0.1) -> int | None:
        """Return after how many gradients the bias stays below a limit; `None` if it never does.

        A bias of 0.1 standard deviations is a squared bias of 1 % of the variance.

        Raises:
            DataError: it is a posterior of other weights.
        """
        gradients, found = self.bias_by_gradient(posterior)
        above = np.flatnonzero(found >= bias)
        if not len(above):
            return int(gradients[0])
        return int(gradients[above[-1] + 1]) if above[-1] + 1 < len(gradients) else None


def names() -> tuple[str, ...]:
    """Return the names of all references, by network and roughly from easy to hard.

    Examples:
        >>> names()[:3]
        ('linear', 'logistic', 'funnel')
    """
    return tuple(PROBLEMS)


@functools.cache
def load(name: str) -> Reference:
    """Return a reference, read once per process.

    Args:
        name: one of `nb.references.list()`.

    Raises:
        OptionError: there is no such reference.
        RunFolderError: its file is damaged, or holds another problem than the one of this name.

    Examples:
        >>> reference = load("attention")
        >>> reference.mean.shape == reference.deviation.shape == (len(reference.names),)
        True
    """
    if name not in PROBLEMS:
        raise OptionError(
            f"No reference is named {name!r}.{did_you_mean(name, PROBLEMS)} "
            f"Possible: {', '.join(PROBLEMS)}."
        )
    arrays, facts = storage.read_arrays(FOLDER / f"{name}.safetensors")
    problem = PROBLEMS[name]
    found = digest(problem, arrays)
    if found != facts["digest"]:
        raise RunFolderError(
            f"{FOLDER / name}.safetensors is not the reference of this version (digest "
            f"{facts['digest']}, expected {found}). Install nbcore again."
        )
    floats = {
        part: arrays[part].astype(np.float64)
        for part in ("mean", "deviation", "mean_error", "deviation_error", "draws")
    }
    given = {part: arrays[part] for part in ("X", "y", "probes")}
    params = unflat(problem.shapes, arrays["params"])
    return Reference(
        name, problem, params=params, names=tuple(facts["names"]), made=facts["made"],
        digest=found, **given, **floats,
    )  # fmt: skip


def digest(problem: Problem, arrays: dict[str, NDArray[Any]]) -> str:
    """Return the hash of a problem with its data and weights."""
    pinned = {part: arrays[part] for part in ("X", "y", "probes", "params")}
    words = [problem.subset.to_json(), repr(problem.likelihood), repr(problem.prior)]
    return storage.digest({**pinned, "words": [np.frombuffer(w.encode(), np.uint8) for w in words]})


def functions(
    problem: Problem, posterior: NetworkPosterior, probes: Any
) -> tuple[tuple[str, ...], _Floats]:
    """Return names and draws of the functions that symmetries leave alone.

    Args:
        problem: whose likelihood says what a prediction is.
        posterior: the draws.
        probes: inputs of the predictions.
    """
    outputs = np.asarray(posterior.outputs(probes), np.float64)
    if isinstance(problem.likelihood, Categorical):
        outputs = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
        outputs = outputs / outputs.sum(axis=-1, keepdims=True)
    elif isinstance(problem.likelihood, Bernoulli):
        outputs = 1 / (1 + np.exp(-outputs))
    size = (posterior.num_chains, posterior.num_draws, -1)
    constrained = posterior.constrained()
    parts = [outputs.reshape(size)]
    found = [f"prediction {i}" for i in range(parts[0].shape[2])]
    for name, draws in sorted(constrained["weights"].items()):
        parts.append(np.sum(np.asarray(draws, np.float64).reshape(size) ** 2, -1, keepdims=True))
        found.append(f"sum of squares of {name}")
    unknown = jax.tree.map(np.log, constrained["likelihood"])
    for kind, tree in (("likelihood", unknown), ("prior", constrained["prior"])):
        for path, draws in jax.tree.leaves_with_path(tree):
            parts.append(np.asarray(draws, np.float64).reshape(size))
            label = f"{kind}{jax.tree_util.keystr(path)}, unconstrained"
            found += [f"{label} {i}" for i in range(parts[-1].shape[2])]
    return tuple(found), np.concatenate(parts, axis=-1)


def check_same(reference: Reference, posterior: Posterior) -> None:
    """Raise a DataError unless a posterior is one of the target of a reference."""
    wanted = jax.tree.map(np.shape, reference.target.start)
    found = jax.tree.map(lambda a: np.shape(a)[2:], posterior.draws)
    if not isinstance(posterior, NetworkPosterior) or found != wanted:
        raise DataError(
            f"The draws are not of the reference {reference.name!r}, whose weights have the shapes "
            f"{wanted}; got {found}. Sample nb.references.load({reference.name!r}).target."
        )
