"""Priors of the stochastic weights that are distributions of another library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.pytrees import register_pytree
from nbcore.distributions.foreign import Independent, check_scalar, is_distribution
from nbcore.distributions.priors import Hyperparameters, Prior, center_of, fan_in, rule_of
from nbcore.errors import OptionError
from nbcore.subsets.split import ParameterSplit, Weights


@dataclass(frozen=True)
class DistributionPrior:
    """Independent weights, w_i = c_i + unit * d_i, with d_i of any distribution of real numbers.

    An object with `log_prob(value)` and `sample(key, sample_shape)` is a distribution, such as
    `numpyro.distributions.Laplace(0.0, 0.1)` or `StudentT(3.0, 0.0, 0.1)`. Only a normal prior can
    be integrated out (`nb.marginalize`), and only a scale can be unknown: for one, give the
    distribution of the scale to `nb.NormalPrior(scale=...)`.

    Args:
        distribution: distribution of one weight about its center; or a mapping from layer patterns
            (as in `ProbabilisticSubset.layers`) to distributions, of which the last pattern that
            matches counts and one must match every stochastic layer.
        center: `"params"`, `"zero"` or a pytree like the parameters, as in `nb.NormalPrior`.
        fan_in: whether the unit of each kernel is one over the square root of the number of inputs
            that each output sums, instead of 1.

    Raises:
        OptionError: a distribution cannot be sampled, is not one of numbers, or has no finite
            density where chains start.
        UnknownLayerError: a pattern matches no layer.

    Examples:
        >>> import jax.numpy as jnp, nbcore as nb
        >>> network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))
        >>> params = {"out": {"kernel": jnp.ones((3, 1))}}
        >>> split = nb.ProbabilisticSubset.layers("out").split(network, params)
        >>> class Logistic:
        ...     def log_prob(self, value):
        ...         return jax.scipy.stats.logistic.logpdf(value)
        ...
        ...     def sample(self, key, sample_shape):
        ...         return jax.random.logistic(key, sample_shape)
        >>> prior = nb.DistributionPrior(Logistic()).resolve(split)
        >>> round(float(prior.log_density(split.stochastic, {})), 4)  # -3 log 4
        -4.1589
    """

    distribution: Any
    center: Literal["params", "zero"] | Any = "params"
    fan_in: bool = False

    def resolve(self, split: ParameterSplit) -> ResolvedDistribution:
        """Return the prior of these stochastic weights."""
        center = center_of(split, self.center)
        names: list[str] = []
        parts: dict[str, Independent] = {}
        for path in split.paths:
            layer, leaf = split.owner(path)
            _, found = rule_of(split, self.distribution, layer, leaf, "distribution")
            unit = 1 / float(np.sqrt(fan_in(layer, leaf))) if self.fan_in else 1.0
            parts[path] = Independent(_checked(found), unit)
            names.append(type(found).__name__)
        resolved = ResolvedDistribution(center, parts, tuple(sorted(set(names))))
        _check_start(resolved, split.position)
        return resolved


def _checked(distribution: Any) -> Any:
    if hasattr(distribution, "log_spread"):
        raise OptionError(
            f"{distribution!r} is a prior of positive parameters, such as the noise or a scale. "
            f"Type: nb.NormalPrior(scale={distribution!r})"
        )
    check_scalar(distribution, "distribution")
    if getattr(distribution, "batch_shape", ()):
        raise OptionError(
            f"The distribution of a weight is of one number, and {type(distribution).__name__} has "
            f"batch_shape {tuple(distribution.batch_shape)}. Give one for each layer as a mapping "
            "from layer patterns."
        )
    return distribution


def _check_start(resolved: ResolvedDistribution, position: Weights) -> None:
    """Check that the density is finite at the trained weights."""
    for path, part in resolved.parts.items():
        each = np.asarray(part.log_prob(position[path] - resolved.center[path]))
        if not np.all(np.isfinite(each)):
            raise OptionError(
                f"{type(part.distribution).__name__} has the log density "
                f"{each[~np.isfinite(each)][0]} at trained weights of {path!r}, where chains "
                "start. Give a distribution over all real numbers with a finite density at its "
                "center, or another center; an unknown scale is nb.NormalPrior(scale="
                "numpyro.distributions.HalfCauchy(1.0))."
            )


@register_pytree
@dataclass(frozen=True)
class ResolvedDistribution:
    """`DistributionPrior` for one split.

    Args:
        center: center of the weights.
        parts: distribution of the weights of each leaf about their center.
        names: types of the distributions.
    """

    center: Weights
    parts: dict[str, Independent]
    names: tuple[str, ...] = field(metadata={"static": True})

    def initial(self) -> Hyperparameters:
        """Return `{}`: nothing is unknown."""
        return {}

    def log_density(self, weights: Weights, hyperparameters: Hyperparameters) -> jax.Array:
        """Return the sum of the log densities of all weights."""
        del hyperparameters
        terms = [
            jnp.sum(part.log_prob(weights[path] - self.center[path]))
            for path, part in sorted(self.parts.items())
        ]
        return jnp.sum(jnp.stack(terms)) if terms else jnp.zeros(())

    def sample(self, key: jax.Array) -> tuple[Weights, Hyperparameters]:
        """Sample weights."""
        keys = jax.random.split(key, len(self.parts))
        drawn = {
            path: self.center[path] + part.sample(k, self.center[path].shape)
            for (path, part), k in zip(sorted(self.parts.items()), keys, strict=True)
        }
        return drawn, {}


def as_prior(prior: Any) -> Prior:
    """Return a prior of weights, or raise what to type instead.

    Raises:
        OptionError: the object has no method `resolve`.
    """
    if callable(getattr(prior, "resolve", None)) and not isinstance(prior, type):
        return prior
    own = prior.__name__ if isinstance(prior, type) else type(prior).__name__
    if is_distribution(prior) and not hasattr(prior, "log_spread"):
        raise OptionError(
            f"A prior of weights has a center as well, and {own} is a distribution. Type: "
            f"prior=nb.DistributionPrior({own}(...), center='params'), or center='zero'"
        )
    raise OptionError(
        "A prior of weights is nb.NormalPrior(scale=...), nb.DistributionPrior(...) or an object "
        f"with a method resolve(split), got {own}."
    )
