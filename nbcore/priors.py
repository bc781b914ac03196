"""Priors: over the stochastic weights, and over positive scalars such as a noise level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.errors import OptionError
from nbcore.layers import leaves_by_path
from nbcore.rules import matches, unknown_layer
from nbcore.split import ParameterSplit, Weights

Hyper = dict[str, jax.Array]
"""Unknowns of a prior, unconstrained: `position["prior"]`; empty where nothing is unknown."""


class ResolvedPrior(Protocol):
    """A prior that knows its centre and scale for every stochastic weight; a pytree of arrays."""

    def initial(self) -> Hyper:
        """Return where the unknowns of the prior start; `{}` where there are none."""
        ...

    def log_density(self, weights: Weights, hyper: Hyper) -> jax.Array:
        """Return log p(weights, hyper), a scalar; Jacobians of `hyper` included."""
        ...

    def sample(self, key: jax.Array) -> tuple[Weights, Hyper]:
        """Draw weights and unknowns from the prior."""
        ...


class Prior(Protocol):
    """A prior over the stochastic weights, not yet resolved against a split."""

    def resolve(self, split: ParameterSplit) -> ResolvedPrior:
        """Return the prior of these stochastic weights."""
        ...


class PositivePrior(Protocol):
    """A prior over one positive number, or over an array of independent ones; a pytree."""

    @property
    def median(self) -> Any:
        """The median, a sensible start."""
        ...

    @property
    def log_spread(self) -> Any:
        """How far log x spreads, about: samplers move on (log x - log median) / spread."""
        ...

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Return log p(value), elementwise."""
        ...

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draw positive numbers."""
        ...


@dataclass(frozen=True)
class NormalPrior:
    r"""Independent normals, w_i ~ N(c_i, s_i^2).

    Args:
        scale: standard deviation of every weight, or a mapping from layer patterns (as in
            `ProbabilisticSubset.layers`) to standard deviations; the last pattern that matches
            counts, and every stochastic layer must match one.
        center: `"params"` (the trained values), `"zero"` (for untrained networks; scale
            parameters of normalisation layers keep centre 1), or a pytree with the structure of
            the parameters.

    Raises:
        OptionError: a scale is not positive, a layer has none, or the centre does not fit.
        UnknownLayerError: a pattern of `scale` matches no layer.

    Examples:
        >>> import jax.numpy as jnp, nbcore as nb
        >>> network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))
        >>> params = {"out": {"kernel": jnp.ones((3, 1))}}
        >>> split = nb.ProbabilisticSubset.layers("out").split(network, params)
        >>> prior = nb.NormalPrior(scale=2.0).resolve(split)
        >>> round(float(prior.log_density(split.stochastic, {})), 4)  # -3 log(2 sqrt(2 pi))
        -4.8363
    """

    scale: float | Mapping[str, float] = 1.0
    center: Literal["params", "zero"] | Any = "params"

    def resolve(self, split: ParameterSplit) -> ResolvedNormal:
        """Return the normal prior of these stochastic weights."""
        position = split.position
        if isinstance(self.center, str) and self.center not in ("params", "zero"):
            raise OptionError(
                f"center is 'params', 'zero' or a pytree of parameters, got {self.center!r}."
            )
        if isinstance(self.center, str):
            center = position if self.center == "params" else _zero_center(split)
        else:
            center = _given_center(split, self.center)
        scales = {path: self._scale_of(split, path) for path in split.paths}
        dtypes = {path: w.dtype for path, w in position.items()}
        return ResolvedNormal(center, {p: jnp.asarray(s, dtypes[p]) for p, s in scales.items()})

    def _scale_of(self, split: ParameterSplit, path: str) -> float:
        layer, leaf = split.owner(path)
        scale: float | None = None
        if isinstance(self.scale, Mapping):
            for pattern, value in self.scale.items():
                if not any(matches(pattern, ly, lf) for ly in split.layers for lf in ly.leaves):
                    raise unknown_layer(pattern, split.layers)
                scale = value if matches(pattern, layer, leaf) else scale
        else:
            scale = self.scale
        if scale is None:
            raise OptionError(
                f"The prior has no scale for the stochastic layer {layer.name!r}. "
                f"Add {layer.name!r} or '**' to scale."
            )
        if not (scale > 0 and np.isfinite(scale)):
            raise OptionError(f"The prior scale of {layer.name!r} must be positive, got {scale}.")
        return float(scale)


def _given_center(split: ParameterSplit, center: Any) -> Weights:
    given, expected = (
        {path: np.shape(leaf) for path, leaf in leaves_by_path(tree).items()}
        for tree in (center, split.params)
    )
    if given != expected:
        differ = sorted(p for p in given | expected if given.get(p) != expected.get(p))
        raise OptionError(
            "center is 'params', 'zero' or a pytree with the structure and shapes of the "
            f"parameters; at {differ[0]!r} got shape {given.get(differ[0])}, expected "
            f"{expected.get(differ[0])}. Start from split.params."
        )
    default = jnp.result_type(float)
    chosen = split.select(jax.tree.map(jnp.asarray, center))
    return {path: jnp.asarray(w, default) for path, w in chosen.items()}


def _zero_center(split: ParameterSplit) -> Weights:
    return {
        path: jnp.ones_like(w) if split.owner(path)[1].role == "scale" else jnp.zeros_like(w)
        for path, w in split.position.items()
    }


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ResolvedNormal:
    """`NormalPrior` for one split: a centre `(like the weights)` and a scale per leaf."""

    center: Weights
    scale: dict[str, jax.Array]

    def initial(self) -> Hyper:
        """Return `{}`: nothing is unknown."""
        return {}

    def log_density(self, weights: Weights, hyper: Hyper) -> jax.Array:
        """Return the sum of normal log densities."""
        del hyper
        terms = [
            jnp.sum(jax.scipy.stats.norm.logpdf(weights[p], self.center[p], self.scale[p]))
            for p in sorted(self.center)
        ]
        return jnp.sum(jnp.stack(terms))

    def sample(self, key: jax.Array) -> tuple[Weights, Hyper]:
        """Draw weights from the normals."""
        keys = jax.random.split(key, len(self.center))
        drawn = {
            p: self.center[p]
            + self.scale[p] * jax.random.normal(k, self.center[p].shape, self.center[p].dtype)
            for p, k in zip(sorted(self.center), keys, strict=True)
        }
        return drawn, {}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HalfNormal:
    """Half-normal prior of a positive number, p(x) = 2 N(x; 0, scale^2) for x > 0.

    Args:
        scale: scale, in the units of the number.

    Examples:
        >>> import jax.numpy as jnp
        >>> round(float(HalfNormal(1.0).log_prob(jnp.array(0.5))), 4)
        -0.3508
    """

    scale: float = 1.0

    @property
    def median(self) -> Any:
        """The median, 0.6745 scale."""
        return 0.6744897501960817 * self.scale

    @property
    def log_spread(self) -> float:
        """1: the spread of log x, about."""
        return 1.0

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Return log p(value), elementwise."""
        return jnp.log(2.0) + jax.scipy.stats.norm.logpdf(value, 0.0, self.scale)

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draw positive numbers."""
        return self.scale * jnp.abs(jax.random.normal(key, shape))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LogNormal:
    """Log-normal prior of a positive number, log x ~ N(log median, spread^2).

    Args:
        median: the median, in the units of the number; a tuple gives one per output.
        spread: standard deviation of log x, no units.

    Examples:
        >>> import jax.numpy as jnp
        >>> round(float(LogNormal(1.0, 1.0).log_prob(jnp.array(1.0))), 4)
        -0.9189
    """

    median: Any = 1.0
    spread: float = field(default=0.5)

    @property
    def log_spread(self) -> float:
        """The standard deviation of log x."""
        return self.spread

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Return log p(value), elementwise."""
        center = jnp.log(jnp.asarray(self.median))
        return jax.scipy.stats.norm.logpdf(jnp.log(value), center, self.spread) - jnp.log(value)

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draw positive numbers."""
        return jnp.asarray(self.median) * jnp.exp(self.spread * jax.random.normal(key, shape))
