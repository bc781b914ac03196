"""Distribution of y for each draw of the weights: what predictions are mixtures of.

A likelihood of a user may return any object with the methods of `numpyro.distributions`. Such
objects hold the shapes that they were made for, so they are not stacked: outputs and parameters are
kept, and the likelihood is asked anew, in double precision, for whatever a prediction needs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.pytrees import register_pytree
from nbcore.distributions.continuous import bisect
from nbcore.distributions.discrete import bisect_integers
from nbcore.distributions.distribution import Distribution, as_matrix
from nbcore.distributions.foreign import cdf_of
from nbcore.distributions.likelihoods import Likelihood, log_prob_of_each
from nbcore.errors import OptionError, ShapeError

TOLERANCE = 1e-2
"""Largest difference of two log densities, in single precision, that should be the same."""
HALVINGS = 64
"""Bounds from moments are wider than those from quantiles."""


def each_draw(likelihood: Likelihood, outputs: Any, parameters: Any) -> Distribution:
    """Return the distribution of y for each draw.

    Args:
        likelihood: distribution of y given the outputs.
        outputs: network outputs `(draws, examples, outputs)`.
        parameters: unconstrained parameters of the likelihood, with a leading axis of draws.

    Raises:
        OptionError: `log_prob` of the likelihood is not that of its `distribution`.

    Examples:
        >>> import numpy as np, nbcore as nb
        >>> found = each_draw(nb.Poisson(), np.zeros((5, 3, 1), np.float32), {})
        >>> type(found).__name__, found.shape
        ('PoissonDistribution', (5, 3, 1))
    """
    if not _has_own(likelihood, "distribution"):
        return OfLikelihood.of(likelihood, outputs, parameters)
    few = jax.tree.map(lambda a: jnp.asarray(a[0]), parameters)
    if isinstance(likelihood.distribution(jnp.asarray(outputs[0, :1]), few), Distribution):
        found = jax.vmap(likelihood.distribution)(outputs, parameters)
        draws = jax.tree.map(_with_three_axes, found).standard_form()
    else:
        draws = OfLikelihood.of(likelihood, outputs, parameters)
    if _has_own(likelihood, "log_prob"):
        _check_consistent(likelihood, draws, outputs, parameters)
    return draws


def _has_own(likelihood: Likelihood, name: str) -> bool:
    return getattr(type(likelihood), name) is not getattr(Likelihood, name)


def _with_three_axes(leaf: jax.Array) -> np.ndarray:
    """Return a leaf with axes `(draws, examples, targets)`, of which it may lack the last two."""
    draws, *rest = leaf.shape
    return np.asarray(leaf).reshape(draws, *[1] * (2 - len(rest)), *rest)


def _check_consistent(
    likelihood: Likelihood, draws: Distribution, outputs: Any, parameters: Any
) -> None:
    """Check a `log_prob` of its own against the distribution, at a sample of y."""
    few = draws.take(np.arange(1), slice(0, 8))
    y = few.sample(np.random.default_rng(0))[0]
    first = jax.tree.map(lambda a: jnp.asarray(a[0]), parameters)
    given = jnp.asarray(outputs[0, :8]), jnp.asarray(y), first
    found, expected = likelihood.log_prob(*given), Likelihood.log_prob(likelihood, *given)
    if not np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
        name = type(likelihood).__name__
        raise OptionError(
            f"{name}.log_prob is not the log density of {name}.distribution: "
            f"{np.asarray(found)[0]:.4g} and {np.asarray(expected)[0]:.4g} at y = {y[0]}. Define "
            "distribution alone: log_prob follows from it."
        )


@register_pytree
@dataclass(frozen=True)
class OfLikelihood(Distribution):
    """Distribution of y that a likelihood gives for each draw, in units of `shift` and `scale`.

    Args:
        likelihood: the likelihood; its leaves have leading axes `(draws, examples)`.
        outputs: network outputs `(draws, examples, outputs)`.
        parameters: parameters; leading axes as those of the likelihood.
        shift: y is shift + scale * z, with z as the likelihood reads it `(draws, examples,
            targets)`; `None` if that is y itself.
        scale: see `shift`.
    """

    likelihood: Likelihood
    outputs: np.ndarray
    parameters: Any
    shift: np.ndarray | None = None
    scale: np.ndarray | None = None

    @staticmethod
    def of(likelihood: Likelihood, outputs: Any, parameters: Any) -> OfLikelihood:
        """Return the distribution of each draw."""
        shared = jax.tree.map(lambda a: np.asarray(a)[None, None], likelihood)
        each = jax.tree.map(lambda a: np.asarray(a)[:, None], parameters)
        return OfLikelihood(shared, np.asarray(outputs), each)

    @property
    def first(self) -> Likelihood:
        """Likelihood of the first draw."""
        return jax.tree.map(lambda a: a[0, 0], self.likelihood)

    @property
    def name(self) -> str:
        """Name of the likelihood."""
        return type(self.likelihood).__name__

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Draws, examples and targets."""
        mean = self.take(np.arange(1), slice(0, 1))._asked(_mean)
        if mean.ndim != 3:
            raise ShapeError(
                f"The mean that {self.name} gives has shape {mean.shape[1:]} for one example. Give "
                "its distribution parameters of shape (examples, targets)."
            )
        return (*self.outputs.shape[:2], mean.shape[2])

    @property
    def mean(self) -> np.ndarray:
        """Mean of y."""
        mean = self._asked(_mean)
        return mean if self.scale is None else self.shift + self.scale * mean

    @property
    def variance(self) -> np.ndarray:
        """Variance of y."""
        variance = self._asked(_variance)
        return variance if self.scale is None else self.scale**2 * variance

    @functools.cached_property
    def is_discrete(self) -> bool:
        """Whether y is an integer, as the distribution of the likelihood declares it."""
        parameters = jax.tree.map(lambda a: a[0, 0], self.parameters)
        found = self.first.distribution(jnp.asarray(self.outputs[0, :1]), parameters)
        return bool(getattr(found, "is_discrete", False))

    def check(self, y: np.ndarray) -> np.ndarray:
        """Return y as the likelihood reads it, or raise what is wrong with it."""
        if self.scale is not None:
            return as_matrix(y, self.shape[1:])
        with jax.enable_x64(True):
            return np.asarray(self.first.check(y, self.outputs.shape[2]))

    def log_density(self, y: np.ndarray) -> np.ndarray:
        """Return log p(y | draw): that of z, minus the log scale of each target."""
        each = self._asked(_log_prob, self._read(y))
        return each if self.scale is None else each - np.log(self.scale).sum(axis=-1)

    def cdf(self, y: np.ndarray) -> np.ndarray:
        """Return P(Y <= y | draw)."""
        return self._asked(_cdf, self._read(y))

    def quantile(self, level: float) -> np.ndarray:
        """Bisect between bounds that hold for every distribution of this mean and variance."""

        def cdf(y: np.ndarray) -> np.ndarray:
            return self.cdf(y).mean(axis=0)

        low, high = cantelli(self.mean, self.variance, level)
        while np.any(above := cdf(low) >= level):
            low = np.where(above, low - 2 * (high - low), low)
        while np.any(short := cdf(high) < level):
            high = np.where(short, high + 2 * (high - low), high)
        if self.is_discrete:
            return bisect_integers(cdf, level, np.floor(low), np.ceil(high))
        return bisect(cdf, level, low, high, halvings=HALVINGS)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Sample one y from each draw."""
        key = jax.random.key(int(rng.integers(2**32)))
        sampled = self._asked(_sample, jax.random.split(key, len(self.outputs)))
        return sampled if self.scale is None else self.shift + self.scale * sampled

    def crps(self, y: np.ndarray) -> float | None:
        """Return `None`: there is no closed form; labels have no order."""
        if np.issubdtype(y.dtype, np.integer):
            raise OptionError("Classes have no order. Use .mean for their probabilities.")
        return None

    def in_units(self, shift: np.ndarray, scale: np.ndarray) -> OfLikelihood:
        """Return the distribution of shift + scale * y."""
        shift, scale = (
            np.reshape(a, (*(1,) * (3 - np.ndim(a)), *np.shape(a))) for a in (shift, scale)
        )
        if self.scale is not None:
            shift, scale = shift + scale * self.shift, scale * self.scale
        return replace(self, shift=shift, scale=scale)

    def with_variance(self, variance: np.ndarray) -> OfLikelihood:
        """Return the distribution of mean + ratio * (y - mean)."""
        ratio, mean = np.sqrt(variance / self.variance), self.mean
        shift, scale = (0.0, 1.0) if self.scale is None else (self.shift, self.scale)
        return replace(self, shift=mean + ratio * (shift - mean), scale=ratio * scale)

    def _read(self, y: np.ndarray) -> np.ndarray:
        """Return y of every draw in the units of the likelihood."""
        z = y if self.scale is None else (y - self.shift) / self.scale
        return np.broadcast_to(z, (len(self.outputs), *y.shape))

    def _asked(self, question: Callable[..., jax.Array], *values: Any) -> np.ndarray:
        """Return the answers of all draws, in double precision."""
        draws = len(self.outputs)

        def repeated(leaf: np.ndarray) -> np.ndarray:
            return np.broadcast_to(_double(leaf)[:, 0], (draws, *leaf.shape[2:]))

        given = jax.tree.map(repeated, (self.likelihood, self.parameters))
        with jax.enable_x64(True):
            return np.asarray(_each(question, *given, _double(self.outputs), *values))


def cantelli(mean: np.ndarray, variance: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds of a quantile of the equal mixture of draws, by Cantelli's inequality.

    The quantile of any distribution is within mean - sd sqrt((1 - q) / q) and
    mean + sd sqrt(q / (1 - q)). If a moment is not finite, the bounds are -1 and 1.

    Examples:
        >>> import numpy as np
        >>> low, high = cantelli(np.zeros((2, 1)), np.ones((2, 1)), 0.5)
        >>> bool(low < -1) and bool(high > 1)
        True
    """
    center = mean.mean(axis=0)
    deviation = np.sqrt(variance.mean(axis=0) + mean.var(axis=0))
    finite = np.isfinite(center) & np.isfinite(deviation)
    odds, slack = np.sqrt(level / (1 - level)), 1 + 1e-6
    low = np.where(finite, center - slack * deviation / odds, -1.0)
    return low, np.where(finite, center + slack * deviation * odds, 1.0)


