"""Convolutional networks for spectra, images and volumes, with one head and with two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from nbcore.errors import OptionError, ShapeError
from nbcore_flax.heads import refuse_classes, two_heads
from nbcore_flax.mlp import first_width, hidden_layers
from nbcore_flax.options import (
    ACTIVATIONS,
    check_choice,
    check_counts,
    check_rates,
    check_widths,
)

WINDOWS = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


class FlaxConvNet(nn.Module):
    """Convolutions, then a multilayer perceptron; returns logits.

    `x_{i+1} = maxpool2(activation(conv(x_i, W_i) + b_i))` with zero padding that keeps the size
    (SAME), then the layers of `FlaxMLP` on the flattened result. Max-pooling halves each axis of
    the window; the last row of an odd axis is left out. Layers: `Conv0`, `Conv1`, …, `Dense0`,
    `Dense1`, …, the output layer included.

    Args:
        input_dim: axes of the inputs: 1 for spectra `(examples, length, channels)`, 2 for images
            `(examples, height, width, channels)`, 3 for volumes.
        conv_layers: number of filters of each convolution; may be empty.
        fc_layers: width of each hidden dense layer; may be empty.
        target_dim: number of outputs (of classes in a classification).
        activation: `"tanh"`, `"silu"`, `"relu"` or `"gelu"`.
        kernel_size: size of the windows, a number or one for each axis.
        conv_dropout: dropout after each convolution, in training only.
        hidden_dropout: dropout after each hidden dense layer, in training only.
        output_dropout: dropout of the outputs themselves, in training only.
        classification: whether the outputs are logits of classes; it changes no output, since
            softmax happens once, in the likelihood.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> net = FlaxConvNet(input_dim=1, conv_layers=(4, 8), fc_layers=(16,), kernel_size=5)
        >>> spectra = jnp.ones((3, 21, 1))
        >>> params = net.init(jax.random.key(0), spectra)
        >>> net.apply(params, spectra).shape
        (3, 1)

    References:
        LeCun et al. (1998), Gradient-based learning applied to document recognition, section II.
    """

    input_dim: int = 2
    conv_layers: Sequence[int] = (16, 32)
    fc_layers: Sequence[int] = (32,)
    target_dim: int = 1
    activation: str = "tanh"
    kernel_size: int | Sequence[int] = 3
    conv_dropout: float = 0.0
    hidden_dropout: float = 0.0
    output_dropout: float = 0.0
    classification: bool = False

    def __post_init__(self) -> None:
        check_choice(self, "activation", ACTIVATIONS)
        check_counts(self, "target_dim")
        check_widths(self, "conv_layers")
        check_widths(self, "fc_layers")
        check_rates(self, "conv_dropout", "hidden_dropout", "output_dropout")
        if self.input_dim not in WINDOWS:
            raise OptionError(
                f"Got input_dim={self.input_dim!r}. Possible: 1 (spectra), 2 (images), 3 (volumes)."
            )
        self.kernel_size = self._kernel_sizes()
        super().__post_init__()

    def _kernel_sizes(self) -> tuple[int, ...]:
        given, count = self.kernel_size, self.input_dim
        sizes: tuple[Any, ...] = (
            tuple(given) if isinstance(given, list | tuple) else (given,) * count
        )
        if len(sizes) != count or any(not isinstance(n, int) or n < 1 for n in sizes):
            raise OptionError(
                f"Got kernel_size={given!r}; with input_dim={count} it is one integer, or {count}, "
                f"all at least 1, such as kernel_size={(3,) * count}."
            )
        return sizes

    def example_input(self, params: Mapping[str, Any]) -> jax.Array:
        """Return the smallest inputs that give as many features as the weights were made for."""
        features = first_width(params)
        if not self.conv_layers:
            return jnp.zeros((1, *(1,) * (self.input_dim - 1), features, 1))
        channels = params["Conv0"]["kernel"].shape[-2]
        factor = 2 ** len(self.conv_layers)
        length = factor * (features // self.conv_layers[-1])
        return jnp.zeros((1, length, *(factor,) * (self.input_dim - 1), channels))

    def check_inputs(self, x: Any) -> None:
        """Raise on inputs that the network cannot read.

        Args:
            x: inputs `(examples, …, channels)` with `input_dim` axes between.

        Raises:
            ShapeError: wrong number of axes, or too small to be halved by every convolution.
        """
        axes = WINDOWS[self.input_dim]
        shape = np.shape(x)
        if len(shape) != self.input_dim + 2:
            fix = " Type X[..., None] for a single channel." if len(shape) < len(axes) + 2 else ""
            raise ShapeError(
                f"{type(self).__name__} got inputs of shape {shape}; with input_dim="
                f"{self.input_dim} it needs (examples, {', '.join(axes)}, channels).{fix}"
            )
        window = shape[1:-1]
        possible = int(math.log2(max(min(window), 1)))
        if min(window) < 1 or len(self.conv_layers) > possible:
            raise ShapeError(
                f"{type(self).__name__} got inputs of size {' x '.join(map(str, window))}; each of "
                f"the {len(self.conv_layers)} convolutions halves it, and nothing would be left. "
                f"Give at most {possible} conv_layers, or larger inputs."
            )

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Return the outputs `(examples, target_dim)`.

        Args:
            x: inputs `(examples, …, channels)` with `input_dim` axes between.
            train: whether dropout is on (drawn from the random stream `"dropout"`).

        Raises:
            ShapeError: wrong number of axes, or too small to be halved by every convolution.
        """
        self.check_inputs(x)
        halves = (2,) * self.input_dim
        for i, filters in enumerate(self.conv_layers):
            x = nn.Conv(filters, self.kernel_size, padding="SAME", name=f"Conv{i}")(x)
            x = ACTIVATIONS[self.activation](x)
            x = nn.Dropout(self.conv_dropout, deterministic=not train)(x)
            x = nn.max_pool(x, halves, strides=halves)
        x = x.reshape(len(x), -1)
        x = hidden_layers(x, self.fc_layers, self.activation, self.hidden_dropout, train)
        return nn.Dropout(self.output_dropout, deterministic=not train)(self._head(x))

    def _head(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.target_dim, name=f"Dense{len(self.fc_layers)}")(x)


