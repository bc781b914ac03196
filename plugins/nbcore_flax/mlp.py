"""A multilayer perceptron with named layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from nbcore.errors import OptionError, ShapeError
from nbcore_flax.activations import ACTIVATIONS, check_activation


class FlaxMLP(nn.Module):
    """A multilayer perceptron; returns logits.

    `x_{i+1} = activation(x_i W_i + b_i)`, and no activation after the last layer. The layers are
    named `Dense0`, `Dense1`, …, the output layer included.

    Args:
        hidden_dims: width of each hidden layer; may be empty.
        target_dim: number of outputs (of classes in a classification).
        activation: `"tanh"`, `"silu"`, `"relu"` or `"gelu"`.
        dropout_rate: dropout after each hidden layer, in training only.
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
    dropout_rate: float = 0.0
    classification: bool = False

    def __post_init__(self) -> None:
        check_activation(self.activation)
        dims = (self.hidden_dims,) if isinstance(self.hidden_dims, int) else self.hidden_dims
        self.hidden_dims = tuple(dims)  # a list could not be hashed
        if any(dim < 1 for dim in (*self.hidden_dims, self.target_dim)):
            raise OptionError(
                f"Got hidden_dims={self.hidden_dims}, target_dim={self.target_dim}; widths must "
                "be at least 1, such as hidden_dims=(64, 32), target_dim=1."
            )
        if not 0 <= self.dropout_rate < 1:
            raise OptionError(f"Got dropout_rate={self.dropout_rate}; it must be in [0, 1).")
        super().__post_init__()

    def example_input(self, params: Mapping[str, Any]) -> jax.Array:
        """Return inputs of the width that the weights were made for."""
        return jnp.zeros((1, params["Dense0"]["kernel"].shape[0]))

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
                f"FlaxMLP got inputs of shape {x.shape}; it needs (examples, features). "
                "Type X[:, None] for a single feature, X.reshape(len(X), -1) for images."
            )
        for i, dim in enumerate(self.hidden_dims):
            x = ACTIVATIONS[self.activation](nn.Dense(dim, name=f"Dense{i}")(x))
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return nn.Dense(self.target_dim, name=f"Dense{len(self.hidden_dims)}")(x)
