"""Distributions of other libraries: any object with `log_prob` and `sample`, as NumPyro has them.

Nothing is imported: an object that has the methods is a distribution. `log_prob(value)` gives one
number for each event, `sample(key, sample_shape)` draws of shape `sample_shape + batch_shape`; read
if present are `mean`, `variance`, `cdf`, `support`, `batch_shape`, `event_shape`, `is_discrete`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.errors import OptionError

SAMPLES = 4001
"""How many samples show what a distribution is like."""


def is_distribution(value: Any) -> bool:
    """Say whether an object has the methods of a distribution.

    Examples:
        >>> is_distribution(1.0)
        False
    """
    return all(callable(getattr(value, name, None)) for name in ("log_prob", "sample"))


def log_prob_of(distribution: Any, value: jax.Array) -> jax.Array:
    """Return log p(value), -inf outside the support if the distribution declares one.

    NumPyro evaluates its formula wherever it is asked: `Uniform` has the same density everywhere.
    """
    each = distribution.log_prob(value)
    inside = _inside(distribution, value)
    return each if inside is None else jnp.where(inside, each, -jnp.inf)


def cdf_of(distribution: Any, value: jax.Array, mean: jax.Array) -> jax.Array:
    """Return P(Y <= value): 0 below the support, 1 above; of integers, at the largest one <= value.

    Args:
        distribution: distribution with a method `cdf`.
        value: values.
        mean: mean, which says on which side of the support a value is.
    """
    value = jnp.floor(value) if getattr(distribution, "is_discrete", False) else value
    found = distribution.cdf(value)
    inside = _inside(distribution, value)
    return found if inside is None else jnp.where(inside, found, jnp.where(value < mean, 0.0, 1.0))


def in_support(distribution: Any, value: jax.Array) -> bool:
    """Return whether values have a density: by the declared support, or else by the density."""
    inside = _inside(distribution, value)
    return bool(jnp.all(jnp.isfinite(distribution.log_prob(value)) if inside is None else inside))


def _inside(distribution: Any, value: jax.Array) -> Any:
    support = getattr(distribution, "support", None)
    return support(value) if callable(support) else None


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class Independent:
    """Independent variables x = unit * d, with d of a distribution of another library.

    Its density is p(x / unit) / unit. A distribution that is a pytree, as all of NumPyro are, is
    data; any other one is part of the program, and programs are shared by those that are equal.

    Args:
        distribution: distribution of one real number, or of an array of independent ones.
        unit: units of x, a number or an array.

    Examples:
        >>> import jax, jax.numpy as jnp, nbcore as nb
        >>> twice = Independent(nb.NormalDistribution(jnp.zeros(()), jnp.ones(())), 2.0)
        >>> round(float(twice.log_prob(jnp.zeros(()))), 4)  # -log(2 sqrt(2 pi))
        -1.6121
    """

    distribution: Any
    unit: Any = 1.0

    def log_prob(self, x: jax.Array) -> jax.Array:
        """Return log p(x), elementwise."""
        x = jnp.asarray(x, jnp.result_type(float, jnp.asarray(x)))
        unit = jnp.asarray(self.unit, x.dtype)
        return log_prob_of(self.distribution, x / unit) - jnp.log(unit)

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Sample an array of this shape, in the default precision."""
        batch = tuple(getattr(self.distribution, "batch_shape", ()))
        drawn = self.distribution.sample(key, shape[: len(shape) - len(batch)])
        return jnp.asarray(self.unit) * jnp.asarray(drawn, jnp.result_type(float))

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """Return the leaves with their names, and what is static."""
        unit = (jax.tree_util.GetAttrKey("unit"), self.unit)
        if jax.tree_util.all_leaves([self.distribution]):
            return (unit,), self.distribution
        return (unit, (jax.tree_util.GetAttrKey("distribution"), self.distribution)), None

    @classmethod
    def tree_unflatten(cls, static: Any, leaves: Any) -> Any:
        """Return what `tree_flatten_with_keys` took apart."""
        unit, *dynamic = leaves
        return cls(dynamic[0] if dynamic else static, unit)


def check_scalar(distribution: Any, name: str) -> np.ndarray:
    """Check that a distribution is one of real numbers, by sampling it.

    Args:
        distribution: an object that should have `log_prob` and `sample`.
        name: the argument that it was given as.

    Returns:
        A sample `(SAMPLES, *batch_shape)`, the same each time.

    Raises:
        OptionError: the methods are missing or behave otherwise.
    """
    own = type(distribution).__name__
    if not is_distribution(distribution):
        raise OptionError(
            f"{name} is a distribution, an object with log_prob(value) and sample(key, "
            f"sample_shape), such as numpyro.distributions.HalfCauchy(1.0); got {distribution!r}."
        )
    batch = tuple(getattr(distribution, "batch_shape", ()))
    if getattr(distribution, "event_shape", ()):
        raise OptionError(
            f"{name}={own} is a distribution of vectors, and one of numbers is needed: each is "
            "independent of the others."
        )
    try:
        with jax.ensure_compile_time_eval():
            drawn = np.asarray(distribution.sample(jax.random.key(0), (SAMPLES,)), np.float64)
            each = np.shape(log_prob_of(distribution, jnp.asarray(drawn)))
    except TypeError as error:
        raise OptionError(
            f"{name}={own} cannot be called as NumPyro's distributions are, log_prob(value) and "
            f"sample(key, sample_shape): {error}."
        ) from error
    if drawn.shape != (SAMPLES, *batch) or each != drawn.shape:
        raise OptionError(
            f"{name}={own} gives samples of shape {drawn.shape} for sample_shape=({SAMPLES},), and "
            f"densities of shape {each} of them; {(SAMPLES, *batch)} is expected of both."
        )
    return drawn
