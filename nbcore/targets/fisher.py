"""Fisher and Gauss-Newton matrices of a trained network, streamed over the data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.distributions.likelihoods import Likelihood, LikelihoodParameters
from nbcore.errors import SelectionError
from nbcore.networks.evaluation import HashableNetwork, as_columns
from nbcore.networks.inputs import num_examples
from nbcore.networks.layers import Layer
from nbcore.networks.length_buckets import batches
from nbcore.networks.network import Inputs, Network, Params
from nbcore.networks.outputs import output_form
from nbcore.subsets.split import ParameterSplit, Weights
from nbcore.subsets.subset import ProbabilisticSubset

BYTE_BUDGET = 2**26
BATCH = 64


@dataclass(frozen=True, eq=False)
class LikelihoodCurvature:
    r"""Curvature of the log likelihood of a trained network, in the weights of some layers.

    With f_i the outputs for example i, J_i their Jacobian in the weights and
    L_i = -d^2 log p(y_i | f_i) / df_i^2, negative directions of it left out:

    Fisher = (1 / N) sum_i g_i^2, g_i = d log p(y_i | f_i) / dw, per example, entry by entry;
    Gauss-Newton G = sum_i J_i^T L_i J_i.

    Data are streamed in batches whose Jacobians take at most 64 MiB (or one example); nothing is
    computed before it is asked for, and the diagonals of all layers come from one pass.

    Args:
        network: the network; each output depends on its own example alone.
        params: its trained parameters.
        likelihood: the distribution of y given its outputs.
        X: inputs, leading axis examples.
        y: targets as the likelihood's `check` returns them.
        layers: the layers in whose weights the curvature is wanted.

    Examples:
        >>> import jax.numpy as jnp, nbcore as nb
        >>> network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))
        >>> params = {"out": {"kernel": jnp.zeros((2, 1))}}
        >>> X, y = jnp.array([[1.0, 0.0], [1.0, 2.0]]), jnp.array([[1.0], [1.0]])
        >>> layers = network.layers(params)
        >>> known = LikelihoodCurvature(network, params, nb.Gaussian(noise=1.0), X, y, layers)
        >>> known.gauss_newton["out/kernel"].ravel().tolist()  # sum_i x_i^2
        [2.0, 4.0]

    References:
        Martens (2020), "New insights and perspectives on the natural gradient method", sections 5
        and 8; Kunstner, Balles & Hennig (2019), "Limitations of the empirical Fisher
        approximation for natural gradient descent", equation 3.
    """

    network: Network
    params: Params
    likelihood: Likelihood
    X: Inputs
    y: Any
    layers: tuple[Layer, ...]

    def of(self, layers: Sequence[Layer]) -> LikelihoodCurvature:
        """Return the curvature in the weights of other layers."""
        return replace(self, layers=tuple(layers))

    @functools.cached_property
    def fisher(self) -> Weights:
        """Diagonal of the empirical Fisher matrix, by leaf path, in the shape of the leaf."""
        total = self._total(_gradient, self._split(self.layers))
        return {path: value / num_examples(self.X) for path, value in total.items()}

    @functools.cached_property
    def gauss_newton(self) -> Weights:
        """Diagonal of the Gauss-Newton matrix, by leaf path, in the shape of the leaf."""
        return self._total(_jacobian, self._split(self.layers))

    def gauss_newton_matrix(self, layer: Layer) -> jax.Array:
        """Return the Gauss-Newton matrix `(d, d)` of a layer, leaves in order of their paths."""
        split = self._split([layer])
        total = jnp.zeros((split.size, split.size))
        for part in self._parts(split, self.X, self.y):
            rows = _rows(_jacobian, HashableNetwork(self.network), self.likelihood, split, part)
            total = total + _product(rows)
        return total

    def gauss_newton_rows(self, layer: Layer, num_rows: int) -> Weights:
        """Return a matrix R with R^T R = G of a layer, from some of the examples.

        Args:
            layer: the layer.
            num_rows: number of rows of R at most, one for each example and output. If there are
                more, evenly spaced examples stand for all, and R is scaled accordingly.

        Returns:
            By leaf path, `(rows, *shape of the leaf)`.
        """
        split, total = self._split([layer]), num_examples(self.X)
        fitting = BYTE_BUDGET // (4 * split.size)
        count = min(total, max(1, min(num_rows, fitting) // self._num_outputs))
        chosen = np.unique(np.linspace(0, total - 1, count).round().astype(int))
        x = jax.tree.map(lambda a: np.asarray(a)[chosen], self.X)
        parts = [
            _rows(_jacobian, HashableNetwork(self.network), self.likelihood, split, part)
            for part in self._parts(split, x, np.asarray(self.y)[chosen])
        ]
        scale = np.sqrt(total / len(chosen))
        return jax.tree.map(
            lambda *p: scale * jnp.concatenate([a.reshape(-1, *a.shape[2:]) for a in p]), *parts
        )

    @functools.cached_property
    def _num_outputs(self) -> int:
        """Number of outputs; checks the network as well."""
        form = output_form(self.network, self.params, self.X)
        if not form.per_example:
            raise SelectionError(
                "The outputs of this network mix examples, so an example has no gradient of its "
                "own. Choose a method that does not look at data, such as 'variance'."
            )
        return form.num_outputs

    def _split(self, layers: Sequence[Layer]) -> ParameterSplit:
        """Return the split in which every weight of the layers, and nothing else, is free."""
        paths = [leaf.path for ly in layers for leaf in ly.leaves if leaf.role != "state"]
        params = jax.tree.map(jnp.asarray, self.params)
        subset = ProbabilisticSubset.layers(*(layer.name for layer in layers))
        every = self.network.layers(self.params)
        return ParameterSplit(params, {}, tuple(sorted(paths)), every, subset)

    def _total(self, what: _Derivative, split: ParameterSplit) -> Weights:
        """Return the sum of squared derivatives over examples and outputs."""
        total = jax.tree.map(jnp.zeros_like, split.position)
        for part in self._parts(split, self.X, self.y):
            total = _add_squares(
                what, HashableNetwork(self.network), self.likelihood, split, part, total
            )
        return total

    def _parts(self, split: ParameterSplit, x: Any, y: Any) -> Iterator[_Part]:
        """Cut data into batches of similar length; examples that fill a batch up are masked."""
        parameters = self.likelihood.initial(self._num_outputs)
        size = BYTE_BUDGET // (4 * split.size * self._num_outputs)
        y = np.asarray(y)
        size = max(1, min(size, BATCH))
        for indices, inputs in batches(x, self.network.padding, size, fills=False):
            full = np.resize(indices, num_examples(inputs))
            mask = jnp.asarray(np.arange(len(full)) < len(indices), jnp.result_type(float))
            yield _Part(jax.tree.map(jnp.asarray, inputs), jnp.asarray(y[full]), mask, parameters)


class _Part(NamedTuple):
    """A batch: inputs, targets, a mask with 0 for copies, parameters of the likelihood."""

    x: Any
    y: jax.Array
    mask: jax.Array
    parameters: LikelihoodParameters


_Outputs = Callable[[Weights], jax.Array]
_LogProb = Callable[[jax.Array], jax.Array]
_Derivative = Callable[[_Outputs, _LogProb, Weights], Weights]
"""From outputs `(outputs,)` of the weights and log p of the outputs to rows `(rows, ...)`."""


def _gradient(outputs: _Outputs, log_prob: _LogProb, weights: Weights) -> Weights:
    """Return the gradient of the log likelihood of an example, as one row."""
    gradient = jax.grad(lambda w: log_prob(outputs(w)))(weights)
    return jax.tree.map(lambda g: g[None], gradient)


def _jacobian(outputs: _Outputs, log_prob: _LogProb, weights: Weights) -> Weights:
    """Return L^(1/2) J of an example, a row for each output."""
    at, pull_back = jax.vjp(outputs, weights)
    values, vectors = jnp.linalg.eigh(-jax.hessian(log_prob)(at))
    root = vectors * jnp.sqrt(jnp.maximum(values, 0.0))
    return jax.vmap(lambda column: pull_back(column)[0], in_axes=1)(root)


def _derivatives(
    what: _Derivative,
    static: HashableNetwork,
    likelihood: Likelihood,
    split: ParameterSplit,
    part: _Part,
) -> Weights:
    """Return the rows of every example `(examples, rows, ...)`, zero for copies."""

    def one(x: Any, y: jax.Array) -> Weights:
        def outputs(weights: Weights) -> jax.Array:
            batch = jax.tree.map(lambda a: a[None], x)
            return as_columns(static.network.apply(split.merge(weights), batch), 1)[0]

        def log_prob(outputs: jax.Array) -> jax.Array:
            return likelihood.log_prob(outputs[None], y[None], part.parameters)[0]

        return what(outputs, log_prob, split.position)

    rows = jax.vmap(one)(part.x, part.y)
    return jax.tree.map(lambda r: r * part.mask.reshape(-1, *[1] * (r.ndim - 1)), rows)


_rows = jax.jit(_derivatives, static_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _add_squares(
    what: _Derivative,
    static: HashableNetwork,
    likelihood: Likelihood,
    split: ParameterSplit,
    part: _Part,
    total: Weights,
) -> Weights:
    rows = _derivatives(what, static, likelihood, split, part)
    return jax.tree.map(lambda t, r: t + jnp.sum(r**2, axis=(0, 1)), total, rows)


@jax.jit
def _product(rows: Weights) -> jax.Array:
    """Return R^T R, leaves in order of their paths."""
    flat = [rows[path].reshape(-1, rows[path][0, 0].size) for path in sorted(rows)]
    joined = jnp.concatenate(flat, axis=1)
    return joined.T @ joined
