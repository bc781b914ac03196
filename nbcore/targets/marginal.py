"""Weights that outputs are linear in are integrated out, and drawn again given the rest.

Given everything else, y = f(c) + J (u - c) + noise with u ~ N(c, s^2), all normal, is a regression:
u has a normal posterior, and the density of the rest has a closed form. What is left to sample is
smaller, and far better conditioned: u moves the outputs in the directions that data know best.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.stats import norm

from nbcore.common.pytrees import register_pytree
from nbcore.distributions.likelihoods import Likelihood
from nbcore.distributions.priors import ResolvedNormal
from nbcore.errors import OptionError, TargetError
from nbcore.subsets.split import Weights
from nbcore.targets.blocks import Block
from nbcore.targets.hoisting import staging
from nbcore.targets.hoisting.equations import needed
from nbcore.targets.regression import Blocks, Regression, log_evidence
from nbcore.targets.target import NetworkTarget, Position, Target

Marginalize = bool | Literal["auto"]
MAX_SIZE = 512
AUTO_BYTES = 2**27  # of the matrix of all examples; a gradient holds a few such
DRAWS_AT_ONCE = 16


@register_pytree
@dataclass(frozen=True)
class MarginalTarget(Target):
    """The log density of what is left when some weights are integrated out; see `marginalize`.

    Args:
        target: the log density of all stochastic weights.
        paths: leaves that are integrated out.
    """

    target: NetworkTarget
    paths: tuple[str, ...] = field(metadata={"static": True})

    @property
    def network_target(self) -> NetworkTarget:
        """The log density of all stochastic weights."""
        return self.target

    @property
    def has_hyperparameters(self) -> bool:
        """Whether parameters of the prior are unknown."""
        return self.target.has_hyperparameters

    def with_hyperparameters_of(self, position: Position, reference: Position) -> Position:
        """Return a position with the parameters of the prior of another position."""
        return self.target.with_hyperparameters_of(position, reference)

    @property
    def joint(self) -> NetworkTarget:
        """The log density of all stochastic weights."""
        return self.target

    @property
    def integrated_out(self) -> tuple[str, ...]:
        """The leaves that are integrated out."""
        return self.paths

    def with_joint(self, joint: Any) -> MarginalTarget:
        """Return this target for the whole one on other devices."""
        return replace(self, target=joint)

    def marginal_position(self, position: Position) -> Position:
        """Return a position without the weights that are integrated out."""
        kept = {p: w for p, w in position["weights"].items() if p not in self.paths}
        return {**position, "weights": kept}

    @property
    def start(self) -> Position:
        """Where the whole target starts, reduced."""
        return self.marginal_position(self.target.start)

    def prior_position(self, key: jax.Array) -> Position:
        """Return a draw of the prior, reduced."""
        return self.marginal_position(self.target.prior_position(key))

    @property
    def num_examples(self) -> int:
        """Number of examples N."""
        return self.target.num_examples

    def log_density(self, position: Position) -> jax.Array:
        """Return the log of the density of the whole position, integrated over those weights."""
        whole, weights = self.target, position["weights"]
        prior = _normal_prior(whole).without(self.paths).log_density(weights, position["prior"])
        design, residual, log_noise = self._regression(position)
        return (
            prior + whole.likelihood.log_prior(position["likelihood"])
            + log_evidence(design, residual)
            - log_noise - 0.5 * self._num_terms * jnp.log(2 * jnp.pi)
        )  # fmt: skip

    def joint_position(self, key: jax.Array, position: Position) -> Position:
        """Return the whole position: the weights that were integrated out, drawn given the rest."""
        design, residual, _ = self._regression(position)
        center, scale, unravel = self._flat_prior(position)
        drawn = unravel(center + scale * Regression.of(design, residual).draw(key))
        return {**position, "weights": {**position["weights"], **drawn}}

    def no_minibatches(self) -> TargetError:
        """Return the error that says that all examples are needed together."""
        return _no_minibatches(", ".join(self.paths))

    @property
    def design_bytes(self) -> int:
        """Bytes of the matrix that outputs are linear by, for all examples."""
        weights = self.target.start["weights"]
        return self._num_terms * sum(weights[path].nbytes for path in self.paths)

    def _flat_prior(self, position: Position) -> tuple[jax.Array, jax.Array, Any]:
        """Return center and scale of the weights that are integrated out, flat, and `unravel`."""
        centers, scales = _normal_prior(self.target).moments(position["prior"])
        center, unravel = ravel_pytree({p: centers[p] for p in self.paths})
        each = {p: jnp.broadcast_to(scales[p], centers[p].shape) for p in self.paths}
        return center, ravel_pytree(each)[0], unravel

    @property
    def _num_terms(self) -> int:
        return self.num_examples * self.target.blocks[0].y.shape[1]

    def _regression(self, position: Position) -> tuple[Blocks, Blocks, jax.Array]:
        """Return design, residual, both in units of the noise, and the sum of the log noises."""
        center, scale, unravel = self._flat_prior(position)
        designs: list[jax.Array] = []
        residuals: list[jax.Array] = []
        log_noise = jnp.zeros((), center.dtype)
        for block in self.target.blocks:

            def moments(u: jax.Array, b: Block = block) -> tuple[jax.Array, jax.Array]:
                at = {**position, "weights": {**position["weights"], **unravel(u)}}
                mean, variance = b.moments(self.target.likelihood, at)
                return mean.reshape(-1), variance  # flat, or XLA broadcasts the noise slowly

            there, jacobian, variance = jax.linearize(moments, center, has_aux=True)
            weight = block.without_copies(1 / jnp.sqrt(variance)).reshape(-1)
            designs.append(jax.vmap(jacobian)(jnp.diag(scale)) * weight)
            residuals.append((block.y.reshape(-1) - there) * weight)
            log_noise = log_noise + 0.5 * block.total(jnp.sum(jnp.log(variance), axis=1))
        return tuple(designs), tuple(residuals), log_noise


def marginalize(target: NetworkTarget, *, max_size: int = MAX_SIZE) -> MarginalTarget:
    """Integrate out the weights that the outputs are linear in, exactly.

    For normal y, given everything else, the outputs are f(c) + J (u - c) in the weights u of the
    output layer, with prior N(c, s^2) and noise S, so that

        p(y | rest) = N(y | f(c), S + J s^2 J^T).

    Samplers move the rest on this density; `nb.sample` then draws u given each of its draws, from
    its exact normal posterior, and returns draws of all weights. Which leaves qualify is read off
    the traced network: those of the output layer as a rule, whole or as pairs. A gradient costs
    about 3 N p^2 operations more for p numbers, and holds a few matrices of N p: it takes all
    examples at once. The statistic `log_density` of the draws is that of the rest.

    Args:
        target: made by `nb.Target.build`, with a likelihood that is normal about a mean that the
            outputs give (`nb.Gaussian`, `nb.NoiseModel`, `nb.Heteroskedastic`) and a normal prior.
        max_size: at most so many numbers are integrated out; a leaf that would exceed it is left
            to the sampler.

    Raises:
        TargetError: likelihood or prior are not normal, the outputs are linear in no leaf, or
            nothing would be left to sample.

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
    _normal_prior(target)
    _check_normal(target)
    order = {ly.name: ly.order or 0 for ly in target.split.layers}
    paths = sorted(target.split.paths, key=lambda p: (-order[target.split.owner(p)[0].name], p))
    chosen: list[str] = []
    size = 0
    for path in paths:
        count = int(np.prod(target.split.shapes[path], dtype=np.int64))
        if count and size + count <= max_size and _is_linear(target, (*chosen, path)):
            chosen.append(path)
            size += count
    if not chosen:
        raise TargetError(
            f"The outputs are linear in none of {', '.join(target.split.paths)}"
            f" (of at most {max_size} numbers), so nothing can be integrated out. Choose weights "
            "of the output layer, or leave marginalize out."
        )
    marginal = MarginalTarget(target, tuple(sorted(chosen)))
    if not jax.tree.leaves(marginal.start):
        raise TargetError(
            f"Integrating out {', '.join(marginal.paths)} leaves nothing to sample: noise and "
            "scale of the prior are known. Let the noise be sampled, or leave marginalize out."
        )
    return marginal


