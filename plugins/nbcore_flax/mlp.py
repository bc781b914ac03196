"""Multilayer perceptrons with named layers, with one head and with two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from nbcore.errors import ShapeError
from nbcore_flax.heads import refuse_classes, two_heads
from nbcore_flax.options import (
    ACTIVATIONS,
    check_choice,
    check_counts,
    check_rates,
    check_widths,
)


class FlaxMLP(nn.Module):
    """A multilayer perceptron; returns logits.

    `x_{i+1} = activation(x_i W_i + b_i)`, and no activation after the last layer. The layers are
    named `Dense0`, `Dense1`, …, the output layer included.

    Args:
        hidden_dims: width of each hidden layer; may be empty.
        target_dim: number of outputs (of classes in a classification).
        activation: `"tanh"`, `"silu"`, `"relu"` or `"gelu"`.
        hidden_dropout: dropout after each hidden layer, in training only.
        output_dropout: dropout of the outputs themselves, in training only.
        classification: whether the outputs are logits of classes; it changes no output, since
            softmax happens once, in the likelihood.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> mlp = FlaxMLP(hidden_dims=(8, 8), target_dim=2)
        >>> params = mlp.init(jax.random.key(0), jnp.ones((5, 3)))
        >>> mlp.apply(params, jnp.ones((5, 3))).shape
        (5, 2)
    """

    hidden_dims: Sequence[int] = (64, 32)
    target_dim: int = 1
    activation: str = "tanh"
    hidden_dropout: float = 0.0
    output_dropout: float = 0.0
    classification: bool = False

    def __post_init__(self) -> None:
        check_choice(self, "activation", ACTIVATIONS)
        check_widths(self, "hidden_dims")
        check_counts(self, "target_dim")
        check_rates(self, "hidden_dropout", "output_dropout")
        super().__post_init__()

    def example_input(self, params: Mapping[str, Any]) -> jax.Array:
        """Return inputs of the width that the weights were made for."""
        return jnp.zeros((1, first_width(params)))

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Return the outputs `(examples, target_dim)` for inputs `(examples, features)`.

        Args:
            x: inputs.
            train: whether dropout is on (drawn from the random stream `"dropout"`).

        Raises:
            ShapeError: the inputs are not a table.
        """
        if x.ndim != 2:
            raise ShapeError(
                f"{type(self).__name__} got inputs of shape {x.shape}; it needs (examples, "
                "features). Type X[:, None] for a single feature, X.reshape(len(X), -1) for images."
            )
        x = hidden_layers(x, self.hidden_dims, self.activation, self.hidden_dropout, train)
        return nn.Dropout(self.output_dropout, deterministic=not train)(self._head(x))

    def _head(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.target_dim, name=f"Dense{len(self.hidden_dims)}")(x)


class FlaxMLP2Head(FlaxMLP):
    """A multilayer perceptron with a mean and a log standard deviation for each target.

    The hidden layers `Dense0`, `Dense1`, … of `FlaxMLP`, then two linear layers side by side:
    `MeanHead` and `LogScaleHead`. Outputs `(examples, 2 * target_dim)`: the means first, then the
    unconstrained log standard deviations.

    Args:
        hidden_dims: width of each hidden layer; may be empty.
        target_dim: number of targets; there are twice as many outputs.
        activation: `"tanh"`, `"silu"`, `"relu"` or `"gelu"`.
        hidden_dropout: dropout after each hidden layer, in training only.
        output_dropout: dropout of the outputs themselves, in training only.
        classification: must be False.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> mlp = FlaxMLP2Head(hidden_dims=(8,), target_dim=2)
        >>> params = mlp.init(jax.random.key(0), jnp.ones((5, 3)))
        >>> mean, log_scale = jnp.split(mlp.apply(params, jnp.ones((5, 3))), 2, axis=1)
        >>> mean.shape
        (5, 2)

    References:
        Nix & Weigend (1994), Estimating the mean and variance of the target probability
        distribution.
    """

    def __post_init__(self) -> None:
        refuse_classes(self, "FlaxMLP")
        super().__post_init__()

    def _head(self, x: jax.Array) -> jax.Array:
        return two_heads(x, self.target_dim)


def hidden_layers(
    x: jax.Array, widths: Sequence[int], activation: str, dropout: float, train: bool
) -> jax.Array:
    """Return what the hidden layers `Dense0`, `Dense1`, … of the calling module make of `x`."""
    for i, width in enumerate(widths):
        x = ACTIVATIONS[activation](nn.Dense(width, name=f"Dense{i}")(x))
        x = nn.Dropout(dropout, deterministic=not train)(x)
    return x


def first_width(params: Mapping[str, Any]) -> int:
    """Return how many features the first dense layer reads."""
    name = "Dense0" if "Dense0" in params else "MeanHead"
    return int(params[name]["kernel"].shape[0])