@functools.partial(jax.jit, static_argnums=0)
def _each(
    question: Callable[..., jax.Array],
    likelihood: Likelihood,
    parameters: Any,
    outputs: jax.Array,
    *values: jax.Array,
) -> jax.Array:
    return jax.vmap(question)(likelihood, parameters, outputs, *values)


def _mean(likelihood: Likelihood, parameters: Any, outputs: jax.Array) -> jax.Array:
    return likelihood.moments(outputs, parameters)[0]


def _variance(likelihood: Likelihood, parameters: Any, outputs: jax.Array) -> jax.Array:
    return likelihood.moments(outputs, parameters)[1]


def _log_prob(
    likelihood: Likelihood, parameters: Any, outputs: jax.Array, z: jax.Array
) -> jax.Array:
    return log_prob_of_each(likelihood, outputs, z, parameters)


def _cdf(likelihood: Likelihood, parameters: Any, outputs: jax.Array, z: jax.Array) -> jax.Array:
    distribution = likelihood.distribution(outputs, parameters)
    mean, _ = likelihood.moments(outputs, parameters)
    try:
        found = cdf_of(_with(distribution, "cdf", likelihood), z, mean)
    except NotImplementedError:
        raise _without(distribution, "cdf", likelihood) from None
    if found.shape != z.shape:
        raise ShapeError(
            f"{type(likelihood).__name__}.distribution has a cdf of shape {found.shape} for y of "
            f"shape {z.shape}. Give it parameters of shape (examples, targets)."
        )
    return found


def _sample(
    likelihood: Likelihood, parameters: Any, outputs: jax.Array, key: jax.Array
) -> jax.Array:
    distribution = likelihood.distribution(outputs, parameters)
    return _with(distribution, "sample", likelihood).sample(key)


def _with(distribution: Any, method: str, likelihood: Likelihood) -> Any:
    """Return the distribution, or raise that it lacks a method."""
    if not callable(getattr(distribution, method, None)):
        raise _without(distribution, method, likelihood)
    return distribution


def _without(distribution: Any, method: str, likelihood: Likelihood) -> OptionError:
    own = type(distribution).__name__
    instead = f"Give {own} a method sample(key)."
    if method == "cdf":
        instead = (
            "Sample instead: np.quantile(prediction.sample(2000), q, axis=0), or give "
            f"{own} a method cdf(y)."
        )
    return OptionError(
        f"{type(likelihood).__name__}.distribution returns {own}, which has no {method}. {instead}"
    )


def _double(leaf: np.ndarray) -> np.ndarray:
    floats = np.issubdtype(leaf.dtype, np.floating)
    return np.asarray(leaf, np.float64 if floats else leaf.dtype)
