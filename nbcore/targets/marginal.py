"""The log density of the remaining parameters when weights of the output layer are integrated out.

Given everything else, y = f(c) + J (u - c) + noise with u ~ N(c, s^2) is a linear regression: u has
a normal posterior, and the density of everything else has a closed form. The remaining parameters
have fewer dimensions and are far better conditioned, because the data determine u most strongly.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from nbcore.common.pytrees import register_pytree
from nbcore.distributions.priors import ResolvedNormal
from nbcore.errors import TargetError
from nbcore.targets.blocks import Block
from nbcore.targets.regression import Blocks, Regression, log_evidence
from nbcore.targets.target import NetworkTarget, Position, Target

DRAWS_AT_ONCE = 16


@register_pytree
@dataclass(frozen=True)
class MarginalTarget(Target):
    """The log density with some weights integrated out; see `marginalize`.

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

    def on_grid(self) -> MarginalTarget:
        """Return the same log density of examples that are filled up to a grid of numbers."""
        return replace(self, target=self.target.on_grid())

    def with_joint(self, joint: Any) -> MarginalTarget:
        """Return this target for another joint log density, such as one on other devices."""
        return replace(self, target=joint)

    def marginal_position(self, position: Position) -> Position:
        """Return a position without the weights that are integrated out."""
        kept = {p: w for p, w in position["weights"].items() if p not in self.paths}
        return {**position, "weights": kept}

    @property
    def start(self) -> Position:
        """The start of the joint log density, without the weights that are integrated out."""
        return self.marginal_position(self.target.start)

    def prior_position(self, key: jax.Array) -> Position:
        """Return a draw of the prior, without the weights that are integrated out."""
        return self.marginal_position(self.target.prior_position(key))

    @property
    def num_examples(self) -> int:
        """Number of examples N."""
        return self.target.num_examples

    def log_density(self, position: Position) -> jax.Array:
        """Return the logarithm of the joint density, integrated over those weights."""
        whole, weights = self.target, position["weights"]
        prior = normal_prior_of(whole).without(self.paths).log_density(weights, position["prior"])
        design, residual, log_noise = self._regression(position)
        return (
            prior + whole.likelihood.log_prior(position["likelihood"])
            + log_evidence(design, residual)
            - log_noise - 0.5 * self.num_terms * jnp.log(2 * jnp.pi)
        )  # fmt: skip

    def joint_position(self, key: jax.Array, position: Position) -> Position:
        """Return a joint position, with a draw of the integrated weights given the rest."""
        design, residual, _ = self._regression(position)
        center, scale, unravel = self._flat_prior(position)
        drawn = unravel(center + scale * Regression.of(design, residual).draw(key))
        return {**position, "weights": {**position["weights"], **drawn}}

    def no_minibatches(self) -> TargetError:
        """Return the error that says that all examples are needed together."""
        return needs_all_examples(", ".join(self.paths))

    def _flat_prior(self, position: Position) -> tuple[jax.Array, jax.Array, Any]:
        """Return center and scale of the weights that are integrated out, flat, and `unravel`."""
        centers, scales = normal_prior_of(self.target).moments(position["prior"])
        center, unravel = ravel_pytree({p: centers[p] for p in self.paths})
        each = {p: jnp.broadcast_to(scales[p], centers[p].shape) for p in self.paths}
        return center, ravel_pytree(each)[0], unravel

    @property
    def num_terms(self) -> jax.Array:
        """Number of observed values: N times the number of targets, less those that are missing."""
        observed = [b.total(jnp.sum(~jnp.isnan(b.y), axis=1)) for b in self.target.blocks]
        return jnp.sum(jnp.stack(observed))

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
            missing = jnp.isnan(block.y)
            weight = jnp.where(missing, 0.0, 1 / jnp.sqrt(variance))
            weight = block.without_copies(weight).reshape(-1)
            designs.append(jax.vmap(jacobian)(jnp.diag(scale)) * weight)
            y = jnp.where(missing, 0.0, block.y).reshape(-1)
            residuals.append((y - there) * weight)
            each = jnp.where(missing, 0.0, jnp.log(variance))
            log_noise = log_noise + 0.5 * block.total(jnp.sum(each, axis=1))
        return tuple(designs), tuple(residuals), log_noise


def normal_prior_of(target: NetworkTarget) -> ResolvedNormal:
    """Return the prior, a normal one.

    Raises:
        TargetError: it is another one.
    """
    if not isinstance(target.prior, ResolvedNormal):
        names = getattr(target.prior, "names", (type(target.prior).__name__,))
        raise TargetError(
            f"Weights are integrated out of a normal prior, and this one is {', '.join(names)}. "
            "Type: prior=nb.NormalPrior(), or leave marginalize out."
        )
    return target.prior


def needs_all_examples(weights: str) -> TargetError:
    """Return the error that says that some weights are integrated out over all examples."""
    return TargetError(
        f"{weights} are integrated out over all examples, so there are no minibatches. Leave "
        "marginalize out, or use a backend without the capability 'minibatch', such as "
        "'numpyro-nuts'."
    )


def complete(target: Target, key: jax.Array, draws: Any) -> Any:
    """Return draws of the joint position, with leading axes `(chain, draw)`.

    Args:
        target: the log density that was sampled.
        key: random key.
        draws: its draws, with leading axes `(chain, draw)`.
    """
    if target.joint is target:
        return draws
    num_chains, num_draws = np.shape(jax.tree.leaves(draws)[0])[:2]
    return jax.tree.map(np.asarray, _complete(target, _keys(key, num_chains, num_draws), draws))


def _keys(key: jax.Array, num_chains: int, num_draws: int) -> jax.Array:
    """Return a key for each draw, `(chain, draw)`, which depends on its place alone."""
    each = jax.vmap(jax.random.fold_in, (None, 0))
    of_chains = [jax.random.fold_in(key, c) for c in range(num_chains)]
    return jnp.stack([each(k, jnp.arange(num_draws)) for k in of_chains])


@jax.jit
def _complete(target: Target, keys: jax.Array, draws: Any) -> Any:
    def chain(of_chain: tuple[jax.Array, Any]) -> Any:
        return jax.lax.map(
            lambda one: target.joint_position(*one), of_chain, batch_size=DRAWS_AT_ONCE
        )

    return jax.lax.map(chain, (keys, draws))
