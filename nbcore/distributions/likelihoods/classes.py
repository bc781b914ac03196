"""Likelihoods of labels: one of several classes, or independent labels 0 and 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.pytrees import register_pytree
from nbcore.distributions.discrete import BernoulliDistribution, CategoricalDistribution
from nbcore.distributions.likelihoods.base import Likelihood, LikelihoodParameters, real_columns
from nbcore.errors import LabelError, ShapeError
from nbcore.networks.names import LabelKind


@register_pytree
@dataclass(frozen=True)
class Categorical(Likelihood):
    r"""Classes, y_i ~ Categorical(softmax(f_i)); the outputs are logits.

    Examples:
        >>> import jax.numpy as jnp
        >>> float(Categorical().log_prob(jnp.zeros((1, 2)), jnp.array([1]), {})[0])
        -0.6931471824645996
    """

    labels: ClassVar[LabelKind | None] = "classes"

    def check(self, y: Any, num_outputs: int) -> jax.Array:
        """Return y as integer labels `(examples,)`."""
        labels = np.asarray(y)
        labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        if labels.ndim != 1:
            raise ShapeError(f"Labels have shape (examples,), got {np.shape(y)}.")
        if labels.dtype.kind not in "biuf":
            raise LabelError(
                f"Labels are integers 0 to {num_outputs - 1}, got {labels.dtype}. Type: "
                "names, y = np.unique(y, return_inverse=True)"
            )
        if not np.all(labels == np.floor(labels)):
            raise LabelError(
                f"Labels are integers 0 to {num_outputs - 1}, got fractions ({labels.dtype})."
            )
        wrong = np.flatnonzero((labels < 0) | (labels >= num_outputs))
        if wrong.size:
            raise LabelError(
                f"The label {labels[wrong[0]]} of example {wrong[0]} is outside the {num_outputs} "
                f"classes (0 to {num_outputs - 1}), as in {wrong.size} example(s). A network for k "
                "classes has target_dim=k."
            )
        return jnp.asarray(labels, jnp.int32)

    def initial(self, num_outputs: int) -> LikelihoodParameters:
        """Return `{}`: there are no unknown parameters."""
        if num_outputs < 2:
            raise ShapeError(
                f"Categorical needs one logit per class, and the network has {num_outputs} output. "
                "Type nb.Bernoulli() for yes and no with one logit."
            )
        return {}

    def distribution(
        self, outputs: jax.Array, parameters: LikelihoodParameters
    ) -> CategoricalDistribution:
        """Return the categorical distribution with these logits."""
        del parameters
        return CategoricalDistribution(outputs)


@register_pytree
@dataclass(frozen=True)
class Bernoulli(Likelihood):
    r"""Labels 0 and 1, y_ij ~ Bernoulli(sigmoid(f_ij)); the outputs are logits of 1.

    Several outputs stand for several independent labels.

    Examples:
        >>> import jax.numpy as jnp
        >>> float(Bernoulli().log_prob(jnp.zeros((1, 1)), jnp.array([[1.0]]), {})[0])
        -0.6931471824645996
    """

    labels: ClassVar[LabelKind | None] = "binary"

    def check(self, y: Any, num_outputs: int) -> jax.Array:
        """Return y as floats 0 and 1 `(examples, outputs)`."""
        columns = real_columns(y, num_outputs, "Bernoulli")
        wrong = np.argwhere(~np.isin(np.asarray(columns), (0, 1)))
        if len(wrong):
            example, output = (int(i) for i in wrong[0])
            raise LabelError(
                f"Bernoulli labels are 0 or 1 (or booleans), got {columns[example, output]} in "
                f"example {example}; {len(np.unique(wrong[:, 0]))} example(s) have other values. "
                "Type nb.Categorical() for several classes."
            )
        return columns

    def distribution(
        self, outputs: jax.Array, parameters: LikelihoodParameters
    ) -> BernoulliDistribution:
        """Return the Bernoulli distribution with these logits."""
        del parameters
        return BernoulliDistribution(outputs)