class FlaxConvNet2Head(FlaxConvNet):
    """A convolutional network with a mean and a log standard deviation for each target.

    The layers `Conv0`, …, `Dense0`, … of `FlaxConvNet`, then two linear layers side by side:
    `MeanHead` and `LogScaleHead`. Outputs `(examples, 2 * target_dim)`: the means first, then the
    unconstrained log standard deviations.

    Args:
        input_dim: axes of the inputs: 1 for spectra `(examples, length, channels)`, 2 for images
            `(examples, height, width, channels)`, 3 for volumes.
        conv_layers: number of filters of each convolution; may be empty.
        fc_layers: width of each hidden dense layer; may be empty.
        target_dim: number of targets; there are twice as many outputs.
        activation: `"tanh"`, `"silu"`, `"relu"` or `"gelu"`.
        kernel_size: size of the windows, a number or one for each axis.
        conv_dropout: dropout after each convolution, in training only.
        hidden_dropout: dropout after each hidden dense layer, in training only.
        output_dropout: dropout of the outputs themselves, in training only.
        classification: must be False.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> net = FlaxConvNet2Head(
        ...     input_dim=2, conv_layers=(4,), fc_layers=(8,), kernel_size=(3, 5)
        ... )
        >>> images = jnp.ones((3, 7, 9, 1))
        >>> net.apply(net.init(jax.random.key(0), images), images).shape
        (3, 2)
    """

    def __post_init__(self) -> None:
        refuse_classes(self, "FlaxConvNet")
        super().__post_init__()

    def _head(self, x: jax.Array) -> jax.Array:
        return two_heads(x, self.target_dim)
