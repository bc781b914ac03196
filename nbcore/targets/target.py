"""The log density over the position: log prior plus the sum of the log likelihoods.

log_density(position) = log_prior(position) + sum_i log_lik_i(position).
The minibatch version multiplies the likelihood sum of each stratum by N_g / B_g, which makes it
an unbiased estimate of the full one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.noise import with_noise
from nbcore.common.pytrees import register_pytree
from nbcore.distributions.distribution_prior import as_prior
from nbcore.distributions.likelihoods import Gaussian, Likelihood
from nbcore.distributions.priors import NormalPrior, Prior, ResolvedPrior
from nbcore.errors import TargetError
from nbcore.networks.evaluation import HashableNetwork
from nbcore.networks.inputs import network_for
from nbcore.networks.length_buckets import MANY_GRADIENTS
from nbcore.networks.network import Network, Params
from nbcore.networks.outputs import output_form
from nbcore.subsets.split import ParameterSplit, Weights
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.targets.blocks import Block, in_order, make_blocks, shapes_of
from nbcore.targets.count_grid import filled_up
from nbcore.targets.density_cost import DensityCost, density_cost
from nbcore.targets.hoisting import staging
from nbcore.targets.log_density import FULL_BATCH, LogDensity
from nbcore.targets.strata import Batch, stratified_batch, stratum_sizes

Position = dict[str, Any]
"""`{"weights": ..., "likelihood": ..., "prior": ...}`, unconstrained."""


@dataclass(frozen=True)
class Target(LogDensity):
    """A log density over a position; a pytree, so an argument of every jitted function.

    Make one with `Target.build` (a network and data) or `Target.from_log_density` (any density).
    """

    @property
    def network_target(self) -> NetworkTarget | None:
        """The log density of the weights of a network behind this one; `None` if there is none."""
        return None

    @staticmethod
    def build(
        network: Network | Any,
        params: Params,
        subset: ProbabilisticSubset | ParameterSplit,
        X: Any,
        y: Any,
        *,
        likelihood: Likelihood | None = None,
        prior: Prior | None = None,
        byte_budget: int = staging.BYTE_BUDGET,
        chunk_size: int | None = None,
        num_gradients: float = MANY_GRADIENTS,
    ) -> NetworkTarget:
        """Make the log density of the stochastic weights of a network, given data.

        Args:
            network: a network, or a model that `nb.as_network` knows.
            params: its parameters; frozen weights keep these values.
            subset: which weights are stochastic.
            X: inputs, an array or a pytree of arrays with a shared leading axis `(N, ...)`.
            y: targets `(N,)` or `(N, outputs)`; labels `(N,)` for classes.
            likelihood: `nb.Gaussian()` by default; a noise prior that is left open becomes as wide
                as y.
            prior: `nb.NormalPrior(scale=1.0, center="params")` by default.
            byte_budget: bytes that hoisted activations may take; if they would take more, some are
                recomputed in every gradient, which a warning and `target.cost()` report.
            chunk_size: how many examples a gradient computes at a time, which bounds its memory;
                by default a function of shapes alone.
            num_gradients: how many gradients there will be, about. Examples of similar length are
                computed together, in more groups if that pays for compiling them.

        Raises:
            ShapeError, DataError, TokenError, LabelError: X and y do not fit; examples are named.
            SubsetError, UnknownLayerError, PairError: the subset does not fit the network.

        Examples:
            >>> import jax.numpy as jnp, nbcore as nb
            >>> network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))
            >>> target = nb.Target.build(
            ...     network,
            ...     {"out": {"kernel": jnp.zeros((1, 1))}},
            ...     nb.ProbabilisticSubset.everything(),
            ...     jnp.ones((2, 1)),
            ...     jnp.zeros(2),
            ...     likelihood=nb.Gaussian(noise=1.0),
            ... )
            >>> round(float(target.log_density(target.initial_position())), 4)  # -1.5 log(2 pi)
            -2.7568
        """
        likelihood = likelihood if likelihood is not None else Gaussian()
        network = network_for(network, X, y, missing=likelihood.missing)
        network = likelihood.augment_network(network)
        split = subset if isinstance(subset, ParameterSplit) else subset.split(network, params)
        resolved = as_prior(prior if prior is not None else NormalPrior()).resolve(split)
        form = output_form(network, _moved(split), X)
        targets = np.asarray(likelihood.check(y, form.num_outputs))
        likelihood = likelihood.resolve(jax.device_put(targets))
        blocks = make_blocks(
            network, split, X, targets,
            per_example=form.per_example, byte_budget=byte_budget, chunk_size=chunk_size,
            num_gradients=num_gradients,
        )  # fmt: skip
        return NetworkTarget(
            split,
            resolved,
            likelihood,
            blocks,
            form.num_outputs,
            HashableNetwork(network),
            shapes_of(X),
        )

    @staticmethod
    def from_log_density(function: Callable[[Any], jax.Array], position: Any) -> FunctionTarget:
        """Make a target of any log density, for tests and toy problems.

        Args:
            function: `position -> log density`, a scalar; jittable.
            position: the start of chains: an array or a pytree of arrays.
        """
        start = jax.tree.map(lambda a: jnp.asarray(a, jnp.result_type(float)), position)
        return FunctionTarget(start, function)

    def on_grid(self) -> Target:
        """Return the same log density, the program of which depends less on the data; itself."""
        return self

    @property
    def joint(self) -> Target:
        """The log density of everything stochastic; itself, if nothing is integrated out."""
        return self

    def with_joint(self, joint: Any) -> Target:
        """Return this target for another joint log density of the same structure."""
        return joint

    def linearized(self, position: Any) -> Target:
        """Return the log density with the network linearized at a position; itself without one."""
        del position
        return self


@register_pytree
@dataclass(frozen=True)
class NetworkTarget(Target):
    """The log density of the stochastic weights of a network; made by `Target.build`.

    Args:
        split: stochastic and frozen weights.
        prior: prior of the stochastic weights.
        likelihood: the distribution of y given the outputs.
        blocks: the data, grouped by length and hoisted.
        num_outputs: number of network outputs.
        static: the network; equal networks share compiled programs.
        inputs: structure of the inputs, and shape and dtype of each array.
    """

    split: ParameterSplit
    prior: ResolvedPrior
    likelihood: Likelihood
    blocks: tuple[Block, ...]
    num_outputs: int = field(metadata={"static": True})
    static: HashableNetwork = field(metadata={"static": True})
    inputs: Any = field(metadata={"static": True}, repr=False)

    @property
    def network_target(self) -> NetworkTarget:
        """Itself."""
        return self

    @property
    def network(self) -> Network:
        """The network."""
        return self.static.network

    @property
    def start(self) -> Position:
        """The trained weights, and initial values of the parameters of likelihood and prior."""
        return {
            "weights": self.split.position,
            "likelihood": self.likelihood.initial(self.num_outputs),
            "prior": self.prior.initial(),
        }

    @property
    def has_hyperparameters(self) -> bool:
        """Whether parameters of the prior are unknown."""
        return bool(self.prior.initial())

    def with_hyperparameters_of(self, position: Position, reference: Position) -> Position:
        """Return a position with the parameters of the prior of another position."""
        return {**position, "prior": reference["prior"]}

    def prior_position(self, key: jax.Array) -> Position:
        """Return weights and parameters drawn from their priors."""
        prior_key, likelihood_key = jax.random.split(key)
        weights, hyperparameters = self.prior.sample(prior_key)
        parameters = self.likelihood.sample_prior(likelihood_key, self.num_outputs)
        return {"weights": weights, "likelihood": parameters, "prior": hyperparameters}

    @property
    def num_examples(self) -> int:
        """Number of examples N."""
        return sum(block.count for block in self.blocks)

    def log_prior(self, position: Position) -> jax.Array:
        """Return the log prior density of weights and parameters, Jacobians included."""
        weights = self.prior.log_density(position["weights"], position["prior"])
        return weights + self.likelihood.log_prior(position["likelihood"])

    def log_likelihood(self, position: Position) -> jax.Array:
        """Return log p(y_i | position) of each example `(N,)`, in the order of the data."""
        return in_order(self.blocks, [b.log_prob(self.likelihood, position) for b in self.blocks])

    def describe_terms(self, position: Position) -> str:
        """Return the log prior, and the examples whose log likelihood is not finite, in words."""
        prior = f"log prior {float(self.log_prior(position)):.4g}"
        bad = np.flatnonzero(~np.isfinite(np.asarray(self.log_likelihood(position))))[:5].tolist()
        return f"{prior}, log likelihood not finite in examples {bad}" if bad else prior

    def log_density(self, position: Position) -> jax.Array:
        """Return log prior plus the sum of the log likelihoods."""
        total = self.log_prior(position)
        for block in self.blocks:
            total = total + block.log_likelihood(self.likelihood, position)
        return total

    def on_grid(self) -> NetworkTarget:
        """Return the same log density of examples that are filled up to a grid of numbers.

        Similar numbers of examples then share programs. Results of each example are followed by
        those of copies, which `num_examples` counts and minibatches would take too.
        """
        blocks = filled_up(self.blocks)
        structure, arrays = self.inputs
        count = sum(len(block.y) for block in blocks)
        inputs = structure, tuple(((count, *shape[1:]), dtype) for shape, dtype in arrays)
        return replace(self, blocks=blocks, inputs=inputs)

    def cost(self) -> DensityCost:
        """Return the cost of a gradient before and after hoisting, without compiling it.

        Examples:
            >>> import jax.numpy as jnp, nbcore as nb
            >>> network = nb.as_network(
            ...     (lambda key, x: {}, lambda p, x: jnp.tanh(x @ p["in"]["w"]) @ p["out"]["w"])
            ... )
            >>> params = {"in": {"w": jnp.ones((8, 8))}, "out": {"w": jnp.ones((8, 1))}}
            >>> subset = nb.ProbabilisticSubset.layers("out")
            >>> target = nb.Target.build(network, params, subset, jnp.ones((9, 8)), jnp.ones(9))
            >>> cost = target.cost()
            >>> cost.layers, cost.hoisted_bytes, cost.flops < cost.plain_flops
            (('out',), 288, True)
        """
        return density_cost(self)

    def outputs(self, weights: Any) -> jax.Array:
        """Return the network's outputs `(N, outputs)` on the data, in their order."""
        return in_order(self.blocks, [b.forward.outputs(weights, b.features) for b in self.blocks])

    @property
    def linearized_at(self) -> Weights | None:
        """Weights at which the network is linearized; `None` for the network itself."""
        return self.blocks[0].forward.linearized_at

    def linearized(self, position: Position) -> NetworkTarget:
        """Return the log density with the network replaced by f(m) + J(m) (w - m).

        Args:
            position: its weights are m.

        References:
            Immer, Korzepa & Bauer (2021), "Improving predictions of Bayesian neural nets via local
            linearization", equation 6.
        """
        at = position["weights"]
        blocks = [replace(b, forward=b.forward.linearized(at)) for b in self.blocks]
        return replace(self, blocks=tuple(blocks))

    def targets(self) -> np.ndarray:
        """Return the targets `(N, ...)` in the order of the data, as the likelihood reads them."""
        y = np.concatenate([np.asarray(block.y)[: block.count] for block in self.blocks])
        places = np.concatenate([np.asarray(b.indices)[: b.count] for b in self.blocks])
        return y[np.argsort(places)]

    @property
    def has_minibatches(self) -> bool:
        """Whether each output depends on its own example alone."""
        return all(block.forward.program.per_example for block in self.blocks)

    def no_minibatches(self) -> TargetError:
        """Return the error that says that outputs mix examples."""
        return TargetError(
            "The outputs of this network mix examples, so its likelihood has no minibatches. "
            f"{FULL_BATCH}"
        )

    def batch(self, key: jax.Array, t: jax.Array | int, size: int) -> Batch:
        """Return minibatch `t`, stratified over the blocks, without replacement in each epoch.

        Args:
            key: random key of the chain; the same for every `t`.
            t: step number.
            size: number of examples, static; at least one of each block is taken.

        Raises:
            TargetError: outputs mix examples, or `size` is not within 1 to N.
        """
        if not self.has_minibatches:
            raise self.no_minibatches()
        if not 1 <= size <= self.num_examples:
            raise TargetError(f"The batch size must be 1 to {self.num_examples}, got {size}.")
        counts = [block.count for block in self.blocks]
        return stratified_batch(key, t, counts, stratum_sizes(counts, size))

    def minibatch_log_density(self, position: Position, batch: Batch) -> jax.Array:
        """Return log prior plus, for each block, N_g / B_g times the log likelihood of its part."""
        total = self.log_prior(position)
        for block, chosen in zip(self.blocks, batch.indices, strict=True):
            part = block.at(chosen).log_likelihood(self.likelihood, position)
            total = total + block.count / chosen.shape[0] * part
        return total


@register_pytree
@dataclass(frozen=True)
class FunctionTarget(Target):
    """Any log density; made by `Target.from_log_density`."""

    position: Any
    function: Callable[[Any], jax.Array] = field(metadata={"static": True})

    @property
    def start(self) -> Any:
        """The position that was given."""
        return self.position

    def log_density(self, position: Any) -> jax.Array:
        """Return `function(position)`; NaN if it overflows to +inf, which samplers would keep."""
        value = self.function(position)
        return jnp.where(value == jnp.inf, jnp.nan, value)


@jax.jit
def _moved(split: ParameterSplit) -> Params:
    """Return parameters slightly off: at weights of zero every network passes the checks."""
    return split.merge(with_noise(jax.random.key(0), split.position, 0.1))
