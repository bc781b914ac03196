"""Priors of the stochastic weights: normals whose scale is known or sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.paths import leaves_by_path
from nbcore.common.pytrees import register_pytree
from nbcore.distributions.positive import HalfNormal as HalfNormal
from nbcore.distributions.positive import LogNormal as LogNormal
from nbcore.distributions.positive import PositivePrior as PositivePrior
from nbcore.distributions.positive import as_positive, check_prior
from nbcore.errors import OptionError
from nbcore.networks.layers import Layer, Leaf
from nbcore.networks.stacks import LayerSlice
from nbcore.subsets.patterns import matched, unknown_layer
from nbcore.subsets.split import ParameterSplit, Weights

Hyperparameters = dict[str, jax.Array]
"""Unknown scales of a prior, unconstrained: `position["prior"]`; may be empty."""


class ResolvedPrior(Protocol):
    """Prior of the stochastic weights of one split; a pytree of arrays."""

    def initial(self) -> Hyperparameters:
        """Return the hyperparameters that chains start at; `{}` if there are none."""
        ...

    def log_density(self, weights: Weights, hyperparameters: Hyperparameters) -> jax.Array:
        """Return log p(weights, hyperparameters), a scalar, Jacobians included."""
        ...

    def sample(self, key: jax.Array) -> tuple[Weights, Hyperparameters]:
        """Sample hyperparameters, and weights given them."""
        ...


class Prior(Protocol):
    """Prior of the stochastic weights, not yet resolved against a split."""

    def resolve(self, split: ParameterSplit) -> ResolvedPrior:
        """Return the prior of these stochastic weights."""
        ...


ScaleRule = float | PositivePrior


@dataclass(frozen=True)
class NormalPrior:
    r"""Independent normals, w_i ~ N(c_i, s_i^2).

    A prior given as the scale makes the scale unknown: it is sampled with the weights, as
    `position["prior"]["log_scale"]`, and its density has the Jacobian, log p(scale) + log scale.
    The parametrization is centered: positions hold the weights themselves, and tens of weights
    determine their scale well enough. The joint mode of weights and scale is at scale 0, so
    `laplace` refuses an unknown scale, and searches for a mode keep it fixed.

    Args:
        scale: standard deviation of every weight; a prior of one scale for all weights
            (`nb.LogNormal`, `nb.HalfNormal`, or a distribution with `log_prob` and `sample`, such
            as `numpyro.distributions.HalfCauchy(1.0)`); a mapping from layer patterns (as in
            `ProbabilisticSubset.layers`) to either, of which the last pattern that matches counts
            and one must match every stochastic layer; or a pytree like the parameters.
        center: `"params"` (the trained values), `"zero"` (for untrained networks; scale
            parameters of normalization layers keep center 1), or a pytree with the structure of
            the parameters.
        fan_in: whether the scale of each kernel is divided by the square root of the number of
            inputs that each output sums; embeddings, biases and norms keep the scale.

    Raises:
        OptionError: a scale is not positive, a layer has none, or the center does not fit.
        UnknownLayerError: a pattern of `scale` matches no layer.

    Examples:
        >>> import jax.numpy as jnp, nbcore as nb
        >>> network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))
        >>> params = {"out": {"kernel": jnp.ones((3, 1))}}
        >>> split = nb.ProbabilisticSubset.layers("out").split(network, params)
        >>> prior = nb.NormalPrior(scale=2.0).resolve(split)
        >>> round(float(prior.log_density(split.stochastic, {})), 4)  # -3 log(2 sqrt(2 pi))
        -4.8363

    References:
        Neal (1996), "Bayesian learning for neural networks", chapter 2, for the fan-in.
    """

    scale: ScaleRule | Mapping[str, ScaleRule] | Any = 1.0
    center: Literal["params", "zero"] | Any = "params"
    fan_in: bool = False

    def resolve(self, split: ParameterSplit) -> ResolvedNormal:
        """Return the normal prior of these stochastic weights."""
        position = split.position
        center = center_of(split, self.center)
        scales: Weights = {}
        unknown: dict[str, PositivePrior] = {}
        group: list[tuple[str, str]] = []
        given = self._given_scales(split)
        for path in split.paths:
            layer, leaf = split.owner(path)
            name: str
            rule: Any
            name, rule = ("", given[path]) if given else self._rule(split, layer, leaf)
            known: Any = 1.0
            if hasattr(rule, "log_prob"):
                unknown[name] = rule
                group.append((path, name))
            else:
                known = rule
            divisor = np.sqrt(fan_in(layer, leaf)) if self.fan_in else 1.0
            scales[path] = jnp.asarray(known / divisor, position[path].dtype)
        return ResolvedNormal(center, scales, unknown, tuple(group))

    def _given_scales(self, split: ParameterSplit) -> Weights | None:
        """Return the scales of a pytree like the parameters; `None` if the scale is none."""
        nested = isinstance(self.scale, Mapping) and any(
            isinstance(value, Mapping | list | tuple) for value in self.scale.values()
        )
        if not nested and not isinstance(self.scale, list | tuple):
            return None
        scales = _selected(split, self.scale, "scale")
        for path, values in scales.items():
            if not bool(jnp.all((values > 0) & jnp.isfinite(values))):
                raise OptionError(f"The prior scales of {path!r} must be positive.")
        return scales

    def _rule(self, split: ParameterSplit, layer: Layer, leaf: Leaf) -> tuple[str, Any]:
        """Return the scale of a leaf, and the pattern it is from (empty for one of all layers)."""
        name, rule = "", cast("Any", None if isinstance(self.scale, Mapping) else self.scale)
        parts: list[tuple[LayerSlice, Any]] = []
        if isinstance(self.scale, Mapping):
            for pattern, value in cast("Mapping[str, Any]", self.scale).items():
                if not any(matched(pattern, ly, lf) for ly in split.layers for lf in ly.leaves):
                    raise unknown_layer(pattern, split.layers)
                found = matched(pattern, layer, leaf)
                if found is not None and found.is_whole:
                    name, rule, parts = pattern, value, []
                elif found is not None:
                    parts.append((found, value))
        if rule is None:
            raise OptionError(
                f"The prior has no scale for the stochastic layer {layer.name!r}. "
                f"Add {layer.name!r} or '**' to scale."
            )
        if hasattr(rule, "log_prob"):
            rule = as_positive(rule, "scale")
            check_prior(rule, "scale")
            if np.ndim(rule.median):
                raise OptionError(f"The prior of a scale is of one number, got {rule}.")
        elif not (np.ndim(rule) == 0 and rule > 0 and np.isfinite(rule)):
            raise OptionError(f"The prior scale of {layer.name!r} must be positive, got {rule}.")
        return (name, rule) if not parts else ("", _by_layer(split, leaf, rule, parts))


def center_of(split: ParameterSplit, center: Any) -> Weights:
    """Return the center of a prior for every stochastic weight.

    Args:
        split: the stochastic weights.
        center: `"params"`, `"zero"` or a pytree like the parameters, as in `NormalPrior`.
    """
    if isinstance(center, str) and center not in ("params", "zero"):
        raise OptionError(f"center is 'params', 'zero' or a pytree of parameters, got {center!r}.")
    if isinstance(center, str):
        return split.position if center == "params" else _zero_center(split)
    return _selected(split, center, "center")


def rule_of(
    split: ParameterSplit, given: Any, layer: Layer, leaf: Leaf, name: str
) -> tuple[str, Any]:
    """Return what is given for a leaf, and the layer pattern that it is given by.

    Args:
        split: the stochastic weights.
        given: one value for all layers, or a mapping from layer patterns, the last of which counts.
        layer: layer of the leaf.
        leaf: the leaf.
        name: the argument that is given.
    """
    if not isinstance(given, Mapping):
        return "", given
    found: tuple[str, Any] | None = None
    for pattern, value in cast("Mapping[str, Any]", given).items():
        if not any(matched(pattern, ly, lf) for ly in split.layers for lf in ly.leaves):
            raise unknown_layer(pattern, split.layers)
        part = matched(pattern, layer, leaf)
        if part is not None and not part.is_whole:
            raise OptionError(
                f"The {name} of {pattern!r} is of one layer of a stack; layers of a stack share "
                "one here. Leave out the number."
            )
        found = found if part is None else (pattern, value)
    if found is None:
        raise OptionError(
            f"The prior has no {name} for the stochastic layer {layer.name!r}. "
            f"Add {layer.name!r} or '**' to {name}."
        )
    return found


def pretrained_priors(trained: Any, scale: Any = 1.0, *, fan_in: bool = False) -> NormalPrior:
    """Return a normal prior around weights that were trained elsewhere, such as on simulations.

    Args:
        trained: a trained `nb.DeterministicNN`, or parameters with the structure of the network's.
        scale: how far weights may move, as in `nb.NormalPrior`: a number, a mapping from layer
            patterns, or a pytree like the parameters.
        fan_in: as in `nb.NormalPrior`.

    Examples:
        >>> import jax.numpy as jnp, nbcore as nb
        >>> prior = nb.pretrained_priors({"out": {"kernel": jnp.ones((3, 1))}}, scale=0.1)
        >>> prior.scale, prior.center["out"]["kernel"].shape
        (0.1, (3, 1))
    """
    return NormalPrior(scale, getattr(trained, "params", trained), fan_in)


def _by_layer(
    split: ParameterSplit, leaf: Leaf, scale: Any, parts: list[tuple[LayerSlice, Any]]
) -> np.ndarray:
    """Return the scale of each stochastic entry of a leaf, of which some layers have their own."""
    scales = np.full(leaf.shape, np.nan)
    for mask, value in [
        (np.ones(leaf.shape, bool), scale),
        *((part.mask(leaf), value) for part, value in parts),
    ]:
        if np.ndim(value) or hasattr(value, "log_prob") or not (value > 0 and np.isfinite(value)):
            raise OptionError(
                f"Layers of one stack have scales of their own in the prior of {leaf.path!r}; they "
                f"must be positive numbers, got {value!r}."
            )
        scales[mask] = value
    return scales if leaf.path in split.whole else scales[split.mask(leaf)]


def fan_in(layer: Layer, leaf: Leaf) -> int:
    """Return the number of inputs that each output of a kernel sums; 1 for other leaves.

    Examples:
        >>> kernel = Leaf("Conv/kernel", "kernel", (3, 4, 8), (1, 2), ("in_channel", "out_channel"))
        >>> fan_in(Layer("Conv", "convolution", (kernel,)), kernel)
        12
    """
    if leaf.role != "kernel" or leaf.size == 0:
        return 1
    bias, shape = layer.bias_of(leaf), leaf.layer_shape
    num_in = sum(axis[:2] == "in" for axis in leaf.layer_axes)
    if bias is not None and bias.layer_axes and bias.fits(leaf):
        outputs = shape[len(shape) - len(bias.layer_axes) :]
    else:
        outputs = shape[num_in:] if num_in else shape[-1:]
    return leaf.size // leaf.num_stacked // int(np.prod(outputs, dtype=np.int64))


def _selected(split: ParameterSplit, tree: Any, name: str) -> Weights:
    """Return the stochastic entries of a pytree like the parameters."""
    given, expected = (
        {path: np.shape(leaf) for path, leaf in leaves_by_path(tree).items()}
        for tree in (tree, split.params)
    )
    if given != expected:
        differ = sorted(p for p in given | expected if given.get(p) != expected.get(p))
        also = "'params', 'zero' or " if name == "center" else "a number, a mapping of layers or "
        raise OptionError(
            f"{name} is {also}a pytree with the structure and shapes of the "
            f"parameters; at {differ[0]!r} got shape {given.get(differ[0])}, expected "
            f"{expected.get(differ[0])}. Start from split.params."
        )
    default = jnp.result_type(float)
    chosen = split.select(jax.tree.map(jnp.asarray, tree))
    return {path: jnp.asarray(w, default) for path, w in chosen.items()}


def _zero_center(split: ParameterSplit) -> Weights:
    return {
        path: jnp.ones_like(w) if split.owner(path)[1].role == "scale" else jnp.zeros_like(w)
        for path, w in split.position.items()
    }


@register_pytree
@dataclass(frozen=True)
class ResolvedNormal:
    """`NormalPrior` for one split.

    Args:
        center: center of the weights.
        scale: scale of each leaf, a number or an array like it; in units of the unknown scale of
            its group if it has one.
        unknown: prior of the unknown scale of each group.
        group: leaf paths with an unknown scale, and their group.
    """

    center: Weights
    scale: dict[str, jax.Array]
    unknown: dict[str, PositivePrior] = field(default_factory=dict[str, PositivePrior])
    group: tuple[tuple[str, str], ...] = field(default=(), metadata={"static": True})

    def initial(self) -> Hyperparameters:
        """Return the log medians of the unknown scales; `{}` if all are known."""
        default = jnp.result_type(float)
        return {
            _hyper(name): jnp.asarray(jnp.log(jnp.asarray(prior.median)), default)
            for name, prior in self.unknown.items()
        }

    def log_density(self, weights: Weights, hyperparameters: Hyperparameters) -> jax.Array:
        """Return the log density of the weights and of the unknown log scales.

        log p(log scale) = log p(scale) + log scale.
        """
        scales = self._scales(hyperparameters)
        terms = [
            jnp.sum(jax.scipy.stats.norm.logpdf(weights[p], self.center[p], scales[p]))
            for p in sorted(self.center)
        ]
        for name, prior in sorted(self.unknown.items()):
            log_scale = hyperparameters[_hyper(name)]
            terms.append(prior.log_prob(jnp.exp(log_scale)) + log_scale)
        return jnp.sum(jnp.stack(terms)) if terms else jnp.zeros(())

    def moments(self, hyperparameters: Hyperparameters) -> tuple[Weights, dict[str, jax.Array]]:
        """Return center and standard deviation of the weights of each leaf."""
        return self.center, self._scales(hyperparameters)

    def without(self, paths: Sequence[str]) -> ResolvedNormal:
        """Return the prior of the other leaves, and of all unknown scales."""
        return replace(self, center={p: c for p, c in self.center.items() if p not in paths})

    def sample(self, key: jax.Array) -> tuple[Weights, Hyperparameters]:
        """Sample the unknown scales, and weights given them."""
        hyperparameters: Hyperparameters = {}
        if self.unknown:
            key, *scale_keys = jax.random.split(key, len(self.unknown) + 1)
            for (name, prior), k in zip(sorted(self.unknown.items()), scale_keys, strict=True):
                hyperparameters[_hyper(name)] = jnp.log(prior.sample(k, ()))
        scales = self._scales(hyperparameters)
        keys = jax.random.split(key, len(self.center))
        drawn = {
            p: self.center[p]
            + scales[p] * jax.random.normal(k, self.center[p].shape, self.center[p].dtype)
            for p, k in zip(sorted(self.center), keys, strict=True)
        }
        return drawn, hyperparameters

    def _scales(self, hyperparameters: Hyperparameters) -> dict[str, jax.Array]:
        unknown = {path: jnp.exp(hyperparameters[_hyper(name)]) for path, name in self.group}
        return {path: known * unknown.get(path, 1.0) for path, known in self.scale.items()}


def _hyper(name: str) -> str:
    return f"log_scale/{name}" if name else "log_scale"
