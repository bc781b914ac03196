"""The contract of priors: of weights, and of positive parameters such as a noise or a scale."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from nbcore.distributions.positive import as_positive
from nbcore.subsets.split import ParameterSplit
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.testing.cases import check
from nbcore.testing.densities import SAMPLES, Floats, require_followed, require_normalized
from nbcore.testing.example import example_network, example_params
from nbcore.testing.failure import require

FACTOR = 3.0


@dataclass(frozen=True, eq=False)
class PriorCase:
    """A prior, and the stochastic weights that it is checked on.

    Args:
        prior: prior of weights, such as `nb.DistributionPrior(...)`, or of a positive parameter
            such as a noise: `nb.HalfNormal`, an object of your own, or a distribution with
            `log_prob` and `sample`.
        split: about 3 stochastic weights; those of a small example network by default, whose
            layers are `Dense` and `Head`. A prior of a positive parameter needs none.

    Examples:
        >>> import nbcore as nb
        >>> PriorCase(nb.NormalPrior(0.3)).name
        'NormalPrior'
    """

    prior: Any
    split: ParameterSplit | None = None

    @property
    def name(self) -> str:
        """Type of the prior."""
        return type(self.prior).__name__

    @property
    def is_positive(self) -> bool:
        """Whether it is a prior of a positive parameter, instead of weights."""
        return not hasattr(self.prior, "resolve")

    @functools.cached_property
    def resolved(self) -> Any:
        """The prior of the weights of the split, or of a positive parameter, as samplers use it."""
        if self.is_positive:
            return as_positive(self.prior, "prior")
        return self.prior.resolve(self._split)

    @functools.cached_property
    def start(self) -> Any:
        """The start of chains: weights and hyperparameters, or the logarithm of the median."""
        if self.is_positive:
            return jnp.log(jnp.asarray(self.resolved.median, jnp.result_type(float)))
        return self._split.position, self.resolved.initial()

    @property
    def _split(self) -> ParameterSplit:
        return self.split or _example_split()

    def sample(self, key: jax.Array) -> Any:
        """Sample a value with the structure of `start`."""
        if self.is_positive:
            return jnp.log(self.resolved.sample(key, np.shape(self.resolved.median)))
        return self.resolved.sample(key)

    def density_of(self, resolved: Any, value: Any) -> jax.Array:
        """Return the log density of a value with the structure of `start`."""
        if self.is_positive:
            return jnp.sum(resolved.log_prob(jnp.exp(value)) + value)
        return resolved.log_density(*value)

    @functools.cached_property
    def samples(self) -> Floats:
        """Samples, flat `(SAMPLES, dimensions)`."""
        keys = jax.random.split(jax.random.key(3), SAMPLES)
        flat = jax.jit(jax.vmap(lambda key: ravel_pytree(self.sample(key))[0]))(keys)
        return np.asarray(flat, np.float64)

    @functools.cached_property
    def log_density(self) -> Callable[[Floats], Floats]:
        """The log density of flat values `(m, dimensions)`."""
        _, unravel = ravel_pytree(self.start)
        compiled = jax.jit(
            jax.vmap(lambda resolved, flat: self.density_of(resolved, unravel(flat)), (None, 0))
        )
        return lambda points: np.asarray(compiled(self.resolved, points), np.float64)


@functools.cache
def _example_split() -> ParameterSplit:
    pairs = {"Dense": [(0, 0), (3, 2)], "Head": [(1, 1)]}
    subset = ProbabilisticSubset.pairs(pairs, include_bias=False)
    return subset.split(example_network(), example_params())


@check("prior")
def check_prior_is_data(case: PriorCase) -> None:
    """A prior is a pytree of numbers, as all arguments of compiled programs are."""
    require_pytree(case.resolved, case.name)


@check("prior")
def check_samples_are_like_the_start(case: PriorCase) -> None:
    """Samples have the structure, shapes and types of the start, and differ between keys."""
    first, again, other = (case.sample(jax.random.key(k)) for k in (0, 0, 1))
    found, expected = (jax.tree.map(_form, tree) for tree in (first, case.start))
    require(
        found == expected,
        f"{case.name}.sample returns weights and hyperparameters with the shapes of the start",
        measured=found,
        limit=expected,
        cause="a sample_shape without the shape of the weights, or a name that `initial` has and "
        "`sample` has not.",
    )
    first, again, other = (ravel_pytree(tree)[0] for tree in (first, again, other))
    require(
        np.array_equal(first, again) and np.all(first != other),
        f"The same key gives the same sample of {case.name}, and another key another one",
        measured=f"{first} and {again}; {other} of another key",
        limit="equal, and different",
        cause="numpy.random, or a key that is not used.",
    )


@check("prior")
def check_density_is_finite_at_the_start(case: PriorCase) -> None:
    """The log density is a finite scalar at the start of chains, and so is its gradient."""
    compiled = jax.jit(jax.value_and_grad(case.density_of, argnums=1))
    value, gradient = compiled(case.resolved, case.start)
    finite = np.isfinite(value) and all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradient))
    require(
        finite,
        f"{case.name} has a finite log density and gradient at the start of chains",
        measured=f"{value} with gradient {jax.tree.map(np.asarray, gradient)}",
        limit="finite",
        cause="a density with a pole or an edge at its center.",
    )


@check("prior")
def check_samples_follow_the_density(case: PriorCase) -> None:
    """Each weight and hyperparameter is distributed as the density says, given the others."""
    require_followed(
        case.log_density,
        case.samples,
        f"Samples of {case.name} follow its log density",
        cause="a scale that only one of the two has, a center that is not subtracted, or a "
        "hyperparameter without the Jacobian of its transformation.",
    )


@check("prior")
def check_density_is_normalized(case: PriorCase) -> None:
    """The density integrates to 1 over weights and hyperparameters."""
    require_normalized(
        case.log_density,
        case.samples,
        f"The density of {case.name} integrates to 1",
        cause="a constant left out, such as the logarithm of the scale, or the factor 2 of half of "
        "a symmetric distribution.",
    )


@check("prior", applies=lambda declared: "positive" in declared)
def check_median_and_spread(case: PriorCase) -> None:
    """`median` and `log_spread` are about those of samples: chains start and move by them."""
    low, middle, high = np.percentile(case.samples, [16, 50, 84], axis=0)
    median = np.ravel(np.log(case.resolved.median))
    spread = np.ravel(np.asarray(case.resolved.log_spread, float))
    off, ratio = (median - middle) / (high - low), 2 * spread / (high - low)
    require(
        np.all(np.abs(off) < 1 / FACTOR) and np.all((ratio > 1 / FACTOR) & (ratio < FACTOR)),
        f"median and log_spread of {case.name} are those of its samples, about",
        measured=f"log median {median}, log_spread {spread}",
        limit=f"log median {middle}, log_spread {(high - low) / 2}, within a factor of {FACTOR:g}",
        cause="the scale given for the median, or the spread of x for that of log x.",
    )


@check("prior", applies=lambda declared: "positive" in declared)
def check_units_are_exact(case: PriorCase) -> None:
    """`times(factor)` is the prior of factor * x: it has the density p(x / factor) / factor."""
    times = getattr(case.resolved, "times", None)
    if times is None:
        return  # y is then not standardized, and an error says so
    factor, few = 2.5, case.samples[:20]
    other = PriorCase(times(np.asarray(factor)))
    measured = other.log_density(few + np.log(factor)) - case.log_density(few)
    moved = other.samples - np.log(factor)
    require(
        np.allclose(measured, 0, atol=1e-3) and np.allclose(moved, case.samples, atol=1e-3),
        f"{case.name}.times({factor}) is the prior of {factor} x",
        measured=f"a log density of log x that differs by {np.abs(measured).max():.3g}, samples by "
        f"a factor of {np.exp(np.abs(moved - case.samples).max()):.3g}",
        limit="0 and 1: the same density and samples in other units",
        cause="a parameter in the units of x that is not multiplied.",
    )


def require_pytree(value: Any, name: str) -> None:
    """Raise a ConformanceError unless a value is a pytree of numbers that survives a round trip."""
    leaves, structure = jax.tree.flatten(value)
    require(
        not jax.tree_util.all_leaves([value]),
        f"{name} is a pytree: its parameters are arguments of compiled programs",
        measured=f"{type(value).__name__} is a leaf",
        limit="a registered class",
        cause="a missing decorator: @nbcore.extend.register_pytree above @dataclass(frozen=True).",
    )
    wrong = [leaf for leaf in leaves if not isinstance(leaf, int | float | np.ndarray | jax.Array)]
    require(
        not wrong and jax.tree.structure(jax.tree.unflatten(structure, leaves)) == structure,
        f"{name} has leaves that are numbers, and is the same when it is put together again",
        measured=wrong,
        limit="numbers and arrays",
        cause="a field that is a word or a function: field(metadata={'static': True}); or a "
        "__post_init__ that changes fields.",
    )


def _form(leaf: Any) -> tuple[tuple[int, ...], str]:
    return np.shape(leaf), str(jnp.result_type(leaf))
