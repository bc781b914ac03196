"""Choosing the weights that are integrated out: those that the outputs are linear in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from nbcore.distributions.likelihoods import Likelihood
from nbcore.errors import OptionError, TargetError
from nbcore.subsets.split import Weights
from nbcore.targets.blocks import Block
from nbcore.targets.hoisting import staging
from nbcore.targets.hoisting.equations import needed
from nbcore.targets.marginal import MarginalTarget, needs_all_examples, normal_prior_of
from nbcore.targets.target import NetworkTarget, Position

Marginalize = bool | Literal["auto"]
BYTE_BUDGET = 2**30
MATRICES = 6
"""How many matrices of (observed values + weights) x weights a gradient holds at once; measured."""
AUTO_SIZE, AUTO_BYTES = 512, 6 * 2**27


def marginalize(target: NetworkTarget, *, byte_budget: int = BYTE_BUDGET) -> MarginalTarget:
    """Integrate out the weights that the outputs are linear in, exactly.

    For normal y, given everything else, the outputs are f(c) + J (u - c) in the weights u of the
    output layer, with prior N(c, s^2) and noise covariance S, so that

        p(y | rest) = N(y | f(c), S + J s^2 J^T).

    Samplers move the rest on this density; `nb.sample` then draws u given each of its draws, from
    the exact normal posterior, and returns draws of all weights. Which leaves qualify is read off
    the traced network: usually those of the output layer, whole or as pairs. For p weights and n
    observed values a gradient takes about 3 n p^2 operations more, uses all examples at once, and
    holds about 6 p (n + p) floats. The statistic `log_density` of the draws is that of the rest.

    Args:
        target: made by `nb.Target.build`, with a likelihood that is normal about a mean that the
            outputs give (`nb.Gaussian`, `nb.NoiseModel`, `nb.Heteroskedastic`) and a normal prior.
        byte_budget: memory that a gradient may take for it, 1 GiB by default; leaves that would
            exceed it are left to the sampler.

    Raises:
        TargetError: likelihood or prior are not normal, the outputs are linear in no leaf, the
            memory does not suffice, or nothing would be left to sample.

    Examples:
        >>> import jax.numpy as jnp, nbcore as nb
        >>> network = nb.as_network(
        ...     (lambda key, x: {}, lambda p, x: jnp.tanh(x @ p["in"]["w"]) @ p["out"]["w"])
        ... )
        >>> params = {"in": {"w": jnp.ones((2, 3))}, "out": {"w": jnp.ones((3, 1))}}
        >>> subset = nb.ProbabilisticSubset.everything()
        >>> target = nb.Target.build(network, params, subset, jnp.ones((5, 2)), jnp.ones(5))
        >>> marginal = nb.marginalize(target)
        >>> marginal.paths, list(marginal.start["weights"])
        (('out/w',), ['in/w'])

    References:
        Bishop (2006), "Pattern recognition and machine learning", equations 3.49 to 3.51 and 3.78
        to 3.86. Golub & Pereyra (1973), "The differentiation of pseudo-inverses and nonlinear least
        squares problems whose variables separate", for least squares.
    """
    found, too_large = _integrable(target, lambda p: _gradient_bytes(target, p) <= byte_budget)
    if not found:
        raise _nothing_to_integrate(target, too_large, byte_budget)
    marginal = MarginalTarget(target, found)
    if not jax.tree.leaves(marginal.start):
        raise TargetError(
            f"Integrating out {', '.join(marginal.paths)} leaves nothing to sample: noise and "
            "scale of the prior are known. Let the noise be sampled, or leave marginalize out."
        )
    return marginal


def marginalized(
    target: NetworkTarget, how: Marginalize, capabilities: Collection[str]
) -> NetworkTarget | MarginalTarget:
    """Return the target with weights integrated out, if that is asked for.

    Args:
        target: the log density of all stochastic weights.
        how: `True` integrates out, `False` does not, `"auto"` does if it is possible, at most 512
            weights are integrated out (a gradient takes time in proportion to their square), two
            parameters or more are left, which some samplers need, and a gradient takes at most
            768 MiB for it.
        capabilities: those of the sampler.

    Raises:
        TargetError: nothing can be integrated out, and `how` is `True`.
    """
    if not how:
        return target
    if how is True:
        check_possible(how, target.likelihood, capabilities)
        return marginalize(target)
    try:
        check_possible(True, target.likelihood, capabilities)
        paths, _ = _integrable(target, lambda size: size <= AUTO_SIZE)
    except TargetError:
        return target
    found = MarginalTarget(target, paths)
    left = sum(leaf.size for leaf in jax.tree.leaves(found.start))
    wanted = _gradient_bytes(target, _size(target, paths))
    return found if paths and left > 1 and wanted <= AUTO_BYTES else target


def _integrable(
    target: NetworkTarget, fits: Callable[[int], bool]
) -> tuple[tuple[str, ...], list[str]]:
    """Return the leaves that the outputs are linear in jointly, and those that are too large.

    Args:
        target: the log density.
        fits: whether so many weights may be integrated out together.

    Raises:
        TargetError: likelihood or prior are not normal.
    """
    normal_prior_of(target)
    _check_normal(target)
    order = {layer.name: layer.order or 0 for layer in target.split.layers}
    owners = target.split.owners
    found: tuple[str, ...] = ()
    too_large: list[str] = []
    for path in sorted(owners, key=lambda p: (-order[owners[p][0].name], p)):
        if not _size(target, (path,)) or not _is_linear(target, (*found, path)):
            continue
        if fits(_size(target, (*found, path))):
            found = (*found, path)
        else:
            too_large.append(path)
    return tuple(sorted(found)), too_large


def _size(target: NetworkTarget, paths: Sequence[str]) -> int:
    shapes = target.split.shapes
    return sum(int(np.prod(shapes[path], dtype=np.int64)) for path in paths)


def _gradient_bytes(target: NetworkTarget, size: int) -> int:
    """Return the memory of a gradient with so many weights integrated out."""
    terms = target.num_examples * target.blocks[0].y.shape[1]
    return MATRICES * size * (terms + size) * target.blocks[0].y.dtype.itemsize


def _nothing_to_integrate(
    target: NetworkTarget, too_large: Sequence[str], byte_budget: int
) -> TargetError:
    if not too_large:
        return TargetError(
            f"The outputs are linear in none of {', '.join(target.split.paths)}, so nothing can be "
            "integrated out. Choose weights of the output layer, or leave marginalize out."
        )
    path = min(too_large, key=lambda p: _size(target, (p,)))
    size = _size(target, (path,))
    wanted = _gradient_bytes(target, size)
    return TargetError(
        f"Integrating out the {size:,} weights of {path} takes {wanted / 2**20:,.1f} MiB in each "
        f"gradient, more than the byte budget of {byte_budget / 2**20:,.1f} MiB. Choose fewer "
        f"weights, leave marginalize out, or type nb.marginalize(target, byte_budget={wanted})"
    )


def check_marginalize(how: Any) -> None:
    """Check the option that says whether weights are integrated out.

    Raises:
        OptionError: it is none of its values.
    """
    if not (isinstance(how, bool) or how == "auto"):
        raise OptionError(f"marginalize is True, False or 'auto', got {how!r}.")


def check_possible(how: Marginalize, likelihood: Likelihood, capabilities: Collection[str]) -> None:
    """Check, before a network is trained, whether weights can be integrated out.

    Args:
        how: whether weights are integrated out.
        likelihood: the distribution of y given the outputs.
        capabilities: those of the sampler.

    Raises:
        OptionError: `how` is none of its values.
        TargetError: `how` is `True`, and the likelihood is not normal, or the sampler takes
            minibatches.
    """
    check_marginalize(how)
    if how is True:
        _check_kind(likelihood)
        if "minibatch" in capabilities:
            raise needs_all_examples("Weights")


def _check_kind(likelihood: Likelihood) -> None:
    if not likelihood.is_normal:
        raise _not_normal(likelihood)


def _check_normal(target: NetworkTarget) -> None:
    """Check on the data that the likelihood is normal with its mean and variance."""
    _check_kind(target.likelihood)
    each, normal = _both_log_probs(target.blocks[0], target.likelihood, target.start)
    if each.shape != normal.shape or not np.allclose(each, normal, rtol=1e-3, atol=1e-3):
        raise _not_normal(target.likelihood)


def _not_normal(likelihood: Likelihood) -> TargetError:
    name = type(likelihood).__name__
    return TargetError(
        f"Weights are integrated out of a normal likelihood, and this one is {name}. Type: "
        "likelihood=nb.Gaussian(), or leave marginalize out. If y is normal given the outputs, add "
        f"to class {name}: is_normal: ClassVar[bool] = True"
    )


@jax.jit
def _both_log_probs(
    block: Block, likelihood: Likelihood, position: Position
) -> tuple[jax.Array, jax.Array]:
    mean, variance = block.moments(likelihood, position)
    each = block.log_prob(likelihood, position)
    expected = norm.logpdf(block.y, mean, jnp.sqrt(variance))
    return each, jnp.sum(jnp.where(jnp.isnan(block.y), 0.0, expected), axis=1)


def _is_linear(target: NetworkTarget, paths: tuple[str, ...]) -> bool:
    """Whether means are linear in these leaves jointly, and variances do not depend on them."""
    position = target.start
    inside = {p: position["weights"][p] for p in paths}
    rest = {p: w for p, w in position["weights"].items() if p not in inside}

    def moments(u: Weights, known: Position, block: Block) -> tuple[jax.Array, jax.Array]:
        return block.moments(target.likelihood, {**known, "weights": {**known["weights"], **u}})

    known = {**position, "weights": rest}
    for block in target.blocks:
        few = block.at(jnp.arange(1)) if block.forward.program.per_example else block
        few = replace(few, forward=replace(few.forward, chunk_size=0))  # a chunked loop hides them
        if _moves_with(moments, inside, known, few):
            return False
        with jax.debug_nans(False):  # what depends on NaN is NaN
            _, variance = moments(jax.tree.map(lambda a: a * jnp.nan, inside), known, few)
        if not bool(jnp.all(jnp.isfinite(variance))):
            return False
    return True


def _moves_with(moments: Any, inside: Weights, known: Position, block: Block) -> bool:
    """Whether derivatives of means along some weights depend on those weights."""

    def derivative(u: Weights, known: Position, block: Block) -> jax.Array:
        along = jax.tree.map(jnp.ones_like, u)
        return jax.jvp(lambda u: moments(u, known, block)[0], (u,), (along,))[1]

    traced = staging.cut(derivative, inside, known, block)
    _, read = needed(traced.equations, traced.outputs, lambda _: True)
    return bool(set(traced.inputs[0]).intersection(read))
