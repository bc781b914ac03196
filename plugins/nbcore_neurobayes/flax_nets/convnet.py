"""Convolutional networks of `nbcore_flax`, called as those of NeuroBayes are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

import nbcore_flax
from nbcore_neurobayes.elsewhere import names_of

__getattr__ = names_of(__name__)


class FlaxConvNet(nbcore_flax.FlaxConvNet):
    """`nbcore_flax.FlaxConvNet`; `enable_dropout` says whether dropout is on."""

    def __call__(self, x: jax.Array, enable_dropout: bool = True) -> jax.Array:
        """Return logits `(examples, target_dim)`; dropout draws from the stream `"dropout"`."""
        return super().__call__(x, train=enable_dropout)


class FlaxConvNet2Head(nbcore_flax.FlaxConvNet2Head):
    """`nbcore_flax.FlaxConvNet2Head`, whose `kernel_size` comes last, as in NeuroBayes.

    Examples:
        >>> FlaxConvNet2Head(2, [4], [8], 1, "tanh", 0.25).conv_dropout
        0.25
    """

    def __init__(
        self,
        input_dim: int = 2,
        conv_layers: Sequence[int] = (16, 32),
        fc_layers: Sequence[int] = (32,),
        target_dim: int = 1,
        activation: str = "tanh",
        conv_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        output_dropout: float = 0.0,
        kernel_size: int | Sequence[int] = 3,
        **more: Any,
    ) -> None:
        super().__init__(
            input_dim, conv_layers, fc_layers, target_dim, activation, kernel_size,
            conv_dropout, hidden_dropout, output_dropout, **more,
        )  # fmt: skip

    def __call__(self, x: jax.Array, enable_dropout: bool = True) -> jax.Array:
        """Return `(examples, 2 * target_dim)`; dropout draws from the stream `"dropout"`."""
        return super().__call__(x, train=enable_dropout)