def as_asked(
    target: NetworkTarget, how: Marginalize, capabilities: Collection[str]
) -> NetworkTarget | MarginalTarget:
    """Return the target that was asked for.

    Args:
        target: the log density of all stochastic weights.
        how: `True` integrates out, `False` does not, `"auto"` does where it can be, two numbers or
            more are left, which some samplers need, and the matrix of all examples takes at most
            128 MiB.
        capabilities: what the sampler can do.

    Raises:
        TargetError: nothing can be integrated out, and it was asked for.
    """
    if not how:
        return target
    try:
        check_asked(True, target.likelihood, capabilities)
        found = marginalize(target)
    except TargetError:
        if how is True:
            raise
        return target
    left = sum(leaf.size for leaf in jax.tree.leaves(found.start))
    suits = left > 1 and found.design_bytes <= AUTO_BYTES
    return found if how is True or suits else target


def _normal_prior(target: NetworkTarget) -> ResolvedNormal:
    if not isinstance(target.prior, ResolvedNormal):
        raise TargetError(
            "Weights are integrated out of a normal prior, and this one is "
            f"{type(target.prior).__name__}. Type: prior=nb.NormalPrior(), or leave marginalize "
            "out."
        )
    return target.prior


def check_marginalize(how: Any) -> None:
    """Check whether an option says whether weights are integrated out.

    Raises:
        OptionError: it does not.
    """
    if not (isinstance(how, bool) or how == "auto"):
        raise OptionError(f"marginalize is True, False or 'auto', got {how!r}.")


def check_asked(how: Marginalize, likelihood: Likelihood, capabilities: Collection[str]) -> None:
    """Check what is known before there is a target, so that nothing is trained in vain.

    Args:
        how: whether weights are integrated out.
        likelihood: what outputs say about y.
        capabilities: what the sampler can do.

    Raises:
        OptionError: `how` is nothing of the kind.
        TargetError: it is asked for, and the likelihood is not normal, or the sampler takes
            minibatches.
    """
    check_marginalize(how)
    if how is True:
        _check_kind(likelihood)
        if "minibatch" in capabilities:
            raise _no_minibatches("Weights")


def _check_kind(likelihood: Likelihood) -> None:
    if likelihood.kind != "normal":
        raise _not_normal(likelihood)


def _check_normal(target: NetworkTarget) -> None:
    """Check, on the data, that the likelihood is the normal one of its mean and variance."""
    _check_kind(target.likelihood)
    each, normal = _both_log_probs(target.blocks[0], target.likelihood, target.start)
    if each.shape != normal.shape or not np.allclose(each, normal, rtol=1e-3, atol=1e-3):
        raise _not_normal(target.likelihood)


def _not_normal(likelihood: Likelihood) -> TargetError:
    return TargetError(
        "Weights are integrated out of a normal likelihood, and this one is "
        f"{type(likelihood).__name__}. Type: likelihood=nb.Gaussian(), or leave marginalize out."
    )


def _no_minibatches(what: str) -> TargetError:
    return TargetError(
        f"{what} are integrated out over all examples, so there are no minibatches. Leave "
        "marginalize out, or use a backend without the capability 'minibatch', such as "
        "'numpyro-nuts'."
    )


@jax.jit
def _both_log_probs(
    block: Block, likelihood: Likelihood, position: Position
) -> tuple[jax.Array, jax.Array]:
    mean, variance = block.moments(likelihood, position)
    each = block.log_prob(likelihood, position)
    return each, jnp.sum(norm.logpdf(block.y, mean, jnp.sqrt(variance)), axis=1)


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
        few = replace(few, forward=replace(few.forward, chunk_size=0))  # chunks hide what they do
        if _moves_with(moments, inside, known, few):
            return False
        with jax.debug_nans(False):  # what depends on a number that is none is none
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


def complete(target: Target, key: jax.Array, draws: Any) -> Any:
    """Return draws of the whole position, with leading axes `(chain, draw)`.

    Args:
        target: what was sampled.
        key: random key.
        draws: draws of its position, with leading axes `(chain, draw)`.
    """
    if target.joint is target:
        return draws
    num_chains, num_draws = np.shape(jax.tree.leaves(draws)[0])[:2]
    keys = jax.random.split(key, (num_chains, num_draws))
    return jax.tree.map(np.asarray, _complete(target, keys, draws))


@jax.jit
def _complete(target: Target, keys: jax.Array, draws: Any) -> Any:
    def chain(of_chain: tuple[jax.Array, Any]) -> Any:
        return jax.lax.map(
            lambda one: target.joint_position(*one), of_chain, batch_size=DRAWS_AT_ONCE
        )

    return jax.lax.map(chain, (keys, draws))
